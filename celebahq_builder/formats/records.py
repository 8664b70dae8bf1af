"""Records of images in other formats: file names, classes and metadata."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata, Record, from_records
from celebahq_builder.image_set import Labels


def class_numbers(labels: Labels) -> NDArray[np.int64] | None:
    """Return the class of each row, int64 [N], or None where numbers would not tell all that the labels do.

    They do where each row is one-hot and the last class occurs: `one_hot` then gives the same labels back.
    """
    if not labels.size or labels.shape[1] < 2:
        return None
    numbers = labels.argmax(axis=1)
    return numbers.astype(np.int64) if np.array_equal(one_hot(numbers), labels) else None


def one_hot(numbers: NDArray[np.int64]) -> Labels:
    """Return float32 [N, classes] of class numbers int64 [N]; there are as many classes as the largest number says."""
    labels = np.zeros((len(numbers), int(numbers.max()) + 1), np.float32)
    labels[np.arange(len(numbers)), numbers] = 1
    return labels


def from_values(values: list[Any], where: Path) -> Labels:
    """Return the labels that JSON holds as one class number, or one list of numbers, per image.

    Raises:
        FormatError: anything else, or lists of different lengths.
    """
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if values and len(numbers) == len(values) and min(numbers) >= 0 and max(numbers) < max(65536, len(values)):
        return one_hot(np.array(numbers, np.int64))
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused below
            labels = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        labels = np.zeros(0, np.float32)
    if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
        raise FormatError(
            f"{where}: the labels are neither one class number (0, 1, ...) per image nor one list of numbers of one "
            "length; mend or remove them"
        )
    return labels


log = logging.getLogger(__name__)

BYTES_MAX = 240
"""Of one part of a name, so that an ending still fits into the 255 bytes that file systems allow."""


def check_name(name: str, where: Path) -> str:
    """Return an image's relative path, with `/` between folders.

    Raises:
        FormatError: it is empty, absolute, leads upwards, or no file system would take it.
    """
    if not _is_path(name):
        raise FormatError(
            f"{where}: the image name {name[:80]!r} is not a relative path within a folder; rename it, or remove it "
            "from the file"
        )
    return name


def _is_path(name: str) -> bool:
    """Whether a name is a relative path that stays within its folder, and that file systems of any kind take."""
    parts = name.split("/")
    bad = any(part in ("", ".", "..") or len(part.encode(errors="replace")) > BYTES_MAX for part in parts)
    return not (bad or "\\" in name or ":" in parts[0] or not name.isprintable())


def file_names(level: LevelImageSet, where: Path, without: str = "") -> list[str]:
    """Return a name without ending for each image, unique even where file systems take no notice of case.

    Ids, or else source files without their endings. Numbers as StyleGAN's tool gives them, ``img00000000``, where
    there are neither, two are alike, or one holds what the format has no use for, or would lead out of a folder, or
    cannot be the name of a file; the log says so.

    Args:
        without: what a name must not hold.
    """
    numbers = [f"img{number:08d}" for number in range(level.count)]
    given = _given(level.metadata)
    if given is None:
        return numbers
    bad = next((name for name in given if not _is_path(name)), None)
    if bad is not None:
        log.info("%s: %r cannot be the name of a file in a folder; images are named by number", where, bad[:80])
    elif without and any(without in name for name in given):
        log.info("%s: some ids hold %r, which the format has no place for; images are named by number", where, without)
    elif len({name.casefold() for name in given}) < level.count:
        log.info("%s: some ids are alike; images are named by number", where)
    else:
        return given
    return numbers


def _given(metadata: Metadata) -> list[str] | None:
    ids, files = metadata.columns.get("id"), metadata.columns.get("file")
    if isinstance(ids, list):
        return ids
    if isinstance(files, list):
        return [str(PurePosixPath(file).with_suffix("")) if PurePosixPath(file).name else file for file in files]
    return None


def own_labels(level: LevelImageSet) -> bool:
    """Whether a level has labels other than its photos' attributes, which a record holds anyway."""
    attributes = level.metadata.attribute_labels
    return level.labels is not None and (attributes is None or not np.array_equal(level.labels, attributes))


def records(level: LevelImageSet, numbers: range) -> list[Record]:
    """Return the records of some images.

    A label is ``label``, the number of a class, and ``label_name`` where classes have names; or ``labels``, a list of
    numbers or a mapping from their names, where a number would not tell all (see `class_numbers`).
    """
    metadata = level.metadata_of(slice(numbers.start, numbers.stop))
    made = [metadata.record(row) for row in range(len(numbers))]
    if level.labels is None or not own_labels(level):
        return made
    classes, names = class_numbers(level.labels), level.label_names
    for number, record in zip(numbers, made, strict=True):
        if classes is None:
            values = level.labels[number].tolist()
            record["labels"] = dict(zip(names, values, strict=True)) if names else values
        else:
            record["label"] = int(classes[number])
            if names:
                record["label_name"] = names[classes[number]]
    return made


def described(records: Iterable[Record], where: Path) -> tuple[Metadata, Labels | None, tuple[str, ...]]:
    """Return metadata, labels and names of the labels of records that `records` made, or someone else.

    Attributes are the labels where there are no others.

    Args:
        records: of all images, in their order; only the columns that are made of them are held.
        where: what to name in an error.

    Raises:
        FormatError: what `metadata.from_records` or `classes.from_values` has no use for.
    """
    of_class: list[Any] = []
    values: list[Any] = []
    class_names: list[Any] = []

    def without_labels() -> Iterator[Record]:
        for record in records:
            of_class.append(record.pop("label", None))
            values.append(record.pop("labels", None))
            class_names.append(record.pop("label_name", None))
            yield record

    metadata = from_records(without_labels(), where)
    if any(value is not None for value in of_class):
        labels = from_values(of_class, where)
        named = {number: str(name) for number, name in zip(of_class, class_names, strict=True) if name is not None}
        names = tuple(named[number] for number in range(labels.shape[1])) if len(named) == labels.shape[1] else ()
        return metadata, labels, names
    names = ()
    if values and isinstance(values[0], dict):
        names = tuple(values[0])
        if any(not isinstance(value, dict) or tuple(value) != names for value in values):
            raise FormatError(f"{where}: the labels of some images are not those of the first; mend them")
        values = [list(value.values()) for value in values]
    if all(value is None for value in values):
        return metadata, metadata.attribute_labels, metadata.attribute_names
    return metadata, from_values(values, where), names
