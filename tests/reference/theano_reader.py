"""Levels of an HDF5 file, found as by the Theano code of the ProGAN authors."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray


def read(path: Path) -> list[NDArray[np.uint8]]:
    """Every key that starts with "data" is a level; they are sorted by resolution, largest first."""
    with h5py.File(path, "r") as file:
        found = [file[key] for key in file if key.startswith("data")]
        found.sort(key=lambda dataset: -dataset.shape[-1])
        levels = [dataset[:] for dataset in found]
    for step, images in enumerate(levels):
        side = levels[0].shape[-1] >> step
        if images.shape[2:] != (side, side):
            raise ValueError(f"level {step} is {images.shape}")
    return levels
