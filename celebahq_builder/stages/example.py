"""Pictures of a photo on its way through the stages, for the report."""

from __future__ import annotations

from celebahq_builder.imaging.codec import encode_jpeg
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.stages.face import Face

STAGES = ("region", "denoise", "upscale", "align")
"""Stages whose result is shown."""

SIZE_PX = 768


def picture(face: Face) -> bytes:
    """Return the crop as it is after a stage, upright, as a JPEG file of `SIZE_PX` squared.

    All stages are resampled to one geometry, bilinearly, so that their pictures can be laid side by side; what
    lies outside the photo repeats its outermost pixels.
    """
    return encode_jpeg(warp_quad(face.pixels, face.quad, SIZE_PX, supersampling=1).cpu().numpy(), quality=93)
