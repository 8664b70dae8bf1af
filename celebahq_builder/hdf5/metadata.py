"""Metadata of images: the columns of the HDF5 file, and one record per image for other formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.labels import attribute_labels
from celebahq_builder.hdf5.layout import PHOTOS, Column
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.hdf5.writer import NAME_COLUMNS
from celebahq_builder.image_set import Labels

Record = dict[str, Any]
"""What is known of one image, as JSON has it; ``attributes`` is a mapping of their names to 1 or -1."""

TYPES: dict[str, type[np.generic]] = {
    "rank": np.int32,
    "official_index": np.int32,
    "score": np.float64,
    "zoom": np.float64,
    "quad": np.float64,
    "landmarks": np.float32,
    "attributes": np.int8,
}
"""Types of the columns that the pack stage writes; JSON knows only one kind of number."""


@dataclass(frozen=True)
class Metadata:
    """Columns of N rows each, one row per image."""

    columns: dict[str, Column] = field(default_factory=dict)
    attribute_names: tuple[str, ...] = ()
    """One for each column of ``columns["attributes"]``, where that is there."""

    @property
    def attribute_labels(self) -> Labels | None:
        """The attributes as labels, float32 [N, attributes] of 0 and 1; None where there are none."""
        column = self.columns.get("attributes")
        return None if column is None else attribute_labels(column)

    def record(self, row: int) -> Record:
        """Return one row as JSON has it."""
        record: Record = {}
        for name, column in self.columns.items():
            value = column[row]
            plain = value if isinstance(value, str) else value.tolist()
            record[name] = None if plain != plain else plain  # JSON knows no NaN
        if self.attribute_names:
            record["attributes"] = dict(zip(self.attribute_names, record["attributes"], strict=True))
        return record


def read_metadata(pyramid: PyramidFile, rows: slice = slice(None)) -> Metadata:
    """Return what an HDF5 file knows of its images, or of those of some rows.

    Raises:
        FormatError: a column has not one row per image.
    """
    group = pyramid.file.get(PHOTOS)
    if not isinstance(group, h5py.Group):
        return Metadata()
    columns: dict[str, Column] = {}
    for name, dataset in group.items():
        if name in NAME_COLUMNS or not isinstance(dataset, h5py.Dataset):
            continue
        column = _per_image(pyramid, name, rows)
        if column is not None:
            columns[name] = column
    names = tuple(pyramid.column("attribute_names") or ()) if "attributes" in columns else ()
    if names and np.shape(columns["attributes"])[1:] != (len(names),):
        raise FormatError(f"{pyramid.path}: {len(names)} attribute_names for {np.shape(columns['attributes'])} values")
    return Metadata(columns, names)


def read_text(pyramid: PyramidFile, name: str) -> list[str] | None:
    """Return what an HDF5 file knows of each image under a name, as text; None where it does not.

    Raises:
        FormatError: there is not one for each image.
    """
    values = _per_image(pyramid, name)
    return None if values is None else [str(value) for value in values]


def read_numbers(pyramid: PyramidFile, name: str) -> NDArray[np.float64] | None:
    """Return what an HDF5 file knows of each image under a name, as numbers; None where it does not.

    Raises:
        FormatError: there is not one for each image, or they are no numbers.
    """
    values = _per_image(pyramid, name)
    try:
        return None if values is None else np.asarray(values, np.float64)
    except ValueError:
        raise FormatError(f"{pyramid.path}: {PHOTOS}/{name} holds no numbers; build the file again") from None


def _per_image(pyramid: PyramidFile, name: str, rows: slice = slice(None)) -> Column | None:
    dataset = pyramid.file.get(f"{PHOTOS}/{name}")
    if isinstance(dataset, h5py.Dataset) and dataset.shape[:1] != (pyramid.count,):
        has = f"{dataset.shape[0]} rows" if dataset.shape else "no rows"
        raise FormatError(
            f"{pyramid.path}: {PHOTOS}/{name} has {has}, expected {pyramid.count}, one per image; the file was "
            "altered since it was written, build it again"
        )
    return pyramid.column(name, rows)


def from_records(records: Iterable[Record], where: Path) -> Metadata:
    """Return the columns of some records, for instance those of a ``metadata.jsonl``.

    A text that a record lacks is empty, a number NaN. What is neither text, a number nor a list of numbers becomes
    the text of its JSON.

    Args:
        records: of all images, in their order; keys that this package writes get the types they had.
        where: what to name in an error.

    Raises:
        FormatError: lists of different shapes under one key, or a key that HDF5 has no place for.
    """
    values: dict[str, list[Any]] = {}
    names: tuple[str, ...] = ()
    for count, record in enumerate(records):
        for key, value in record.items():
            if key == "attributes" and isinstance(value, dict):
                names = names or tuple(value)
                if tuple(value) != names:
                    raise FormatError(f"{where}: the attributes of image {count} are not those of the first; mend it")
                value = list(value.values())
            values.setdefault(key, [None] * count).append(value)
        for column in values.values():
            column += [None] * (count + 1 - len(column))
    return Metadata({key: _column(key, column, where) for key, column in values.items()}, names)


def check_key(key: str, where: Path) -> None:
    """Raise for what cannot be the name of a column.

    Raises:
        FormatError: it is such.
    """
    if not key or key in (".", *NAME_COLUMNS) or "/" in key:
        raise FormatError(f"{where}: {key!r} cannot be the name of a column; rename the key")


def _column(key: str, values: Sequence[Any], where: Path) -> Column:
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
        raise FormatError(f"{where}: the values of {key!r} are not numbers of one shape for all images") from None
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
