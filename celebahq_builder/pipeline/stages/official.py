"""The authors' public tool as stages: exact alignment, official deltas, MD5 checks."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging import official_align
from celebahq_builder.imaging.image_io import pil_to_array
from celebahq_builder.imaging.official_align import OfficialImage
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stages import crop
from celebahq_builder.sources.official import Listed, photo_key, read_delta
from celebahq_builder.sources.photo import Photo

VERSION = 1


def cut(photo: Photo, folder: Path, settings: crop.CropSettings, resolution: int, device: torch.device) -> Face:
    """Read a photo and return the region around its face, reduced by Lanczos where it is far too large.

    Records what `region.cut` does, and raises as it does.
    """
    opened = crop.open_photo(photo, folder, settings, resolution)
    landmarks = np.asarray(photo.landmarks).reshape(5, 2)
    quad, zoom = official_align.crop_quad(landmarks, resolution)
    image, shrink = official_align.shrink(OfficialImage(opened.image, quad, zoom, resolution))
    record = {**opened.record, "quad": quad.tolist(), "zoom": float(zoom), "shrink": shrink}
    return _face(photo, official_align.crop_region(image), record, device)


def enlarge(face: Face, resolution: int) -> Face:
    """Return the face enlarged by Lanczos, which stands in for the network; records ``upscaled``, the power of 2."""
    image, factor = official_align.enlarge(_before(face, resolution))
    return _face(face.photo, image, face.record, face.pixels.device).noted(upscaled=factor)


def align(face: Face, resolution: int) -> Face:
    """Return the upright face [3, resolution, resolution]; records ``padded``, whether the crop left the photo."""
    image, padded = official_align.pad(_before(face, resolution))
    whole = np.array([[0, 0], [0, resolution], [resolution, resolution], [resolution, 0]], dtype=np.float32)
    upright = replace(image, image=official_align.resample(image), quad=whole)
    return _face(face.photo, upright, face.record, face.pixels.device).noted(padded=padded)


def _before(face: Face, resolution: int) -> OfficialImage:
    """Return a face as the tool's steps take it; its quad and zoom are float32 values, whatever they are held in."""
    image = Image.fromarray(face.pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    zoom = np.float32(face.record["zoom"]) * np.float32(face.record["shrink"])
    zoom /= np.float32(face.record.get("upscaled", 1))
    return OfficialImage(image, face.quad.astype(np.float32), zoom, resolution, face.border)


def _face(photo: Photo, image: OfficialImage, record: dict[str, Any], device: torch.device) -> Face:
    pixels = torch.from_numpy(pil_to_array(image.image)).to(device)
    return Face(photo, pixels, image.quad.astype(np.float64), image.border, record=record)


AUTHORS = "Pillow 3.1.1 with libjpeg 8d"
"""What the official images were made with."""


def finish(face: Face, folder: Path, deltas: Path | None) -> Face:
    """Return the official image of an aligned face; one that is on no image list comes back as it is.

    Args:
        face: uint8 [3, R, R], as `stages.exact.align` makes it.
        folder: where the photos lie; the original file's bytes are the key.
        deltas: where the archives lie; None only checks the aligned image.

    Raises:
        Rejection: PROC_MD5_DIFFERS, DELTA_MISSING, DELTA_UNREADABLE or FINAL_MD5_DIFFERS.
        SourceError: a folder is gone.
    """
    listed = face.photo.listed
    if listed is None:
        return face
    aligned = face.pixels.cpu().numpy()
    if (found := md5(aligned)) != listed.proc_md5:
        detail = f"MD5 {found} before the delta, the image list has {listed.proc_md5}"
        raise Rejection(Reason.PROC_MD5_DIFFERS, f"{detail}; {_why(face, folder, deltas, listed)}")
    if deltas is None:
        return face
    final = aligned + read_delta(deltas, listed.index, _key(face, folder), aligned.shape[-1])  # uint8 wraps at 256
    if (found := md5(final)) != listed.final_md5:
        raise Rejection(
            Reason.FINAL_MD5_DIFFERS,
            f"MD5 {found} with the delta, the image list has {listed.final_md5}; list and deltas are not of one "
            "release, or were altered: get them again, together",
        )
    return replace(face, pixels=torch.from_numpy(final).to(face.pixels.device))


def md5(pixels: NDArray[np.uint8]) -> str:
    """Return the MD5 of an image's bytes, channels first, as the image list has it."""
    return hashlib.md5(np.ascontiguousarray(pixels).tobytes(), usedforsecurity=False).hexdigest()


def _key(face: Face, folder: Path) -> bytes:
    try:
        data = photo_path(folder, face.photo.file).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise SourceError(
                f"the folder of photos {folder} is gone; bring it back and run the same command"
            ) from None
        raise Rejection(Reason.FILE_MISSING, f"{face.photo.file} is not in the folder of photos any more") from None
    return photo_key(data, face.photo.file)


def _why(face: Face, folder: Path, deltas: Path | None, listed: Listed) -> str:
    """Say why the aligned image is not the official one: its delta opens for the original photo alone."""
    decoder = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    versions = f"Pillow {PIL.__version__} with {decoder} {features.version('jpg')} here, the authors' {AUTHORS}"
    if deltas is None:
        return f"another decoder or Pillow ({versions}), or a photo that was saved again"
    try:
        read_delta(deltas, listed.index, _key(face, folder), face.pixels.shape[-1])
    except Rejection as rejection:
        if rejection.reason is Reason.DELTA_UNREADABLE:
            return f"nor does the delta open: {rejection.detail}"
        return f"another decoder or Pillow ({versions}), or a photo that was saved again"
    return f"its delta opens, so the photo is the original; decoder or Pillow differ: {versions}"
