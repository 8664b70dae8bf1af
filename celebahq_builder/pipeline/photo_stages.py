"""The photo stages of a run: their batches in worker processes or on a cluster, and the check that no photo is lost."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from celebahq_builder import parallel
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.outcome import Kept, PhotoKey
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult, publish_batch
from celebahq_builder.pipeline.build_report import LiveReport
from celebahq_builder.pipeline.cluster_batches import run_on_cluster
from celebahq_builder.pipeline.growth import EarlierResults
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.progress import Progress
from celebahq_builder.run_directory.state import StageCounts
from celebahq_builder.run_directory.timings import TimingLog
from celebahq_builder.run_directory.workspace import StageFolder, count_outcomes
from celebahq_builder.storage import LockedFolder

EXAMPLES = 8
"""Photos whose images after each stage are recorded for the report."""

WORKER_GPU_BYTES = 4 * 1024**3
"""Memory of a GPU that a worker needs; computed, not measured. 16 windows of 100 MB are 1.6 GB, and as much again is
what the allocator may keep of other shapes; the CUDA context takes about 0.5 GB, and pixels and networks 0.3 GB."""


def run_photo_stages(plan: BuildPlan, timings: TimingLog, held: LockedFolder) -> set[PhotoKey]:
    """Run the batches that are not done yet, check that no photo was lost, and mark the stages complete.

    Returns:
        The photos that the last of these stages kept.

    Raises:
        CelebAHQError: an error that ends a batch as a whole.
    """
    workspace, photos = plan.request.workspace, plan.request.source.photos
    for stage in plan.stored_photo_stages:
        workspace.stage(stage.name).begin(plan.ingredients[stage.name])
    run_batches(plan, timings, held)
    entering, ids = {photo.key for photo in photos}, {photo.id for photo in photos}
    for stage in plan.stored_photo_stages:
        counts, kept = _reconcile(workspace.stage(stage.name), entering, plan.batches)
        workspace.stage(stage.name).forget_earlier(ids)
        workspace.stage(stage.name).complete(plan.ingredients[stage.name], counts)
        entering = kept
    return entering


def run_batches(plan: BuildPlan, timings: TimingLog, held: LockedFolder) -> None:
    """Run the batches that are not done yet: all of them, or those of a shard; see `run_photo_stages`."""
    workspace = plan.request.workspace
    earlier = EarlierResults(plan)
    jobs = []
    for job in map(earlier.without_finished, _jobs(plan)):
        if job.photos:
            jobs.append(job)
        else:
            publish_batch(workspace, earlier.complete(BatchResult.of_nothing(job)))
    if not jobs:
        return
    timings.add(batches=len(jobs), seconds={})
    todo = sum(len(job.photos) for job in jobs)
    photos = sum(len(plan.photos_of(number)) for number in _batches(plan))
    title, unit = " > ".join(stage.name for stage in plan.stored_photo_stages), plan.request.source.counts.unit
    with Progress(title, photos, photos - todo, unit) as progress:
        report = LiveReport(workspace, progress, silent=plan.request.shard is not None)
        try:
            report.write_if_due()
            with closing(_compute(plan, held, jobs, progress)) as results:
                for computed in results:
                    result = earlier.complete(computed)
                    held.check()
                    publish_batch(workspace, result)
                    timings.add(batch=result.number, photos=result.photos, seconds=result.seconds)
                    timings.add_worker(result.peak_memory_bytes)
                    progress.advance(result.photos, result.rejected, result.failed)
                    report.add(result)
                    report.write_if_due()
        except KeyboardInterrupt:
            report.close()
            raise


def _compute(
    plan: BuildPlan, held: LockedFolder, jobs: Iterable[BatchJob], progress: Progress
) -> Generator[BatchResult, None, None]:
    """Yield the results of batches, from a cluster or from processes of this machine."""
    request = plan.request
    if request.cluster:
        return run_on_cluster(request.cluster, plan, held.path, jobs, progress)
    workers = request.workers or parallel.workers_on(parallel.devices(request.device), WORKER_GPU_BYTES)
    return parallel.run(run_batch, jobs, workers=workers)


def _batches(plan: BuildPlan) -> range:
    """Return the batches on which this process works."""
    return plan.request.shard.batches(plan.batches) if plan.request.shard else range(plan.batches)


def _jobs(plan: BuildPlan) -> Iterator[BatchJob]:
    """Yield the batches that lack a manifest, each with the stage from which it resumes."""
    request, photos = plan.request, plan.request.source.photos
    examples = frozenset(photo.id for photo in photos[:: max(1, -(-len(photos) // EXAMPLES))])
    for number in _batches(plan):
        lacks = [number not in plan.state.stage(stage.name).batches for stage in plan.stored_photo_stages]
        if not any(lacks):
            continue
        first = lacks.index(True)
        kept = [stage.name for stage in plan.stored_photo_stages[:first] if stage.saves_image]
        yield BatchJob(
            workspace=request.workspace.root,
            number=number,
            photos=tuple(enumerate(plan.photos_of(number), start=number * plan.batch_photos)),
            folder=request.source.folder,
            recipe=plan.worker_recipe,
            device=request.device,
            start=kept[-1] if kept else None,
            todo=tuple(stage.name for stage, is_todo in zip(plan.stored_photo_stages, lacks, strict=True) if is_todo),
            examples=examples,
            deltas=request.deltas,
        )


def _reconcile(stage: StageFolder, entering: set[PhotoKey], batches: int) -> tuple[StageCounts, set[PhotoKey]]:
    """Check that the manifests of a stage account for every photo that entered it; return counts and kept photos."""
    done, outcomes = stage.batches(), {}
    for _, one in stage.outcomes():
        if one.key in entering:
            outcomes[one.key] = one.without_record()
    if done != set(range(batches)) or len(outcomes) != len(entering):
        raise WorkspaceError(
            f"{stage.root}: {len(entering)} photos entered, {len(outcomes)} are accounted for in {len(done)} of "
            f"{batches} batches; its files were changed from outside, `redo` {stage.name} makes them again"
        )
    counts = StageCounts(photos=len(entering), batches=batches, **count_outcomes(outcomes.values()))
    return counts, {key for key, one in outcomes.items() if isinstance(one, Kept)}
