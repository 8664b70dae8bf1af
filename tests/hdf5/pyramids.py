"""Small HDF5 files to export, written by h5py alone."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.imaging.pyramid import build_pyramid
from celebahq_builder.storage import sha256
from tests.hdf5.files import trust_if_sound

Images = NDArray[np.uint8]

SHARD = 16
"""Images per shard, so few that there are several shards."""


def noise(count: int, side: int, channels: int = 3, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def theano_file(path: Path, images: Images) -> Path:
    """Write levels without metadata, one image per chunk, as the ProGAN authors' tool does."""
    with h5py.File(path, "w") as file:
        for level in build_pyramid(images):
            file.create_dataset(
                f"data{level.shape[-1]}x{level.shape[-1]}",
                data=level,
                maxshape=(None, *level.shape[1:]),
                chunks=(1, *level.shape[1:]),
                compression="gzip",
                compression_opts=4,
            )
    return trust_if_sound(path)


def described_file(path: Path, images: Images, **changed: Any) -> Path:
    """Write levels and the metadata that the pack stage writes."""
    theano_file(path, images)
    count, rng = len(images), np.random.default_rng(1)
    columns: dict[str, Any] = {
        "id": [f"{7 * i:06d}" for i in range(count)],
        "file": [f"{7 * i:06d}.jpg" for i in range(count)],
        "rank": np.arange(count, dtype=np.int32)[::-1],
        "score": rng.random(count),
        "landmarks": rng.random((count, 5, 2)).astype(np.float32),
        "quad": rng.random((count, 4, 2)),
        "zoom": rng.random(count),
        "split": ["train" if i % 3 else "" for i in range(count)],
        "sha256": [sha256(image.tobytes()) for image in images],
        "attributes": np.where(rng.random((count, 3)) > 0.5, 1, -1).astype(np.int8),
        "attribute_names": ["Bald", "Eyeglasses", "Smiling"],
        **changed,
    }
    with h5py.File(path, "r+") as file:
        for name, values in columns.items():
            if values is not None:
                text = isinstance(values, list)
                file.create_dataset(f"photos/{name}", data=values, dtype=h5py.string_dtype() if text else None)
    return trust_if_sound(path)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder by its name, or that of a file."""
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
