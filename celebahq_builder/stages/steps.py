"""The steps from stage to stage, for one photo or for several at once, and how many that are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from celebahq_builder.source.photo import Photo
from celebahq_builder.stages import align, denoise, exact, faults, official, region, score, upscale
from celebahq_builder.stages.face import Face
from celebahq_builder.stages.recipe import BuildRecipe

TOGETHER = ("denoise", "upscale", "score")
"""Stages that gain from several photos at once."""

GROUP_PHOTOS = {"cpu": 1, "cuda": 16}
"""Photos that go from stage to stage together, by kind of device; part of no fingerprint, as no result depends on it.

One photo keeps a core busy, and two would only take twice the memory. A GPU is quicker over many windows at once, and
holds the 8-bit pixels of 16 photos with ease; the runner makes no larger batches.
"""

BATCH_WINDOWS = {"cpu": 1, "cuda": 16}
"""Windows of equal shape that pass a network at once, by kind of device; part of no fingerprint either.

A GPU's kernels for another batch size may add up in another order, which moves the last bit of a sum. One window
takes some 100 MB in either network; where the device has no room for as many, the number is halved.
"""


class Steps:
    """What the stages of a recipe do with photos of a folder on a device."""

    def __init__(self, recipe: BuildRecipe, folder: Path, device: torch.device, deltas: Path | None = None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.deltas = deltas
        self.device = device
        self.windows = BATCH_WINDOWS[device.type]

    def cut(self, photo: Photo) -> Face:
        """Return a photo after the first stage."""
        first = exact.cut if self.recipe.method == "exact" else region.cut
        return first(photo, self.folder, self.recipe.region, self.recipe.resolution, self.device)

    def take(self, stage: str, faces: Sequence[Face]) -> list[Face]:
        """Return faces after another stage; raises if it does for any of them."""
        if self.recipe.method == "exact" and stage != "score":
            return [self._take_exactly(stage, face) for face in faces]
        match stage:
            case "denoise" | "upscale":
                return self._take_through_network(stage, faces)
            case "align":
                return [align.apply(face, self.recipe.align, self.recipe.resolution) for face in faces]
            case _:
                return score.apply_all(faces)

    def _take_exactly(self, stage: str, face: Face) -> Face:
        match stage:
            case "denoise":
                return face
            case "upscale":
                return exact.enlarge(face, self.recipe.resolution)
            case _:
                return official.finish(exact.align(face, self.recipe.resolution), self.folder, self.deltas)

    def _take_through_network(self, stage: str, faces: Sequence[Face]) -> list[Face]:
        """Return faces after a stage with a network; in smaller batches where the device has no room for large ones."""
        while True:
            try:
                if stage == "denoise":
                    return denoise.apply_all(faces, self.recipe.denoise, self.windows)
                return upscale.apply_all(faces, self.recipe.upscale, self.recipe.resolution, self.windows)
            except RuntimeError as error:
                if self.windows == 1 or not faults.is_out_of_memory(error):
                    raise
            self.windows //= 2  # out here, where the error no longer holds on to what was made so far
            torch.cuda.empty_cache()
