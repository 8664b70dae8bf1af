"""The context in which photo stages run: photos, device, networks, and settings of the libraries."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import cv2
import torch
from torch import Tensor

from celebahq_builder.device_errors import is_out_of_memory
from celebahq_builder.errors import SourceError, WeightsError
from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging.tiles import run_tiled_all
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.registry import find_entry, load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import PhotoContext, Precision
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import read_file

# oneDNN caches what it compiled for the last 1024 shapes, and each photo has its own shape: a worker would grow to
# gigabytes. It reads this variable at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

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


# --- Networks -----------------------------------------------------------------------------------------------------

Architecture = Literal["autoencoder", "srgan"]
"""The networks that a build runs."""


@functools.lru_cache(maxsize=4)
def network(weights: str, device: torch.device, architecture: Architecture) -> Autoencoder | SRGenerator:
    """Return a network of the registry, ready to run on a device.

    Raises:
        WeightsError: unknown or changed weights, or weights of another network.
    """
    found = find_entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return cast("Autoencoder | SRGenerator", load_network(weights, device))


def run_network(
    faces: Sequence[Face],
    weights: str,
    architecture: Architecture,
    scale: int,
    tile_px: int,
    context: PhotoContext,
    precision: Precision = "fp32",
) -> list[Tensor]:
    """Return the pixels of faces after a network, uint8 [3, scale H, scale W] each.

    Windows of equal shape pass the network in batches. Where the device has too little memory, batches are halved.

    Args:
        faces: all on one device; may be none.
        weights: name in a registry.
        architecture: the network that the weights must belong to.
        scale: output px per input px.
        tile_px: side length of the tiles in input px; bounds the memory.
        context: `batch_windows` is halved in place.
        precision: of the convolutions.
    """
    if not faces:
        return []
    net = network(weights, context.device, architecture)

    def run(windows: Tensor) -> Tensor:
        with torch.autocast(context.device.type, torch.bfloat16, enabled=precision == "bf16"):
            result: Tensor = net(windows)
        return result

    while True:
        try:
            return run_tiled_all(
                run,
                [face.pixels for face in faces],
                scale=scale,
                tile_px=tile_px,
                context_px=net.context_px,
                stride_px=net.STRIDE_PX,
                batch=context.batch_windows,
            )
        except RuntimeError as error:
            if context.batch_windows == 1 or not is_out_of_memory(error):
                raise
        context.batch_windows //= 2  # outside of `except`, where the error no longer holds references to tensors
        torch.cuda.empty_cache()
