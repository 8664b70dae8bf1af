"""Faces of real photos, aligned at 1024x1024 by either way through the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from celebahq_builder.outcome import Rejection
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.steps import Steps
from celebahq_builder.sources.celeba import read_celeba

STAGES = ("denoise", "upscale", "align")


def aligned(data: Path, method: str, count: int) -> Iterator[Tensor]:
    """Yield `count` faces, uint8 [3, 1024, 1024], from photos spread over the folder; rejects are passed over."""
    source = read_celeba(data / "faces")
    recipe = dataclasses.replace(BuildRecipe(), method=method)
    steps = Steps(recipe, data / "faces" / "img_celeba", torch.device("cpu"))
    for photo in source.photos[:: max(1, len(source.photos) // count)][:count]:
        try:
            face = steps.cut(photo)
            for stage in STAGES:
                (face,) = steps.take(stage, [face])
        except Rejection:
            continue
        yield face.pixels
