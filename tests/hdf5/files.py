"""HDF5 files for tests, by this package or by h5py alone: with and without metadata, sound and damaged."""

import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.hdf5 import images_per_job
from celebahq_builder.hdf5.codecs import GZIP, Codec
from celebahq_builder.hdf5.untrusted import find_problem, trust
from celebahq_builder.hdf5.writer import PyramidWriter, pack
from tests.reference.pyramid import level as reference_level

Images = NDArray[np.uint8]


def noise(count: int, resolution: int, channels: int = 3, seed: int = 0) -> Images:
    """Return images [count, channels, resolution, resolution] of random pixels."""
    shape = (count, channels, resolution, resolution)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels_of(images: Images) -> dict[int, Images]:
    """Return all levels by their resolution."""
    sides = [images.shape[-1] >> k for k in range(images.shape[-1].bit_length())]
    return {
        r: np.stack([reference_level(image, r) for image in images])
        if len(images)
        else np.zeros((0, images.shape[1], r, r), np.uint8)
        for r in sides
    }


def hashes(images: Images) -> list[str]:
    """Return the SHA-256 of each image."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def trust_if_sound(path: Path) -> Path:
    """Check a file in this process, so that its readers need no child process, and return its path.

    A file with a problem is not trusted. An old time of change lets the file be checked again after any change.
    """
    if find_problem(path) is None:
        os.utime(path, (1e9, 1e9))
        trust(path)
    return path


def store(path: Path, images: Images, **columns: Any) -> Path:
    """Write images at all levels, one per chunk, and the columns of their metadata, if any; trust the file."""
    return trust_if_sound(store_unchecked(path, images, **columns))


def store_unchecked(path: Path, images: Images, **columns: Any) -> Path:
    """Write a file as `store` does; a reader lets a child process check it."""
    with h5py.File(path, "w") as file:
        for r, level in levels_of(images).items():
            chunks = (1, *level.shape[1:])
            file.create_dataset(
                f"data{r}x{r}", data=level, maxshape=(None, *level.shape[1:]), chunks=chunks, compression="gzip"
            )
        for name, values in columns.items():
            text = len(values) and isinstance(values[0], str)
            file.create_dataset(f"photos/{name}", data=values, dtype=h5py.string_dtype() if text else None)
    return path


def ours(path: Path, images: Images, codec: Codec = GZIP, file_attributes: Any = None, **columns: Any) -> Path:
    """Write a file by this package."""
    count, channels, resolution, _ = images.shape
    with PyramidWriter(path, count=count, resolution=resolution, channels=channels, codec=codec) as writer:
        at_once = images_per_job(resolution, channels)
        for start in range(0, count, at_once):
            writer.write(pack(images[start : start + at_once], resolution, channels, codec))
        writer.finish(columns, file_attributes or {})
    return path


def damage(path: Path, resolution: int, chunk: int) -> None:
    """Overwrite the beginning of a chunk with zeros."""
    with h5py.File(path) as file:
        place = file[f"data{resolution}x{resolution}"].id.get_chunk_info(chunk).byte_offset
    raw = bytearray(path.read_bytes())
    raw[place : place + 8] = bytes(8)
    path.write_bytes(raw)
