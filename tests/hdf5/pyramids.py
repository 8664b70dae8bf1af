"""Small HDF5 files of the ProGAN authors' tool and of the pack stage, written by h5py alone."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from celebahq_builder.imaging.pyramid import build_pyramid
from celebahq_builder.storage import sha256
from tests.hdf5.files import Images, noise, trust_if_sound

__all__ = ["Images", "described_file", "noise", "theano_file", "tree"]


def theano_file(path: Path, images: Images) -> Path:
    """Write levels alone, as the ProGAN authors' tool does: they grow, and each image of 8x8 or more is one chunk."""
    with h5py.File(path, "w") as file:
        for level in build_pyramid(images):
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
