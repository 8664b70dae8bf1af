"""Folders of image files, with metadata.jsonl as Hugging Face's imagefolder reads it."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.formats.image_file import check_resize, common_size, decode, decoded, read_header
from celebahq_builder.formats.records import check_name, described, file_names, records
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata, Record
from celebahq_builder.image_set import IMAGE_SUFFIXES, Labels, NamedImage, Pixels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging, write_atomic

METADATA = "metadata.jsonl"
"""One line of JSON per image: ``file_name``, and what is known of it. Absent where nothing is.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""


@dataclass(frozen=True)
class _Job:
    source: Path
    resolution: int
    folder: Path
    numbers: range
    names: list[str]
    png_level: int


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write one PNG per image, named by its source's id where the file knows it.

    A killed export goes on by file: those that are there are whole, and are not made again.
    """
    level = export.level
    names = [f"{name}.png" for name in file_names(level, export.source)]
    for folder in {(stage.data / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    yield sum((stage.data / name).exists() for name in names)
    jobs = []
    for part in export.parts():
        left = [number for number in part if not (stage.data / names[number]).exists()]
        if left:
            some = range(left[0], part.stop)  # written in order: what is there is the beginning
            png_level = export.png_level
            some_names = names[some.start : some.stop]
            jobs.append(_Job(export.source, level.resolution, stage.data, some, some_names, png_level))
    yield from parallel.run(_write_images, jobs, workers=export.workers)
    _write_metadata(level, names, stage.data)
    stage.check(stage.data / name for name in names)


def _write_images(job: _Job) -> int:
    with LevelImageSet(job.source, job.resolution) as level:
        for name, pixels in zip(job.names, level.pixels(job.numbers), strict=True):
            write_atomic(job.folder / name, encode_png(pixels, job.png_level), parents=False)
    return len(job.numbers)


def _write_metadata(level: LevelImageSet, names: list[str], folder: Path) -> None:
    if not level.metadata.columns and level.labels is None:
        return
    partial = folder / f"{METADATA}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for start in range(0, len(names), 1000):
            numbers = range(start, min(start + 1000, len(names)))
            for number, record in zip(numbers, records(level, numbers), strict=True):
                line = {"file_name": names[number], **record}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / METADATA)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder, a `ImageSet`."""

    folder: Path
    names: list[str]
    """Files, relative to the folder, in order."""
    resolution: int
    channels: int
    resized: bool
    metadata: Metadata
    labels: Labels | None
    label_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.names)

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images, named by the files that the metadata says they came from, or else by their own.

        Raises:
            FormatError: a file cannot be read or decoded.
        """
        files = self.metadata.columns.get("file", self.names)
        for number, pixels in enumerate(self.pixels(range(start, self.count)), start):
            yield NamedImage(pixels, str(files[number]))

    def pixels(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Yield images uint8 [C, R, R] by their numbers, in the order asked for; errors as of `images`."""
        yield from decoded(self._coded(numbers), self._decode)

    def _coded(self, numbers: Sequence[int]) -> Iterator[tuple[Path, bytes]]:
        for name in (self.names[number] for number in numbers):
            try:
                yield self.folder / name, (self.folder / name).read_bytes()
            except OSError as error:
                raise FormatError(f"{self.folder / name} cannot be read: {error.strerror}") from None

    def _decode(self, coded: tuple[Path, bytes]) -> Pixels:
        path, data = coded
        return decode(data, str(path), self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> ImageFolder:
    """Read a folder of square images of one size, at any depth.

    Their order is that of ``metadata.jsonl`` where the folder has one, else that of their paths. Other files are
    counted in the log, hidden ones are not looked at, linked folders not followed.

    Args:
        path: the folder.
        resize: cut the middle of each image to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no folder, no images, one that is not 8-bit RGB or grey, of another size than the rest or of
            none that is a power of two; or ``metadata.jsonl`` is not of these files.
    """
    check_resize(resize)
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; give one of images")
    names = _names(path)
    records: Iterable[Record] = ()
    if (path / METADATA).is_file():
        there, names = set(names), []
        records = _in_metadata(path, there, names)
    metadata, labels, label_names = described(records, path / METADATA)
    headers = (read_header(path / name, str(path / name)) for name in names)
    resolution, channels = common_size(headers, resize)
    return ImageFolder(path, names, resolution, channels, resize is not None, metadata, labels, label_names)


def _names(folder: Path) -> list[str]:
    names: list[str] = []
    others: Counter[str] = Counter()
    unreadable: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or (name == METADATA and Path(root) == folder):
                continue
            if name.lower().endswith(IMAGE_SUFFIXES):
                names.append((Path(root) / name).relative_to(folder).as_posix())
            else:
                others[Path(name).suffix.lower() or "no ending"] += 1
    if unreadable:
        raise FormatError(f"{unreadable[0].filename} cannot be read: {unreadable[0].strerror}; see to its permissions")
    if others:
        some = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        log.info("%s: passed over %d files that are no images by their endings: %s", folder, others.total(), some)
    if not names:
        raise FormatError(f"{folder} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(names, key=lambda name: name.split("/"))


def _in_metadata(folder: Path, there: set[str], names: list[str]) -> Iterator[Record]:
    """Yield what is known of each image, line by line, and add its file to the names."""
    path = folder / METADATA
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                name = record.pop("file_name")
            except (ValueError, KeyError, TypeError, AttributeError):
                raise FormatError(
                    f"{path}:{number} is no JSON object with a file_name; mend or delete the file"
                ) from None
            if not isinstance(name, str):
                raise FormatError(
                    f"{path}:{number}: the file_name is {name!r}, expected a text; mend or delete the file"
                )
            names.append(check_name(name, path))
            yield record
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        raise FormatError(f"{path} names {missing}, which is not there; bring it back, or remove its line")
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise FormatError(f"{path} names {twice} twice; remove one of the lines")
    extra = sorted(there - set(names))
    if extra:
        raise FormatError(f"{path} does not name {extra[0]} ({len(extra)} such); add their lines, or delete {METADATA}")
