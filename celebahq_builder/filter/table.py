"""Records as CSV, in UTF-8; paths are relative to the folder that was scored."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from celebahq_builder.filter.record import DECIMALS, PARTS, Scored, Unscored, printable

LIST_COLUMNS = ("rank", "path", *PARTS, "width_px", "height_px")
"""Of the list of those kept."""

COLUMNS = (*LIST_COLUMNS, "kept", "notes", "reason", "detail")
"""Of the table of all images."""


def listed(kept: Sequence[Scored]) -> bytes:
    """Return the list of images kept, best first."""
    return _csv(LIST_COLUMNS, (_cells(rank, one) for rank, one in enumerate(kept, start=1)))


def whole(ranked: Sequence[Scored], kept: int, unscored: Sequence[Unscored]) -> bytes:
    """Return the table of all images: those that have a score best first, `kept` of them kept; then the others."""
    scored = (
        [*_cells(rank, one), "yes" if rank <= kept else "no", " ".join(one.notes), "", ""]
        for rank, one in enumerate(ranked, start=1)
    )
    empty = [""] * (len(LIST_COLUMNS) - 2)
    others = (["", printable(one.path), *empty, "no", "", one.code, printable(one.detail)] for one in unscored)
    return _csv(COLUMNS, (row for rows in (scored, others) for row in rows))


def is_list(head: bytes) -> bool:
    """Return whether a file that begins like this may be such a list."""
    return head.startswith(_csv(LIST_COLUMNS, ()))


def _cells(rank: int, one: Scored) -> list[str]:
    parts = [f"{value:.{DECIMALS}f}" for value in one.parts]
    return [str(rank), printable(one.path), *parts, str(one.width_px), str(one.height_px)]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(head)
    lines.writerows(rows)
    return text.getvalue().encode()
