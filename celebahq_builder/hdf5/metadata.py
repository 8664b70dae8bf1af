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
from celebahq_builder.hdf5.layout import PHOTOS, REMEDY
from celebahq_builder.hdf5.reader import Column, PyramidFile
from celebahq_builder.hdf5.writer import NAME_COLUMNS
from celebahq_builder.image_set import Labels

Record = dict[str, Any]
"""Metadata of one image as JSON types; ``attributes`` is a mapping of their names to 1 or -1."""

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


@dataclass(frozen=True)
class Metadata:
    """Metadata of N images.

    Example:
        >>> known = Metadata({"id": ["000001"], "attributes": np.array([[1, -1]])}, ("Bald", "Smiling"))
        >>> known.record(0)
        {'id': '000001', 'attributes': {'Bald': 1, 'Smiling': -1}}
        >>> known.attribute_labels
        array([[1., 0.]], dtype=float32)
    """

    columns: dict[str, Column] = field(default_factory=dict)
    """Arrays or lists of text, of N rows each."""
    attribute_names: tuple[str, ...] = ()
    """One for each column of ``columns["attributes"]``, if there is one."""

    @property
    def attribute_labels(self) -> Labels | None:
        """The attributes as labels, float32 [N, attributes] of 0 and 1; None without attributes."""
        column = self.columns.get("attributes")
        return None if column is None else attribute_labels(column)

    def record(self, row: int) -> Record:
        """Return the metadata of one image as JSON types; NaN becomes None."""
        record: Record = {}
        for name, column in self.columns.items():
            value = column[row]
            plain = value if isinstance(value, str) else value.tolist()
            record[name] = None if plain != plain else plain
        if self.attribute_names:
            record["attributes"] = dict(zip(self.attribute_names, record["attributes"], strict=True))
        return record


# --- From an HDF5 file -------------------------------------------------------------------------------------------


def read_metadata(pyramid: PyramidFile, rows: slice = slice(None)) -> Metadata:
    """Return the metadata of an HDF5 file's images, or of some rows of them.

    Raises:
        FormatError: a column does not have one row per image.
    """
    found = {name: _per_image(pyramid, name, rows) for name in pyramid.photos if name not in NAME_COLUMNS}
    columns = {name: column for name, column in found.items() if column is not None}
    stored = pyramid.column("attribute_names") if "attributes" in columns else None
    names = () if stored is None else tuple(map(str, stored))
    if names and np.shape(columns["attributes"])[1:] != (len(names),):
        raise FormatError(f"{pyramid.path}: {len(names)} attribute_names for {np.shape(columns['attributes'])} values")
    return Metadata(columns, names)


def read_text(pyramid: PyramidFile, name: str) -> list[str] | None:
    """Return a column of an HDF5 file as text, or None if there is none of that name.

    Raises:
        FormatError: the column does not have one row per image.
    """
    values = _per_image(pyramid, name)
    return None if values is None else [str(value) for value in values]


def read_numbers(pyramid: PyramidFile, name: str) -> NDArray[np.float64] | None:
    """Return a column of an HDF5 file as numbers, or None if there is none of that name.

    Raises:
        FormatError: the column does not have one row per image, or holds something else than numbers.
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
            f"{pyramid.path}: {PHOTOS}/{name} has {has}, expected {pyramid.count}, one per image; {REMEDY}"
        )
    return pyramid.column(name, rows)


# --- From records ------------------------------------------------------------------------------------------------


def from_records(records: Iterable[Record], where: Path) -> Metadata:
    """Return the columns of some records, for instance those of a ``metadata.jsonl``.

    Where a record lacks a key, its text is empty and its number NaN. A value that is neither text, a number nor a list
    of numbers becomes its JSON text.

    Args:
        records: one for each image, in order; keys that this package writes get their former types.
        where: file that an error names.

    Raises:
        FormatError: lists of different shapes under one key, or a key that cannot name a column of HDF5.

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
        for column in values.values():
            column += [None] * (count + 1 - len(column))
    return Metadata({key: _column(key, column, where) for key, column in values.items()}, names)


def check_key(key: str, where: Path) -> None:
    """Raise a FormatError if a key cannot be the name of a column."""
    if not key or key in (".", *NAME_COLUMNS) or "/" in key:
        raise FormatError(f"{where}: {key!r} cannot be the name of a column; rename the key")


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
        raise FormatError(f"{where}: the values of {key!r} are not numbers of one shape for all images") from None
    return [_text(value) for value in values]


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
