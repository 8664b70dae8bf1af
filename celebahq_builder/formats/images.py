"""Folders of image files, with metadata.jsonl as Hugging Face's imagefolder reads it."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.format import ExportJob, Format
from celebahq_builder.formats.image_file import Encoded, RandomAccessImages, common_size, read_header
from celebahq_builder.formats.records import check_name, file_names, image_records, parse_records
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Record
from celebahq_builder.image_set import IMAGE_SUFFIXES
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging, write_atomic

log = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
"""One JSON object per line and image: ``file_name``, and metadata. Exports without metadata do not have it.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""


# --- Export


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write one PNG per image, named by the id of its source photo if there is one.

    An interrupted export is resumed by file: existing files are complete, and are not written again.
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
            some = range(left[0], part.stop)  # written in order, so the existing files are the first ones
            jobs.append((some, names[some.start : some.stop]))
    write_images = functools.partial(_write_images, export.source, level.resolution, stage.data, export.png_level)
    yield from parallel.run(write_images, jobs, workers=export.workers)
    stage.check(stage.data / name for name in names)
    _write_metadata(level, names, stage.data)


def _write_images(source: Path, resolution: int, folder: Path, png_level: int, job: tuple[range, list[str]]) -> int:
    numbers, names = job
    with LevelImageSet(source, resolution) as level:
        for name, pixels in zip(names, level.pixels(numbers), strict=True):
            write_atomic(folder / name, encode_png(pixels, png_level), parents=False)
    return len(numbers)


def _write_metadata(level: LevelImageSet, names: list[str], folder: Path) -> None:
    if not level.metadata.columns and level.labels is None:
        return
    partial = folder / f"{METADATA}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for start in range(0, len(names), 1000):
            numbers = range(start, min(start + 1000, len(names)))
            for number, record in zip(numbers, image_records(level, numbers), strict=True):
                line = {"file_name": names[number], **record}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / METADATA)


# --- Import


def read(path: Path, resize: int | None = None) -> RandomAccessImages:
    """Open a folder of square images of one size, at any depth.

    The order is that of ``metadata.jsonl`` if the folder has one, else that of the paths. Other files are counted in
    the log; hidden files and linked folders are ignored.

    Args:
        path: the folder.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.

    Raises:
        FormatError: there is no image; ``metadata.jsonl`` does not describe these files; or as `image_file.read_header`
            and `image_file.common_size` do.
    """
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; give a folder of images")
    names = list_images(path)
    records: Iterable[Record] = ()
    if (path / METADATA).is_file():
        present, names = set(names), []
        records = _read_metadata(path, present, names)
    metadata, labels, label_names = parse_records(records, path / METADATA)
    headers = (read_header(path / name, str(path / name)) for name in names)
    resolution, channels = common_size(headers, resize)

    def read_files(numbers: Sequence[int]) -> Iterator[Encoded]:
        for file in (path / names[number] for number in numbers):
            try:
                yield str(file), file.read_bytes()
            except OSError as error:
                raise FormatError(f"{file} cannot be read: {error.strerror}") from None

    return RandomAccessImages(
        names, read_files, resolution, channels, resize is not None, metadata, labels, label_names
    )


def list_images(folder: Path) -> list[str]:
    """Return the image files of a folder, relative to it, sorted by the parts of their paths."""
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
        raise FormatError(f"{unreadable[0].filename} cannot be read: {unreadable[0].strerror}; check its permissions")
    if others:
        some = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        log.info("%s: ignored %d files whose names are not those of images: %s", folder, others.total(), some)
    if not names:
        raise FormatError(f"{folder} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(names, key=lambda name: name.split("/"))


def _read_metadata(folder: Path, present: set[str], names: list[str]) -> Iterator[Record]:
    """Yield the record of each line, and append its file to `names`."""
    path = folder / METADATA
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                name = record.pop("file_name")
            except (ValueError, KeyError, TypeError, AttributeError):
                fault = "is not a JSON object with a file_name; correct or delete the file"
                raise FormatError(f"{path}:{number} {fault}") from None
            if not isinstance(name, str):
                fault = f"the file_name is {name!r}, expected a string; correct or delete the file"
                raise FormatError(f"{path}:{number}: {fault}")
            names.append(check_name(name, path))
            yield record
    missing = next((name for name in names if name not in present), None)
    if missing is not None:
        raise FormatError(f"{path} names {missing}, which does not exist; restore it, or remove its line")
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise FormatError(f"{path} names {twice} twice; remove one of the lines")
    extra = sorted(present - set(names))
    if extra:
        raise FormatError(f"{path} does not name {extra[0]} ({len(extra)} such); add their lines, or delete {METADATA}")


def _holds_images(path: Path) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) for _, _, files in os.walk(path) for name in files)


FORMAT = Format("images", read, write, recognise=_holds_images, options=frozenset({"resize", "png_level"}))
