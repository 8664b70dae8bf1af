"""A registry of weights for people: a table of it, and whether its files are what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.pretrained import Entry, entry, load, locate, not_finite, parameters, registry

HEAD = ("name", "network", "parameters", "size", "licence", "scores")

SCORES = 3
"""Figures of an entry that the table shows."""


def table(folder: Path | None = None) -> Iterator[str]:
    """Yield the registry of a folder, by default the bundled one, as lines of a table.

    Raises:
        RecipeError: the registry is missing or malformed.
    """
    rows = [HEAD, *(_row(name, known) for name, known in registry(folder).items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def verify(names: Sequence[str] = (), folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield name and problem of each entry asked for, by default all of the registry; no problem is an empty string.

    Args:
        names: ``NAME`` or ``DIR/NAME``, see `pretrained.locate`.
        folder: of the registry that a ``NAME`` is looked for in; None is the bundled one.

    Raises:
        RecipeError: no names are given and the registry is missing or malformed.
    """
    for name in names or registry(folder):
        yield name, _problem(name, folder)


def _row(name: str, known: Entry) -> tuple[str, ...]:
    widths, blocks = ("/".join(map(str, numbers)) for numbers in (known.shape.widths, known.shape.blocks))
    network = f"{known.shape.architecture} {widths}, {blocks} blocks"
    shown = [f"{key} {value:g}" for key, value in known.scores.items()]
    scores = ", ".join(shown[:SCORES]) + (f", {len(shown) - SCORES} more" if len(shown) > SCORES else "")
    return name, network, f"{parameters(known.shape):,}", f"{known.size_bytes / 1e6:.2f} MB", known.licence, scores


def _problem(name: str, folder: Path | None) -> str:
    try:
        known = entry(name, folder)
        path = locate(name, folder)[0] / known.file
        if path.is_file() and path.stat().st_size != known.size_bytes:
            return f"{path} has {path.stat().st_size} bytes, the registry says {known.size_bytes}"
        wrong = not_finite(load(name, folder=folder))
    except CelebAHQError as error:
        return str(error)
    return f"{path}: {wrong} has values that are not finite" if wrong else ""
