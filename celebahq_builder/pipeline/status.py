"""Status of a run directory, in lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterator

from celebahq_builder.limits import MAX_LOG_BYTES, MAX_VALUE_BYTES
from celebahq_builder.progress import rough_duration, size
from celebahq_builder.run_directory.shard import shard_folders
from celebahq_builder.run_directory.state import RunDescription, RunState
from celebahq_builder.run_directory.timings import TimingTotals, read_timings
from celebahq_builder.run_directory.workspace import Workspace
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
    """Yield the shards that are running, and those that ended before their last batch."""
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
    """Yield the throughput of the last command and the time that is left, if photos are left."""
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
