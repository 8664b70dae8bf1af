"""Size and time of exports and imports of 1024x1024 images in all formats, extrapolated to 30,000 images.

``python benchmarks/export.py [--workers N]`` prints every figure beside its threshold. The images are the 28 faces of
CelebA-HQ of the real test set and their mirror images, 56 in all. They were stored as JPEG, so they have less noise
than the images of a build, whose PNG files are larger. Times are CPU times of all processes, minus the time of the same
command for a single image, so that other work on the machine matters little. The wall time is at least the CPU time
divided by the number of cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from table import Row, finish, shared_data

from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import DataSet, NamedImage

MANY = 30_000
FORMATS = ("tfrecord", "stylegan-zip", "images", "webdataset", "parquet")
BACK = ("tfrecord", "stylegan-zip", "images", "webdataset", "parquet", "hdf5")
MEMORY_MIB = 600
EXPORT_MS = 150
IMPORT_MS = 300


def faces_and_mirror_images(files: Sequence[Path]) -> DataSet:
    """Return real faces, each followed by its mirror image."""

    def images() -> Iterator[NamedImage]:
        for number in range(2 * len(files)):
            pixels = np.asarray(Image.open(files[number // 2]).convert("RGB")).transpose(2, 0, 1)
            yield NamedImage(np.ascontiguousarray(pixels[:, :, :: -1 if number % 2 else 1]), f"{number:05d}.png")

    return DataSet(2 * len(files), 1024, 3, images)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    files = sorted((shared_data() / "celebahq_1024").glob("*.jpg"))
    faces = faces_and_mirror_images(files)
    rows = [Row("images measured", faces.count, "", at_least=56)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        many, one = folder / "many.h5", folder / "one.h5"
        write_images(faces, many)
        write_images(faces_and_mirror_images(files[:1]), one)
        for to in FORMATS:
            rows += export_rows(to, many, one, faces.count, workers, folder)
        for source in BACK:
            rows += import_rows(source, many, faces.count, workers, folder)
    finish(rows)


def target(folder: Path, to: str, source: Path) -> Path:
    """Return the path of an export; for ``hdf5`` the source itself."""
    if to == "hdf5":
        return source
    return folder / f"{source.stem}-{to}{'.zip' if to == 'stylegan-zip' else ''}"


def export_rows(to: str, many: Path, one: Path, count: int, workers: int, folder: Path) -> list[Row]:
    """Return size and time of an export, and the memory of its largest process."""
    begin, _ = measured("export", one, "--to", to, "--out", target(folder, to, one), "--workers", workers)
    took, memory = measured("export", many, "--to", to, "--out", target(folder, to, many), "--workers", workers)
    out = target(folder, to, many)
    size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file())
    each = (took - begin) / (count - 2)
    return [
        Row(f"export {to}: size of {MANY} images", size / count * MANY / 1e9, "GB"),
        Row(f"export {to}: CPU time per image", 1000 * each, "ms", at_most=EXPORT_MS),
        Row(f"export {to}: CPU time of {MANY} images", each * MANY / 60, "min"),
        Row(f"export {to}: memory of the largest process", memory / 1024, "MiB", at_most=MEMORY_MIB),
    ]


def import_rows(name: str, many: Path, count: int, workers: int, folder: Path) -> list[Row]:
    """Return the time of an import, its memory, and the number of images that did not change."""
    source, back = target(folder, name, many), folder / f"{name}.h5"
    started, _ = measured("--version")
    took, memory = measured("import", source, "--out", back, "--workers", workers)
    with h5py.File(many) as there, h5py.File(back) as here:
        same = sum(np.array_equal(there["data1024x1024"][i], here["data1024x1024"][i]) for i in range(count))
    each = (took - started) / count
    return [
        Row(f"import {name}: CPU time per image", 1000 * each, "ms", at_most=IMPORT_MS),
        Row(f"import {name}: CPU time of {MANY} images", each * MANY / 60, "min"),
        Row(f"import {name}: memory of the largest process", memory / 1024, "MiB", at_most=MEMORY_MIB),
        Row(f"import {name}: unchanged images", same, "", at_least=count),
    ]


def measured(*arguments: object) -> tuple[float, int]:
    """Return CPU seconds and KiB of the largest process of a command."""
    command = [sys.executable, "-m", "celebahq_builder", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


if __name__ == "__main__":
    main()
