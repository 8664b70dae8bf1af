"""Creation of a multi-resolution HDF5 file from any image set."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5 import images_per_job
from celebahq_builder.hdf5.codecs import GZIP, Codec
from celebahq_builder.hdf5.labels import encode_labels, labels_path, write_labels
from celebahq_builder.hdf5.writer import Columns, Packed, PyramidWriter, check_pixels, pack
from celebahq_builder.image_set import ImageSet, Labels, NamedImage
from celebahq_builder.storage import delete_partial_of, read_file

OWN_COLUMNS = ("file", "sha256", "label_names")
"""Columns that `write_images` makes from the image set itself."""


def write_images(
    images: ImageSet,
    path: Path,
    *,
    codec: Codec = GZIP,
    workers: int = 1,
    columns: Columns | None = None,
    attributes: Mapping[str, object] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write an image set to a new HDF5 file, and its labels, if it has any, beside it.

    The caller's thread reads the images one after another; threads build and compress their levels. Memory depends on
    the number of threads, not on that of images. The bytes depend on neither.

    Args:
        path: HDF5 file; labels go to ``<stem>-labels.npy``, float32 [N, classes].
        workers: threads that build and compress the levels; 1 works in the caller's thread.
        columns: columns of the group ``photos``: arrays, or lists of text, of N rows each. Added to them are the
            images' names (``file``), the SHA-256 of their pixels (``sha256``) and the names of the labels
            (``label_names``).
        attributes: attributes of the file; dicts and lists are stored as JSON.
        advance: called with the number of images written since the last call.

    Raises:
        FormatError: the file exists, the image set has another number or shape of images than it says, or a column has
            another number of rows; nothing remains of the file.
        DiskFull: no space left; nothing remains of the file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from celebahq_builder.image_set import DataSet
        >>> pixels = [np.full((1, 4, 4), i, np.uint8) for i in range(2)]
        >>> path = Path(tempfile.mkdtemp()) / "grey.h5"
        >>> write_images(DataSet(2, 4, 1, lambda: map(NamedImage, pixels, ["0.png", "1.png"])), path)
        >>> from celebahq_builder.hdf5.reader import open_pyramid
        >>> with open_pyramid(path) as faces:
        ...     faces.images(2)[1].tolist(), faces.photos["file"]
        ([[[1, 1], [1, 1]]], ['0.png', '1.png'])
    """
    columns, labels = dict(columns or {}), images.labels
    _check_target(path)
    for name in columns:
        if name in OWN_COLUMNS:
            raise FormatError(f"column {name} of {path} is written from the images themselves; leave it out")
    if labels is not None:
        if labels.ndim != 2 or len(labels) != images.count:
            raise FormatError(f"labels for {path} have shape {list(labels.shape)}, expected [{images.count}, classes]")
        _labels_exist(path, labels)
        if images.label_names:
            columns["label_names"] = list(images.label_names)

    def pack_job(job: tuple[NamedImage, ...]) -> tuple[list[str], Packed]:
        packed = pack((image.pixels for image in job), images.resolution, images.channels, codec)
        return [image.name for image in job], packed

    size = {"count": images.count, "resolution": images.resolution, "channels": images.channels}
    with PyramidWriter(path, **size, codec=codec, new=True) as writer:
        for names, packed in parallel.run_threads(pack_job, _jobs(images), workers=workers):
            writer.write(packed, {"file": names})
            advance(len(names))
        _check_target(path)
        with _labels_beside(path, labels):
            writer.finish(columns, attributes or {})


def _jobs(images: ImageSet) -> Iterator[tuple[NamedImage, ...]]:
    """Yield the images that are packed together."""
    shape = (images.channels, images.resolution, images.resolution)
    stream = iter(images.images())
    while job := tuple(itertools.islice(stream, images_per_job(images.resolution, images.channels))):
        for image in job:
            check_pixels(image.name, image.pixels, shape)
        yield job


@contextlib.contextmanager
def _labels_beside(path: Path, labels: Labels | None) -> Iterator[None]:
    """Write the labels of a file that gets its name meanwhile; delete them again if it does not."""
    if labels is None:
        yield
        return
    delete_partial_of(labels_path(path))
    if _labels_exist(path, labels):
        yield
        return
    try:
        write_labels(path, labels)
        yield
    except BaseException as error:
        if isinstance(error, FormatError) or not path.exists():  # or a file of that name is not ours
            labels_path(path).unlink(missing_ok=True)
        raise


def _labels_exist(path: Path, labels: Labels) -> bool:
    """Return whether these labels are next to `path` already, as after a kill between labels and HDF5 file."""
    beside = labels_path(path)
    if not beside.exists():
        return False
    expected = encode_labels(labels)
    with contextlib.suppress(OSError):  # such as a longer file, or a pipe
        if read_file(beside, len(expected)) == expected:
            return True
    raise FormatError(f"{beside} exists already, with other labels; choose another `out`, or delete it first")


def _check_target(path: Path) -> None:
    if path.exists():
        raise FormatError(f"{path} exists already; choose another `out`, or delete it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise FormatError(f"{path} cannot be written: {path.parent} is not a writable folder")
