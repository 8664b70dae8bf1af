"""The authors' public tool as stages: exact alignment, official deltas, MD5 checks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from celebahq_builder.imaging import official_align
from celebahq_builder.imaging.image_io import pil_to_array
from celebahq_builder.imaging.official_align import OfficialImage
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, NoSettings, PhotoContext, PhotoStage
from celebahq_builder.pipeline.stages.align import AlignRecord
from celebahq_builder.pipeline.stages.crop import CropRecord, CropSettings, CropStage, open_photo, quad_corners
from celebahq_builder.pipeline.stages.upscale import UpscaleRecord
from celebahq_builder.sources.official import ImageListRow, photo_key, read_delta

AUTHORS = "Pillow 3.1.1 with libjpeg 8d"
"""Software that the official images were made with."""


class ExactCropStage(CropStage):
    """Cut the photo around the face, reduced by Lanczos where it is far too large."""

    def ingredients(self, settings: CropSettings, inputs: BuildInputs) -> dict[str, int | str]:
        """Return resolution and method."""
        return {"resolution": inputs.resolution, "method": "exact"}

    def run(self, faces: Sequence[Face], settings: CropSettings, context: PhotoContext) -> list[Face]:
        """Return the faces of photos that are read here; raises a Rejection for a file or a crop of no use."""
        return [_crop(face, settings, context) for face in faces]


class ExactUpscaleStage(PhotoStage[NoSettings]):
    """Enlarge the face by Lanczos, where the paper has a network."""

    name = "upscale"

    Settings = NoSettings
    Record = UpscaleRecord
    example_title = "upscaled"

    def ingredients(self, settings: NoSettings, inputs: BuildInputs) -> dict[str, str]:
        """Return the method."""
        return {"method": "exact"}

    def run(self, faces: Sequence[Face], settings: NoSettings, context: PhotoContext) -> list[Face]:
        """Return the faces, enlarged by a power of 2 where the photo has fewer pixels than the result."""
        return [_upscale(face, context) for face in faces]


class ExactAlignStage(PhotoStage[NoSettings]):
    """Turn the face upright, check its MD5 against the image list, and add the official delta."""

    name = "align"

    Settings = NoSettings
    Record = AlignRecord
    example_title = "result"

    def ingredients(self, settings: NoSettings, inputs: BuildInputs) -> dict[str, int | str]:
        """Return resolution and method, and for photos of an image list whether deltas are added."""
        own: dict[str, int | str] = {"resolution": inputs.resolution, "method": "exact"}
        if any(photo.listed for photo in inputs.source.photos):
            own["deltas"] = "added" if inputs.deltas else "none"
        return own

    def run(self, faces: Sequence[Face], settings: NoSettings, context: PhotoContext) -> list[Face]:
        """Return upright faces, uint8 [3, R, R]; raises the errors of `add_delta`."""
        return [add_delta(align_exactly(face, context), context) for face in faces]


# --- The tool's steps -------------------------------------------------------------------------------------------


def _crop(face: Face, settings: CropSettings, context: PhotoContext) -> Face:
    image, _, record = open_photo(face.photo, settings, context)
    quad, zoom = official_align.crop_quad(face.photo.points, context.resolution)
    small, shrink = official_align.shrink(OfficialImage(image, quad, zoom, context.resolution))
    record = replace(record, quad=quad_corners(quad), zoom=float(zoom), shrink=shrink)
    return _as_face(face, official_align.crop_region(small), context).with_record(record)


def _upscale(face: Face, context: PhotoContext) -> Face:
    image, factor = official_align.enlarge(_as_image(face, context))
    return _as_face(face, image, context).with_record(UpscaleRecord(factor))


def align_exactly(face: Face, context: PhotoContext) -> Face:
    """Return the upright face, uint8 [3, R, R], as it is before the delta."""
    resolution = context.resolution
    image, padded = official_align.pad(_as_image(face, context))
    whole = np.array([[0, 0], [0, resolution], [resolution, resolution], [resolution, 0]], dtype=np.float32)
    upright = replace(image, image=official_align.resample(image), quad=whole)
    return _as_face(face, upright, context).with_record(AlignRecord(padded))


def _as_image(face: Face, context: PhotoContext) -> OfficialImage:
    """Return a face as the tool's steps take it; quad and zoom hold float32 values in any case."""
    image = Image.fromarray(face.pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    crop, upscale = face.record[CropRecord], face.record.get(UpscaleRecord)
    zoom = np.float32(crop.zoom) * np.float32(crop.shrink)
    zoom /= np.float32(upscale.factor if upscale else 1)
    return OfficialImage(image, face.quad.astype(np.float32), zoom, context.resolution, face.border)


def _as_face(face: Face, image: OfficialImage, context: PhotoContext) -> Face:
    pixels = pil_to_array(image.image)
    return replace(_with_pixels(face, pixels, context), quad=image.quad.astype(np.float64), border=image.border)


def _with_pixels(face: Face, pixels: NDArray[np.uint8], context: PhotoContext) -> Face:
    import torch

    return replace(face, pixels=torch.from_numpy(pixels).to(context.device))


# --- Deltas -----------------------------------------------------------------------------------------------------


def add_delta(face: Face, context: PhotoContext) -> Face:
    """Return the official image of an aligned face; a face that is on no image list is returned unchanged.

    Without deltas, only the MD5 of the aligned image is checked.

    Raises:
        Rejection: PROC_MD5_DIFFERS, DELTA_MISSING, DELTA_UNREADABLE or FINAL_MD5_DIFFERS.
        SourceError: a folder is gone.
    """
    listed, deltas = face.photo.listed, context.deltas
    if listed is None:
        return face
    aligned = face.pixels.cpu().numpy()
    if (digest := md5(aligned)) != listed.proc_md5:
        detail = f"MD5 {digest} before the delta, the image list has {listed.proc_md5}"
        raise Rejection(Reason.PROC_MD5_DIFFERS, f"{detail}; {_explain_difference(face, listed, context)}")
    if deltas is None:
        return face
    key = photo_key(context.read_photo(face.photo), face.photo.file)
    final = aligned + read_delta(deltas, listed.index, key, aligned.shape[-1])  # uint8 wraps at 256
    if (digest := md5(final)) != listed.final_md5:
        raise Rejection(
            Reason.FINAL_MD5_DIFFERS,
            f"MD5 {digest} with the delta, the image list has {listed.final_md5}; list and deltas are not of one "
            "release, or were changed: get them again, together",
        )
    return _with_pixels(face, final, context)


def md5(pixels: NDArray[np.uint8]) -> str:
    """Return the MD5 of an image's bytes, channels first, as hexadecimal digits like those of the image list."""
    return hashlib.md5(np.ascontiguousarray(pixels).tobytes(), usedforsecurity=False).hexdigest()


def _explain_difference(face: Face, listed: ImageListRow, context: PhotoContext) -> str:
    """Return why the aligned image is not the official one: only the original photo can decrypt its delta."""
    decoder = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    versions = f"Pillow {PIL.__version__} with {decoder} {features.version('jpg')} here, the authors' {AUTHORS}"
    unknown = f"another decoder or Pillow ({versions}), or a photo that was saved again"
    if context.deltas is None:
        return unknown
    try:
        key = photo_key(context.read_photo(face.photo), face.photo.file)
        read_delta(context.deltas, listed.index, key, face.pixels.shape[-1])
    except Rejection as rejection:
        if rejection.reason is Reason.DELTA_UNREADABLE:
            return f"the delta cannot be decrypted either: {rejection.detail}"
        return unknown
    return f"its delta can be decrypted, so the photo is the original; decoder or Pillow differ: {versions}"
