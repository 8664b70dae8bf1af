"""The zip of PNG files that StyleGAN2-ADA and StyleGAN3 train from."""

from __future__ import annotations

import base64
import functools
import json
import logging
import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats import records
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.formats.image_file import (
    Header,
    check_bytes,
    check_resize,
    common_size,
    decode,
    decoded,
    read_header,
)
from celebahq_builder.formats.records import check_name, class_numbers
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.image_set import IMAGE_SUFFIXES, Labels, NamedImage, Pixels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging, read_json, write_json

log = logging.getLogger(__name__)

TABLE = "dataset.json"

TABLE_BYTES = 256 * 2**20
"""More than this is no table of labels."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
"""What zipfile raises for damage, for compression it does not know, and for passwords."""


@dataclass(frozen=True)
class ImageZip:
    """Images of a zip, a `ImageSet`; nothing is ever unpacked to the disk."""

    path: Path
    archive: zipfile.ZipFile
    entries: list[zipfile.ZipInfo]
    resolution: int
    channels: int
    resized: bool
    labels: Labels | None
    label_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.entries)

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images in the order of their names, as StyleGAN does.

        Raises:
            FormatError: an entry is damaged.
        """
        for entry, pixels in zip(self.entries[start:], self.pixels(range(start, self.count)), strict=True):
            yield NamedImage(pixels, entry.filename)

    def pixels(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Yield images uint8 [C, R, R] by their numbers, in the order asked for; errors as of `images`."""
        yield from decoded(self._coded(numbers), self._decode)

    def _coded(self, numbers: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        for entry in (self.entries[number] for number in numbers):
            yield f"{self.path}: {entry.filename}", _contents(self.path, self.archive, entry)

    def _decode(self, coded: tuple[str, bytes]) -> Pixels:
        where, data = coded
        return decode(data, where, self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> ImageZip:
    """Read a zip of square images of one size.

    Entries that are no images by their endings are counted in the log.

    Args:
        path: the zip.
        resize: cut the middle of each image to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no zip or cut short; no images; names that lead out of a folder; entries that would unpack to
            far more than their images need; images that are not 8-bit RGB or grey, not of one size or of none
            that is a power of two; or ``dataset.json`` is no table of these images.
    """
    check_resize(resize)
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except DAMAGE as error:
        raise FormatError(f"{path} is not a readable zip, or cut short: {error}; get or make it again") from None
    try:
        return _read(path, archive, resize)
    except BaseException:
        archive.close()
        raise


def _read(path: Path, archive: zipfile.ZipFile, resize: int | None) -> ImageZip:
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    entries = sorted(
        (entry for entry in files if entry.filename.lower().endswith(IMAGE_SUFFIXES)), key=lambda entry: entry.filename
    )
    if not entries:
        raise FormatError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    names = {entry.filename for entry in entries}
    if len(names) < len(entries):
        raise FormatError(f"{path} holds several images of one name; make it again")
    others = [entry.filename for entry in files if entry.filename not in names and entry.filename != TABLE]
    if others:
        log.info("%s: passed over %d entries that are no images, %s first", path, len(others), others[0])
    resolution, channels = common_size((_header(path, archive, entry) for entry in entries), resize)
    labels = _parse_labels(path, archive, [entry.filename for entry in entries])
    return ImageZip(path, archive, entries, resolution, channels, resize is not None, labels)


def _header(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    check_name(entry.filename, path)
    try:
        with archive.open(entry) as file:
            header = read_header(file, f"{path}: {entry.filename}")  # type: ignore[arg-type]
    except DAMAGE as error:
        raise FormatError(f"{path}: {entry.filename} cannot be read: {error}; get or make it again") from None
    check_bytes(header, entry.file_size, "would unpack to")
    return header


def _contents(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(entry)
    except DAMAGE as error:
        raise FormatError(f"{path}: {entry.filename} is damaged: {error}; get or make the zip again") from None


def _parse_labels(path: Path, archive: zipfile.ZipFile, names: list[str]) -> Labels | None:
    if TABLE not in archive.namelist():
        return None
    where = path / TABLE
    entry = archive.getinfo(TABLE)
    if entry.file_size > TABLE_BYTES:
        raise FormatError(f"{where} would unpack to {entry.file_size} bytes, expected at most {TABLE_BYTES}; remove it")
    wrong = f"{where} is no table of labels; expected labels: null, or a list of a name and a label for each image"
    try:
        table: Any = json.loads(_contents(path, archive, entry))
        labels = table["labels"]
        if labels is None:
            return None
        known = {posixpath.normpath(str(name)): label for name, label in labels}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(f"{wrong}: make the zip again, or remove {TABLE} from it") from None
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise FormatError(f"{where} has no label for {missing}; add it, or set labels to null")
    if len(known) > len(names):
        raise FormatError(f"{where} has labels for {len(known)} images, the zip holds {len(names)}; make it again")
    return records.from_values([known[name] for name in names], where)


CHECKPOINT = 512
"""Images after which the archive is closed and its directory noted, so that a killed export loses no more."""

TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can hold: the same images are the same bytes."""


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``00000/img00000000.png`` ..., stored without compression, and ``dataset.json`` with the labels.

    A label is a class number, or a list of numbers where a number would not tell all; without labels, ``labels`` is
    null. A killed export goes on from the last 512 images that were whole.

    Source: dataset_tool.py and training/dataset.py of NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3.
    """
    done = _cut_back(stage)
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
            _add(archive, "dataset.json", _labels_json(export.level))
            archive.close()
        except BaseException:
            archive.fp = None  # when it is collected, it would write its directory: to a disk that is full, say
            raise
        file.flush()
        os.fsync(file.fileno())


def entry_name(number: int) -> str:
    """Return the name of an image: a thousand to a folder."""
    return f"{number // 1000:05d}/img{number:08d}.png"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.create_system = 3  # Unix, wherever it is made
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _labels_json(level: LevelImageSet) -> bytes:
    values = None
    if level.labels is not None:
        classes = class_numbers(level.labels)
        plain = (level.labels if classes is None else classes).tolist()
        values = [[entry_name(number), label] for number, label in enumerate(plain)]
    return json.dumps({"labels": values}).encode()


def _checkpoint(archive: zipfile.ZipFile, file: BinaryIO, stage: Staging, images: int) -> None:
    """Note what has to follow the images to make a whole archive of them: what is added next will overwrite it."""
    archive.close()
    file.flush()
    os.fsync(file.fileno())
    file.seek(archive.start_dir)
    directory = base64.b64encode(file.read()).decode()
    note = {"images": images, "bytes": archive.start_dir, "directory": directory}
    stage.check([stage.data])
    write_json(stage.root / "checkpoint.json", note, parents=False)


def _cut_back(stage: Staging) -> int:
    """Make the archive again what it was at the last checkpoint; return how many images that are."""
    path = stage.root / "checkpoint.json"
    if not path.exists() or not stage.data.exists():
        return 0
    note = read_json(path)
    with stage.data.open("rb+") as file:
        file.truncate(note["bytes"])
        file.seek(note["bytes"])
        file.write(base64.b64decode(note["directory"]))
    return int(note["images"])
