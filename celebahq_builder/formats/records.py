"""Names, labels and metadata of images as other formats store them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5 import NAME_COLUMNS
from celebahq_builder.image_set import Column, Described, Labels, Metadata, Record
from celebahq_builder.limits import MAX_CHUNK_BYTES, MAX_ITEMS

log = logging.getLogger(__name__)

COLUMNS_MAX = 10_000
"""Different keys in the metadata of a data set: each becomes a column with a value for every image."""

NAME_MAX_BYTES = 240
"""Length of one part of a path, so that an ending still fits into the 255 bytes of most file systems."""


# --- File names


def check_name(name: str, where: Path) -> str:
    """Return an image name that is a relative path with ``/`` between folders.

    Raises:
        FormatError: it is empty, absolute, leads out of its folder, or is not possible in every file system.
    """
    if not _is_relative_path(name):
        fault = f"the image name {name[:80]!r} is not a relative path within a folder"
        raise FormatError(f"{where}: {fault}; rename the image, or remove it from the file")
    return name


def _is_relative_path(name: str) -> bool:
    parts = name.split("/")
    bad = any(part in ("", ".", "..") or len(part.encode(errors="replace")) > NAME_MAX_BYTES for part in parts)
    return not (bad or "\\" in name or ":" in parts[0] or not name.isprintable())


def file_names(level: LevelImageSet, without: str = "") -> list[str]:
    """Return a file name without ending for each image, unique also if upper and lower case are the same.

    These are the ids, or else the names of the source files. If there are neither, or one cannot be used, all images
    are numbered as by StyleGAN's tool (``img00000000``), and the log says why.

    Args:
        without: text that no name may contain.
    """
    numbered = [f"img{number:08d}" for number in range(level.count)]
    ids, files = level.metadata.columns.get("id"), level.metadata.columns.get("file")
    if isinstance(ids, list):
        names = ids
    elif isinstance(files, list):
        paths = map(PurePosixPath, files)
        names = [str(path.with_suffix("")) if path.name else file for path, file in zip(paths, files, strict=True)]
    else:
        return numbered
    bad = next((name for name in names if not _is_relative_path(name)), None)
    if bad is not None:
        log.info("%s: %r cannot be the name of a file in a folder; images are numbered instead", level.path, bad[:80])
    elif without and any(without in name for name in names):
        fault = f"some ids contain {without!r}, which the format does not allow"
        log.info("%s: %s; images are numbered instead", level.path, fault)
    elif len({name.casefold() for name in names}) < level.count:
        log.info("%s: some ids are equal; images are numbered instead", level.path)
    else:
        return names
    return numbered


# --- Labels


def class_numbers(labels: Labels) -> NDArray[np.int64] | None:
    """Return the class number of each row, int64 [N], or None if the numbers do not determine the labels.

    They do if each row is one-hot and the last class occurs: `one_hot` then returns the same labels.

    >>> class_numbers(np.float32([[0, 1], [1, 0]]))
    array([1, 0])
    """
    if not labels.size or labels.shape[1] < 2:
        return None
    numbers = labels.argmax(axis=1)
    return numbers.astype(np.int64) if np.array_equal(one_hot(numbers), labels) else None


def one_hot(numbers: NDArray[np.int64]) -> Labels:
    """Return labels float32 [N, classes] of class numbers int64 [N]; the largest number is the last class."""
    labels = np.zeros((len(numbers), int(numbers.max()) + 1), np.float32)
    labels[np.arange(len(numbers)), numbers] = 1
    return labels


def parse_labels(values: Sequence[object], where: Path) -> Labels:
    """Return the labels of N values from JSON, float32 [N, classes].

    Args:
        values: of each image a class number (1 or 1.0), or of each image a list of numbers.
        where: file for error messages.

    Raises:
        FormatError: they are anything else, or lists of different lengths; or there are far more classes than images.
    """
    other = next((value for value in values if not _is_class_number(value)), None)
    numbers = [int(value) for value in values if _is_class_number(value)]
    if values and len(numbers) == len(values):
        _check_class_count(max(numbers) + 1, len(values), where)
        return one_hot(np.array(numbers, np.int64))
    try:
        with np.errstate(over="ignore"):  # too large numbers become infinite, and are refused below
            labels = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        labels = np.zeros(0, np.float32)
    if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
        expected = "one class number (0, 1, ...) per image nor one list of numbers of one length"
        found = printable(str(other)[:40]) if isinstance(other, (str, float)) or other is None else type(other).__name__
        raise FormatError(f"{where}: the labels are neither {expected}, one is {found}; correct or remove them")
    return labels


def _is_class_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < MAX_ITEMS and value == int(value)


def _check_class_count(classes: int, images: int, where: Path) -> None:
    if 4 * classes * images > MAX_CHUNK_BYTES and images < 100 * classes:
        fault = f"the labels of {images} images have {classes} classes, too many to be stored as one number per class"
        raise FormatError(f"{where}: {fault}; number the classes 0, 1, ..., or remove the labels")


def number_words(values: Sequence[object], where: Path) -> tuple[list[int], tuple[str, ...]]:
    """Return class numbers for labels that are words, and the names of the classes; nothing for other labels.

    The classes are the different words, in the order of their Unicode code points.

    >>> number_words(["male", "female", "male"], Path("metadata.jsonl"))
    ([1, 0, 1], ('female', 'male'))
    """
    words = [value for value in values if isinstance(value, str)]
    if not words or len(words) < len(values):
        return [], ()
    names = tuple(sorted(set(words)))
    _check_class_count(len(names), len(words), where)
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[word] for word in words], names


def has_own_labels(level: LevelImageSet) -> bool:
    """Return whether a level has labels that are not only the attributes, which its records contain."""
    attributes = level.metadata.attribute_labels
    return level.labels is not None and (attributes is None or not np.array_equal(level.labels, attributes))


# --- Records


def image_records(level: LevelImageSet, numbers: range) -> list[Record]:
    """Return the metadata and labels of some images.

    Labels are ``label``, a class number, with ``label_name`` if the classes have names. Labels that class numbers do
    not determine are ``labels``, a list of numbers, or a mapping from their names.
    """
    metadata = level.metadata_of(slice(numbers.start, numbers.stop))
    found = [metadata.record(row) for row in range(len(numbers))]
    if level.labels is None or not has_own_labels(level):
        return found
    classes, names = class_numbers(level.labels), level.label_names
    for number, record in zip(numbers, found, strict=True):
        if classes is None:
            values = level.labels[number].tolist()
            record["labels"] = dict(zip(names, values, strict=True)) if names else values
        else:
            record["label"] = int(classes[number])
            if names:
                record["label_name"] = names[classes[number]]
    return found


def parse_records(records: Iterable[Record], where: Path) -> Described:
    """Return metadata and labels from records of the form of `image_records`.

    Classes can also be words, see `number_words`. Without labels, the attributes are the labels, or else all keys whose
    values are true or false. A ``sha256`` is a hash of the pixels only in records of this package, which have ``file``,
    too; other programs store a hash of a file, which becomes the column ``file_sha256``.

    Args:
        records: of all images, in their order; only the columns that are made of them are kept in memory.
        where: file for error messages.

    Raises:
        FormatError: the labels are not those of `parse_labels`, or `from_records` refuses the other values.
    """
    classes: list[object] = []
    values: list[object] = []
    class_names: list[object] = []
    booleans: Counter[str] = Counter()

    def without_labels() -> Iterator[Record]:
        for record in records:
            classes.append(record.pop("label", None))
            values.append(record.pop("labels", None))
            class_names.append(record.pop("label_name", None))
            if "sha256" in record and "file" not in record:
                record = {"file_sha256" if key == "sha256" else key: value for key, value in record.items()}
            booleans.update(key for key, value in record.items() if isinstance(value, bool))
            yield record

    metadata = from_records(without_labels(), where)
    if any(value is not None for value in classes):
        numbers, words = number_words(classes, where)
        labels = parse_labels(numbers or classes, where)
        named = {
            number: str(name)
            for number, name in zip(classes, class_names, strict=True)
            if _is_class_number(number) and name is not None
        }
        if not words and len(named) == labels.shape[1]:
            words = tuple(named[number] for number in range(labels.shape[1]))
        return Described(metadata, labels, words)
    names: tuple[str, ...] = ()
    if values and isinstance(values[0], dict):
        names = tuple(values[0])
        if any(not isinstance(value, dict) or tuple(value) != names for value in values):
            raise FormatError(f"{where}: the labels of some images do not have the names of the first; correct them")
        values = [list(value.values()) for value in values if isinstance(value, dict)]
    if any(value is not None for value in values):
        return Described(metadata, parse_labels(values, where), names)
    if metadata.attribute_labels is not None:
        return Described(metadata, metadata.attribute_labels, metadata.attribute_names)
    return with_boolean_labels(metadata, [key for key, times in booleans.items() if times == len(values)])


def with_boolean_labels(metadata: Metadata, keys: Sequence[str]) -> Described:
    """Return metadata with its columns of true and false as labels, float32 [N, keys]; without keys no labels."""
    if not keys:
        return Described(metadata)
    labels = np.stack([np.asarray(metadata.columns[key], np.float32) for key in keys], axis=1)
    return Described(metadata, labels, tuple(keys))


TYPES: dict[str, type[np.generic]] = {
    "rank": np.int32,
    "official_index": np.int32,
    "score": np.float64,
    "zoom": np.float64,
    "quad": np.float64,
    "landmarks": np.float32,
    "attributes": np.int8,
}
"""Types of the columns that the pack stage writes; JSON has only one kind of number."""


def from_records(records: Iterable[Record], where: Path) -> Metadata:
    """Return the columns of some records, for instance those of a ``metadata.jsonl``.

    Where a record lacks a key, its text is empty and its number NaN. A value that is neither text, a number nor a list
    of numbers becomes its JSON text.

    Args:
        records: one for each image, in order; keys that this package writes get their former types.
        where: file that an error names.

    Raises:
        FormatError: lists of different shapes under one key, a key that cannot name a column of HDF5, or too many keys.

    Example:
        >>> from_records([{"id": "a", "score": 0.5}, {"id": "b"}], Path("metadata.jsonl")).columns
        {'id': ['a', 'b'], 'score': array([0.5, nan])}
    """
    values: dict[str, list[object]] = {}
    names: tuple[str, ...] = ()
    for count, record in enumerate(records):
        for key, value in record.items():
            if key == "attributes" and isinstance(value, dict):
                names = names or tuple(value)
                if tuple(value) != names:
                    raise FormatError(
                        f"{where}: the attributes of image {count} have other names than those of the first; correct it"
                    )
                value = list(value.values())
            values.setdefault(key, [None] * count).append(value)
        if len(values) > COLUMNS_MAX:
            raise FormatError(
                f"{where}: images 0 to {count} have {len(values)} different keys, expected at most {COLUMNS_MAX}; "
                "remove some, or put them into one object under one key"
            )
        for column in values.values():
            column += [None] * (count + 1 - len(column))
    return Metadata({key: _column(key, column, where) for key, column in values.items()}, names)


def check_key(key: str, where: Path) -> None:
    """Raise a FormatError if a key cannot be the name of a column."""
    if not key or not key.isprintable() or key in (".", *NAME_COLUMNS) or "/" in key:
        raise FormatError(f"{where}: {key[:80]!r} cannot be the name of a column; rename the key")


def _column(key: str, values: Sequence[object], where: Path) -> Column:
    check_key(key, where)
    present = [value for value in values if value is not None]
    try:
        if key in TYPES:
            return np.array(values, TYPES[key])
        if all(isinstance(value, (int, float)) for value in present):
            whole = len(present) == len(values) and all(isinstance(value, int) for value in present)
            return np.array([np.nan if value is None else value for value in values], np.int64 if whole else np.float64)
        if all(isinstance(value, list) for value in values):
            return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise FormatError(f"{where}: the values of {key[:80]!r} are not numbers of one shape for all images") from None
    return [_text(value) for value in values]


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
