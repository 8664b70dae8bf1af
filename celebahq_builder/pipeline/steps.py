"""Stages applied to groups of photos, and errors that end a run instead of rejecting a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages import align, crop, denoise, official, score, upscale
from celebahq_builder.sources.photo import Photo

DEVICE_SIGNS = ("CUDA error", "CUDA driver error")
"""What torch says when the driver reports an error: an `AcceleratorError` since 2.8, a plain RuntimeError before."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether there was too little memory, of the machine or of its device."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        _is_of_the_driver(error) and "out of memory" in str(error)
    )


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device itself reports an error; after most of them it does nothing more for this process."""
    return _is_of_the_driver(error) and not is_out_of_memory(error)


def fatal_error(error: Exception, device: torch.device, where: str) -> WorkspaceError | None:
    """Return the error that ends the run, where one that a photo met would befall every photo; else None.

    Args:
        error: not one of `CelebAHQError`, which say themselves what they mean.
        device: on which it happened. A CUDA device is asked whether it still works, for some libraries report its
            failure in words of their own.
        where: photo and stage, for people.
    """
    if is_out_of_memory(error):
        return WorkspaceError(f"out of memory at {where}; run the same command again with fewer --workers")
    failure = error if is_device_failure(error) else _failure_of(device)
    if failure is None:
        return None
    reported = str(failure).splitlines()[0]
    return WorkspaceError(
        f"the device {device} failed at {where} ({reported}); run the same command again, it goes on from here; "
        "if the device fails again, choose another --device"
    )


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what was asked of it; its errors show no later than here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_of_the_driver(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS)


def _failure_of(device: torch.device) -> RuntimeError | None:
    try:
        synchronize(device)
    except RuntimeError as error:
        return error
    return None


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
        first = official.cut if self.recipe.method == "exact" else crop.cut
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
                return official.enlarge(face, self.recipe.resolution)
            case _:
                return official.finish(official.align(face, self.recipe.resolution), self.folder, self.deltas)

    def _take_through_network(self, stage: str, faces: Sequence[Face]) -> list[Face]:
        """Return faces after a stage with a network; in smaller batches where the device has no room for large ones."""
        while True:
            try:
                if stage == "denoise":
                    return denoise.apply_all(faces, self.recipe.denoise, self.windows)
                return upscale.apply_all(faces, self.recipe.upscale, self.recipe.resolution, self.windows)
            except RuntimeError as error:
                if self.windows == 1 or not is_out_of_memory(error):
                    raise
            self.windows //= 2  # out here, where the error no longer holds on to what was made so far
            torch.cuda.empty_cache()
