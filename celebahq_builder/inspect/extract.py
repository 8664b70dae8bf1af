"""Selection of images by index, id or score, and extraction as PNG files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.reader import read_numbers, read_text
from celebahq_builder.image_set import ImagePyramid
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.progress import image_progress
from celebahq_builder.storage import new_files

# --- Selection --------------------------------------------------------------------------------------------------


def parse_indices(text: str, count: int) -> list[int]:
    """Return the image numbers that a text selects: numbers and slices as in Python, separated by commas.

    Negative numbers count from the end. Each image is returned once, at its first position.

    Args:
        text: for instance ``0:10``, ``1,5,7``, ``-1``, ``::100`` or ``0:3,9``.
        count: number of images in the file.

    Raises:
        FormatError: the text has another syntax, a number is out of range, or no image is selected.

    >>> parse_indices("0:3,-1", 10)
    [0, 1, 2, 9]
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
            raise FormatError(
                f"`index` {text}: {part!r} is no number or slice; expected 0:10, 1,5,7, -1 or ::100"
            ) from None
        if single is not None and not -count <= single < count:
            raise FormatError(
                f"`index` {text}: no image {single}; the file has {count}: 0 to {count - 1}, or -1 to {-count}"
            )
        numbers += [number % count for number in chosen]
    if not numbers:
        raise FormatError(f"`index` {text} leaves no image; the file has {count}: 0 to {count - 1}")
    return list(dict.fromkeys(numbers))


def indices_of_ids(names: Iterable[str], pyramid: ImagePyramid) -> list[int]:
    """Return the numbers of the images with some ids or source files, in the order of the names.

    A name that several images have, such as a photo with two faces, selects all of them.

    Raises:
        FormatError: the file has neither ids nor source files, or a name is unknown.
    """
    columns = [column for name in ("id", "file") if (column := read_text(pyramid, name)) is not None]
    if not columns:
        raise FormatError(f"{pyramid.path} has no ids or source files; use `index`")
    found: defaultdict[str, list[int]] = defaultdict(list)
    for column in columns:
        for number, name in enumerate(column):
            found[name].append(number)
    numbers: list[int] = []
    for name in names:
        if name not in found:
            first = printable(" or ".join(dict.fromkeys(column[0] for column in columns)))
            raise FormatError(
                f"{pyramid.path} has no image of the id or source file {printable(name)}; its first is {first}"
            )
        numbers += found[name]
    return list(dict.fromkeys(numbers))


def draw_indices(amount: int, count: int, seed: int) -> list[int]:
    """Return `amount` different numbers below `count` in random order, or all of them; equal for equal seeds."""
    numbers: list[int] = np.random.default_rng(seed).permutation(count)[:amount].tolist()
    return numbers


def rank_by_score(pyramid: ImagePyramid) -> list[int]:
    """Return the numbers of all images that have a score, the highest score first; equal scores by number.

    Raises:
        FormatError: the file has no scores.
    """
    scores = read_numbers(pyramid, "score")
    if scores is None or not np.isfinite(scores).any():
        raise FormatError(f"{pyramid.path} has no scores; use `drawn` or `index`")
    order = np.argsort(-scores, kind="stable")
    numbers: list[int] = order[np.isfinite(scores[order])].tolist()
    return numbers


def best_and_worst(pyramid: ImagePyramid, amount: int, *, best: bool, worst: bool) -> list[int]:
    """Return the numbers of the best images, of the worst images, or half of each; the worst image is last.

    Raises:
        FormatError: the file has no scores.
    """
    order = rank_by_score(pyramid)
    if amount >= len(order):
        return order
    low = amount // 2 if best and worst else amount * worst
    return [*order[: amount - low], *order[len(order) - low :]]


# --- Extraction -------------------------------------------------------------------------------------------------


def extract(pyramid: ImagePyramid, numbers: Sequence[int], out: Path, resolution: int | None = None) -> list[Path]:
    """Write images as lossless PNG files, named by their number in the HDF5 file: ``00000.png``.

    A file that exists and holds the same bytes is left as it is, so a killed command can be repeated. After an error,
    none of the new files remains.

    Args:
        out: folder; it is created if necessary, and other files in it stay.
        resolution: resolution of the level; default the largest.

    Returns:
        Paths of the files, in the order of the numbers.

    Raises:
        FormatError: a file exists with other contents, the folder cannot be written, or the HDF5 file lacks the level.
        DiskFull: no space left.
    """
    resolution = resolution or pyramid.resolution
    pyramid.check_resolution(resolution)
    targets = [out / f"{number:05d}.png" for number in numbers]
    with image_progress("extract", len(targets)) as progress, new_files() as files:
        for number, target in zip(numbers, targets, strict=True):
            files.write(target, encode_png(pyramid.images(resolution)[number]))
            progress.advance(1)
    return targets
