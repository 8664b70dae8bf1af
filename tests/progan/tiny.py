"""A tiny training for tests: random images of 16x16, 20 steps."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from celebahq_builder.image_set import NamedImage
from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import ProGANRecipe, TrainingRequest
from celebahq_builder.progan.train import Training
from celebahq_builder.training.checkpoint import checkpoint_paths, read_checkpoint
from celebahq_builder.training.distributed import SINGLE_PROCESS
from celebahq_builder.training.logger import read_lines

NETWORK = """
task = "progan"
[net]
resolution = 16
latent = 8
channels_base = 64
channels_max = 8
"""
"""The smallest networks."""

NET = Architecture(resolution=16, latent=8, channels_base=64, channels_max=8)
"""The same, for tests without a recipe."""

RECIPE = f"""
{NETWORK}[schedule]
total_kimg = 0.16
train_kimg = 0.032
fade_kimg = 0.048
minibatch = 8
[tick]
kimg = 0.016
checkpoint_ticks = 1
grid_ticks = 3
grid = [3, 2]
"""
"""20 steps: 4 at 4x4, 10 at 8x8 of which 6 fade in, 6 at 16x16 that fade in."""


class Noise:
    """Random images with labels."""

    count, resolution, channels = 40, 16, 3
    labels, label_names = None, ()

    def images(self, start: int = 0):
        for i in range(start, self.count):
            pixels = np.random.default_rng(i).integers(0, 256, (3, 16, 16), dtype=np.uint8)
            yield NamedImage(pixels, f"{i}")


def changed(settings: ProGANRecipe, **values: Any) -> ProGANRecipe:
    """Return a recipe with other values; a dict changes some values of a table."""
    tables = {
        key: dataclasses.replace(getattr(settings, key), **value)
        for key, value in values.items()
        if isinstance(value, dict)
    }
    return dataclasses.replace(settings, **{**values, **tables})


def labelled(data: Path, folder: Path) -> Path:
    """Copy the data into a folder, with labels of three classes; return the path of the copy."""
    copied = Path(shutil.copy(data, folder / "noise.h5"))
    np.save(folder / "noise-labels.npy", np.eye(3, dtype=np.float32)[np.arange(Noise.count) % 3])
    return copied


def trained(data: Path, out: Path, recipe: ProGANRecipe, total_kimg: float | None = None, **more: object) -> Training:
    training = Training(TrainingRequest(data, out, total_kimg=total_kimg, **more), recipe, SINGLE_PROCESS)
    training.run()
    return training


def last(out: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the last checkpoint, by their keys in it."""
    return tensors(read_checkpoint(checkpoint_paths(out / "checkpoints")[-1]).state)


def tensors(state: object, key: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of nested values, by names such as ``/networks/generator/dense.weight``."""
    if isinstance(state, torch.Tensor):
        return {key: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for k, value in items for name, tensor in tensors(value, f"{key}/{k}").items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert len(one) > 50
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def without_time(out: Path) -> list[dict[str, object]]:
    """Return the lines of a run's statistics, without the values that differ between equal runs."""
    timed = {"images_per_s", "seconds", "memory_bytes"}
    return [{k: v for k, v in line.items() if k not in timed} for line in read_lines(out / "stats.jsonl")]
