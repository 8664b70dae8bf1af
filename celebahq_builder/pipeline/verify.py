"""Status of a run directory, and verification of run directories and HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celebahq_builder import outcome
from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.hdf5.labels import labels_path, read_labels
from celebahq_builder.hdf5.layout import NAME_COLUMNS, PHOTOS
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import attribute_labels
from celebahq_builder.outcome import Kept, Outcome, PhotoKey
from celebahq_builder.pipeline.face import ImageRecord
from celebahq_builder.pipeline.state import read_table
from celebahq_builder.pipeline.workspace import StageFolder, Workspace, count_outcomes


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
    table = len(run.rejected_by_table)
    yield f"{run.photos + table} photos from {run.source}, {table} of them rejected by the table"
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
    if summary := state.summary:
        yield f"in all: {summary.kept} kept + {summary.rejected} rejected + {summary.failed} failed"
        for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1]):
            yield f"  {reason}: {count}"
    result = workspace.hdf5_path(run.resolution)
    if size_bytes := state.files.get(result.name):
        yield f"result: {result} ({size_bytes / 1e9:.2f} GB)"
    if "report/index.html" in state.files:
        yield f"report: {workspace.report_path}"


def find_problems(path: Path) -> Iterator[str]:
    """Yield the problems of a run directory or an HDF5 file, one line each; none if all is OK.

    Raises:
        FormatError: the path is neither.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise FormatError(f"{str(path)[:200]} cannot be read: {error.strerror}") from None
    if is_folder:
        return _workspace_problems(Workspace(path))
    if is_file:
        return _hdf5_problems(path, of_build=False)
    raise FormatError(f"{path} does not exist; give a run directory or an HDF5 file")


def _hdf5_problems(path: Path, *, of_build: bool, labels: bool = True) -> Iterator[str]:
    """Yield the problems of the images of an HDF5 file (hashes, means), and of the labels beside it.

    Raises:
        FormatError: the file is not such a file, or its levels do not belong together.
    """
    with PyramidFile(path) as pyramid:
        if not pyramid.count:
            yield f"{path.name}: it has no images; its writer was killed"
        for name, dataset in pyramid.file.get(PHOTOS, {}).items():
            if name not in NAME_COLUMNS and dataset.shape[:1] != (pyramid.count,):
                yield f"{path.name}: {PHOTOS}/{name} has {len(dataset)} rows, expected {pyramid.count}"
        yield from (f"{path.name}: {problem}" for problem in pyramid.problems())
        if labels:
            yield from _label_problems(pyramid, of_build)


def _label_problems(pyramid: PyramidFile, of_build: bool) -> Iterator[str]:
    """Yield the problems of the labels beside an HDF5 file.

    Labels of a build are the attributes of its photos. Labels of other files may be missing, or of another kind.
    """
    attributes, beside = pyramid.photos.get("attributes"), labels_path(pyramid.path)
    own = attribute_labels(attributes) if attributes is not None else None
    try:
        labels = read_labels(pyramid.path, pyramid.count)
    except FormatError as error:
        yield str(error)
        return
    if labels is None:
        if of_build:
            yield f"{beside.name} is missing"
        return
    comparable = own is not None and labels.shape == own.shape
    if (comparable or of_build) and (own is None or not np.array_equal(labels, own)):
        yield f"{beside.name} differs from photos/attributes of {pyramid.path.name}"


def _workspace_problems(workspace: Workspace) -> Iterator[str]:
    """Yield the problems of a run directory: images, manifests, counts, and its HDF5 file."""
    state = workspace.read_state()
    run = state.run or workspace.run()
    entering = run.photos
    for name in run.stages:
        stage = state.stage(name)
        if not (counts := stage.mark):
            yield f"{name}: not complete"
        elif name in run.photo_stages:
            if counts.photos != entering:
                yield f"{name}: {entering} photos should have entered, {counts.photos} did"
            if len(stage.batches) != counts.batches:
                yield f"{name}: {len(stage.batches)} of {counts.batches} manifests are there"
            entering = counts.kept
            yield from _stage_problems(workspace.stage(name), sorted(stage.batches))
    if "pack" in run.stages:
        result = workspace.hdf5_path(run.resolution)
        try:
            if result.exists():
                yield from _hdf5_problems(result, of_build=True, labels=run.labels)
            else:
                yield f"{result.name} is missing"
        except FormatError as error:
            yield str(error)
    if summary := state.summary:
        last: dict[PhotoKey, Outcome] = {}
        for _, _, one in workspace.final_outcomes(run):
            if isinstance(last.get(one.key, Kept(one.photo)), Kept):  # a photo ends at its first other outcome
                last[one.key] = one.without_record() if isinstance(one, Kept) else one
        by_table = (outcome.from_json(values) for values in run.rejected_by_table)
        for name, number in count_outcomes([*by_table, *last.values()]).items():
            if (recorded := getattr(summary, name)) != number:
                yield f"summary.json counts {recorded} {name}, the manifests {number}"


def _stage_problems(stage: StageFolder, batches: list[int]) -> Iterator[str]:
    for batch in batches:
        try:
            for one in stage.read_manifest(batch):
                if isinstance(one, Kept) and "image" in one.record:
                    image = read_table(ImageRecord, one.record["image"], one.photo, "image")
                    stage.read_image(image.path, image.sha256)
        except CelebAHQError as error:
            yield f"{stage.name}: {error}"
