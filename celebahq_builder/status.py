"""What a run directory holds so far, read from disk."""

from __future__ import annotations

from collections.abc import Iterator

from celebahq_builder.files import read_json
from celebahq_builder.stages.recipe import PHOTO_STAGES
from celebahq_builder.workspace import Workspace


def status(workspace: Workspace) -> Iterator[str]:
    """Yield the state of a run in lines for people.

    Raises:
        WorkspaceError: the directory holds no run.
    """
    run = workspace.run()
    table = len(run["rejected_by_table"])
    yield f"{run['photos'] + table} photos from {run['source']}, {table} of them rejected by the table"
    for name in run["stages"]:
        stage = workspace.stage(name)
        if stage.complete_path.exists():
            counts = read_json(stage.complete_path)
            ended = f"{counts['kept']} kept, {counts['rejected']} rejected, {counts['failed']} failed"
            yield f"{name:8} complete: {ended}"
        elif name in PHOTO_STAGES:
            yield f"{name:8} {len(stage.batches_done())} of {run['batches']} batches done"
        else:
            yield f"{name:8} not done"
    if workspace.summary_path.exists():
        summary = read_json(workspace.summary_path)
        yield f"in all: {summary['kept']} kept + {summary['rejected']} rejected + {summary['failed']} failed"
        for reason, count in sorted(summary["reasons"].items(), key=lambda item: -item[1]):
            yield f"  {reason}: {count}"
    result = workspace.hdf5_path(run["recipe"]["resolution"])
    if result.exists():
        yield f"result: {result} ({result.stat().st_size / 1e9:.2f} GB)"
    if workspace.report_path.exists():
        yield f"report: {workspace.report_path}"
