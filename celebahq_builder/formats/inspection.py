"""What an HDF5 file holds, in lines for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celebahq_builder.formats.hdf5 import PyramidFile


def inspect_hdf5(path: Path) -> Iterator[str]:
    """Yield levels, sizes, sources, scores and origin of a multi-resolution HDF5 file.

    Raises:
        FormatError: not such a file.
    """
    with PyramidFile(path) as pyramid:
        size = path.stat().st_size
        yield f"{path}: {pyramid.count} pictures, {size / 1e6:.1f} MB"
        for r in pyramid.resolutions:
            data = pyramid.level(r)
            stored = data.id.get_storage_size()
            raw = data.size * data.dtype.itemsize
            compression = data.compression or "uncompressed"
            kind = f"{data.dtype} {list(data.shape)}, chunks {list(data.chunks or ())}, {compression}"
            yield f"  {data.name[1:]:14} {kind}, {stored / 1e6:.2f} MB, {stored / max(raw, 1):.0%} of raw"
        files, scores, splits = pyramid.column("file"), pyramid.column("score"), pyramid.column("split")
        if files is not None and len(files):
            yield f"sources: {files[0]} ... {files[-1]}"
        if scores is not None and len(scores):
            low, middle, high = np.percentile(np.asarray(scores), [0, 50, 100])
            yield f"scores: {low:.4f} to {high:.4f}, median {middle:.4f}"
        if splits is not None and any(splits):
            yield "splits: " + ", ".join(f"{name or 'none'} {n}" for name, n in sorted(Counter(splits).items()))
        names = pyramid.column("attribute_names")
        if names is not None:
            yield f"attributes: {', '.join(names)}"
        for name, value in sorted(pyramid.file.attrs.items()):
            text = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist())
            yield f"{name}: {text}"
