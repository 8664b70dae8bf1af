"""Denoise and upscale: faces in groups give the results of single faces."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stages.align import AlignRecord
from celebahq_builder.pipeline.stages.denoise import DenoiseSettings, DenoiseStage
from celebahq_builder.pipeline.stages.upscale import UpscaleRecord, UpscaleSettings, UpscaleStage
from celebahq_builder.sources.photo import Photo
from tests.pipeline.faces import context, upscaled

NEEDED, ALWAYS = UpscaleSettings(), UpscaleSettings(when="always")
LARGE_ZOOMS = UpscaleSettings(min_zoom=1.28)
"""The zoom of the face with a side of 25 px, for a result of 32 px."""


def face(name: str, side: int) -> Face:
    """A square region whose crop is all of it but a margin of 2, 3, 4 and 5 px."""
    generator = torch.Generator().manual_seed(side)
    pixels = torch.randint(0, 256, (3, side + 8, side + 6), dtype=torch.uint8, generator=generator)
    quad = np.array([[2, 3], [2, 3 + side], [2 + side, 3 + side], [2 + side, 3]], dtype=np.float64)
    unread = Face.unread(Photo(name, f"{name}.jpg", (0.0,) * 10), 0)
    return replace(unread, pixels=pixels, quad=quad, margin=(2, 3, 4, 5)).with_record(AlignRecord(padded=False))


FACES = [face("large", 40), face("small", 25), face("as large", 32), face("smaller", 24)]


@pytest.mark.parametrize(
    ("settings", "factors"), [(NEEDED, [1, 4, 1, 4]), (LARGE_ZOOMS, [1, 1, 1, 4]), (ALWAYS, [4] * 4)]
)
def test_small_faces_are_enlarged(settings: UpscaleSettings, factors: list[int]) -> None:
    found = UpscaleStage().run(FACES, settings, replace(context(32), batch_windows=3))
    assert [one.photo.id for one in found] == [one.photo.id for one in FACES]
    for before, after, factor in zip(FACES, found, factors, strict=True):
        assert after.record == before.record.with_part(UpscaleRecord(factor))
        assert after.pixels.shape[1:] == tuple(factor * length for length in before.pixels.shape[1:])
        assert np.array_equal(after.quad, before.quad * factor)
        assert after.margin == tuple(factor * margin for margin in before.margin)
        alone = upscaled(before, settings, resolution=32)
        assert torch.equal(after.pixels, alone.pixels)
        assert (after.margin, after.record, after.border) == (alone.margin, alone.record, alone.border)


def test_denoiser_takes_the_same_faces() -> None:
    found = DenoiseStage().run(FACES, DenoiseSettings(), replace(context(32), batch_windows=3))
    for before, after in zip(FACES, found, strict=True):
        assert torch.equal(after.pixels, DenoiseStage().run([before], DenoiseSettings(), context(32))[0].pixels)
        assert not torch.equal(after.pixels, before.pixels)
        assert (after.margin, after.border, after.record) == (before.margin, before.border, before.record)


def test_bf16_differs_by_rounding_only() -> None:
    for full, half in (
        (
            DenoiseStage().run(FACES, DenoiseSettings(), context(32)),
            DenoiseStage().run(FACES, DenoiseSettings(precision="bf16"), context(32)),
        ),
        (
            UpscaleStage().run(FACES, ALWAYS, context(32)),
            UpscaleStage().run(FACES, replace(ALWAYS, precision="bf16"), context(32)),
        ),
    ):
        for one, other in zip(full, half, strict=True):
            difference = (one.pixels.int() - other.pixels).abs().float()
            assert 0 < difference.mean() < 0.3
            assert difference.max() <= 4


def test_no_faces() -> None:
    assert UpscaleStage().run([], ALWAYS, context(32)) == DenoiseStage().run([], DenoiseSettings(), context(32)) == []
