"""How a run ended: every photo is accounted for, and the report is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder import ledger, outcome
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.files import read_json, write_atomic, write_json
from celebahq_builder.outcome import Rejected
from celebahq_builder.report import page
from celebahq_builder.runner.plan import Plan
from celebahq_builder.runner.timings import Timings
from celebahq_builder.stages import select
from celebahq_builder.workspace import fingerprint


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    photos: int
    kept: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    complete: bool
    """Whether the last stage was reached."""
    hdf5: Path | None
    report: Path | None


def conclude(plan: Plan, timings: Timings) -> Summary:
    """Count how every photo ended, and see to the report.

    Raises:
        WorkspaceError: the photos that came in are not those that are accounted for.
    """
    workspace, reached = plan.workspace, "pack" in plan.stages
    table = [outcome.to_json(one) for one in plan.source.rejected]
    mark = fingerprint([*plan.ingredients[plan.request.until], {"name": "table", "rejected": table}])
    summary = read_json(workspace.summary_path) if workspace.summary_path.exists() else {}
    if summary.get("fingerprint") != mark:
        summary = {"fingerprint": mark, **_count(plan)}
        if reached:
            timings.note_memory()
            page.write(workspace)
        write_json(workspace.summary_path, summary)
    elif reached and not workspace.report_path.exists():
        page.write(workspace)
    return Summary(
        photos=summary["photos"],
        kept=summary["kept"],
        rejected=summary["rejected"],
        failed=summary["failed"],
        reasons=summary["reasons"],
        complete=reached,
        hdf5=workspace.hdf5_path(plan.recipe.resolution) if reached else None,
        report=workspace.report_path if reached else None,
    )


def _count(plan: Plan) -> dict[str, Any]:
    stood = ledger.standings(plan.workspace)
    counts = ledger.count(stood)
    photos = len(plan.source.photos) + len(plan.source.rejected)
    if sum(counts.values()) != photos:
        raise WorkspaceError(
            f"{plan.workspace.root}: {photos} photos came in, {sum(counts.values())} are accounted for; "
            "its files were altered from outside, use another --out"
        )
    ends = [one.end for one in stood if one.end is not None]
    write_atomic(plan.workspace.rejected_path, select.rejected_csv(ends))
    reasons = Counter(one.end.reason.value for one in stood if isinstance(one.end, Rejected))
    return {"photos": photos, **counts, "reasons": dict(reasons)}
