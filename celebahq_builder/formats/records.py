"""The record of a picture as other formats hold it: what is known of it, and its label; there and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.classes import class_numbers, from_values
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.metadata import Metadata, Record, from_records
from celebahq_builder.formats.pictures import Labels


def own_labels(level: LevelPictures) -> bool:
    """Whether a level has labels other than its photos' attributes, which a record holds anyway."""
    attributes = level.metadata.attribute_labels
    return level.labels is not None and (attributes is None or not np.array_equal(level.labels, attributes))


def records(level: LevelPictures, numbers: range) -> list[Record]:
    """Return the records of some pictures.

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
        records: of all pictures, in their order; only the columns that are made of them are held.
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
            raise FormatError(f"{where}: the labels of some pictures are not those of the first; mend them")
        values = [list(value.values()) for value in values]
    if all(value is None for value in values):
        return metadata, metadata.attribute_labels, metadata.attribute_names
    return metadata, from_values(values, where), names
