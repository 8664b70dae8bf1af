"""State of a run directory, and plan of a build, as lines of text."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from celebahq_builder.config import flatten, to_mapping
from celebahq_builder.limits import MAX_LOG_BYTES, MAX_VALUE_BYTES
from celebahq_builder.outcome import counted
from celebahq_builder.pipeline.growth import checked_plan, outdated_results
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.request import BuildOptions, make_request
from celebahq_builder.pipeline.stage import DatasetStage
from celebahq_builder.progress import rough_duration, size
from celebahq_builder.run_directory.shard import shard_folders
from celebahq_builder.run_directory.state import RunDescription, RunState
from celebahq_builder.run_directory.timings import TimingTotals, read_timings
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.official import archives
from celebahq_builder.sources.photo import PhotoSource
from celebahq_builder.storage import last_holder, open_file


def status_lines(workspace: Workspace) -> Iterator[str]:
    """Yield the state of a run in lines for people.

    Raises:
        WorkspaceError: the directory holds no run, or the run of an earlier version.
    """
    state = workspace.read_state()
    log = workspace.landmark_table_path.with_suffix(".jsonl")
    if state.run is None and log.is_file():
        photos = 0
        with open_file(log, MAX_LOG_BYTES) as file:
            while line := file.readline(MAX_VALUE_BYTES):
                photos += line.startswith(b'{"file"')
        yield f"landmarks: {photos} photos searched; the same command resumes"
        return
    run = state.run or workspace.run()
    unusable = f"; {run.counts.unusable} rejected by the table" if run.counts.unusable else ""
    yield f"{run.counts} from {run.source}{unusable}"
    if log.is_file():
        yield f"landmarks: {log.with_suffix('.html')}"
    for name in run.stages:
        stage = state.stage(name)
        if counts := stage.mark:
            yield f"{name:8} complete: {counts.kept} kept, {counts.rejected} rejected, {counts.failed} failed"
        elif name in run.photo_stages:
            yield f"{name:8} {len(stage.batches)} of {run.batches} batches done"
        else:
            yield f"{name:8} not done"
    yield from _shards(workspace, run, state)
    yield from _throughput(run, state, read_timings(*workspace.timing_logs()))
    if summary := state.summary:
        yield f"in all: {summary.kept} kept + {summary.rejected} rejected + {summary.failed} failed"
        for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
            yield f"  {reason}: {count}"
    result = workspace.hdf5_path(run.resolution)
    if size_bytes := state.files.get(result.name):
        note = "" if workspace.is_packed() else ", of an earlier run with other photos or settings"
        yield f"result: {result} ({size(size_bytes)}{note})"
    if "report/index.html" in state.files:
        yield f"report: {workspace.report_path}"


def _shards(workspace: Workspace, run: RunDescription, state: RunState) -> Iterator[str]:
    """Yield the shards that are in work, and those that ended before their last batch."""
    folders, names = shard_folders(workspace.root), [name for name in run.stages if name in run.photo_stages]
    if not folders or not names:
        return
    done = frozenset.intersection(*(state.stage(name).batches for name in names))
    stopped = []
    for shard, folder in folders.items():
        batches = shard.batches(run.batches)
        if holder := last_holder(folder):
            yield f"shard {shard}: {len(done.intersection(batches))} of {len(batches)} batches done by {holder.name}"
        elif not done.issuperset(batches):
            stopped.append(str(shard))
    if stopped:
        yield f"shards that ended before their last batch: {', '.join(stopped)}"


def _throughput(run: RunDescription, state: RunState, timings: TimingTotals) -> Iterator[str]:
    """Yield the throughput of the last command, and the time that is left, of a run whose photos are not all done."""
    batches_left = run.batches - min(len(state.stage(name).batches) for name in run.stages if name in run.photo_stages)
    starts = [number for number, (_, photos) in enumerate(timings.batches) if not photos]
    last = timings.batches[starts[-1] :] if starts else []
    if len(last) < 2 or not batches_left:
        return
    photos, seconds = sum(photos for _, photos in last), max(last[-1][0] - last[0][0], 1e-9)
    seconds_left = batches_left * run.batch_photos * seconds / photos
    rate = f"{photos / seconds:.2f} {run.counts.unit}s/s"
    yield (
        f"throughput of the last command: {rate}, about {rough_duration(seconds_left)} left; "
        f"its last batch was finished {rough_duration(max(time.time() - last[-1][0], 0))} ago"
    )


PNG_BYTES = 1.3
"""Bytes of an aligned face as a PNG file per pixel."""


def dry_run(source: PhotoSource, out: Path | str, **options: Unpack[BuildOptions]) -> list[str]:
    """Return what `build` would do with the same arguments, as lines of text; nothing is written.

    Args:
        source: see `build.build`.
        out: see `build.build`.
        options: the other arguments of `build.build`.

    Returns:
        Settings with their origins, what is done, what is left, and the disk space that it needs.

    Raises:
        CelebAHQError: as `build.build` raises before any work.
    """
    plan = checked_plan(make_request(source, out, **options)).after_redo()
    outdated = outdated_results(plan)
    deleted = [f"deleted: results of {outdated}"] if outdated.ids else []
    return [*describe_plan(plan.after_growth()), *deleted]


def describe_plan(plan: BuildPlan) -> Iterator[str]:
    """Yield the plan in lines for people: settings with their sources, stages, disk space."""
    request, source = plan.request, plan.request.source
    yield "settings:"
    for key, value in flatten(to_mapping(request.recipe)).items():
        yield f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})"
    unusable = f"; {len(source.rejected)} rejected by the table" if source.rejected else ""
    yield f"photos: {source.counts} in {source.folder}{unusable}"
    yield from (f"warning: {warning}" for warning in source.warnings)
    if any(photo.listed for photo in source.photos):
        deltas = (
            f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        )
        yield f"image list: MD5s of all photos are checked; deltas: {deltas}"
    if plan.earlier_photos:
        results = f"the results of about {counted(plan.earlier_photos, source.counts.unit)}"
        yield f"growth: {results} are in {request.workspace.root}, and are used"
    yield "stages:"
    for name in plan.names[: plan.names.index(plan.until) + 1]:
        yield f"  {name}: {_describe_stage(plan, name)}"
    if shard := request.shard:
        batches = shard.batches(plan.batches)
        left = plan.batches_left.intersection(batches)
        yield f"shard {shard}: {len(left)} of its {len(batches)} batches are left; another command selects and packs"
    parent = next(
        path for path in (request.workspace.root, *request.workspace.root.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(parent).free
    left_bytes = round(_disk_bytes(plan))
    work = f"about {size(left_bytes)} still to be written" if left_bytes else "nothing still to be written"
    yield f"disk: {work}, {size(free)} free in {parent}"


def _describe_stage(plan: BuildPlan, name: str) -> str:
    if name not in plan.on_disk:
        done = all(plan.is_complete(later) for later in plan.on_disk if later in plan.photo_names)
        return "result is not stored" if done else "to do; result is not stored"
    if plan.is_complete(name):
        return "complete"
    return (
        f"{len(plan.state.stage(name).batches)} of {plan.batches} batches done" if name in plan.photo_names else "to do"
    )


def _disk_bytes(plan: BuildPlan) -> float:
    """Estimate what a run will write: PNG files, and the files of the stages that work on all photos."""
    recipe, photos = plan.request.recipe, len(plan.request.source.photos)
    batches_done = len(plan.state.stage(plan.image_stage).batches)
    photos_done = min(max(batches_done * plan.batch_photos, plan.earlier_photos), photos)
    images_left = photos - photos_done if plan.image_stage in plan.on_disk else 0
    disk_bytes = images_left * recipe.resolution**2 * PNG_BYTES
    for stage in recipe.stages():
        if isinstance(stage, DatasetStage):
            settings = recipe.settings(stage)
            photos = stage.most_kept(settings, photos)
            if stage.name in plan.on_disk and not plan.is_complete(stage.name):
                disk_bytes += stage.estimate_bytes(settings, photos, recipe.resolution)
    return disk_bytes
