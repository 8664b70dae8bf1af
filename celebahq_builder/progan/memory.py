"""Whether every resolution of a schedule fits a GPU, tried before the training begins and not days into it."""

from __future__ import annotations

import dataclasses
import logging

import torch

from celebahq_builder.errors import TrainingError
from celebahq_builder.nets.progan import group_size
from celebahq_builder.progan.players import Players, Reals
from celebahq_builder.progan.recipe import ProganRecipe
from celebahq_builder.progan.schedule import Moment
from celebahq_builder.training.world import World

log = logging.getLogger(__name__)


def fitted(recipe: ProganRecipe, world: World) -> ProganRecipe:
    """Return the recipe with passes so small that a step of every resolution fits the device.

    One step of each resolution is taken, half faded in, on networks that are thrown away; where memory runs out, its
    minibatch is cut into more passes, between groups of the minibatch standard deviation: the gradients stay the same.

    Raises:
        TrainingError: not even the smallest passes of a resolution fit.
    """
    schedule, net = recipe.schedule, recipe.net
    players = Players(recipe, World(0, 1, world.device))
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
                "%dx%d: %d pictures do not fit %s at once; they go in %d passes of %d, with the same gradients",
                *(moment.resolution, moment.resolution, share, world.device, count, share // count),
            )
    return dataclasses.replace(recipe, schedule=dataclasses.replace(schedule, per_gpu=per_gpu))


def _fits(players: Players, moment: Moment, passes: int) -> bool:
    """Return whether a step in so many passes has enough memory."""
    shape = (moment.minibatch // passes, players.recipe.net.colours, moment.resolution, moment.resolution)
    device, classes = players.world.device, players.recipe.net.labels
    labels = torch.eye(classes, device=device)[torch.zeros(shape[0], dtype=torch.long)] if classes else None
    try:
        players.step(0, moment, [Reals(torch.zeros(shape, device=device), labels) for _ in range(passes)])
    except torch.cuda.OutOfMemoryError:
        fits = False
    else:
        fits = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits
