"""Small multi-resolution files, in our layout and in that of the ProGAN authors' tool."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.hdf5 import images_per_job
from celebahq_builder.hdf5.codecs import Codec, Gzip
from celebahq_builder.hdf5.writer import PyramidWriter, pack
from celebahq_builder.imaging.pyramid import build_pyramid
from tests.hdf5.files import trust_if_sound

Images = NDArray[np.uint8]

GZIP = Gzip()


def images(count: int, resolution: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, resolution, resolution), dtype=np.uint8)


def ours(path: Path, data: Images, codec: Codec = GZIP, **columns) -> Path:
    """Write a file by this package."""
    count, channels, resolution, _ = data.shape
    with PyramidWriter(path, count=count, resolution=resolution, channels=channels, codec=codec) as writer:
        at_once = images_per_job(resolution, channels)
        for start in range(0, count, at_once):
            writer.write(pack(data[start : start + at_once], resolution, channels, codec))
        writer.finish(columns, {})
    return path


def original(path: Path, data: Images) -> Path:
    """Write a file as the ProGAN authors' Theano tool does: it grows, and each image of 8x8 or more is one chunk."""
    with h5py.File(path, "w") as file:
        for level in build_pyramid(data):
            shape = level.shape[1:]
            dataset = file.create_dataset(
                f"data{shape[-1]}x{shape[-1]}",
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(max(1, 64 // shape[-1] ** 2), *shape),
                dtype=np.uint8,
                compression="gzip",
                compression_opts=4,
            )
            dataset.resize(len(level), axis=0)
            dataset[:] = level
    return trust_if_sound(path)
