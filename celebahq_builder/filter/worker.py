"""Files to records, in a worker process: nothing but names goes in, nothing but numbers comes out."""

from __future__ import annotations

import dataclasses
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from celebahq_builder.errors import CelebAHQError, SourceError
from celebahq_builder.filter.record import DECIMALS, Record, Scored, Unscored
from celebahq_builder.filter.scoring import score_image
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import open_rgb
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline import steps

FILE_BYTES_MAX = 2**30
"""Files of more bytes are not read."""


@dataclass(frozen=True)
class Job:
    """Some images to score."""

    folder: str
    paths: tuple[str, ...]
    pixels_max: int


def run(job: Job) -> list[Record]:
    """Score the images of a job; whatever one of them does is its own record.

    Raises:
        SourceError: the folder itself is gone.
        WorkspaceError: there is too little memory.
    """
    torch.set_num_threads(1)  # fixed, because how a sum is split decides its last bits
    return [score_file(Path(job.folder), path, job.pixels_max) for path in job.paths]


def score_file(folder: Path, path: str, pixels_max: int) -> Record:
    """Return an image's score, or why it has none."""
    try:
        size_bytes, mtime_ns, data = _read(folder / path)
    except Rejection as rejection:
        return Unscored(path, rejection.reason, rejection.detail)
    except OSError as error:
        if not folder.is_dir():
            raise SourceError(f"{folder} is gone; bring it back and run the same command, it goes on") from None
        return Unscored(path, Reason.UNREADABLE, error.strerror or str(error))
    try:
        return _score(path, size_bytes, mtime_ns, data, pixels_max)
    except Rejection as rejection:
        if rejection.reason is Reason.TOO_LARGE:  # said by a header, and another limit may be asked for next time
            return Unscored(path, rejection.reason, rejection.detail)
        return Unscored(path, rejection.reason, rejection.detail, size_bytes, mtime_ns)
    except CelebAHQError:
        raise
    except Exception as error:
        befallen = steps.fatal_error(error, torch.device("cpu"), path)
        if befallen is not None:
            raise befallen from error
        return Unscored(path, None, f"{type(error).__name__}: {error}".splitlines()[0])


def _read(path: Path) -> tuple[int, int, bytes]:
    """Return size, time of change and contents of a file, all of the same moment."""
    with os.fdopen(_open_regular(path), "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size > FILE_BYTES_MAX:
            raise Rejection(Reason.TOO_LARGE, f"{found.st_size} bytes; at most {FILE_BYTES_MAX} are read")
        return found.st_size, found.st_mtime_ns, file.read()


def _open_regular(path: Path) -> int:
    """Open a file, but wait for no pipe: what was a file when it was listed may be one by now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Rejection(Reason.UNREADABLE, "not a regular file")
    return descriptor


def _score(path: str, size_bytes: int, mtime_ns: int, data: bytes, pixels_max: int) -> Scored:
    image, notes = open_rgb(data, pixels_max, "--pixels-max")
    left, top, side = centred_square(image.width, image.height)
    quality = score_image(np.asarray(image.crop((left, top, left + side, top + side))))
    parts = tuple(round(value, DECIMALS) for value in dataclasses.astuple(quality))
    return Scored(path, size_bytes, mtime_ns, parts, image.width, image.height, notes)
