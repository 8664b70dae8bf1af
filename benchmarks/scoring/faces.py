"""Faces of real photos, aligned at 1024x1024 by either way through the stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from celebahq_builder.outcome import Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.sources.celeba import read_celeba


def aligned(data: Path, method: str, count: int) -> Iterator[Tensor]:
    """Yield `count` faces, uint8 [3, 1024, 1024], from photos spread over the folder; rejects are passed over."""
    source = read_celeba(data / "faces")
    recipe = BuildRecipe(method=method)
    context = photo_context(recipe.resolution, "cpu", photo_reader(data / "faces" / "img_celeba"))
    for photo in source.photos[:: max(1, len(source.photos) // count)][:count]:
        try:
            face = Face.unread(photo, 0)
            for stage in recipe.photo_stages():
                if stage.saves_image:
                    [face] = stage.run([face], recipe.settings(stage), context)
        except Rejection:
            continue
        yield face.pixels
