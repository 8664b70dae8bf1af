"""Status of a run directory, and verification of run directories and HDF5 files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.hdf5.labels import attribute_labels, encode_labels, labels_path, read_labels
from celebahq_builder.hdf5.layout import PHOTOS
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.outcome import Kept
from celebahq_builder.pipeline.recipe import PHOTO_STAGES
from celebahq_builder.pipeline.workspace import StageFolder, Workspace
from celebahq_builder.storage import read_json


def status_lines(workspace: Workspace) -> Iterator[str]:
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


NAMES = ("label_names", "attribute_names")
"""Columns of the group ``photos`` that have a row for each label, not for each image."""


def find_problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with a run directory or an HDF5 file, a line each; nothing for a sound one.

    Raises:
        FormatError: the path is neither.
    """
    if path.is_dir():
        return verify_workspace(Workspace(path))
    if path.is_file():
        return itertools.chain(verify_hdf5(path), _own_labels(path))
    raise FormatError(f"{path} does not exist; give a run directory or an HDF5 file")


def verify_hdf5(path: Path) -> Iterator[str]:
    """Yield what is wrong with the images of an HDF5 file: hashes, means.

    Raises:
        FormatError: it is no such file, or its levels do not belong together.
    """
    with PyramidFile(path) as pyramid:
        if not pyramid.count:
            yield f"{path.name}: it has no images; its writer was killed"
        for name, dataset in pyramid.file.get(PHOTOS, {}).items():
            if name not in NAMES and dataset.shape[:1] != (pyramid.count,):
                yield f"{path.name}: {PHOTOS}/{name} has {len(dataset)} rows, expected {pyramid.count}"
        yield from (f"{path.name}: {problem}" for problem in pyramid.problems())


def _own_labels(path: Path) -> Iterator[str]:
    """Yield what is wrong with the labels beside an HDF5 file, if there are any: they may be its attributes."""
    with PyramidFile(path) as pyramid:
        count, attributes = pyramid.count, pyramid.column("attributes")
    try:
        labels = read_labels(path, count)
    except FormatError as error:
        yield str(error)
        return
    own = attribute_labels(attributes) if attributes is not None else None
    if labels is not None and own is not None and labels.shape == own.shape and not np.array_equal(labels, own):
        yield f"{labels_path(path).name} is not what photos/attributes of {path.name} says"


def _result_problems(path: Path, labels: bool) -> Iterator[str]:
    if not path.exists():
        yield f"{path.name} is missing"
        return
    try:
        yield from verify_hdf5(path)
        if labels:
            yield from _label_problems(path)
    except FormatError as error:
        yield str(error)


def _label_problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with the labels of a build's HDF5 file: they are its attributes once more."""
    labels = labels_path(path)
    if not labels.exists():
        yield f"{labels.name} is missing"
        return
    with PyramidFile(path) as pyramid:
        attributes = pyramid.column("attributes")
    if attributes is None or labels.read_bytes() != encode_labels(attribute_labels(attributes)):
        yield f"{labels.name} is not what photos/attributes of {path.name} says"


def verify_workspace(workspace: Workspace) -> Iterator[str]:
    """Yield what is wrong with a run directory: images, manifests, counts, and its HDF5 file."""
    from celebahq_builder.pipeline import results
    from celebahq_builder.pipeline.recipe import PHOTO_STAGES

    run = workspace.run()
    entering = run["photos"]
    for name in run["stages"]:
        stage = workspace.stage(name)
        if not stage.complete_path.exists():
            yield f"{name}: not complete"
            continue
        counts = read_json(stage.complete_path)
        if name in PHOTO_STAGES:
            if counts["photos"] != entering:
                yield f"{name}: {entering} photos should have entered, {counts['photos']} did"
            if len(stage.batches_done()) != counts["batches"]:
                yield f"{name}: {len(stage.batches_done())} of {counts['batches']} manifests are there"
            entering = counts["kept"]
            yield from _stage_problems(stage)
    result = workspace.hdf5_path(run["recipe"]["resolution"])
    if "pack" in run["stages"]:
        yield from _result_problems(result, labels=run["recipe"]["pack"].get("labels", False))
    if workspace.summary_path.exists():
        ended = results.count_statuses(results.photo_statuses(workspace))
        summary = read_json(workspace.summary_path)
        for name, number in ended.items():
            if summary[name] != number:
                yield f"summary.json counts {summary[name]} {name}, the manifests {number}"


def _stage_problems(stage: StageFolder) -> Iterator[str]:
    from celebahq_builder.pipeline.batch import read_image

    for batch in sorted(stage.batches_done()):
        try:
            for one in stage.read_manifest(batch):
                if isinstance(one, Kept) and "image" in one.record:
                    read_image(stage, one)
        except CelebAHQError as error:
            yield f"{stage.name}: {error}"
