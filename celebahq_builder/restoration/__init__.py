"""Training of the networks that restore photos: the denoiser and the upscaler; export of their weights.

`RECIPES` lists the trainings.
"""

from __future__ import annotations

from pathlib import Path

from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import RestorationTask
from celebahq_builder.training import loop
from celebahq_builder.training.distributed import DistributedContext

RestorationRecipe = PixelRecipe | AdversarialRecipe

RECIPES: dict[str, type[RestorationRecipe]] = {
    "denoise": PixelRecipe,
    "upscale": PixelRecipe,
    "upscale-adversarially": AdversarialRecipe,
}
"""Classes of the recipes by their key ``task``."""


def train(recipe: RestorationRecipe, photos: Path, options: loop.TrainingOptions) -> Path:
    """Train the network that a recipe describes, or resume its training.

    Args:
        recipe: see `training.loop.load_recipe`.
        photos: folder of clean photos.
        options: see `training.loop.TrainingOptions`.

    Returns:
        Path of the best weights.

    Raises:
        TrainingError: the photos cannot be used, the run has another recipe or other photos, or a loss is not finite.
        WeightsError: the weights to start from are unknown or damaged.
        TrainingInterrupted: the training was interrupted; see `training.loop.train`.
    """

    def make_task(context: DistributedContext) -> RestorationTask:
        if isinstance(recipe, AdversarialRecipe):
            return AdversarialTask(recipe, photos, context)
        return PixelTask(recipe, photos, context)

    return loop.train(photos, make_task, options)
