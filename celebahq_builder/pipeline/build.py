"""Run a build: photo stages in worker processes, select, pack, summary."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder import __version__, outcome, parallel
from celebahq_builder.config import to_mapping
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.outcome import Kept, Rejected
from celebahq_builder.pipeline import batch, build_report, results
from celebahq_builder.pipeline import results as results_module
from celebahq_builder.pipeline.batch import BatchJob, publish_batch, run_batch
from celebahq_builder.pipeline.plan import BuildRequest, Plan, versions
from celebahq_builder.pipeline.recipe import PHOTO_STAGES, STAGES
from celebahq_builder.pipeline.stages import pack, select
from celebahq_builder.pipeline.workspace import fingerprint
from celebahq_builder.progress import Progress
from celebahq_builder.sources.photo import PhotoSource
from celebahq_builder.storage import delete_folder, read_json, write_atomic, write_json


class TimingLog:
    """Appends to the file; no part of any result, so a full disk is left to speak up elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.largest_worker_bytes = 0

    def note(self, **line: Any) -> None:
        """Append a line."""
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def note_worker(self, peak_bytes: int) -> None:
        """Remember the peak memory of a worker, if none had a larger one."""
        self.largest_worker_bytes = max(self.largest_worker_bytes, peak_bytes)

    def note_memory(self) -> None:
        """Append the peak memory of this process and of the largest worker; they are one where there is one worker."""
        peak = {"main": parallel.peak_memory_bytes(), "largest worker": self.largest_worker_bytes}
        self.note(peak_memory_bytes=peak, seconds={})


EXAMPLES = 8
"""Photos whose way through the stages is recorded for the report."""


def run_photo_stages(plan: Plan, timings: TimingLog) -> None:
    """Run the batches that are not done yet, reconcile the counts, and mark the stages complete.

    Raises:
        CelebAHQError: whatever ends a batch as a whole.
    """
    photos = plan.source.photos
    jobs = list(_jobs(plan))
    if jobs:
        for name in plan.kept:
            plan.workspace.stage(name).begin(plan.ingredients[name])
        todo = sum(len(job.photos) for job in jobs)
        progress = Progress(" > ".join(plan.kept), len(photos), len(photos) - todo)
        try:
            with closing(parallel.run(run_batch, jobs, workers=plan.request.workers)) as results:
                for result in results:
                    publish_batch(plan.workspace, result)
                    timings.note(batch=result.number, photos=result.photos, seconds=result.seconds)
                    timings.note_worker(result.peak_memory_bytes)
                    progress.advance(result.photos, result.rejected, result.failed)
        finally:
            progress.close()
    _complete(plan)


def _jobs(plan: Plan) -> Iterator[BatchJob]:
    """Yield the batches that lack a manifest, each with the stage to go on from."""
    workspace, size = plan.workspace, plan.batch_photos
    done = {name: workspace.stage(name).batches_done() for name in plan.kept}
    numbered = list(enumerate(plan.source.photos))
    shown = frozenset(photo.id for photo in plan.source.photos[:: max(1, -(-len(numbered) // EXAMPLES))])
    names = parallel.devices(plan.request.device)
    for number in range(plan.batches):
        todo = tuple(name for name in plan.kept if number not in done[name])
        if not todo:
            continue
        before = PHOTO_STAGES[: PHOTO_STAGES.index(todo[0])]
        yield BatchJob(
            workspace.root,
            number,
            tuple(numbered[number * size : (number + 1) * size]),
            plan.source.folder,
            plan.recipe,
            names[number % len(names)],
            next((name for name in reversed(before) if name in done and number in done[name]), None),
            todo,
            shown,
            plan.request.deltas,
        )


def _complete(plan: Plan) -> None:
    """Check that every photo that entered a stage left it, and mark the stages complete."""
    entering = {photo.file for photo in plan.source.photos}
    for name in plan.kept:
        stage = plan.workspace.stage(name)
        counts, kept = results_module.reconcile(stage, entering, plan.batches)
        stage.begin(plan.ingredients[name])
        stage.complete(plan.ingredients[name], {"photos": len(entering), "batches": plan.batches, **counts})
        entering = kept


log = logging.getLogger(__name__)


def run_select(plan: Plan) -> None:
    """Rank the photos by their scores and keep as many as the recipe wants, unless that is done already."""
    stage, wanted = plan.workspace.stage("select"), plan.recipe.select.keep
    if stage.is_complete(plan.ingredients["select"]):
        return
    stage.begin(plan.ingredients["select"])
    stood = results.photo_statuses(plan.workspace)
    candidates = [Kept(one.file, {"id": one.id, "score": one.score}) for one in stood if one.end is None]
    selected, low = select.best(candidates, wanted)
    records = results.records(plan.workspace, plan.kept, {kept.photo for kept in selected})
    ranked = [Kept(k.photo, {**records[k.photo].record, "rank": rank}) for rank, k in enumerate(selected, start=1)]
    write_atomic(plan.workspace.selection_path, select.selection_csv(ranked))
    stage.write_manifest(0, [*ranked, *low])
    if len(ranked) < wanted:
        log.warning("select: %d photos were good enough, %d were asked for", len(ranked), wanted)
    counts = {"kept": len(ranked), "rejected": len(low), "failed": 0}
    stage.complete(plan.ingredients["select"], {"photos": len(candidates), "batches": 1, **counts})


def run_pack(plan: Plan, timings: TimingLog) -> None:
    """Write the selected images to the HDF5 file, unless that is done already.

    Raises:
        WorkspaceError: there is none, or one was altered or deleted.
        DiskFull: no space left.
    """
    workspace, recipe = plan.workspace, plan.recipe
    stage, path = workspace.stage("pack"), workspace.hdf5_path(recipe.resolution)
    if stage.is_complete(plan.ingredients["pack"]) and plan.is_packed():
        return
    stage.begin(plan.ingredients["pack"])
    selected = [one for one in workspace.stage("select").read_manifest(0) if isinstance(one, Kept)]
    if not selected:
        raise WorkspaceError(f"no photo was kept, so there is nothing to pack; {workspace.rejected_path} says why")
    progress = Progress("pack", len(selected))
    began = time.monotonic()
    try:
        pack.write(
            path,
            pack.in_order(selected, recipe.pack.order, recipe.seed),
            workspace.stage("align").root,
            recipe.pack,
            resolution=recipe.resolution,
            attribute_names=plan.source.attribute_names,
            attributes={
                "builder": f"celebahq_builder {__version__}",
                "recipe": to_mapping(recipe),
                "versions": versions(),
                "seed": recipe.seed,
                "fingerprint": fingerprint(plan.ingredients["pack"]),
            },
            workers=plan.request.workers,
            advance=progress.advance,
        )
    finally:
        progress.close()
    timings.note(photos=len(selected), seconds={"pack": time.monotonic() - began})
    counts = {"photos": len(selected), "kept": len(selected), "rejected": 0, "failed": 0}
    stage.complete(plan.ingredients["pack"], {**counts, "bytes": path.stat().st_size, "file": path.name})


@dataclass(frozen=True)
class BuildResult:
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


def conclude(plan: Plan, timings: TimingLog) -> BuildResult:
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
            build_report.write_build_report(workspace)
        write_json(workspace.summary_path, summary)
    elif reached and not workspace.report_path.exists():
        build_report.write_build_report(workspace)
    return BuildResult(
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
    stood = results.photo_statuses(plan.workspace)
    counts = results.count_statuses(stood)
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


def build(request: BuildRequest, source: PhotoSource) -> BuildResult:
    """Build a data set from a source, going on from what the run directory holds.

    Raises:
        WorkspaceLocked: another process is at work in the directory.
        FingerprintMismatch: it holds results of other settings or photos.
        DiskFull: no space left.
        CelebAHQError: see `errors`.
    """
    plan = Plan(request, source)
    timings = TimingLog(plan.workspace.timings_path)
    with plan.workspace.lock():
        plan.workspace.sweep()
        plan.check()
        parallel.devices(request.device)
        if request.redo:
            plan.check_start()  # before anything is deleted
            _discard_from(plan, request.redo)
        plan.describe()
        if plan.is_finished():
            log.info("all stages up to %s are complete", request.until)
        else:
            plan.check_start()
            try:
                run_photo_stages(plan, timings)
                if "select" in plan.stages:
                    run_select(plan)
                if "pack" in plan.stages:
                    run_pack(plan, timings)
            finally:
                plan.workspace.sweep()  # after workers that were interrupted, and orphans that have died meanwhile
        return conclude(plan, timings)


def _discard_from(plan: Plan, redo: str) -> None:
    """Delete the results of a stage and of all that follow from it; the last first."""
    workspace = plan.workspace
    workspace.summary_path.unlink(missing_ok=True)
    if redo in batch.STAGES:
        delete_folder(workspace.report_path.parent / "examples")
    for name in reversed(STAGES[STAGES.index(redo) :]):
        if name == "pack":
            path = workspace.hdf5_path(plan.recipe.resolution)
            path.unlink(missing_ok=True)
            labels_path(path).unlink(missing_ok=True)
        workspace.stage(name).discard()
