"""The upscaler enlarges the faces that need it, each as it would alone."""

import numpy as np
import pytest
import torch

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stages import denoise, upscale
from celebahq_builder.sources.photo import Photo

NEEDED, ALWAYS = upscale.UpscaleSettings(), upscale.UpscaleSettings(when="always")


def face(name: str, side: int) -> Face:
    """A square region whose crop is all of it but a margin of 2, 3, 4 and 5 px."""
    generator = torch.Generator().manual_seed(side)
    pixels = torch.randint(0, 256, (3, side + 8, side + 6), dtype=torch.uint8, generator=generator)
    quad = np.array([[2, 3], [2, 3 + side], [2 + side, 3 + side], [2 + side, 3]], dtype=np.float64)
    return Face(Photo(name, f"{name}.jpg", (0.0,) * 10), pixels, quad, margin=(2, 3, 4, 5), record={"size": side})


FACES = [face("large", 40), face("small", 25), face("as large", 32), face("smaller", 24)]


@pytest.mark.parametrize(("settings", "factors"), [(NEEDED, [1, 4, 1, 4]), (ALWAYS, [4] * 4)])
def test_faces_that_need_it_grow(settings: upscale.UpscaleSettings, factors: list[int]) -> None:
    found = upscale.apply_all(FACES, settings, resolution=32, batch=3)
    assert [one.photo.id for one in found] == [one.photo.id for one in FACES]
    for before, after, factor in zip(FACES, found, factors, strict=True):
        assert after.record == {**before.record, "upscaled": factor}
        assert after.pixels.shape[1:] == tuple(factor * length for length in before.pixels.shape[1:])
        assert np.array_equal(after.quad, before.quad * factor)
        assert after.margin == tuple(factor * margin for margin in before.margin)
        alone = upscale.apply(before, settings, resolution=32)
        assert torch.equal(after.pixels, alone.pixels)
        assert (after.state(), after.record) == (alone.state(), alone.record)


def test_denoiser_takes_the_same_faces() -> None:
    found = denoise.apply_all(FACES, denoise.DenoiseSettings(), batch=3)
    for before, after in zip(FACES, found, strict=True):
        assert torch.equal(after.pixels, denoise.apply(before, denoise.DenoiseSettings()).pixels)
        assert not torch.equal(after.pixels, before.pixels)
        assert (after.state(), after.record, after.photo) == (before.state(), before.record, before.photo)


def test_no_faces() -> None:
    assert upscale.apply_all([], ALWAYS, 32) == denoise.apply_all([], denoise.DenoiseSettings()) == []
