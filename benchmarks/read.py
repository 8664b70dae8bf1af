"""Speed of reading images for training, compared with plain h5py: ``python benchmarks/read.py``.

Both read the same gzip files, made by this project's writer from real CelebA-HQ images and variants of them, in one
process on whatever cores there are; plain h5py has one thread, as it holds one lock. Both sides take turns, so that
other work on the machine slows both; the best of the rounds counts. The files are in the page cache: what is
measured is decompression and copying, not the disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from table import Row, finish, shared_data

from celebahq_builder.data import Order, loader
from celebahq_builder.data.dataset import PyramidDataset
from celebahq_builder.hdf5 import level_name
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array

Pixels = NDArray[np.uint8]

ROUNDS = 5
LARGE_PX, LARGE_COUNT, LARGE_BATCH = 1024, 196, 8
SMALL_PX, SMALL_COUNT, SMALL_BATCH = (4, 8, 16, 32, 64), 30_000, 64
"""As many as CelebA-HQ has: how much of a level HDF5's chunk cache holds depends on it."""
LARGE_GOAL, SMALL_GOAL = 3.0, 20.0


def variants(sources: list[Pixels], count: int) -> DataSet:
    """Return images made of real ones: shifted, mirrored, and of other brightness."""
    resolution = sources[0].shape[-1]

    def images() -> Iterator[NamedImage]:
        random = np.random.default_rng(0)
        for i in range(count):
            pixels = np.roll(sources[i % len(sources)], random.integers(0, resolution, 2), (1, 2))
            levels = np.rint(255 * (np.arange(256) / 255) ** random.uniform(0.7, 1.4)).astype(np.uint8)
            yield NamedImage(levels[pixels[:, :, ::-1] if random.random() < 0.5 else pixels], f"{i:05d}")

    return DataSet(count, resolution, 3, images)


def main() -> None:
    """Write the files, read them, print the table."""
    paths = sorted((shared_data() / "celebahq_1024").glob("*.jpg"))
    if not paths:
        sys.exit("the benchmark needs CelebA-HQ images of 1024x1024 in data/celebahq_1024 of the shared data")
    sources = [pil_to_array(open_rgb(path.read_bytes(), 10**8)[0]) for path in paths]
    parts = [part for source in sources for part in crops(source, SMALL_PX[-1])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small, fast, slow = (Path(folder, name) for name in ("small.h5", "1024.h5", "1024-zlib.h5"))
        write_images(variants(sources, LARGE_COUNT), fast)
        write_images(variants(sources, LARGE_COUNT), slow, codec=Gzip(4))
        write_images(variants(parts, SMALL_COUNT), small)
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; gzip, files in the page cache")
        rows += measured(fast, "", LARGE_PX, LARGE_BATCH, 12, 0, LARGE_GOAL)
        rows += measured(slow, " by zlib", LARGE_PX, LARGE_BATCH, 12, 0, LARGE_GOAL)
        for r in SMALL_PX:
            rows += measured(small, "", r, SMALL_BATCH, 40, 10**9, SMALL_GOAL)
    finish(rows)


def crops(image: Pixels, size_px: int) -> Iterator[Pixels]:
    """Yield parts of an image, shrunk."""
    for side in range(640, 1025, 32):
        part = np.ascontiguousarray(image[:, :side, :side].transpose(1, 2, 0))
        yield cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)


def measured(path: Path, how: str, r: int, batch: int, batches: int, memory_bytes: int, goal: float) -> list[Row]:
    """Return the rates of both ways, and their ratio."""
    dataset = PyramidDataset(path, r, memory_bytes=memory_bytes)
    start = time.perf_counter()
    dataset.load()
    loading = time.perf_counter() - start
    orders = Order(len(dataset), seed=1), Order(len(dataset), seed=1)
    best = {"plain": (np.inf, np.inf), "ours": (np.inf, np.inf)}
    with h5py.File(path) as file:
        level = file[level_name(r)]

        def plain() -> None:
            for _ in range(batches):
                numbers = orders[0].draws(orders[0].drawn, batch).numbers
                np.stack([level[int(number)] for number in numbers])
                orders[0].drawn += batch

        def ours() -> None:
            for _ in loader(dataset, batch, orders[1], images=batch * batches):  # reads nothing ahead of the next round
                pass

        for _ in range(ROUNDS):
            for name, way in (("plain", plain), ("ours", ours)):
                best[name] = tuple(map(min, best[name], timed(way)))
    wall, cpu = ({name: batch * batches / one[i] for name, one in best.items()} for i in (0, 1))
    kept = f"; kept in memory, {loading:.2f} s to load {len(dataset)}" if dataset.kept else "; from the file"
    what = f"{r}x{r}{how}, {batch} a minibatch"
    return [
        Row(f"{what}: plain h5py, image by image", wall["plain"], "images/s"),
        Row(f"{what}: loader{kept}", wall["ours"], "images/s"),
        Row(f"{what}: times as fast, per second of a core", cpu["ours"] / cpu["plain"], ""),
        Row(f"{what}: times as fast", wall["ours"] / wall["plain"], "", at_least=goal),
    ]


def timed(way: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a call takes, by the clock and of all cores."""
    start, used = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - start, time.process_time() - used


if __name__ == "__main__":
    main()
