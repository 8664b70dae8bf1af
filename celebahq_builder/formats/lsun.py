"""LSUN: a category as LMDB, or as a folder of image files."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import Format
from celebahq_builder.formats.image_file import middle_square, read_header
from celebahq_builder.formats.images import list_data_set
from celebahq_builder.formats.isolated import run_isolated
from celebahq_builder.formats.lmdb_entries import lmdb_count, lmdb_entries, lmdb_facts
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.storage import read_file

log = logging.getLogger(__name__)

RESOLUTION = 256
"""Side length in px of the ProGAN paper's results on LSUN."""

REMEDY = "download LSUN's categories with https://github.com/fyu/lsun, and unzip them to bedroom_train_lmdb and such"


Entries = Callable[[], Iterator[tuple[str, bytes]]]
"""Yields name and contents of each encoded image of a database or folder."""


def read(path: Path, resize: int = RESOLUTION, *, skip: Collection[str] = ()) -> DataSet:
    """Open a category of LSUN, or any folder of images, as squares of one size, uint8 [3, R, R].

    The images are in the order of their keys, or of their paths below the folder, which are their names.

    Args:
        path: folder of an LMDB (with ``data.mdb``), that file, or a folder of images at any depth.
        resize: R, a power of two; in an LMDB of stylegan2-pytorch also the size of the images to take.
        skip: keys, or paths below the folder, to leave out.

    Raises:
        FormatError: there is neither, the LMDB is damaged, an entry to leave out does not exist, or the package
            ``lmdb`` is not installed; while reading, an entry cannot be decoded.
    """
    expected = f"expected an LMDB of LSUN or a folder of images; {REMEDY}"
    if not path.exists():
        raise FormatError(f"{path} does not exist; {expected}")
    if path.is_file() or (path / "data.mdb").exists():
        count, entries = _database_entries(path, resize, frozenset(skip))
    else:
        count, entries = _folder_entries(path, frozenset(skip))
    if count <= 0:
        raise FormatError(f"{path} has no images; {expected}")

    def images() -> Iterator[NamedImage]:
        for name, data in entries():
            try:
                image, _ = open_rgb(data, MAX_IMAGE_PIXELS, "this reader")
            except Rejection as rejection:
                fault = f"entry {printable(name)[:200]} is not an image: {rejection}"
                raise FormatError(f"{path}: {fault}; repair it, or leave it out with `skip`") from None
            yield NamedImage(pil_to_array(middle_square(image, resize)), name)

    return DataSet(count, resize, 3, images)


def _check_known(path: Path, unknown: str | None) -> None:
    if unknown is not None:
        raise FormatError(f"{path} has no entry {printable(unknown)[:200]} to leave out; check the name")


def _folder_entries(path: Path, skip: frozenset[str]) -> tuple[int, Entries]:
    names = list_data_set(path).images
    _check_known(path, next(iter(skip.difference(names)), None))
    names = [name for name in names if name not in skip]

    def entries() -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, read_file(path / name)
            except OSError as error:
                raise FormatError(f"{path / name} cannot be read: {error.strerror}") from None

    return len(names), entries


def _database_entries(path: Path, resize: int, skip: frozenset[str]) -> tuple[int, Entries]:
    """Return the entries of an LMDB in the order of their keys; memory does not depend on their number.

    Of a database of stylegan2-pytorch, which holds each image in several sizes, only those of the side length `resize`
    are taken.

    Source: https://github.com/rosinality/stylegan2-pytorch/blob/master/prepare_data.py
    """
    if importlib.util.find_spec("lmdb") is None:
        raise FormatError("an LMDB needs a package of its own: pip install '.[lsun]' in the folder of the project")
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        raise FormatError(f"{file} is not a regular file; {REMEDY}")
    facts = next(run_isolated(path, lmdb_facts, path, sorted(skip)))
    sizes, prefix, count, unknown = sorted(facts.first), b"", facts.entries, facts.unknown
    if sizes and all(_width(data) == size for size, data in facts.first.items()):
        if resize not in sizes:
            found = f"holds images of {', '.join(map(str, sizes))} px with keys such as {sizes[-1]}-00000"
            raise FormatError(f"{path} {found}; choose the ones to take by `resize`, for example {sizes[-1]}")
        prefix = f"{resize}-".encode()
        count = next(run_isolated(path, lmdb_count, path, prefix))
        unknown = next((name for name in skip if not name.startswith(f"{resize}-")), unknown)
        log.info("%s: of images of %s px, those of %d are taken", path, ", ".join(map(str, sizes)), resize)
    _check_known(path, unknown)
    return count - len(skip), lambda: run_isolated(path, lmdb_entries, path, prefix, skip)


def _width(data: bytes) -> int:
    """Return the width of an image file in px; 0 if it is none."""
    try:
        return read_header(io.BytesIO(data), "entry").width
    except FormatError:
        return 0


FORMAT = Format("lsun", read, names=("data.mdb",), options=("resize", "skip"))
