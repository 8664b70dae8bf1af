"""The record of a picture as other formats hold it: what is known of it, and its label."""

from __future__ import annotations

import numpy as np

from celebahq_builder.formats.classes import class_numbers
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.metadata import Record


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
