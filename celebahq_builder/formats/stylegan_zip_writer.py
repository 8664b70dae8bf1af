"""The zip of PNG files that StyleGAN2-ADA and StyleGAN3 train from."""

from __future__ import annotations

import base64
import functools
import json
import os
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from celebahq_builder import parallel
from celebahq_builder.files import read_json, write_json
from celebahq_builder.formats.classes import class_numbers
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.staging import Staging
from celebahq_builder.imaging.codec import encode_png

CHECKPOINT = 512
"""Pictures after which the archive is closed and its directory noted, so that a killed export loses no more."""

TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can hold: the same pictures are the same bytes."""


def write(export: Export, stage: Staging) -> Iterator[int]:
    """Write ``00000/img00000000.png`` ..., stored without compression, and ``dataset.json`` with the labels.

    A label is a class number, or a list of numbers where a number would not tell all; without labels, ``labels`` is
    null. A killed export goes on from the last 512 pictures that were whole.

    Source: dataset_tool.py and training/dataset.py of NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3.
    """
    done = _cut_back(stage)
    yield done
    with stage.data.open("rb+" if done else "wb+") as file:
        archive = zipfile.ZipFile(file, "a" if done else "w")
        try:
            pictures = export.level.pixels(range(done, export.level.count))
            encode = functools.partial(encode_png, level=export.png_level)
            for image in parallel.run_threads(encode, pictures, workers=export.workers):
                _add(archive, entry_name(done), image)
                done += 1
                if done % CHECKPOINT == 0:
                    _checkpoint(archive, file, stage, done)
                    archive = zipfile.ZipFile(file, "a")
                yield 1
            _add(archive, "dataset.json", _labels(export.level))
            archive.close()
        except BaseException:
            archive.fp = None  # when it is collected, it would write its directory: to a disk that is full, say
            raise
        file.flush()
        os.fsync(file.fileno())


def entry_name(number: int) -> str:
    """Return the name of a picture: a thousand to a folder."""
    return f"{number // 1000:05d}/img{number:08d}.png"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.create_system = 3  # Unix, wherever it is made
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _labels(level: LevelPictures) -> bytes:
    values = None
    if level.labels is not None:
        classes = class_numbers(level.labels)
        plain = (level.labels if classes is None else classes).tolist()
        values = [[entry_name(number), label] for number, label in enumerate(plain)]
    return json.dumps({"labels": values}).encode()


def _checkpoint(archive: zipfile.ZipFile, file: BinaryIO, stage: Staging, pictures: int) -> None:
    """Note what has to follow the pictures to make a whole archive of them: what is added next will overwrite it."""
    archive.close()
    file.flush()
    os.fsync(file.fileno())
    file.seek(archive.start_dir)
    directory = base64.b64encode(file.read()).decode()
    note = {"pictures": pictures, "bytes": archive.start_dir, "directory": directory}
    write_json(stage.root / "checkpoint.json", note)


def _cut_back(stage: Staging) -> int:
    """Make the archive again what it was at the last checkpoint; return how many pictures that are."""
    path = stage.root / "checkpoint.json"
    if not path.exists() or not stage.data.exists():
        return 0
    note = read_json(path)
    with stage.data.open("rb+") as file:
        file.truncate(note["bytes"])
        file.seek(note["bytes"])
        file.write(base64.b64decode(note["directory"]))
    return int(note["pictures"])
