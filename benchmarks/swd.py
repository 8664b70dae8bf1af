"""SWD and MS-SSIM beside plain numpy and scipy: ``python benchmarks/swd.py [--count N] [--size PX] [--pairs N]``.

Both sides compute the same on the same images of real faces, with whatever cores there are: one set against another
at the same neighbourhoods and directions, and pairs of one set. The plain versions are those that the tests compare
with: the paper's protocol written down, as its public code goes about it (whole arrays, `scipy.ndimage.convolve`,
`numpy.sort`, `scipy.signal.fftconvolve`).

``python benchmarks/swd.py --full 16384`` measures instead what memory so many images of 1024x1024 a side take: those
of real CelebA-HQ, shifted and mirrored, within the default budget. The paper's count takes about half an hour.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from table import Row, finish, shared_data

from celebahq_builder.metrics.batches import Batches
from celebahq_builder.metrics.ssim import mean_ms_ssim
from celebahq_builder.metrics.swd import images_read, swd

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.reference.ms_ssim import ms_ssim as plain_ms_ssim
from tests.reference.swd import DrawsOfOurs
from tests.reference.swd import swd as plain_swd

Pixels = NDArray[np.uint8]
Result = TypeVar("Result")

SWD_TIMES, MS_SSIM_TIMES = 8.0, 5.0
DIFFERENCE = 0.1
"""Largest difference of a level's SWD from the plain version's, in %, at the same neighbourhoods and directions."""

MS_SSIM_DIFFERENCE = 1e-4
MEMORY_GIB = 16.0
BATCH = 64


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1024, help="images a side, default 1024")
    parser.add_argument("--size", type=int, default=128, help="of the images in pixels, default 128")
    parser.add_argument("--pairs", type=int, default=256, help="for MS-SSIM, default 256")
    parser.add_argument("--full", type=int, metavar="N", help="only measure memory, with N images of 1024x1024 a side")
    asked = parser.parse_args()
    if asked.full:
        finish(full_rows(shared_data(), asked.full))
    images = faces(shared_data(), 2 * asked.count, asked.size)
    a, b = images[: asked.count], images[asked.count :]
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, torch on {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}")
    swd(batches(a[:64]), batches(b[:64]), resolution=asked.size, count=64)  # what is done once is not measured
    ours, wall, cpu = timed(lambda: swd(batches(a), batches(b), resolution=asked.size, count=asked.count))
    plain, plain_wall, plain_cpu = timed(lambda: plain_swd(a, b, DrawsOfOurs(0)))
    what = f"SWD, 2 x {asked.count} of {asked.size}x{asked.size}"
    rows = [
        Row(f"{what}: plain", plain_wall, "s"),
        Row(f"{what}: ours", wall, "s"),
        Row(f"{what}: times as fast, per second of a core", plain_cpu / cpu, ""),
        Row(f"{what}: times as fast", plain_wall / wall, "", at_least=SWD_TIMES),
    ]
    for level, value in ours.items():
        difference = 100 * abs(value / plain[level] - 1)
        rows.append(
            Row(f"level {level}: {value:.3f}, plain {plain[level]:.3f}; apart", difference, "%", at_most=DIFFERENCE)
        )
    finish(rows + ms_ssim_rows(a, asked.pairs))


def full_rows(data: Path, count: int) -> list[Row]:
    """Return the rows of a comparison of two halves of CelebA-HQ, each image of them many times over."""
    paths = sorted((data / "celebahq_1024").glob("*.jpg"))
    if not paths:
        sys.exit("the benchmark needs images in data/celebahq_1024 of the shared data")
    images = np.stack([cv2.imread(str(path))[:, :, ::-1].transpose(2, 0, 1) for path in paths])
    halves = (images[: len(images) // 2], images[len(images) // 2 :])
    before = peak_gib()
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        if (done + more) // 1024 > done // 1024:
            print(f"{done + more} of {all_in_all} images, {peak_gib():.2f} GiB", flush=True)
        done += more

    all_in_all = images_read(1024, count)
    found, wall, cpu = timed(
        lambda: swd(varied(halves[0], count), varied(halves[1], count), resolution=1024, count=count, advance=advance)
    )
    print({level: round(value, 2) for level, value in found.items()})
    what = f"SWD, 2 x {count} of 1024x1024, read {all_in_all // (2 * count)} times"
    return [
        Row(f"{what}: by the clock", wall / 60, "min"),
        Row(f"{what}: of a core", cpu / 60, "min"),
        Row("memory before, with the images", before, "GiB"),
        Row(f"{what}: peak memory", peak_gib(), "GiB", at_most=MEMORY_GIB),
    ]


def varied(images: Pixels, count: int) -> Batches:
    """Return images over and over, each time shifted otherwise, every second time mirrored: none like another."""

    def read() -> Iterator[torch.Tensor]:
        rng = np.random.default_rng(0)
        for i in range(count):
            again, image = divmod(i, len(images))
            top, left = rng.integers(64, size=2)
            wide = np.pad(images[image], ((0, 0), (32, 32), (32, 32)), mode="reflect")
            cut = wide[:, top : top + 1024, left : left + 1024][:, :, :: -1 if again % 2 else 1]
            yield torch.from_numpy(np.ascontiguousarray(cut))[None]

    return read


def peak_gib() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ms_ssim_rows(images: Pixels, pairs: int) -> list[Row]:
    """Return the rows of MS-SSIM."""
    some = images[: 2 * pairs]
    mean_ms_ssim(batches(some), 32)
    ours, wall, cpu = timed(lambda: mean_ms_ssim(batches(some), pairs))
    plain, plain_wall, plain_cpu = timed(
        lambda: float(np.mean([plain_ms_ssim(p[0::2], p[1::2]).mean() for p in np.split(some, len(some) // BATCH)]))
    )
    what = f"MS-SSIM, {pairs} pairs of {images.shape[-1]}x{images.shape[-1]}"
    return [
        Row(f"{what}: plain", plain_wall, "s"),
        Row(f"{what}: ours", wall, "s"),
        Row(f"{what}: times as fast, per second of a core", plain_cpu / cpu, ""),
        Row(f"{what}: times as fast", plain_wall / wall, "", at_least=MS_SSIM_TIMES),
        Row(f"MS-SSIM {ours:.6f}, plain {plain:.6f}; apart", abs(ours - plain), "", at_most=MS_SSIM_DIFFERENCE),
    ]


def faces(data: Path, count: int, size_px: int) -> Pixels:
    """Return middle squares of photos; once all photos are used, squares from their top, mirrored."""
    paths = sorted((data / "faces" / "img_celeba").glob("*.jpg"))
    if not paths:
        sys.exit("the benchmark needs photos in data/faces/img_celeba of the shared data")
    found = []
    for i in range(count):
        photo = cv2.imread(str(paths[i % len(paths)]))[:, :, ::-1]
        again = i // len(paths)
        side = min(photo.shape[:2]) * (20 - again) // 20
        top, left = (0 if again else (photo.shape[0] - side) // 2), (photo.shape[1] - side) // 2
        square = np.ascontiguousarray(photo[top : top + side, left : left + side][:, :: -1 if again % 2 else 1])
        found.append(cv2.resize(square, (size_px, size_px), interpolation=cv2.INTER_AREA))
    order = np.random.default_rng(0).permutation(count)
    return np.ascontiguousarray(np.stack(found)[order].transpose(0, 3, 1, 2))


def batches(images: Pixels) -> Batches:
    """Return images as the metrics read them."""

    def read() -> Iterator[torch.Tensor]:
        return iter(torch.split(torch.from_numpy(images), BATCH))

    return read


def timed(way: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return the result of a call, and the seconds it takes by the clock and of all cores."""
    start, used = time.perf_counter(), time.process_time()
    found = way()
    return found, time.perf_counter() - start, time.process_time() - used


if __name__ == "__main__":
    main()
