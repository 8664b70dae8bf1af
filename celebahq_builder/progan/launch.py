"""Checks before a ProGAN training, and its start."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from celebahq_builder import parallel
from celebahq_builder.config import load, read_toml
from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.models.progan import Discriminator, Generator, group_size
from celebahq_builder.progan.checkpoint import identity, resume_kimg
from celebahq_builder.progan.evaluation import TrainingMetrics
from celebahq_builder.progan.real_images import examine
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import ProGANStep, RealBatch
from celebahq_builder.progan.train import Training, TrainingRequest
from celebahq_builder.training.distributed import DistributedContext, join_processes, process_count
from celebahq_builder.training.interruption import StopRequest

log = logging.getLogger(__name__)


def fit_memory(recipe: ProGANRecipe, world: DistributedContext) -> ProGANRecipe:
    """Return the recipe with passes so small that a step of every resolution fits the device.

    One step of each resolution is taken, half faded in, on networks that are thrown away; where memory runs out, its
    minibatch is cut into more passes, between groups of the minibatch standard deviation: the gradients stay the same.

    Raises:
        TrainingError: not even the smallest passes of a resolution fit.
    """
    schedule, net = recipe.schedule, recipe.net
    players = ProGANStep(recipe, DistributedContext(0, 1, world.device))
    per_gpu = dict(schedule.per_gpu)
    for level in net.levels:
        begins = schedule.begins(level, net.level_max)
        moment = schedule.at(begins + schedule.fade_kimg / 2 if begins else 0.0, net.level_max)
        if moment.level != level:
            continue  # of a network that does not grow
        share = moment.minibatch // world.size
        size = group_size(share, net.stddev_group)
        wanted = moment.passes(world.size, net.stddev_group)
        for count in range(wanted, share + 1):
            if share % count or (share // count) % size:
                continue
            if _fits(players, dataclasses.replace(moment, minibatch=share), count):
                break
        else:
            raise TrainingError(
                f"a minibatch of {moment.minibatch} at {moment.resolution}x{moment.resolution} does not fit "
                f"{world.device} even in passes of {size}; lower net.channels_base, net.stddev_group or "
                "net.resolution, or use precision = bf16"
            )
        if count > wanted:
            per_gpu[str(moment.resolution)] = share // count
            log.info(
                "%dx%d: %d images do not fit %s at once; they go in %d passes of %d, with the same gradients",
                *(moment.resolution, moment.resolution, share, world.device, count, share // count),
            )
    return dataclasses.replace(recipe, schedule=dataclasses.replace(schedule, per_gpu=per_gpu))


def _fits(players: ProGANStep, moment: SchedulePoint, passes: int) -> bool:
    """Return whether a step in so many passes has enough memory."""
    shape = (moment.minibatch // passes, players.recipe.net.colours, moment.resolution, moment.resolution)
    device, classes = players.world.device, players.recipe.net.labels
    labels = torch.eye(classes, device=device)[torch.zeros(shape[0], dtype=torch.long)] if classes else None
    try:
        players.step(0, moment, [RealBatch(torch.zeros(shape, device=device), labels) for _ in range(passes)])
    except torch.cuda.OutOfMemoryError:
        fits = False
    else:
        fits = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def train(
    request: TrainingRequest,
    recipe: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    stop: StopRequest | None = None,
) -> Path:
    """Train a ProGAN, alone or among the processes that torchrun started; return the folder of the run.

    Raises:
        RecipeError: the recipe is of another kind of training, or its minibatches do not fit the number of processes.
        TrainingError: data that do not fit, a run of another recipe, or losses that are not finite.
        FormatError: the HDF5 file is unusable.
    """
    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(recipe)
    with join_processes(device) as world:
        check_request(request, settings, world)
        if world.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
                True  # precision = fp32 means that
            )
            torch.backends.cudnn.benchmark = True  # sizes stay the same for days
            settings = fit_memory(settings, world)
        return Training(request, settings, world, stop).run()


def read_recipe(path: Path) -> ProGANRecipe:
    """Read a recipe of this task.

    Raises:
        RecipeError: it cannot be read, or is of another task.
    """
    task = read_toml(path).get("task")
    if task != "progan":
        raise RecipeError(f"{path}: task = {task}; this command trains task = progan")
    return load(ProGANRecipe, path)


def check_request(
    request: TrainingRequest, recipe: ProGANRecipe, world: DistributedContext
) -> tuple[int, dict[str, Any]]:
    """Return what `reals.examine` does; raise if anything but memory stands in the way of a training.

    Raises:
        RecipeError: minibatches that do not fit the number of processes, or metrics that do not exist.
        TrainingError: data that do not fit, or something to measure against and nothing to measure.
        FormatError: the HDF5 file is unusable.
    """
    check_shares(recipe, world)
    found = examine(request.data, recipe)
    if recipe.tick.metric_ticks:
        TrainingMetrics(request.out, request.against or request.data, recipe, world.device)
    elif request.against:
        raise TrainingError(
            f"--against {request.against}: the recipe measures nothing; set tick.metric_ticks, or leave it out"
        )
    return found


def check_shares(recipe: ProGANRecipe, world: DistributedContext) -> None:
    """Raise if a minibatch of the schedule cannot be shared by the processes, or cut into passes as the recipe says."""
    net, schedule = recipe.net, recipe.schedule
    for level in net.levels:
        moment = schedule.at(schedule.begins(level, net.level_max), net.level_max)
        try:
            dataclasses.replace(moment, level=level).passes(world.size, net.stddev_group)
        except ValueError as error:
            raise RecipeError(str(error)) from None


def plan(request: TrainingRequest, recipe: Path, *, device: str = "auto") -> Iterator[str]:
    """Yield what a training would do, line by line: data, networks, and a row for each resolution.

    On a GPU a step of every resolution is tried, in as many passes as its memory makes necessary; nothing is written.

    Raises:
        RecipeError: the recipe is unusable.
        TrainingError: the data do not fit it, or a resolution does not fit the GPU.
        FormatError: the HDF5 file is unusable.
    """
    settings = read_recipe(recipe)
    world = DistributedContext(0, process_count(), torch.device(parallel.devices(device)[0]))
    count, facts = check_request(request, settings, world)
    net, total = settings.net, request.total_kimg or settings.schedule.total_kimg
    yield f"data:     {request.data}: {count} images of {facts['resolution']}x{facts['resolution']}"
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in made.parameters()) for made in (Generator(net), Discriminator(net))]
    yield f"networks: {net.resolution}x{net.resolution}, {sizes[0]:,} and {sizes[1]:,} parameters"
    kimg = resume_kimg(request.out / "checkpoints", identity(settings, facts), request.changed)
    if kimg is None and request.resume:
        raise TrainingError(f"{request.out} holds no checkpoint to resume from; leave out --resume to begin there")
    where = "begins" if kimg is None else f"goes on from {kimg:g} kimg"
    yield f"run:      {request.out}: {where}"
    yield f"training: to {total:g} kimg, {settings.loss.kind}, {settings.precision}, on {_devices(world)}"
    if world.device.type == "cuda":
        settings = fit_memory(settings, world)
        yield f"memory:   {torch.cuda.get_device_name(world.device)}: every resolution fits, in passes as below"
    if settings.schedule.rampup_kimg:
        yield f"          learning rates rise from 0 over the first {settings.schedule.rampup_kimg:g} kimg"
    schedule = dataclasses.replace(settings.schedule, rampup_kimg=0)
    yield "  resolution   from kimg   minibatch   passes   learning rate"
    for level in net.levels:
        begins = schedule.begins(level, net.level_max)
        moment = schedule.at(begins, net.level_max)
        if moment.level == level and begins < total:
            side = f"{moment.resolution}x{moment.resolution}"
            passes = moment.passes(world.size, net.stddev_group)
            yield f"  {side:>10} {begins:11g} {moment.minibatch:11d} {passes:8d} {moment.learning_rate:15g}"


def _devices(world: DistributedContext) -> str:
    return str(world.device) if world.size == 1 else f"{world.size} processes, each a part of the minibatch"
