"""Start of a ProGAN training: checks, its description, and passes that fit the memory of the GPU."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from celebahq_builder import parallel
from celebahq_builder.config import load, read_toml
from celebahq_builder.device_errors import is_out_of_memory
from celebahq_builder.errors import CelebAHQError, RecipeError, TrainingError, first_line
from celebahq_builder.models.progan import DiscriminatorNetwork, GeneratorNetwork, group_size
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.real_images import DataIdentity, check_data
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint, TrainingRequest
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.progan.ticks import TrainingMetrics
from celebahq_builder.progan.train import Training, open_checkpoints
from celebahq_builder.progan.training_report import advice, remaining_s
from celebahq_builder.progress import rough_duration
from celebahq_builder.training.checkpoint import resuming
from celebahq_builder.training.distributed import DistributedContext, join_processes, process_count, torch_threads
from celebahq_builder.training.interface import check_size
from celebahq_builder.training.interruption import StopRequest

log = logging.getLogger(__name__)

MEASUREMENT_S = 3.0
"""Time of single steps after which the speed of the next level is not measured."""


def train_progan(
    data: Path | str,
    out: Path | str,
    *,
    recipe: Path | str = "celebahq-1024-1gpu",
    overrides: Mapping[str, object] | None = None,
    resume: bool = False,
    total_kimg: float | None = None,
    against: Path | str | None = None,
    changed: Sequence[str] = (),
    device: str = "auto",
    threads: int = 1,
    workers: int = 0,
    stop: StopRequest | None = None,
) -> Path:
    """Train a ProGAN on an HDF5 file, or resume a training; return the folder of the run.

    It trains in this process or, under torchrun, in all processes that torchrun started.

    Args:
        out: folder of the run; the same call resumes it from its last checkpoint.
        recipe: name of a bundled recipe in ``pipelines/train``, or path of a TOML file.
        overrides: values by dotted key that replace those of the recipe, such as ``{"schedule.minibatch": 8}``.
        resume: require a checkpoint to resume from.
        total_kimg: length of the training in thousands of real images; None takes the recipe's.
        against: HDF5 file of real images for the metrics of the recipe; None takes `data`.
        changed: recipe keys that may have a new value when a run is resumed; see `progan.schedule.RESUMABLE_KEYS`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        threads: CPU threads of torch. More are faster for large networks on an idle machine, and much slower for small
            networks or on a busy machine. The number changes the last bits of the weights.
        workers: processes that read images; 0 for threads.
        stop: interrupts the training; None listens to Ctrl-C and SIGTERM.

    Raises:
        TrainingInterrupted: the training was interrupted after a step, and a checkpoint was written; or the second
            Ctrl-C ended it at once.
        RecipeError: the recipe is of another task, or its minibatches do not fit the number of processes.
        TrainingError: the data do not fit, the run has another recipe, or the training diverged.
        FormatError: the HDF5 file cannot be used.
    """
    reference = None if against is None else Path(against)
    request = TrainingRequest(Path(data), Path(out), resume, total_kimg, workers, reference, tuple(changed))
    settings = read_recipe(bundled_recipe(Path(recipe), "train"), overrides)
    stop = stop or StopRequest()
    with stop.listening(), torch_threads(threads), join_processes(device) as context:
        with stop.abandonable():
            settings, _ = prepare_recipe(request, settings, context)
            if context.device.type == "cuda":
                # TF32 stays within what precision = "fp32" promises. The shapes are constant for days.
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
                torch.backends.cudnn.benchmark = True
                settings = fit_memory(settings, context)
            begun = not context.is_main or (request.out / "stats.jsonl").exists()
            speeds = {} if begun else measure_speeds(settings, context)
            training = Training(request, settings, context, stop, speeds)
        return training.run()


def describe_training(
    request: TrainingRequest,
    recipe: Path,
    device: str,
    overrides: Mapping[str, object] | None = None,
    threads: int = 1,
) -> Iterator[str]:
    """Yield lines of text about a training: data, networks, and one row for each resolution.

    `recipe`, `device`, `overrides` and `threads` are those of `train_progan`. On a GPU, one step of each resolution is
    tried, in as many passes as its memory requires. Nothing is written. The rows come first and the errors last, so
    that the schedule is shown on a machine without the GPU or the data, too.

    Raises:
        RecipeError: the recipe is unusable, or there is no such device.
        TrainingError: the data do not fit, or a resolution does not fit the GPU.
        FormatError: the HDF5 file is unusable.
    """
    settings = read_recipe(bundled_recipe(recipe, "train"), overrides)
    errors: list[CelebAHQError] = []
    left: dict[int, float] = {}
    kimg = 0.0
    net, total_kimg = settings.net, request.total_kimg or settings.schedule.total_kimg
    context = DistributedContext(0, process_count(), torch.device("cpu"))
    with _collected(errors):
        context = replace(context, device=torch.device(parallel.devices(device)[0]))
    with _collected(errors):
        settings, data = prepare_recipe(request, settings, context)
        yield f"data:     {request.data}: {data.images} images of {data.resolution}x{data.resolution}"
        _, checkpoint = open_checkpoints(request, settings, data)
        if checkpoint:
            with resuming(checkpoint) as state:
                kimg = float(state["progress"]["images"]) / 1000
        yield f"run:      {request.out}: {f'resumes from {kimg:g} kimg' if checkpoint else 'new'}"
    with torch.device("meta"):
        networks = GeneratorNetwork(net), DiscriminatorNetwork(net)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    yield f"networks: {net.resolution}x{net.resolution}, {sizes[0]:,} and {sizes[1]:,} parameters"
    where = str(context.device) if context.size == 1 else f"{context.size} processes that share each minibatch"
    yield f"training: to {total_kimg:g} kimg, {settings.loss.kind}, {settings.precision}, on {where}"
    with _collected(errors):
        if context.device.type == "cuda" and not errors:
            settings = fit_memory(settings, context)
            yield f"memory:   {torch.cuda.get_device_name(context.device)}: every resolution fits, in the passes below"
        if not errors:
            with torch_threads(threads):
                speeds = measure_speeds(settings, context)
            left = remaining_s(settings, kimg, total_kimg, speeds)
            left_s = sum(left.values())
            yield f"time:     about {rough_duration(left_s)}, estimated from single steps"
            yield from advice(left_s, on_cpu=context.device.type == "cpu")
    if settings.schedule.rampup_kimg:
        yield f"          learning rates rise from 0 over the first {settings.schedule.rampup_kimg:g} kimg"
    yield from _resolution_rows(settings, total_kimg, context.size, left)
    if errors:
        raise errors[0]


def _resolution_rows(
    recipe: ProGANRecipe, total_kimg: float, processes: int, remaining: Mapping[int, float]
) -> Iterator[str]:
    """Yield a table with one row for each resolution; `remaining` has the time that is left, in s by level."""
    net, schedule = recipe.net, replace(recipe.schedule, rampup_kimg=0)
    yield "  resolution   from kimg   minibatch   passes   learning rate   time left"
    for point in schedule.entries(net.level_max):
        begins = schedule.begins(point.level, net.level_max)
        if begins >= total_kimg:
            continue
        side, passes = f"{point.resolution}x{point.resolution}", "?"
        with contextlib.suppress(ValueError):  # reported by `prepare_recipe`
            passes = str(point.passes(processes, net.stddev_group) * point.parts(processes, net.stddev_group))
        time_left = rough_duration(remaining[point.level]) if point.level in remaining else "-"
        yield f"  {side:>10} {begins:11g} {point.minibatch:11d} {passes:>8} {point.learning_rate:15g} {time_left:>11}"


@contextlib.contextmanager
def _collected(errors: list[CelebAHQError]) -> Iterator[None]:
    """Add an error to a list instead of raising it."""
    try:
        yield
    except CelebAHQError as error:
        errors.append(error)


def read_recipe(path: Path, overrides: Mapping[str, object] | None = None) -> ProGANRecipe:
    """Read a recipe of a ProGAN training; `overrides` are those of `train_progan`.

    Raises:
        RecipeError: it cannot be read, it is of another task, or its networks are too large.
    """
    task = read_toml(path, "progan").get("task")
    if task != "progan":
        raise RecipeError(f"{path}: task = {task}; this command trains task = progan")
    recipe = load(ProGANRecipe, path, overrides)
    check_size(lambda: (GeneratorNetwork(recipe.net), DiscriminatorNetwork(recipe.net)))
    return recipe


def prepare_recipe(
    request: TrainingRequest, recipe: ProGANRecipe, context: DistributedContext
) -> tuple[ProGANRecipe, DataIdentity]:
    """Return the recipe with minibatches that the data can fill, and the identity of the data.

    It raises for everything that would end a training, except memory.

    Raises:
        RecipeError: minibatches that do not fit the number of processes, or unknown metrics.
        TrainingError: data that do not fit, or a reference for metrics without metrics.
        FormatError: the HDF5 file is unusable.
    """
    data, _ = check_data(request.data, recipe)
    net, schedule = recipe.net, recipe.schedule.limit_minibatches(data.images)
    if schedule != recipe.schedule:
        largest = max([recipe.schedule.minibatch, *recipe.schedule.minibatches.values()])
        log.warning(
            "warning: %s has %d images, fewer than the recipe's minibatches of up to %d; those above %d are lowered to "
            "%d, and the results differ from those of the recipe",
            *(request.data, data.images, largest, data.images, 1 << data.images.bit_length() - 1),
        )
    for point in schedule.entries(net.level_max):
        try:
            splits = point.parts(context.size, net.stddev_group) > 1
        except ValueError as error:
            raise RecipeError(str(error)) from None
        if splits and not recipe.can_split_groups:
            raise RecipeError(
                f"schedule.per_gpu.{point.resolution} = {point.per_gpu} splits a group of the minibatch standard "
                "deviation, which is not possible with net.batch_norm or lsgan; raise it, or lower net.stddev_group"
            )
    if recipe.tick.metric_ticks:
        TrainingMetrics(request.out, request.against or request.data, recipe, context.device)
    elif request.against:
        raise TrainingError(
            f"`against` {request.against}: the recipe has no metrics; set tick.metric_ticks, or leave out `against`"
        )
    return replace(recipe, schedule=schedule), data


def fit_memory(recipe: ProGANRecipe, context: DistributedContext) -> ProGANRecipe:
    """Return the recipe with passes that fit the memory of the device.

    One step of each resolution is tried, in the middle of its fade-in, on temporary networks. Where memory runs out,
    fewer images are processed at once: the minibatch is split between groups of the minibatch standard deviation, and
    then each group is split into parts. The gradients stay the same.

    Raises:
        TrainingError: a resolution does not fit in the smallest passes.
    """
    schedule, net = recipe.schedule, recipe.net
    try:
        progan = ProGANTrainer(recipe, DistributedContext(0, 1, context.device))
    except RuntimeError as error:  # the driver fails, or other programs have taken the memory
        raise TrainingError(
            f"`device` {context.device} cannot be used ({first_line(error)}); end other programs that use it"
        ) from None
    per_gpu = dict(schedule.per_gpu)
    for entry in schedule.entries(net.level_max):
        begins = schedule.begins(entry.level, net.level_max)
        point = schedule.at(begins + schedule.fade_kimg / 2 if begins else 0.0, net.level_max)
        side, share = f"{point.resolution}x{point.resolution}", point.minibatch // context.size
        group = group_size(share, net.stddev_group)
        wanted = share // point.passes(context.size, net.stddev_group) // point.parts(context.size, net.stddev_group)
        smallest = 1 if recipe.can_split_groups else group
        sizes = [n for n in range(wanted, smallest - 1, -1) if share % n == 0 and 0 in (n % group, group % n)]
        size = next((n for n in sizes if _step_fits(progan, replace(point, minibatch=share, per_gpu=n))), None)
        if size is None:
            raise TrainingError(
                f"a minibatch of {point.minibatch} at {side} does not fit {context.device} even in passes of "
                f"{smallest}; lower net.channels_base, net.stddev_group or net.resolution, or set precision = bf16"
            )
        if size < wanted:
            per_gpu[str(point.resolution)] = size
            log.info(
                "%s: %d images do not fit %s together; they are split into %d passes of %d, with the same gradients",
                *(side, share, context.device, share // size, size),
            )
    return replace(recipe, schedule=replace(schedule, per_gpu=per_gpu))


def measure_speeds(recipe: ProGANRecipe, context: DistributedContext) -> dict[int, float]:
    """Measure images per second by level, of all processes together.

    Single steps of temporary networks are timed, the lowest level first, until they have taken `MEASUREMENT_S`.
    """
    schedule, net, device = recipe.schedule, recipe.net, context.device
    progan = ProGANTrainer(recipe, DistributedContext(0, 1, device))
    speeds: dict[int, float] = {}
    began_s = time.monotonic()
    for point in schedule.entries(net.level_max):
        share = replace(point, minibatch=point.minibatch // context.size)
        for _ in range(2):  # the first step of a level allocates memory
            step_began_s = time.monotonic()
            _step_fits(progan, share)
            speeds[point.level] = point.minibatch / (time.monotonic() - step_began_s)
            if time.monotonic() - began_s > MEASUREMENT_S:
                return speeds
    return speeds


def _step_fits(progan: ProGANTrainer, point: SchedulePoint) -> bool:
    """Return whether the memory is large enough for a step of one process."""
    net, device = progan.recipe.net, progan.context.device
    passes = point.passes(1, net.stddev_group)
    n = point.minibatch // passes
    shape = (n, net.colours, point.resolution, point.resolution)
    labels = torch.eye(net.labels, device=device)[torch.zeros(n, dtype=torch.long)] if net.labels else None
    try:
        progan.step(0, point, [Microbatch(torch.zeros(shape, device=device), labels) for _ in range(passes)])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    if not fits:
        gc.collect()  # the traceback of the error can be part of a cycle, which keeps the activations
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # the first tick reports the peak of the training
    return fits
