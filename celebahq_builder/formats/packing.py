"""Pictures to the chunks of their levels: what a worker does for the HDF5 file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.files import sha256
from celebahq_builder.formats.codecs import Chunk, Codec
from celebahq_builder.formats.hdf5_layout import pictures_per_chunk, pictures_per_job
from celebahq_builder.imaging.pyramid import Pixels, build_pyramid


@dataclass(frozen=True)
class Packed:
    """Some pictures in all levels, largest first, ready to be stored."""

    levels: tuple[list[bytes] | Pixels, ...]
    """Compressed chunks; or pixels uint8 [n, C, r, r] where more pictures share a chunk than were packed together."""
    sha256: list[str]
    """Of each picture's bytes, [C, R, R]."""


def pack(pictures: Iterable[Pixels], resolution: int, channels: int, codec: Codec) -> Packed:
    """Build the levels of some pictures and compress them.

    Args:
        pictures: uint8 [C, R, R] each; `pictures_per_job` of them, or fewer, but one, at the end of a data set.
        resolution: R.
        channels: C.
        codec: of all levels.

    Raises:
        FormatError: a picture of another shape or type.
    """
    together = list(pictures)
    for picture in together:
        if picture.shape != (channels, resolution, resolution) or picture.dtype != np.uint8:
            raise FormatError(
                f"a picture is {picture.dtype} of shape {list(picture.shape)}, expected uint8 of "
                f"{[channels, resolution, resolution]}"
            )
    at_once = pictures_per_job(resolution, channels)
    packed: list[list[bytes] | Pixels] = []
    stack = together[0][None] if len(together) == 1 else np.stack(together)
    for level in build_pyramid(stack):
        size = pictures_per_chunk(level.shape[-1], channels)
        if size > at_once:
            packed.append(level)
        else:
            starts = range(0, len(level), size)
            packed.append([compress_chunk(level[start : start + size], size, codec) for start in starts])
    return Packed(tuple(packed), [sha256(picture.tobytes()) for picture in together])


def compress_chunk(pictures: Chunk, size: int, codec: Codec) -> bytes:
    """Compress at most `size` pictures as one chunk; HDF5 wants it whole, so a last one is filled up with zeros."""
    missing = size - len(pictures)
    if missing:
        pictures = np.concatenate([pictures, np.zeros((missing, *pictures.shape[1:]), np.uint8)])
    return codec.compress(pictures)
