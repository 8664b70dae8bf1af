"""The context in which photo stages run: reading of photos, device, and settings of the libraries."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import torch

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.stage import PhotoContext
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import read_file

BATCH_WINDOWS = {"cpu": 1, "cuda": 16}
"""Windows of equal shape that pass a network at once, by kind of device.

A GPU may add up in another order for another batch size, which changes the last bit of a sum. One window takes about
100 MB in either network; where the device has too little memory, the number is halved.
"""

PHOTO_ERRORS = (errno.EINVAL, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that reject a photo: a pipe, a device or a folder of its name; a file that is too large or not readable."""


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Make results depend on nothing but settings and photos: not on the threads, nor on the batch size."""
    threads, cv2_threads, tf32 = torch.get_num_threads(), cv2.getNumThreads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)  # the order of a sum, and so its last bits, depend on the number of threads
    cv2.setNumThreads(1)
    torch.backends.cudnn.allow_tf32 = False  # it keeps 10 bits of a factor: results would depend on the batch size
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
        torch.backends.cudnn.allow_tf32 = tf32


def photo_context(
    resolution: int, device: str, read_photo: Callable[[Photo], bytes], deltas: Path | None = None
) -> PhotoContext:
    """Return the context of photo stages on a device."""
    where = torch.device(device)
    return PhotoContext(resolution, where, read_photo, BATCH_WINDOWS[where.type], deltas)


def photo_reader(folder: Path) -> Callable[[Photo], bytes]:
    """Return a function that reads the photos of a folder; it raises a Rejection for a missing or unusable file."""

    def read_photo(photo: Photo) -> bytes:
        try:
            return read_file(photo_path(folder, photo.file))
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir():
                raise SourceError(
                    f"the folder of photos {folder} is gone; bring it back and run the same command"
                ) from None
            raise Rejection(Reason.FILE_MISSING, f"{photo.file} is not in the folder of photos") from None
        except OSError as error:
            if error.errno not in PHOTO_ERRORS:
                raise
            raise Rejection(Reason.UNREADABLE, f"{photo.file}: {error.strerror}") from None

    return read_photo
