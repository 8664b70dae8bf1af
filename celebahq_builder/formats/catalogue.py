"""The table of formats: what each is called, and where it is written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

from celebahq_builder.errors import RecipeError
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.staging import Staging

Writer = Callable[[Export, Staging], Iterator[int]]
"""Yields how many pictures an earlier command had done, and then how many more are, as they are."""

WRITERS = {
    "tfrecord": "tfrecord_writer",
    "stylegan-zip": "stylegan_zip_writer",
    "images": "images_writer",
    "webdataset": "webdataset_writer",
    "parquet": "parquet_writer",
}
"""Module of this room that has `write`."""


def writer_of(name: str) -> Writer:
    """Return the writer of a format.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in WRITERS:
        raise RecipeError(f"--to {name} is not a format; there are {', '.join(WRITERS)}")
    writer: Writer = import_module(f"{__package__}.{WRITERS[name]}").write
    return writer
