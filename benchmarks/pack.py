"""Speed of packing and size of the HDF5 file: ``python benchmarks/pack.py [--pngs DIR | --codecs]``.

The images are 300 faces of 1024x1024, made of the 28 images of CelebA-HQ in the test data: mirrored and shifted, so
that no two are alike and all have real texture. They are PNG files like those of the stage align. With
``--pngs WORK/stages/align/images``, they are the first 300 images of a build.
Both sides read the same files, in one run, by turns:

- the public tool: one process, 2x2 means in float32, gzip 4 in the filter pipeline of HDF5;
- `celebahq build`: two threads decode, build the levels and compress, a third one stores.

Peak memory is measured in a process that packs these images, and in one that writes 20,000 images of 64x64 from an
image set. While other programs run on the machine, compare the processor times.
``--codecs`` prints the table of ``docs/hdf5.md`` instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from table import Row, finish, shared_data

from celebahq_builder.hdf5 import images_per_chunk
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.hdf5.writer import compress_chunk
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.imaging.image_io import decode_png, encode_png, open_rgb, pil_to_array
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.pipeline.face import Identity, ImageRecord, PhotoRecord
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.pipeline.stages.pack import PackSettings, write_hdf5
from celebahq_builder.pipeline.stages.select import SelectRecord
from celebahq_builder.run_directory.workspace import StageFolder
from celebahq_builder.storage import sha256

Pixels = NDArray[np.uint8]

IMAGES, SIDE, WORKERS = 300, 1024, 2
TURNS = 2
SMALL_IMAGES, SMALL_SIDE = 20_000, 64
CODECS = [("gzip", n) for n in (0, 1, 4, 6, 9)] + [("none", 0)] + [("blosc2", n) for n in (1, 3, 5)]


def faces(count: int) -> list[Pixels]:
    """Return some of the real faces, uint8 [3, 1024, 1024]."""
    found = sorted((shared_data() / "celebahq_1024").glob("*.jpg"))[:count]
    return [pil_to_array(open_rgb(path.read_bytes(), 1 << 24)[0]) for path in found]


def variant(face: Pixels, number: int) -> Pixels:
    """Return a face as another one: mirrored or not, and shifted by up to 60 pixels."""
    down, right = np.random.default_rng(number).integers(0, 121, 2)
    padded = np.pad(face, ((0, 0), (60, 60), (60, 60)), mode="reflect")
    shifted = padded[:, down : down + SIDE, right : right + SIDE]
    return np.ascontiguousarray(shifted[:, :, ::-1] if number // 28 % 2 else shifted)


def coded(pngs: Path | None) -> Iterator[bytes]:
    """Yield the images as PNG files."""
    if pngs is not None:
        found = sorted(pngs.rglob("*.png"))[:IMAGES]
        if len(found) < IMAGES:
            sys.exit(f"{pngs} has {len(found)} PNG files; expected {IMAGES} or more, those of a build's align")
        yield from (path.read_bytes() for path in found)
        return
    real = faces(28)
    for number in range(IMAGES):
        yield encode_png(variant(real[number % len(real)], number))


def make_pngs(folder: Path, pngs: Path | None) -> list[PhotoRecord]:
    """Write the images as align does, and return what is recorded of them."""
    kept = []
    for number, data in enumerate(coded(pngs)):
        path = folder / f"{number:06d}.png"
        path.write_bytes(data)
        kept.append(packed_photo(path, len(kept)))
    return kept


def packed_photo(path: Path, index: int) -> PhotoRecord:
    """Return the record of a photo whose image lies at `path`."""
    data = path.read_bytes()
    corners = ((0.0, 0.0),) * 4
    record = PhotoRecord(path.name, Identity(path.stem, index, (0.0,) * 10, "", ()))
    record = record.with_part(CropRecord((SIDE, SIDE), (), corners, 1.0, 1.0, 1, "")).with_part(SelectRecord(index + 1))
    record = record.with_part(QualityScore(0.0, 0.0, 0.0, 0.0, 0.0))
    return record.with_part(ImageRecord(path.name, len(data), sha256(data), corners, 0, (0, 0, 0, 0)))


class PublicTool:
    """The straightforward writer: every level of every image through HDF5's own filter pipeline."""

    def __init__(self, path: Path, count: int) -> None:
        self.file = h5py.File(path, "w")
        self.levels = []
        for r in levels(SIDE):
            per_chunk = max(1, 128 // (3 * r * r))
            shape, chunks = (count, 3, r, r), (per_chunk, 3, r, r)
            self.levels.append(
                self.file.create_dataset(
                    f"data{r}x{r}",
                    shape=shape,
                    maxshape=(None, 3, r, r),
                    chunks=chunks,
                    dtype=np.uint8,
                    compression="gzip",
                    compression_opts=4,
                )
            )
        self.start = 0

    def write(self, paths: list[Path]) -> None:
        """Add some images, held in memory until all are there, as the tool does."""
        held: list[list[Pixels]] = [[] for _ in self.levels]
        for path in paths:
            image = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1))
            carried = image.astype(np.float32)
            for level in held:
                level.append(np.rint(carried).clip(0, 255).astype(np.uint8))
                if carried.shape[-1] > 1:
                    carried = (
                        carried[:, 0::2, 0::2]
                        + carried[:, 0::2, 1::2]
                        + carried[:, 1::2, 0::2]
                        + carried[:, 1::2, 1::2]
                    ) * np.float32(0.25)
        for dataset, level in zip(self.levels, held, strict=True):
            dataset[self.start : self.start + len(paths)] = np.stack(level)
        self.start += len(paths)


def build_writes(path: Path, kept: list[PhotoRecord], folder: Path) -> None:
    """Write all images as a build does."""
    write_hdf5(
        path,
        kept,
        StageFolder(folder, "align"),
        PackSettings(),
        resolution=SIDE,
        attribute_names=(),
        attributes={},
        workers=WORKERS,
        advance=lambda _: None,
    )


class Spent:
    """Adds up time, while it is entered, by the clock and by the processor."""

    clock_s = cpu_s = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.clock_s += time.perf_counter() - self.began[0]
        self.cpu_s += time.process_time() - self.began[1]


def speed(folder: Path, pngs: Path | None) -> list[Row]:
    """Measure both sides by turns."""
    kept = make_pngs(folder, pngs)
    paths = [folder / one.file for one in kept]
    spent = {"theirs": Spent(), "ours": Spent()}
    tool = PublicTool(folder / "tool.h5", IMAGES)
    portion = IMAGES // TURNS
    for turn in range(TURNS):
        with spent["theirs"]:
            part = paths[turn * portion : (turn + 1) * portion]
            for start in range(0, portion, 10):
                tool.write(part[start : start + 10])
        (folder / "ours.h5").unlink(missing_ok=True)
        with spent["ours"]:
            build_writes(folder / "ours.h5", kept, folder)
    tool.file.close()
    with h5py.File(folder / "tool.h5") as theirs, h5py.File(folder / "ours.h5") as ours:
        for r in levels(SIDE):
            for number in range(0, IMAGES, 7):
                if not np.array_equal(theirs[f"data{r}x{r}"][number], ours[f"data{r}x{r}"][number]):
                    sys.exit(f"the two files differ in level {r}x{r} of image {number}: the comparison is void")
    slow, fast = IMAGES / spent["theirs"].clock_s, TURNS * IMAGES / spent["ours"].clock_s
    theirs_ms, ours_ms = spent["theirs"].cpu_s / IMAGES * 1e3, spent["ours"].cpu_s / IMAGES / TURNS * 1e3
    sizes = [(folder / name).stat().st_size / IMAGES / 1e6 for name in ("tool.h5", "ours.h5")]
    return [
        Row("1024x1024, the public tool's way, one process", slow, "images/s"),
        Row(f"1024x1024, build with {WORKERS} workers", fast, "images/s"),
        Row("  times as fast", fast / slow, "x", at_least=5),
        Row("processor time, the public tool's way", theirs_ms, "ms/image"),
        Row("processor time, build's, of all its threads", ours_ms, "ms/image"),
        Row("  times as little, on the same number of cores", theirs_ms / ours_ms, "x"),
        Row("file, the public tool's way", sizes[0], "MB/image"),
        Row("file, build's", sizes[1], "MB/image"),
        Row("  times as large", sizes[1] / sizes[0], "x", at_most=1.12),
    ]


def small_faces() -> DataSet:
    """Return 20,000 images of 64x64, made while they are read: faces, each with other noise."""
    k = SIDE // SMALL_SIDE
    reduced = [face.reshape(3, SMALL_SIDE, k, SMALL_SIDE, k).mean((2, 4)) for face in faces(8)]

    def images() -> Iterator[NamedImage]:
        for number in range(SMALL_IMAGES):
            rng = np.random.default_rng(number)
            noisy = reduced[number % len(reduced)] + rng.integers(-3, 4, (3, SMALL_SIDE, SMALL_SIDE))
            yield NamedImage(np.clip(noisy, 0, 255).astype(np.uint8), f"{number:06d}.png")

    return DataSet(SMALL_IMAGES, SMALL_SIDE, 3, images)


def write_for_memory(what: str, folder: Path) -> None:
    """Write in this process and print its peak memory in MB."""
    if what == "small":
        write_images(small_faces(), folder / "small.h5", workers=WORKERS)
    else:
        kept = [packed_photo(path, i) for i, path in enumerate(sorted(folder.glob("*.png")))]
        build_writes(folder / "memory.h5", kept, folder)
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent process held
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def memory(folder: Path) -> list[Row]:
    """Measure the peak memory of both ways to write, in processes that do nothing else."""
    rows = []
    for what, title in (("large", f"{IMAGES} of 1024x1024"), ("small", f"{SMALL_IMAGES} of 64x64")):
        command = [sys.executable, __file__, "--memory", what, str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(Row(f"{title}, {WORKERS} workers: peak memory", float(done.stdout), "MB", at_most=600))
    return rows


def codecs() -> list[Row]:
    """Measure all codecs on real faces, one core, processor time: all levels of an image."""
    rows = []
    pyramids = [build_pyramid(face) for face in faces(12)]
    for name, level in CODECS:
        one = codec(name, level)
        packing, unpacking, size = [], [], 0
        for pyramid in pyramids:
            chunks = [pixels[None] for pixels in pyramid if images_per_chunk(pixels.shape[-1]) == 1]
            began = time.process_time()
            packed = [compress_chunk(chunk, 1, one) for chunk in chunks]
            packing.append(time.process_time() - began)
            began = time.process_time()
            for data, chunk in zip(packed, chunks, strict=True):
                one.decompress(data, chunk.shape)
            unpacking.append(time.process_time() - began)
            size += sum(map(len, packed))
        title = f"{name} {level}" if level else name
        rows += [
            Row(f"{title}: pack", float(np.median(packing)) * 1e3, "ms/image"),
            Row(f"{title}: unpack", float(np.median(unpacking)) * 1e3, "ms/image"),
            Row(f"{title}: size", size / len(pyramids) / 1e6, "MB/image"),
        ]
    data = [encode_png(face) for face in faces(12)]
    began = time.process_time()
    for png in data:
        build_pyramid(decode_png(png))
    rows.append(
        Row("before it: PNG decoded, levels built", (time.process_time() - began) / len(data) * 1e3, "ms/image")
    )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        write_for_memory(sys.argv[2], Path(sys.argv[3]))
        sys.exit()
    if sys.argv[1:] == ["--codecs"]:
        finish(codecs())
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f} running processes")
    given = Path(sys.argv[2]) if sys.argv[1:2] == ["--pngs"] else None
    with tempfile.TemporaryDirectory() as temporary:
        finish([*speed(Path(temporary), given), *memory(Path(temporary))])
