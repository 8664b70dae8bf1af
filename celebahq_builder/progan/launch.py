"""Start of a ProGAN training: checks, the plan, and passes that fit the memory of the GPU."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from celebahq_builder import parallel
from celebahq_builder.config import load, read_toml
from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.models.progan import DiscriminatorNetwork, GeneratorNetwork, group_size
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.real_images import DataIdentity, check_data
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import ProGANStep, RealBatch
from celebahq_builder.progan.train import Training, TrainingRequest, open_checkpoints, resume_kimg
from celebahq_builder.progan.training_metrics import TrainingMetrics
from celebahq_builder.training.distributed import DistributedContext, join_processes, process_count
from celebahq_builder.training.interruption import StopRequest

log = logging.getLogger(__name__)


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
    threads: int | None = None,
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
        threads: CPU threads of torch; the number changes the last bits of the weights.
        workers: processes that read images; 0 for threads.
        stop: interrupts the training.

    Raises:
        RecipeError: the recipe is of another task, or its minibatches do not fit the number of processes.
        TrainingError: the data do not fit, the run has another recipe, or the training diverged.
        FormatError: the HDF5 file cannot be used.
    """
    reference = None if against is None else Path(against)
    request = TrainingRequest(Path(data), Path(out), resume, total_kimg, workers, reference, tuple(changed))
    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(bundled_recipe(Path(recipe), "train"), overrides)
    with join_processes(device) as context:
        check_request(request, settings, context)
        if context.device.type == "cuda":
            # TF32 stays within what precision = "fp32" promises. The shapes are constant for days.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
            settings = fit_memory(settings, context)
        return Training(request, settings, context, stop).run()


def plan(
    request: TrainingRequest, recipe: Path, device: str, overrides: Mapping[str, object] | None = None
) -> Iterator[str]:
    """Yield lines of text about a training: data, networks, and one row for each resolution.

    `recipe`, `device` and `overrides` are those of `train_progan`. On a GPU, one step of each resolution is tried, in
    as many passes as its memory requires. Nothing is written.

    Raises:
        RecipeError: the recipe is unusable.
        TrainingError: the data do not fit, or a resolution does not fit the GPU.
        FormatError: the HDF5 file is unusable.
    """
    settings = read_recipe(bundled_recipe(recipe, "train"), overrides)
    context = DistributedContext(0, process_count(), torch.device(parallel.devices(device)[0]))
    data = check_request(request, settings, context)
    net, total_kimg = settings.net, request.total_kimg or settings.schedule.total_kimg
    yield f"data:     {request.data}: {data.images} images of {data.resolution}x{data.resolution}"
    with torch.device("meta"):
        networks = GeneratorNetwork(net), DiscriminatorNetwork(net)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    yield f"networks: {net.resolution}x{net.resolution}, {sizes[0]:,} and {sizes[1]:,} parameters"
    kimg = resume_kimg(open_checkpoints(request.out, settings, data), request.changed)
    if kimg is None and request.resume:
        raise TrainingError(f"{request.out} has no checkpoint; leave out `resume` to begin a training there")
    yield f"run:      {request.out}: {'new' if kimg is None else f'resumes from {kimg:g} kimg'}"
    where = str(context.device) if context.size == 1 else f"{context.size} processes that share each minibatch"
    yield f"training: to {total_kimg:g} kimg, {settings.loss.kind}, {settings.precision}, on {where}"
    if context.device.type == "cuda":
        settings = fit_memory(settings, context)
        yield f"memory:   {torch.cuda.get_device_name(context.device)}: every resolution fits, in the passes below"
    if settings.schedule.rampup_kimg:
        yield f"          learning rates rise from 0 over the first {settings.schedule.rampup_kimg:g} kimg"
    schedule = dataclasses.replace(settings.schedule, rampup_kimg=0)
    yield "  resolution   from kimg   minibatch   passes   learning rate"
    for level in net.levels:
        begins = schedule.begins(level, net.level_max)
        point = schedule.at(begins, net.level_max)
        if point.level == level and begins < total_kimg:
            side = f"{point.resolution}x{point.resolution}"
            passes = point.passes(context.size, net.stddev_group)
            yield f"  {side:>10} {begins:11g} {point.minibatch:11d} {passes:8d} {point.learning_rate:15g}"


def read_recipe(path: Path, overrides: Mapping[str, object] | None = None) -> ProGANRecipe:
    """Read a recipe of a ProGAN training; `overrides` are those of `train_progan`.

    Raises:
        RecipeError: it cannot be read, or it is of another task.
    """
    task = read_toml(path, "progan").get("task")
    if task != "progan":
        raise RecipeError(f"{path}: task = {task}; this command trains task = progan")
    return load(ProGANRecipe, path, overrides)


def check_request(request: TrainingRequest, recipe: ProGANRecipe, context: DistributedContext) -> DataIdentity:
    """Return the identity of the data; raise for everything that would end a training, except memory.

    Raises:
        RecipeError: minibatches that do not fit the number of processes, or unknown metrics.
        TrainingError: data that do not fit, or a reference for metrics without metrics.
        FormatError: the HDF5 file is unusable.
    """
    net, schedule = recipe.net, recipe.schedule
    for level in net.levels:
        point = schedule.at(schedule.begins(level, net.level_max), net.level_max)
        try:
            dataclasses.replace(point, level=level).passes(context.size, net.stddev_group)
        except ValueError as error:
            raise RecipeError(str(error)) from None
    data, _ = check_data(request.data, recipe)
    if recipe.tick.metric_ticks:
        TrainingMetrics(request.out, request.against or request.data, recipe, context.device)
    elif request.against:
        raise TrainingError(
            f"`against` {request.against}: the recipe has no metrics; set tick.metric_ticks, or leave out `against`"
        )
    return data


def fit_memory(recipe: ProGANRecipe, context: DistributedContext) -> ProGANRecipe:
    """Return the recipe with passes that fit the memory of the device.

    One step of each resolution is tried, in the middle of its fade-in, on temporary networks. Where memory runs out,
    the minibatch is split into more passes, between groups of the minibatch standard deviation. The gradients stay the
    same.

    Raises:
        TrainingError: a resolution does not fit in the smallest passes.
    """
    schedule, net = recipe.schedule, recipe.net
    progan = ProGANStep(recipe, DistributedContext(0, 1, context.device))
    per_gpu = dict(schedule.per_gpu)
    for level in net.levels:
        begins = schedule.begins(level, net.level_max)
        point = schedule.at(begins + schedule.fade_kimg / 2 if begins else 0.0, net.level_max)
        if point.level != level:
            continue  # the network does not grow
        side, share = f"{point.resolution}x{point.resolution}", point.minibatch // context.size
        group = group_size(share, net.stddev_group)
        wanted = point.passes(context.size, net.stddev_group)
        passes = next(
            (
                n
                for n in range(wanted, share + 1)
                if share % n == 0
                and (share // n) % group == 0
                and _step_fits(progan, dataclasses.replace(point, minibatch=share), n)
            ),
            None,
        )
        if passes is None:
            raise TrainingError(
                f"a minibatch of {point.minibatch} at {side} does not fit {context.device} even in passes of {group}; "
                "lower net.channels_base, net.stddev_group or net.resolution, or set precision = bf16"
            )
        if passes > wanted:
            per_gpu[str(point.resolution)] = share // passes
            log.info(
                "%s: %d images do not fit %s together; they are split into %d passes of %d, with the same gradients",
                *(side, share, context.device, passes, share // passes),
            )
    return dataclasses.replace(recipe, schedule=dataclasses.replace(schedule, per_gpu=per_gpu))


def _step_fits(progan: ProGANStep, point: SchedulePoint, passes: int) -> bool:
    """Return whether the memory is large enough for a step in so many passes."""
    net, device, n = progan.recipe.net, progan.context.device, point.minibatch // passes
    shape = (n, net.colours, point.resolution, point.resolution)
    labels = torch.eye(net.labels, device=device)[torch.zeros(n, dtype=torch.long)] if net.labels else None
    try:
        progan.step(0, point, [RealBatch(torch.zeros(shape, device=device), labels) for _ in range(passes)])
    except torch.cuda.OutOfMemoryError:
        fits = False
    else:
        fits = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits
