"""The zip of PNG files from which StyleGAN2-ADA and StyleGAN3 train."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import Format
from celebahq_builder.formats.export_job import ExportJob
from celebahq_builder.formats.image_file import Encoded, Header, common_size, encoded_images, read_header
from celebahq_builder.formats.image_tables import LABELS, ImageTables, check_listing
from celebahq_builder.formats.records import check_name, class_numbers
from celebahq_builder.image_set import DataSet, FolderListing, Labels, is_hidden, is_image_name
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.limits import MAX_CHUNK_BYTES
from celebahq_builder.storage import Staging, open_file, read_json, write_json

log = logging.getLogger(__name__)

END_BYTES_MAX = 2**16 + 100
"""Bytes at the end of a zip in which its end record lies: 22 bytes, a comment, and the records of large zips."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,  # of names that are not in their declared encoding, too
    LookupError,
    ArithmeticError,
    RuntimeError,  # of passwords, and of unknown compression
    MemoryError,
)
"""Errors of zipfile and its decompressors for damage."""


# --- Import


def read(path: Path, resize: int | None = None) -> DataSet:
    """Open a zip of square images of one size, in the order of their names, as StyleGAN does.

    Nothing is unpacked to the disk. Entries that are not read are counted in the log. Labels and metadata are read
    from the tables that a folder of images can have, too; see `image_tables`.

    Args:
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.

    Raises:
        FormatError: it is not a zip, or damaged; a name leads out of a folder; a table does not describe these images;
            or as `image_file.read_header` and `image_file.common_size` do.
    """
    archive = _open(path)
    listing = FolderListing()
    for name in (entry.filename for entry in archive.infolist() if not entry.is_dir()):
        kind = listing.hidden if is_hidden(name) else listing.images if is_image_name(name) else listing.others
        kind.append(name)
    names = [check_name(name, path) for name in sorted(listing.images)]
    check_listing(path, listing)
    if len(set(names)) < len(names):
        raise FormatError(f"{path} holds several images of one name; make it again")

    @contextlib.contextmanager
    def open_entry(name: str) -> Iterator[IO[bytes]]:
        with _damage_reported(path, name), archive.open(name) as file:
            yield file

    def headers() -> Iterator[Header]:
        for name in names:
            with open_entry(name) as file:
                yield read_header(file, f"{path}: {name}", archive.getinfo(name).file_size)

    described = ImageTables(path, names, listing.others, open_entry).read()

    def read_images(numbers: Sequence[int]) -> Iterator[Encoded]:
        for name in (described.names[number] for number in numbers):
            with open_entry(name) as file:
                data = file.read()
            yield f"{path}: {name}", data

    return encoded_images(described, common_size(headers(), resize), read_images, resize, random_access=True)


def _open(path: Path) -> zipfile.ZipFile:
    """Open a zip whose directory lists all of its entries."""
    try:
        with open_file(path) as file:
            count, size = _end_record(file)
            if size > MAX_CHUNK_BYTES:  # zipfile would read it at once
                many = f"its directory of {count} entries has {size} bytes"
                raise zipfile.BadZipFile(f"{many}, expected at most {MAX_CHUNK_BYTES}")
            archive = zipfile.ZipFile(path)
            _check_entries(file, archive, count)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(str(error))
        raise FormatError(f"{path} is not a readable zip, or cut short: {reason}; get or make it again") from None
    return archive


def _end_record(file: BinaryIO) -> tuple[int, int]:
    """Return the number of entries and the size in bytes of the directory, as the end of a zip announces them."""
    start = max(0, file.seek(0, os.SEEK_END) - END_BYTES_MAX)
    file.seek(start)
    tail = file.read(END_BYTES_MAX)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise zipfile.BadZipFile("it has no end record")
    count, size, offset = struct.unpack_from("<HII", tail, at + 10)
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7" and (count == 0xFFFF or 0xFFFFFFFF in (size, offset)):
        file.seek(struct.unpack_from("<Q", tail, at - 12)[0])  # the end record of a zip with many entries or over 4 GB
        count, size = struct.unpack_from("<QQ", file.read(56), 32)
    return count, size


def _check_entries(file: BinaryIO, archive: zipfile.ZipFile, count: int) -> None:
    """Check that no entry is missing in the directory: neither by its number, nor between two others."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if count != len(entries):
        raise zipfile.BadZipFile(f"its directory lists {len(entries)} entries, its end record announces {count}")
    end = 0
    for entry in entries:
        if not entry.filename:
            raise zipfile.BadZipFile("an entry has no name")
        if entry.header_offset < end:
            raise zipfile.BadZipFile("its entries overlap")
        _check_gap(file, end, entry.header_offset)
        file.seek(entry.header_offset)
        header = file.read(30)
        if len(header) < 30:
            raise zipfile.BadZipFile("an entry lies beyond its end")
        end = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:])) + entry.compress_size
    _check_gap(file, end, archive.start_dir)


def _check_gap(file: BinaryIO, start: int, stop: int) -> None:
    """Check that no entry begins in a gap; after an entry, there may be a record of its size of up to 24 bytes."""
    if stop - start < 30:
        return
    file.seek(start)
    if b"PK\3\4" in file.read(min(stop - start, 64)):
        raise zipfile.BadZipFile(f"the entry at byte {start} is not listed in its directory")


@contextlib.contextmanager
def _damage_reported(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = printable(str(error)) or "it needs too much memory"
        fault = f"{path}: {printable(name)} is damaged: {reason}"
        raise FormatError(f"{fault}; get or make the zip again") from None


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
            _add(archive, LABELS, json.dumps({"labels": _named_labels(export.level.labels)}).encode())
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


def _named_labels(labels: Labels | None) -> list[tuple[str, object]] | None:
    if labels is None:
        return None
    classes = class_numbers(labels)
    plain = (labels if classes is None else classes).tolist()
    return [(entry_name(number), label) for number, label in enumerate(plain)]


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


FORMAT = Format("stylegan-zip", read, write, recognize=_is_zip, options=("resize", "png_level"), target_suffix=".zip")
