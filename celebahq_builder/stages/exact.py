"""The authors' public tool in place of region, denoise, upscale and align, to the last bit: see `imaging.exact`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from celebahq_builder.imaging import exact
from celebahq_builder.imaging.codec import to_pixels
from celebahq_builder.imaging.exact import Picture
from celebahq_builder.source.photo import Photo
from celebahq_builder.stages import region
from celebahq_builder.stages.face import Face

VERSION = 1


def cut(photo: Photo, folder: Path, settings: region.Settings, resolution: int, device: torch.device) -> Face:
    """Read a photo and return the region around its face, reduced by Lanczos where it is far too large.

    Records what `region.cut` does, and raises as it does.
    """
    opened = region.open_photo(photo, folder, settings, resolution)
    landmarks = np.asarray(photo.landmarks).reshape(5, 2)
    quad, zoom = exact.crop(landmarks, resolution)
    picture, shrink = exact.shrunk(Picture(opened.image, quad, zoom, resolution))
    record = {**opened.record, "quad": quad.tolist(), "zoom": float(zoom), "shrink": shrink}
    return _face(photo, exact.cut(picture), record, device)


def enlarge(face: Face, resolution: int) -> Face:
    """Return the face enlarged by Lanczos, which stands in for the network; records ``upscaled``, the power of 2."""
    picture, factor = exact.enlarged(_before(face, resolution))
    return _face(face.photo, picture, face.record, face.pixels.device).noted(upscaled=factor)


def align(face: Face, resolution: int) -> Face:
    """Return the upright face [3, resolution, resolution]; records ``padded``, whether the crop left the photo."""
    picture, padded = exact.padded(_before(face, resolution))
    whole = np.array([[0, 0], [0, resolution], [resolution, resolution], [resolution, 0]], dtype=np.float32)
    upright = replace(picture, image=exact.upright(picture), quad=whole)
    return _face(face.photo, upright, face.record, face.pixels.device).noted(padded=padded)


def _before(face: Face, resolution: int) -> Picture:
    """Return a face as the tool's steps take it; its quad and zoom are float32 values, whatever they are held in."""
    image = Image.fromarray(face.pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    zoom = np.float32(face.record["zoom"]) * np.float32(face.record["shrink"])
    zoom /= np.float32(face.record.get("upscaled", 1))
    return Picture(image, face.quad.astype(np.float32), zoom, resolution, face.border)


def _face(photo: Photo, picture: Picture, record: dict[str, Any], device: torch.device) -> Face:
    pixels = torch.from_numpy(to_pixels(picture.image)).to(device)
    return Face(photo, pixels, picture.quad.astype(np.float64), picture.border, record=record)
