"""The stages that treat each photo by itself: in batches, by worker processes."""

from __future__ import annotations

from collections.abc import Iterator

from celebahq_builder import ledger, parallel
from celebahq_builder.progress import Progress
from celebahq_builder.runner.plan import Plan
from celebahq_builder.runner.timings import Timings
from celebahq_builder.stages.batch import BatchJob, run_batch
from celebahq_builder.stages.recipe import PHOTO_STAGES

EXAMPLES = 8
"""Photos whose way through the stages is recorded for the report."""


def run_photo_stages(plan: Plan, timings: Timings) -> None:
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
            for result in parallel.run(run_batch, jobs, workers=plan.request.workers):
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
        counts, kept = ledger.reconcile(stage, entering, plan.batches)
        stage.begin(plan.ingredients[name])
        stage.complete(plan.ingredients[name], {"photos": len(entering), "batches": plan.batches, **counts})
        entering = kept
