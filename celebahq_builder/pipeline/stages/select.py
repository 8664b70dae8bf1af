"""Keep the best photos by score."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celebahq_builder.outcome import Failed, Kept, Outcome, Reason, Rejected
from celebahq_builder.sources.photo import COLUMNS

VERSION = 1


@dataclass(frozen=True)
class SelectSettings:
    """How many to keep."""

    keep: int = 30_000
    """Photos kept; fewer if fewer came so far."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"select.keep = {self.keep} must be at least 1")


def best(candidates: Iterable[Kept], keep: int) -> tuple[list[Kept], list[Rejected]]:
    """Split scored photos into the `keep` best, best first, and the rest, best first.

    Photos of one score are ordered by id, so the result does not depend on the order of `candidates`.
    """
    ranked = sorted(candidates, key=lambda kept: (-kept.record["score"], kept.record["id"]))
    selected, rest = ranked[:keep], ranked[keep:]
    if not rest:
        return selected, []
    cut = selected[-1].record["score"]
    return selected, [
        Rejected(kept.photo, Reason.LOW_SCORE, f"score {kept.record['score']:.4f}; the last one kept has {cut:.4f}")
        for kept in rest
    ]


def selection_csv(selected: Sequence[Kept]) -> bytes:
    """Return the table of photos kept: rank, file, score, landmarks and crop in the photo, zoom, split."""
    corners = [f"quad{i}_{axis}" for i in range(4) for axis in "xy"]
    rows = [["rank", "id", "file", "score", *COLUMNS, *corners, "zoom", "split"]]
    for rank, kept in enumerate(selected, start=1):
        record = kept.record
        quad = [f"{value:.3f}" for point in record["quad"] for value in point]
        numbers = [f"{value:g}" for value in record["landmarks"]]
        score, zoom = f"{record['score']:.6f}", f"{record['zoom']:.6f}"
        rows.append([str(rank), record["id"], kept.photo, score, *numbers, *quad, zoom, record["split"]])
    return _csv(rows)


def rejected_csv(outcomes: Iterable[Outcome]) -> bytes:
    """Return the table of photos not kept: file, outcome, reason, what was found."""
    rows = [["file", "outcome", "reason", "detail"]]
    for one in outcomes:
        if isinstance(one, Rejected):
            rows.append([one.photo, "rejected", one.reason.value, one.detail])
        elif isinstance(one, Failed):
            rows.append([one.photo, "failed", "", one.error])
    return _csv(rows)


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
