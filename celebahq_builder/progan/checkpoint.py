"""All of a ProGAN training's state on disk: safetensors files, each written whole or not at all; no pickles."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from celebahq_builder.config import flatten, to_mapping
from celebahq_builder.errors import TrainingError
from celebahq_builder.models import generator_file
from celebahq_builder.progan.schedule import RESUMABLE_KEYS, ProGANRecipe
from celebahq_builder.progan.step import STATISTICS, ProGANStep

log = logging.getLogger(__name__)

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter."""

KEPT = 2
"""Checkpoints that are kept beside the last one of each resolution."""

NAME = re.compile(r"checkpoint-(\d{9})-r(\d{4})\.safetensors")


@dataclass
class TrainingProgress:
    """How far a training has come."""

    step: int = 0
    """Updates of both networks so far."""
    images: int = 0
    """Real images shown so far, by all processes: kimg times 1000."""
    level: int = 0
    """Of the last step; 0 before the first."""
    ticks: int = 0
    """Ticks that have ended."""
    tick_began: int = 0
    """Images at the beginning of the present tick."""
    tick_steps: int = 0
    """Steps of the present tick."""
    tick_sums: Tensor | None = None
    """Sums of `STATISTICS` over these."""
    tick_seconds: float = 0.0
    """Spent in these."""
    seconds: float = 0.0
    """Spent in training, over all sessions."""

    @property
    def kimg(self) -> float:
        """Thousands of real images shown so far."""
        return self.images / 1000


def identity(recipe: ProGANRecipe, data: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint and a run that goes on from it must have in common: recipe and data.

    How long a training is, how often it tells of itself and what fits a GPU may change from session to session.
    """
    settings = to_mapping(dataclasses.replace(recipe, tick=type(recipe.tick)()))
    for key in ("total_kimg", "per_gpu"):  # passes change nothing but rounding
        settings["schedule"].pop(key)
    settings.pop("tick")
    return {"recipe": settings, "data": data}


def save(
    folder: Path, players: ProGANStep, progress: TrainingProgress, identity: dict[str, Any], order: dict[str, Any]
) -> Path:
    """Write a checkpoint, and delete those that are no longer needed.

    Args:
        folder: of the checkpoints.
        players: networks and optimisers.
        progress: of the run.
        identity: recipe and data; a run with others is refused.
        order: the state of the data order.

    Raises:
        DiskFull: no space left; earlier checkpoints are as they were.
    """
    tensors: dict[str, Tensor] = {}
    for name, net in _nets(players).items():
        tensors |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
    for name, adam in players.adams.items():
        for key, parameter in _nets(players)[name].named_parameters():
            state = adam.state.get(parameter, {})
            tensors |= {f"{name}.adam.{moment}.{key}": state[moment] for moment in MOMENTS if moment in state}
    if progress.tick_sums is not None:
        tensors["tick_sums"] = progress.tick_sums
    numbers = {key: value for key, value in vars(progress).items() if key != "tick_sums"}
    meta = {
        "progress": json.dumps(numbers | {"mean_fake": players.mean_fake}),
        "identity": json.dumps(identity),
        "order": json.dumps(order),
    }
    path = folder / f"checkpoint-{progress.images:09d}-r{1 << progress.level:04d}.safetensors"
    generator_file.write(path, tensors, meta)
    for old in superseded([one.name for one in folder.iterdir()]):
        (folder / old).unlink(missing_ok=True)
    return path


def superseded(names: list[str]) -> list[str]:
    """Return those of the names of checkpoints that are neither among the last two nor the last of a resolution."""
    known = sorted(name for name in names if NAME.fullmatch(name))
    last_of = {match[2]: name for name in known if (match := NAME.fullmatch(name))}
    kept = {*known[-KEPT:], *last_of.values()}
    return [name for name in known if name not in kept]


def restore(
    folder: Path, players: ProGANStep, progress: TrainingProgress, identity: dict[str, Any], changed: Sequence[str] = ()
) -> tuple[Path, dict[str, Any]] | None:
    """Bring players and progress to the state of the last sound checkpoint.

    A damaged one is passed over with a warning, in favour of the one before it.

    Args:
        folder: of the checkpoints.
        players: networks and optimisers.
        progress: of the run.
        identity: recipe and data.
        changed: those of `CHANGEABLE` that may differ.

    Returns:
        The checkpoint and the state of the data order, or None where there is no checkpoint.

    Raises:
        TrainingError: it is of another recipe or other data, with the first difference; or none is sound.
    """
    last = _last(folder)
    if not last:
        return None
    path, tensors, meta = last
    _compare(path, meta["identity"], identity, changed)
    try:
        _fill(players, progress, tensors, meta["progress"])
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path} was written by another version ({reason}); begin with another --out") from None
    return path, meta["order"]


def resume_kimg(folder: Path, identity: dict[str, Any], changed: Sequence[str] = ()) -> float | None:
    """Return the kimg that a run would go on from, None where it would begin; otherwise as `restore`."""
    last = _last(folder)
    if not last:
        return None
    path, _, meta = last
    _compare(path, meta["identity"], identity, changed)
    return float(meta["progress"]["images"]) / 1000


def _last(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, dict[str, Any]]] | None:
    """Return the last sound checkpoint: path, tensors, and what is told of them."""
    names = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    found = [folder / name for name in names if NAME.fullmatch(name)]
    for path in reversed(found):
        try:
            tensors, meta = generator_file.read(path)
            return path, tensors, {key: json.loads(meta[key]) for key in ("progress", "identity", "order")}
        except (KeyError, ValueError) as error:
            log.warning("warning: %s is damaged (%s); the one before it is taken, if there is one", path, error)
    if found:
        raise TrainingError(
            f"none of the {len(found)} checkpoints in {folder} can be read; start anew with another --out"
        )
    return None


def _compare(path: Path, theirs: dict[str, Any], ours: dict[str, Any], changed: Sequence[str]) -> None:
    old, new = flatten(theirs), flatten(json.loads(json.dumps(ours)))
    allowed = tuple(f"recipe.{key}." for key in changed)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not f"{key}.".startswith(allowed):
            way = next((one for one in RESUMABLE_KEYS if f"{key}.".startswith(f"recipe.{one}.")), None)
            raise TrainingError(
                f"{path.parent.parent} was trained with {key} = {old.get(key)}, this run asks {new.get(key)}; "
                "use another --out, or the recipe and data of that run"
                + (f", or go on with the new value by --changed {way}" if way else "")
            )


@torch.no_grad()
def _fill(players: ProGANStep, progress: TrainingProgress, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    players.reset_optimisers()
    for name, net in _nets(players).items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        net.load_state_dict({key: value for key, value in own.items() if not key.startswith("adam.")})
        for key, parameter in net.named_parameters():
            state = {m: own[f"adam.{m}.{key}"] for m in MOMENTS if f"adam.{m}.{key}" in own}
            if state:  # Adam counts its steps on the CPU; copies, as what was read follows its file
                players.adams[name].state[parameter] = {
                    m: value.to("cpu" if m == "step" else parameter.device, copy=True) for m, value in state.items()
                }
    players.mean_fake = numbers.pop("mean_fake")
    for key, value in numbers.items():
        setattr(progress, key, value)
    sums = tensors.get("tick_sums", torch.zeros(len(STATISTICS)))
    progress.tick_sums = sums.to(players.world.device, copy=True)


def _nets(players: ProGANStep) -> dict[str, torch.nn.Module]:
    return {"generator": players.generator, "discriminator": players.discriminator, "averaged": players.averaged}
