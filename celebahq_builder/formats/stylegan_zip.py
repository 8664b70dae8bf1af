"""The zip of PNG files from which StyleGAN2-ADA and StyleGAN3 train."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats import image_file
from celebahq_builder.formats.format import ExportJob, Format, Option
from celebahq_builder.formats.image_file import Encoded, Header, RandomAccessImages
from celebahq_builder.formats.records import check_name, class_numbers, parse_labels
from celebahq_builder.image_set import IMAGE_SUFFIXES, Labels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging, read_json, write_json

log = logging.getLogger(__name__)

TABLE = "dataset.json"
"""Table of labels."""

TABLE_BYTES = 256 * 2**20
"""Maximum size of that table."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
"""Errors of zipfile for damage, unknown compression, and passwords."""


# --- Import


def read(path: Path, resize: int | None = None) -> RandomAccessImages:
    """Open a zip of square images of one size, in the order of their names, as StyleGAN does.

    Nothing is unpacked to the disk. Entries that are not images by their names are counted in the log.

    Args:
        path: the zip.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.

    Raises:
        FormatError: it is not a zip, or damaged; a name leads out of a folder; ``dataset.json`` is not a table of these
            images; or as `image_file.read_header` and `image_file.common_size` do.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except DAMAGE as error:
        raise FormatError(f"{path} is not a readable zip, or cut short: {error}; get or make it again") from None
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    found = (entry for entry in files if entry.filename.lower().endswith(IMAGE_SUFFIXES))
    entries = sorted(found, key=lambda entry: entry.filename)
    if not entries:
        raise FormatError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    names = [entry.filename for entry in entries]
    known = {*names, TABLE}
    if len(set(names)) < len(entries):
        raise FormatError(f"{path} holds several images of one name; make it again")
    others = [entry.filename for entry in files if entry.filename not in known]
    if others:
        log.info("%s: ignored %d entries that are not images, the first is %s", path, len(others), others[0])
    resolution, channels = image_file.common_size((_header(path, archive, entry) for entry in entries), resize)
    labels = _read_labels(path, archive, names)

    def read_files(numbers: Sequence[int]) -> Iterator[Encoded]:
        for entry in (entries[number] for number in numbers):
            with _damage_reported(path, entry.filename):
                data = archive.read(entry)
            yield f"{path}: {entry.filename}", data

    return RandomAccessImages(names, read_files, resolution, channels, resize is not None, labels=labels)


@contextlib.contextmanager
def _damage_reported(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise FormatError(f"{path}: {name} is damaged: {error}; get or make the zip again") from None


def _header(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    name = check_name(entry.filename, path)
    with _damage_reported(path, name), archive.open(entry) as file:
        return image_file.read_header(file, f"{path}: {name}", entry.file_size)


def _read_labels(path: Path, archive: zipfile.ZipFile, names: list[str]) -> Labels | None:
    if TABLE not in archive.namelist():
        return None
    where = path / TABLE
    entry = archive.getinfo(TABLE)
    if entry.file_size > TABLE_BYTES:
        raise FormatError(f"{where} has {entry.file_size} bytes, expected at most {TABLE_BYTES}; remove it")
    with _damage_reported(path, TABLE):
        data = archive.read(entry)
    try:
        values = json.loads(data)["labels"]
        if values is None:
            return None
        labels = {posixpath.normpath(str(name)): label for name, label in values}
    except (ValueError, KeyError, TypeError, RecursionError):
        expected = "labels: null, or a list of a name and a label for each image"
        raise FormatError(f"{where} is not a table of labels; expected {expected}: correct or remove it") from None
    missing = next((name for name in names if name not in labels), None)
    if missing is not None:
        raise FormatError(f"{where} has no label for {missing}; add it, or set labels to null")
    if len(labels) > len(names):
        raise FormatError(f"{where} has labels for {len(labels)} images, the zip holds {len(names)}; make it again")
    return parse_labels([labels[name] for name in names], where)


# --- Export

CHECKPOINT = 512
"""Images after which the archive is closed and its directory saved; an interrupted export loses at most as many."""

TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time in a zip; the same for all entries, so that the same images give the same bytes."""


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``00000/img00000000.png`` ..., stored without compression, and ``dataset.json`` with the labels.

    A label is a class number, or a list of numbers if a number does not determine it; without labels, ``labels`` is
    null. An interrupted export is resumed after the last 512 images that are complete.

    Source: dataset_tool.py and training/dataset.py of NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3.
    """
    done = _restore_checkpoint(stage)
    yield done
    with stage.data.open("rb+" if done else "wb+") as file:
        archive = zipfile.ZipFile(file, "a" if done else "w")
        try:
            images = export.level.pixels(range(done, export.level.count))
            encode = functools.partial(encode_png, level=export.png_level)
            for image in parallel.run_threads(encode, images, workers=export.workers):
                _add(archive, entry_name(done), image)
                done += 1
                if done % CHECKPOINT == 0:
                    _checkpoint(archive, file, stage, done)
                    archive = zipfile.ZipFile(file, "a")
                yield 1
            _add(archive, TABLE, _labels_json(export.level.labels))
            archive.close()
        except BaseException:
            archive.fp = None  # or its __del__ would write the directory, for instance to a full disk
            raise
        file.flush()
        os.fsync(file.fileno())


def entry_name(number: int) -> str:
    """Return the name of an image; a folder holds a thousand.

    >>> entry_name(12345)
    '00012/img00012345.png'
    """
    return f"{number // 1000:05d}/img{number:08d}.png"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.create_system = 3  # Unix, on every system
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _labels_json(labels: Labels | None) -> bytes:
    values = None
    if labels is not None:
        classes = class_numbers(labels)
        plain = (labels if classes is None else classes).tolist()
        values = [[entry_name(number), label] for number, label in enumerate(plain)]
    return json.dumps({"labels": values}).encode()


def _checkpoint(archive: zipfile.ZipFile, file: BinaryIO, stage: Staging, images: int) -> None:
    """Close the archive, and save its directory, which the next image will overwrite."""
    archive.close()
    file.flush()
    os.fsync(file.fileno())
    file.seek(archive.start_dir)
    directory = base64.b64encode(file.read()).decode()
    note = {"images": images, "bytes": archive.start_dir, "directory": directory}
    stage.check([stage.data])
    write_json(stage.root / "checkpoint.json", note, parents=False)


def _restore_checkpoint(stage: Staging) -> int:
    """Restore the archive of the last checkpoint, and return its number of images."""
    path = stage.root / "checkpoint.json"
    if not path.exists() or not stage.data.exists():
        return 0
    note = read_json(path)
    with stage.data.open("rb+") as file:
        file.truncate(note["bytes"])
        file.seek(note["bytes"])
        file.write(base64.b64decode(note["directory"]))
    return int(note["images"])


def _is_zip(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".zip" or zipfile.is_zipfile(path))


OPTIONS = frozenset[Option]({"resize", "png_level"})

FORMAT = Format("stylegan-zip", read, write, recognise=_is_zip, options=OPTIONS, target_suffix=".zip")
