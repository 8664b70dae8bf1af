"""Pictures to the chunks of their levels: what a worker process does for the HDF5 file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.codecs import Chunk, Codec
from celebahq_builder.formats.hdf5_layout import pictures_per_chunk, pictures_per_job
from celebahq_builder.imaging.pyramid import Pixels, build_pyramid, levels
from celebahq_builder.workspace import sha256


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
        pictures: uint8 [C, R, R] each; `pictures_per_job` of them, or fewer at the end of a data set.
        resolution: R.
        channels: C.
        codec: of all levels.

    Raises:
        FormatError: a picture of another shape or type.
    """
    hashes: list[str] = []
    waiting: list[list[Pixels]] = [[] for _ in levels(resolution)]
    chunks: list[list[bytes]] = [[] for _ in waiting]
    at_once = pictures_per_job(resolution, channels)
    sizes = [pictures_per_chunk(r, channels) for r in levels(resolution)]
    for picture in pictures:
        if picture.shape != (channels, resolution, resolution) or picture.dtype != np.uint8:
            raise FormatError(
                f"a picture is {picture.dtype} of shape {list(picture.shape)}, expected uint8 of "
                f"{[channels, resolution, resolution]}"
            )
        hashes.append(sha256(picture.tobytes()))
        for level, pixels in enumerate(build_pyramid(picture)):
            waiting[level].append(pixels)
            if len(waiting[level]) == sizes[level] <= at_once:
                chunks[level].append(compress_chunk(np.stack(waiting[level]), sizes[level], codec))
                waiting[level].clear()
    packed: list[list[bytes] | Pixels] = []
    for level, rest in enumerate(waiting):
        if sizes[level] > at_once:
            side = resolution >> level
            packed.append(np.stack(rest) if rest else np.empty((0, channels, side, side), np.uint8))
        else:
            if rest:
                chunks[level].append(compress_chunk(np.stack(rest), sizes[level], codec))
            packed.append(chunks[level])
    return Packed(tuple(packed), hashes)


def compress_chunk(pictures: Chunk, size: int, codec: Codec) -> bytes:
    """Compress at most `size` pictures as one chunk; HDF5 wants it whole, so a last one is filled up with zeros."""
    missing = size - len(pictures)
    if missing:
        pictures = np.concatenate([pictures, np.zeros((missing, *pictures.shape[1:]), np.uint8)])
    return codec.compress(pictures)
