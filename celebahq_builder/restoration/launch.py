"""Start or resume a restoration training from a recipe."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from celebahq_builder.config import load, read_toml
from celebahq_builder.errors import RecipeError
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.loop import Task, fit
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.training.distributed import World, joined


def train(
    kind: str,
    photos: Path,
    out: Path,
    recipe: Path,
    *,
    start: str | None = None,
    device: str = "auto",
    threads: int = 1,
    workers: int | None = None,
) -> Path:
    """Train the network that a recipe describes, alone or among the processes that torchrun started.

    Args:
        kind: what the recipe's ``task`` must begin with, ``denoise`` or ``upscale``.
        photos: folder of clean photos.
        out: folder of the run; a run that lies there goes on.
        recipe: path of the training recipe.
        start: weights to go on from, in place of the recipe's.
        device: as ``--device``.
        threads: CPU threads of torch; they change the last bits.
        workers: threads that draw training images ahead; default none on a CPU, else up to 8.

    Returns:
        Path of the best weights.

    Raises:
        RecipeError: the recipe is of another kind of training.
        TrainingError: unusable photos, a run of another recipe, or a loss that exploded.
    """
    torch.set_num_threads(threads)
    with joined(device) as world:
        task = _task(kind, recipe, start, photos, world)
        if workers is None:
            workers = 0 if world.device.type == "cpu" else min(8, os.cpu_count() or 1)
        name = f"train-{'denoiser' if kind == 'denoise' else 'upscaler'}"
        command = f"celebahq {name} PHOTOS --recipe {recipe.stem}" + (f" --start {start}" if start else "")
        return fit(task, out, world, command=command, workers=workers)


def _task(kind: str, path: Path, start: str | None, photos: Path, world: World) -> Task:
    asked = str(read_toml(path).get("task", ""))
    if not asked.startswith(kind):
        raise RecipeError(f"{path}: task = {asked}; this command trains task = {kind}")
    if asked == "upscale-adversarially":
        adversarial = load(AdversarialRecipe, path)
        return AdversarialTask(dataclasses.replace(adversarial, start=start or adversarial.start), photos, world)
    plain = load(PixelRecipe, path)
    return PixelTask(dataclasses.replace(plain, start=start or plain.start), photos, world)
