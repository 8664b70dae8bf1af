"""Start of the training of a denoiser or an upscaler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import RestorationTask, TrainingRecipe
from celebahq_builder.training import loop
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interruption import StopRequest

RECIPES: dict[str, type[TrainingRecipe]] = {
    "denoise": PixelRecipe,
    "upscale": PixelRecipe,
    "upscale-adversarially": AdversarialRecipe,
}
"""Classes of the recipes by their key ``task``."""


def train(
    kind: str,
    photos: Path,
    out: Path,
    recipe: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    start: str | None = None,
    device: str = "auto",
    threads: int = 1,
    workers: int | None = None,
    command: str = "",
    stop: StopRequest | None = None,
) -> Path:
    """Train the network that a recipe describes, or resume its training.

    Args:
        kind: prefix of the recipe's key ``task``: ``denoise`` or ``upscale``.
        photos: folder of clean photos.
        recipe: path of the training recipe.
        overrides: values by dotted key that replace those of the recipe.
        start: weights to start from, NAME or DIR/NAME of a registry, instead of those of the recipe.

    The other arguments are those of `training.loop.train`.

    Returns:
        Path of the best weights.

    Raises:
        RecipeError: the recipe is malformed, or of another kind of training.
        TrainingError: the photos cannot be used, the run has another recipe or other photos, or a loss is not finite.
        WeightsError: the weights to start from are unknown or damaged.
        TrainingInterrupted: the training was interrupted; see `training.loop.fit`.
    """
    settings = loop.load_recipe(recipe, kind, RECIPES, overrides)
    settings = replace(settings, start=start or settings.start)

    def make_task(context: DistributedContext) -> RestorationTask:
        if isinstance(settings, AdversarialRecipe):
            return AdversarialTask(settings, photos, context)
        assert isinstance(settings, PixelRecipe)
        return PixelTask(settings, photos, context)

    return loop.train(
        photos, make_task, out, device=device, threads=threads, workers=workers, command=command, stop=stop
    )
