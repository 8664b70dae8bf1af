"""All of a ProGAN training's state on disk: safetensors files, each written whole or not at all; no pickles."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.progan.players import STATISTICS, Players
from celebahq_builder.recipe import flatten
from celebahq_builder.workspace import as_storage_error

log = logging.getLogger(__name__)

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter."""

KEPT = 2
"""Checkpoints that are kept beside the last one of each resolution."""

NAME = re.compile(r"checkpoint-(\d{9})-r(\d{4})\.safetensors")


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    """Updates of both networks so far."""
    pictures: int = 0
    """Real pictures shown so far, by all processes: kimg times 1000."""
    level: int = 0
    """Of the last step; 0 before the first."""
    ticks: int = 0
    """Ticks that have ended."""
    tick_began: int = 0
    """Pictures at the beginning of the present tick."""
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
        """Thousands of real pictures shown so far."""
        return self.pictures / 1000


def save(folder: Path, players: Players, progress: Progress, identity: dict[str, Any], order: dict[str, Any]) -> Path:
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
    folder.mkdir(parents=True, exist_ok=True)
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
    path = folder / f"checkpoint-{progress.pictures:09d}-r{1 << progress.level:04d}.safetensors"
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial, meta)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise (
            as_storage_error(error, path)
            if isinstance(error, OSError)
            else TrainingError(f"{path} could not be written: {error}")
        ) from error
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
    folder: Path, players: Players, progress: Progress, identity: dict[str, Any]
) -> tuple[Path, dict[str, Any]] | None:
    """Bring players and progress to the state of the last sound checkpoint.

    A damaged one is passed over with a warning, in favour of the one before it.

    Returns:
        The checkpoint and the state of the data order, or None where there is no checkpoint.

    Raises:
        TrainingError: it is of another recipe or other data, with the first difference; or none is sound.
    """
    names = sorted((one.name for one in folder.iterdir()), reverse=True) if folder.is_dir() else []
    found = [folder / name for name in names if NAME.fullmatch(name)]
    for path in found:
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            numbers, theirs, order = (json.loads(meta[key]) for key in ("progress", "identity", "order"))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("warning: %s is damaged (%s); going on from the one before it", path, error)
            continue
        _compare(path, theirs, identity)
        _fill(players, progress, tensors, numbers)
        return path, order
    if found:
        raise TrainingError(
            f"none of the {len(found)} checkpoints in {folder} can be read; start anew with another --out"
        )
    return None


def _compare(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    old, new = flatten(theirs), flatten(json.loads(json.dumps(ours)))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise TrainingError(
                f"{path.parent.parent} was trained with {key} = {old.get(key)}, this run asks {new.get(key)}; "
                "use another --out, or the recipe and data of that run"
            )


@torch.no_grad()
def _fill(players: Players, progress: Progress, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    players.reset_optimisers()
    for name, net in _nets(players).items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        net.load_state_dict({key: value for key, value in own.items() if not key.startswith("adam.")})
        for key, parameter in net.named_parameters():
            state = {m: own[f"adam.{m}.{key}"] for m in MOMENTS if f"adam.{m}.{key}" in own}
            if state:  # Adam counts its steps on the CPU
                players.adams[name].state[parameter] = {
                    m: value if m == "step" else value.to(parameter.device) for m, value in state.items()
                }
    players.mean_fake = numbers.pop("mean_fake")
    for key, value in numbers.items():
        setattr(progress, key, value)
    sums = tensors.get("tick_sums", torch.zeros(len(STATISTICS)))
    progress.tick_sums = sums.to(players.world.device)


def _nets(players: Players) -> dict[str, torch.nn.Module]:
    return {"generator": players.generator, "discriminator": players.discriminator, "averaged": players.averaged}
