"""The snapshots of a run: the averaged generator at each of its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from celebahq_builder.errors import TrainingError
from celebahq_builder.nets.progan import Generator
from celebahq_builder.progan.checkpoint import NAME
from celebahq_builder.progan.recipe import ProganRecipe
from celebahq_builder.recipe import from_mapping

AVERAGED = "averaged."
"""What the names of the averaged generator's tensors begin with in a checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint as a generator."""

    path: Path
    kimg: float
    """Thousands of real pictures shown before it."""
    level: int
    alpha: float
    recipe: ProganRecipe
    data: dict[str, object]
    """What it was trained on; see `train.examine`."""

    @property
    def resolution(self) -> int:
        """Of its pictures."""
        return 1 << self.level

    @property
    def channels(self) -> int:
        """Of its pictures."""
        return self.recipe.net.colours

    @property
    def count(self) -> None:
        """As many pictures as are asked for."""

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    def load(self, device: torch.device) -> Generator:
        """Return the averaged generator in evaluation mode.

        Raises:
            TrainingError: the checkpoint cannot be read.
        """
        try:
            with safe_open(self.path, "pt") as file:
                names = [name for name in file.keys() if name.startswith(AVERAGED)]  # noqa: SIM118 (not a dict)
                tensors = {name.removeprefix(AVERAGED): file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.path, error) from None
        generator = Generator(self.recipe.net)
        try:
            generator.load_state_dict(tensors)
        except RuntimeError as error:
            raise _unreadable(self.path, " ".join(str(error).split())[:200]) from None
        return generator.to(device).eval().requires_grad_(False)


def is_run(path: Path) -> bool:
    """Whether a folder is a run of `celebahq train` that holds checkpoints."""
    folder = path / "checkpoints"
    return folder.is_dir() and any(NAME.fullmatch(one.name) for one in folder.iterdir())


def snapshots(run: Path) -> list[Snapshot]:
    """Return the snapshots of a run, the earliest first: its last two checkpoints, and the last of each resolution.

    Raises:
        TrainingError: a checkpoint cannot be read.
    """
    return [_snapshot(path) for path in sorted((run / "checkpoints").iterdir()) if NAME.fullmatch(path.name)]


def _snapshot(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
        progress, identity = json.loads(meta["progress"]), json.loads(meta["identity"])
        pictures, level = int(progress["pictures"]), int(progress["level"])
        recipe = from_mapping(ProganRecipe, identity["recipe"], where=str(path))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from None
    moment = recipe.schedule.at(pictures / 1000, recipe.net.level_max)
    level = level or moment.level
    alpha = moment.alpha if level == moment.level else 1.0
    return Snapshot(path, pictures / 1000, level, alpha, recipe, dict(identity["data"]))


def _unreadable(path: Path, reason: object) -> TrainingError:
    return TrainingError(f"{path} cannot be read ({reason}); it is damaged: delete it, and evaluate the others")
