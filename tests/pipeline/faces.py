"""Stages applied to single photos, for tests."""

from pathlib import Path

import torch

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.stage import PhotoContext
from celebahq_builder.pipeline.stages.align import AlignSettings, AlignStage
from celebahq_builder.pipeline.stages.crop import CropSettings, CropStage
from celebahq_builder.pipeline.stages.upscale import UpscaleSettings, UpscaleStage
from celebahq_builder.sources.photo import Photo

CPU = torch.device("cpu")


def context(resolution: int, folder: Path = Path("no folder")) -> PhotoContext:
    return photo_context(resolution, "cpu", photo_reader(folder))


def crop_of(photo: Photo, folder: Path, settings: CropSettings, resolution: int) -> Face:
    return CropStage().run([Face.unread(photo, 0)], settings, context(resolution, folder))[0]


def upscaled(face: Face, settings: UpscaleSettings, resolution: int) -> Face:
    return UpscaleStage().run([face], settings, context(resolution))[0]


def aligned(face: Face, resolution: int) -> Face:
    return AlignStage().run([face], AlignSettings(), context(resolution))[0]
