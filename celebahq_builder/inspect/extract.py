"""Selection of images by index, id or score, and extraction as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.metadata import read_numbers, read_text
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.progress import MOMENT_S, Progress
from celebahq_builder.storage import new_files

EXAMPLES = "0:10, 1,5,7, -1 or ::100"


def parse_indices(text: str, count: int) -> list[int]:
    """Return the numbers that some text stands for: numbers and slices as in Python, with commas between.

    Negative ones count from the end; slices end where the images do. Each image comes once, where it comes first.

    Args:
        text: ``0:10``, ``1,5,7``, ``-1``, ``::100``, ``0:3,9``.
        count: how many images there are.

    Raises:
        FormatError: it is none of these, a number is out of range, or no image is left.
    """
    numbers: list[int] = []
    for part in text.split(","):
        try:
            limits = [int(limit) if limit.strip() else None for limit in part.split(":")]
            single = limits[0] if len(limits) == 1 else None
            if len(limits) > 3 or (len(limits) == 1 and single is None):
                raise ValueError
            chosen = range(count)[slice(*limits)] if single is None else [single]
        except ValueError:
            raise FormatError(f"--index {text}: {part!r} is no number or slice; expected {EXAMPLES}") from None
        if single is not None and not -count <= single < count:
            raise FormatError(
                f"--index {text}: no image {single}; the file has {count}: 0 to {count - 1}, or -1 to {-count}"
            )
        numbers += [number % count for number in chosen]
    if not numbers:
        raise FormatError(f"--index {text} leaves no image; the file has {count}, 0 to {count - 1}")
    return list(dict.fromkeys(numbers))


def indices_of_ids(names: Iterable[str], pyramid: PyramidFile) -> list[int]:
    """Return the numbers of the images of some ids or source files, in the order of the names.

    A name that several images have, such as a photo of two faces, stands for all of them.

    Raises:
        FormatError: the file knows neither ids nor source files, or not this one.
    """
    columns = [column for column in (read_text(pyramid, name) for name in ("id", "file")) if column is not None]
    if not columns:
        raise FormatError(f"{pyramid.path} knows no ids or source files, only levels; ask by --index")
    found: dict[str, dict[int, None]] = {}
    for column in columns:
        for number, name in enumerate(column):
            found.setdefault(name, {})[number] = None
    numbers: dict[int, None] = {}
    for name in names:
        if name not in found:
            has = " or ".join(dict.fromkeys(column[0] for column in columns))
            raise FormatError(f"{pyramid.path} has no image of the id or source file {name}; its first is {has}")
        numbers.update(found[name])
    return list(numbers)


def draw_indices(amount: int, count: int, seed: int) -> list[int]:
    """Return so many different numbers at random, or all of them, in random order; the same for the same seed."""
    return [int(number) for number in np.random.default_rng(seed).permutation(count)[:amount]]


def rank_by_score(pyramid: PyramidFile) -> Sequence[int]:
    """Return all numbers, those of the highest scores first; equal scores in their order, those without one left out.

    Raises:
        FormatError: the file knows no scores.
    """
    scores = read_numbers(pyramid, "score")
    if scores is None or not np.isfinite(scores).any():
        raise FormatError(f"{pyramid.path} knows no scores; take --random, or --index")
    order = np.argsort(-scores, kind="stable")
    return [int(number) for number in order if np.isfinite(scores[number])]


def best_and_worst(pyramid: PyramidFile, amount: int, *, best: bool, worst: bool) -> list[int]:
    """Return the numbers of the best images, of the worst, or half of each: best first, the worst of all last.

    Raises:
        FormatError: the file knows no scores.
    """
    order = rank_by_score(pyramid)
    if amount >= len(order):
        return list(order)
    low = amount // 2 if best and worst else amount * worst
    return [*order[: amount - low], *order[len(order) - low :]]


def file_name(number: int) -> str:
    """Return the name of an image's file: its number in the HDF5 file."""
    return f"{number:05d}.png"


def extract(pyramid: PyramidFile, numbers: Sequence[int], out: Path, resolution: int | None = None) -> list[Path]:
    """Write images into a folder, lossless, each under its number; nothing is left of them after an error.

    Args:
        numbers: which of them.
        out: made if need be; what is in it stays as it is.
        resolution: of the level to take; default the largest.

    Returns:
        Paths of the files, in the order of the numbers.

    Raises:
        FormatError: a file is there already, the folder cannot be written to, or the file has no such level.
        DiskFull: no space left.
    """
    resolution = resolution or pyramid.resolution
    pyramid.check_resolution(resolution)
    targets = [out / file_name(number) for number in numbers]
    taken = [target for target in targets if target.exists() or target.is_symlink()]
    if taken:
        more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise FormatError(f"{taken[0]} exists{more}; nothing is overwritten: delete it, or choose another --out")
    progress = Progress("extract", len(targets), unit="image", judged=False, silent_s=MOMENT_S)
    try:
        with new_files() as files:
            for number, target in zip(numbers, targets, strict=True):
                files.write(target, encode_png(pyramid.image(number, resolution)))
                progress.advance(1)
    finally:
        progress.close()
    return targets
