"""Result of an hour of the recipe `demo` on a CPU: SWD to held-back faces at 2 minutes and at the end, and grids.

``python benchmarks/demo.py FACES.h5 --out DIR [--minutes 60] [--threads 1]``; FACES.h5 is, for instance, the
result of ``python build.py --celeba-root $CELEBAHQ_SHARED/data/faces --resolution 64 --keep 1000 --out WORK``. A killed
command resumes. Nothing else should run at the same time, because the length of the training is set in minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from table import Row, finish

from celebahq_builder.data.dataset import PyramidDataset
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.metrics.swd import swd
from celebahq_builder.progan.generate import GeneratedImages, write_sheet
from celebahq_builder.training.logger import read_lines

HELD = 256
"""Number of faces that the training never sees, and of generated images."""
FIRST_MINUTES = 2.0
RESOLUTION = 32


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    train, held = split(asked.faces, asked.out)
    early = asked.out / "early"
    if not early.exists():
        spend(train, asked.out / "run", FIRST_MINUTES, asked.threads)
        keep(asked.out / "run", early)
    spend(train, asked.out / "run", asked.minutes, asked.threads)
    reals = images(held)
    began, ended = (distance(generated(at), reals) for at in (early, asked.out / "run"))
    floor = distance(images(train), reals)
    if not (asked.out / "grid.png").exists():
        write_sheet(GeneratedImages(asked.out / "run", 12 * 6, 0, torch.device("cpu")), 12, asked.out / "grid.png")
    lines = read_lines(asked.out / "run" / "stats.jsonl")
    finish(
        [
            Row("resolution after 2 minutes", resolution(early), "", at_least=RESOLUTION),
            Row("kimg shown", lines[-1]["kimg"], ""),
            Row("at 32x32: images/s", lines[-1]["images_per_s"], ""),
            Row(f"SWD x1000 to {HELD} held-back faces, after 2 minutes", began, ""),
            Row(f"SWD x1000 to {HELD} held-back faces, after {asked.minutes:g} minutes", ended, ""),
            Row(f"SWD x1000 to {HELD} held-back faces, of {HELD} training faces", floor, ""),
            Row("SWD at the end as a share of that after 2 minutes", ended / began, "", at_most=0.5),
        ]
    )


def split(faces: Path, out: Path) -> tuple[Path, Path]:
    """Return two files: faces to train on, and those held back."""
    paths = out / "train.h5", out / "held.h5"
    dataset = PyramidDataset(faces)
    order = np.random.default_rng(0).permutation(len(dataset))
    for path, numbers in zip(paths, (order[:-HELD], order[-HELD:]), strict=True):
        if not path.exists():
            part = dataset.read(numbers)
            named = [NamedImage(pixels, f"{i:06d}") for i, pixels in enumerate(part)]
            write_images(DataSet(len(part), part.shape[-1], 3, lambda named=named: iter(named)), path)
    return paths


def spend(train: Path, run: Path, minutes: float, threads: int) -> None:
    """Train until a run has taken so many minutes, with the command that users type."""
    lines = read_lines(run / "stats.jsonl") if (run / "stats.jsonl").exists() else []
    left = minutes * 60 - (lines[-1]["seconds"] if lines else 0)
    if left <= 0:
        return
    command = [sys.executable, "-m", "celebahq_builder", "train", str(train), "--out", str(run), "--recipe", "demo"]
    process = subprocess.Popen([*command, "--device", "cpu", "--threads", str(threads)])
    try:
        process.wait(left)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    if process.wait() not in (0, 128 + signal.SIGTERM):
        sys.exit(f"the training ended with {process.returncode}")


def keep(run: Path, where: Path) -> None:
    """Copy the generator of a run to a new folder."""
    where.mkdir()
    for name in ("generator.safetensors", "generator.json"):
        shutil.copy(run / name, where / name)


def images(path: Path) -> np.ndarray:
    """Return the first images of a file, uint8 [256, 3, 32, 32]."""
    return PyramidDataset(path, RESOLUTION).read(np.arange(HELD))


def generated(where: Path) -> np.ndarray:
    """Return generated images, uint8 [256, 3, 32, 32]; smaller ones are enlarged, as while 32x32 fades in."""
    made = GeneratedImages(where, HELD, 0, torch.device("cpu"))
    times = RESOLUTION // made.resolution
    return np.stack([one.pixels for one in made.images()]).repeat(times, axis=2).repeat(times, axis=3)


def resolution(where: Path) -> int:
    """Return the resolution that a generator had reached."""
    return 1 << int(json.loads((where / "generator.json").read_text())["level"])


def distance(made: np.ndarray, reals: np.ndarray) -> float:
    """Return the SWD x1000, mean over the levels 32 and 16."""
    sides: list[Callable[[], Iterator[torch.Tensor]]] = [
        lambda side=side: iter([torch.from_numpy(side)]) for side in (made, reals)
    ]
    return float(np.mean(list(swd(*sides, resolution=RESOLUTION, count=HELD).values())))


if __name__ == "__main__":
    main()
