"""From the exactly aligned picture to the official one: check, add the delta, check."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features

from celebahq_builder.errors import SourceError
from celebahq_builder.formats.deltas import photo_key, read_delta
from celebahq_builder.image_list import Listed
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.source.listing import photo_path
from celebahq_builder.stages.face import Face

VERSION = 1

AUTHORS = "Pillow 3.1.1 with libjpeg 8d"
"""What the official pictures were made with."""


def finish(face: Face, folder: Path, deltas: Path | None) -> Face:
    """Return the official picture of an aligned face; one that is on no image list comes back as it is.

    Args:
        face: uint8 [3, R, R], as `stages.exact.align` makes it.
        folder: where the photos lie; the original file's bytes are the key.
        deltas: where the archives lie; None only checks the aligned picture.

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
    """Return the MD5 of a picture's bytes, channels first, as the image list has it."""
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
    """Say why the aligned picture is not the official one: its delta opens for the original photo alone."""
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
