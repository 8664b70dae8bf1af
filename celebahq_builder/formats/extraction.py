"""Single pictures of an HDF5 file, as PNG files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from celebahq_builder.errors import FormatError
from celebahq_builder.files import write_atomic
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.imaging.codec import encode_png
from celebahq_builder.progress import MOMENT_S, Progress


def file_name(number: int) -> str:
    """Return the name of a picture's file: its number in the HDF5 file."""
    return f"{number:05d}.png"


def extract(pyramid: PyramidFile, numbers: Sequence[int], out: Path, resolution: int | None = None) -> list[Path]:
    """Write pictures into a folder, lossless, each under its number; nothing is left of them after an error.

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
    made = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
    written: list[Path] = []
    progress = Progress("extract", len(targets), unit="picture", judged=False, silent_s=MOMENT_S)
    try:
        for number, target in zip(numbers, targets, strict=True):
            written.append(target)  # first, so that nothing can come between
            write_atomic(target, encode_png(pyramid.picture(number, resolution)))
            progress.advance(1)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            for target in written:
                target.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise FormatError(
                f"{out} cannot be written to ({error.filename}: {error.strerror}); choose another --out"
            ) from None
        raise
    finally:
        progress.close()
    return written
