"""Start of a restoration training from a recipe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from celebahq_builder.config import load, read_toml
from celebahq_builder.errors import RecipeError
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.loop import fit
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import Task
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
    """Train the network that a recipe describes, or resume its training.

    Args:
        kind: prefix of the recipe's key ``task``: ``denoise`` or ``upscale``.
        photos: folder of clean photos.
        out: folder of the run. If it holds a run with the same recipe and photos, that run is resumed.
        recipe: path of the training recipe.
        start: weights to start from, NAME or DIR/NAME of a registry, instead of those of the recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Under torchrun each process has its own device.
        threads: CPU threads of torch. Their number changes the last bits of the result.
        workers: threads that prepare batches ahead. Default: none on a CPU, up to 8 with a GPU.

    Returns:
        Path of the best weights.

    Raises:
        RecipeError: the recipe is malformed, or of another kind of training.
        TrainingError: the photos cannot be used, the run has another recipe or other photos, or a loss is not finite.
        WeightsError: the weights to start from are unknown or damaged.
    """
    torch.set_num_threads(threads)
    with joined(device) as world:
        task = _task(kind, photos, recipe, start, world)
        if workers is None:
            workers = 0 if world.device.type == "cpu" else min(8, max(os.cpu_count() or 1, 2))
        name = f"train-{'denoiser' if kind == 'denoise' else 'upscaler'}"
        command = f"celebahq {name} PHOTOS --recipe {recipe.stem}" + (f" --start {start}" if start else "")
        return fit(task, out, world, command=command, workers=workers)


def _task(kind: str, photos: Path, path: Path, start: str | None, world: World) -> Task:
    found = str(read_toml(path).get("task", ""))
    if not found.startswith(kind):
        raise RecipeError(f"{path}: task = {found}; this command trains task = {kind}, choose another `recipe`")
    if found == "upscale-adversarially":
        adversarial = load(AdversarialRecipe, path)
        return AdversarialTask(replace(adversarial, start=start or adversarial.start), photos, world)
    recipe = load(PixelRecipe, path)
    return PixelTask(replace(recipe, start=start or recipe.start), photos, world)
