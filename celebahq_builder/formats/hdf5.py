"""Multi-resolution HDF5 files, of this package or of the ProGAN authors' tool for Theano."""

from __future__ import annotations

from pathlib import Path

import h5py

from celebahq_builder.formats.format import Format
from celebahq_builder.hdf5.level_images import read


def _is_hdf5(path: Path) -> bool:
    return path.is_file() and (path.suffix in (".h5", ".hdf5") or bool(h5py.is_hdf5(path)))


FORMAT = Format("hdf5", read, recognise=_is_hdf5)
