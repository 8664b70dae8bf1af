"""Status of a run directory, and verification of run directories and HDF5 files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from celebahq_builder import outcome
from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.hdf5 import NAME_COLUMNS, PHOTOS
from celebahq_builder.hdf5.labels import labels_path, read_labels
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import attribute_labels
from celebahq_builder.outcome import Kept, Outcome, PhotoKey, counted
from celebahq_builder.pipeline.face import ImageRecord
from celebahq_builder.pipeline.shard import shard_folders
from celebahq_builder.pipeline.state import RunDescription, RunState, read_table
from celebahq_builder.pipeline.workspace import (
    StageFolder,
    TimingTotals,
    Workspace,
    count_outcomes,
    read_timings,
)
from celebahq_builder.progress import rough_duration, size
from celebahq_builder.storage import last_holder


@dataclass
class Checked:
    """Counts of what `find_problems` has checked."""

    source: str = ""
    """Numbers of photos and faces of a run, in words."""
    manifests: int = 0
    files: int = 0
    """Image files whose SHA-256 was computed."""
    images: int = 0
    """Images of an HDF5 file of which all levels were read."""
    levels: int = 0
    """Levels of the HDF5 file."""
    hashes: int = 0
    """Images of the HDF5 file whose SHA-256 was computed."""

    def __str__(self) -> str:
        parts = [self.source] if self.source else []
        if self.manifests:
            parts.append(f"{self.files} image files and their SHA-256, named in {self.manifests} manifests")
        if self.levels:
            parts.append(f"{self.images} images in {self.levels} levels of the HDF5 file, {self.hashes} SHA-256")
        return "; ".join(parts) or "no images"


def status_lines(workspace: Workspace) -> Iterator[str]:
    """Yield the state of a run in lines for people.

    Raises:
        WorkspaceError: the directory holds no run, or the run of an earlier version.
    """
    state = workspace.read_state()
    log = workspace.landmark_table_path.with_suffix(".jsonl")
    if state.run is None and log.is_file():
        with log.open("rb") as file:
            photos = sum(line.startswith(b'{"file"') for line in file)
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


def find_problems(path: Path, checked: Checked | None = None) -> Iterator[str]:
    """Yield the problems of a run directory or an HDF5 file, one line each; none if all is OK.

    Args:
        path: run directory or HDF5 file.
        checked: counts what is checked.

    Raises:
        FormatError: the path is neither.
    """
    checked = checked or Checked()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise FormatError(f"{str(path)[:200]} cannot be read: {error.strerror}") from None
    if is_folder:
        return _workspace_problems(Workspace(path), checked)
    if is_file:
        return _hdf5_problems(path, checked, of_build=False)
    raise FormatError(f"{path} does not exist; give a run directory or an HDF5 file")


def _hdf5_problems(path: Path, checked: Checked, *, of_build: bool, labels: bool = True) -> Iterator[str]:
    """Yield the problems of the images of an HDF5 file (hashes, means), and of its labels.

    Raises:
        FormatError: the file is not such a file, or its levels do not belong together.
    """
    with PyramidFile(path) as pyramid:
        if not pyramid.count:
            yield f"{path.name}: it has no images; its writer was killed"
        for name, dataset in pyramid.file.get(PHOTOS, {}).items():
            if not isinstance(dataset, h5py.Dataset):
                yield f"{path.name}: {PHOTOS}/{name} is not a dataset"
            elif name not in NAME_COLUMNS and dataset.shape[:1] != (pyramid.count,):
                yield f"{path.name}: {PHOTOS}/{name} has {len(dataset)} rows, expected {pyramid.count}"
        yield from (f"{path.name}: {problem}" for problem in pyramid.problems())
        checked.images, checked.levels = pyramid.count, len(pyramid.resolutions)
        checked.hashes = pyramid.count if "sha256" in pyramid.photos else 0
        if labels:
            yield from _label_problems(pyramid, of_build)


def _label_problems(pyramid: PyramidFile, of_build: bool) -> Iterator[str]:
    """Yield the problems of the labels of an HDF5 file.

    Labels of a build are the attributes of its photos. Labels of other files may be missing, or of another kind.
    """
    attributes, path = pyramid.photos.get("attributes"), labels_path(pyramid.path)
    own = attribute_labels(attributes) if attributes is not None else None
    try:
        labels = read_labels(pyramid.path, pyramid.count)
    except FormatError as error:
        yield str(error)
        return
    if labels is None:
        if of_build:
            yield f"{path.name} is missing"
        return
    comparable = own is not None and labels.shape == own.shape
    if (comparable or of_build) and (own is None or not np.array_equal(labels, own)):
        yield f"{path.name} differs from photos/attributes of {pyramid.path.name}"


def _workspace_problems(workspace: Workspace, checked: Checked) -> Iterator[str]:
    """Yield the problems of a run directory: images, manifests, counts, and its HDF5 file."""
    state = workspace.read_state()
    run = state.run or workspace.run()
    entering, checked.source = run.photos, str(run.counts)
    for name in run.stages:
        stage = state.stage(name)
        if not (counts := stage.mark):
            yield f"{name}: not complete"
        elif name in run.photo_stages:
            if counts.photos != entering:
                yield f"{name}: {counted(entering, run.counts.unit)} should have entered, {counts.photos} did"
            if len(stage.batches) != counts.batches:
                yield f"{name}: {len(stage.batches)} of {counts.batches} manifests are there"
            entering = counts.kept
            yield from _stage_problems(workspace.stage(name), sorted(stage.batches), checked)
    if "pack" in run.stages:
        result = workspace.hdf5_path(run.resolution)
        try:
            if result.exists() and workspace.is_packed():
                yield from _hdf5_problems(result, checked, of_build=True, labels=run.labels)
            elif not result.exists():
                yield f"{result.name} is missing"
        except FormatError as error:
            yield str(error)
    if summary := state.summary:
        last: dict[PhotoKey, Outcome] = {}
        for _, _, one in workspace.final_outcomes(run):
            if isinstance(last.get(one.key, Kept(one.photo)), Kept):  # a photo ends at its first other outcome
                last[one.key] = one.without_record()
        by_table = (outcome.from_json(values) for values in run.rejected_by_table)
        for name, number in count_outcomes([*by_table, *last.values()]).items():
            if (recorded := getattr(summary, name)) != number:
                yield f"summary.json counts {recorded} {name}, the manifests {number}"


def _stage_problems(stage: StageFolder, batches: list[int], checked: Checked) -> Iterator[str]:
    for batch in batches:
        checked.manifests += 1
        try:
            for one in stage.read_manifest(batch):
                if isinstance(one, Kept) and "image" in one.record:
                    image = read_table(ImageRecord, one.record["image"], one.photo, "image")
                    stage.read_image(image.path, image.sha256)
                    checked.files += 1
        except CelebAHQError as error:
            yield f"{stage.name}: {error}"
