"""Growth of a run whose list of photos changed: results of unchanged photos are used again.

Photos may be added anywhere in the order of the source, so the batches of all photos may change. `grow` moves the
manifests of batches that change to the folder ``earlier`` of their stage. `EarlierResults` takes the results of each
photo from there when the batch of the photo is written. A run that is killed in between resumes, and ends with the
files of a run that had all photos from the beginning. Photos that were rejected or failed are tried again where their
batch changes. Results of photos that were removed or changed are deleted only if the request says so.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from celebahq_builder.errors import FingerprintMismatch, WorkspaceError, printable
from celebahq_builder.image_set import photo_path
from celebahq_builder.outcome import Kept, PhotoKey, Reason, counted
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult
from celebahq_builder.pipeline.face import Identity, ImageRecord, PhotoRecord, read_part
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.request import BuildRequest
from celebahq_builder.pipeline.stage import record_types
from celebahq_builder.run_directory.workspace import read_outcomes
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import delete_folder, write_json

log = logging.getLogger(__name__)

MESSAGE_PHOTOS = 5
"""Largest number of photos that a message names."""


@dataclass
class OutdatedResults:
    """Results in a run directory that do not belong to the photos of this run."""

    files: dict[str, set[str]] = field(default_factory=dict)
    """Files of the photos by the reason."""
    ids: set[str] = field(default_factory=set)
    """Ids of the faces."""

    def __str__(self) -> str:
        """Return the number and the first files of the photos of each reason."""
        return " and ".join(
            f"{counted(len(files), 'photo')} {reason} ({_first(files)})" for reason, files in self.files.items()
        )


def outdated_results(plan: BuildPlan) -> OutdatedResults:
    """Return the results that a run of a plan would lose. If photos are not only appended, all manifests are read.

    Raises:
        FingerprintMismatch: the results come from another part of an image list, so none can be used.
    """
    workspace, source, outdated = plan.request.workspace, plan.request.source, OutdatedResults()
    if not plan.grows:
        return outdated
    landmarks = defaultdict(set)
    for photo in source.photos:
        landmarks[photo.file].add(photo.landmarks)
    rejected = {one.photo: one.reason for one in source.rejected if one.reason is not Reason.NOT_LISTED}
    for name in plan.photo_stage_names:
        if not plan.has_other_photos(name) or plan.unchanged_photos(name):
            continue
        if any(photo.listed for photo in source.photos):
            raise FingerprintMismatch(
                f"{workspace.root} was built from another part of the image list; with `image_list`, a run grows only "
                f"by a larger `limit`; choose another `out`, or `redo` {plan.stage_names[0]}"
            )
        folder = workspace.stage(name)
        for path in (*folder.earlier_manifests(), *map(folder.manifest_path, sorted(folder.batches()))):
            for kept in _read_kept(path).values():
                identity = read_part(kept, "identity", Identity)
                if identity.landmarks in landmarks.get(kept.photo, ()):
                    continue
                reason = "missing from this run"
                if kept.photo in landmarks:
                    reason = "with other faces or landmarks now"
                elif kept.photo in rejected:
                    reason = f"rejected now as {rejected[kept.photo]}"
                outdated.files.setdefault(reason, set()).add(kept.photo)
                outdated.ids.add(identity.id)
    return outdated


def checked_plan(request: BuildRequest) -> BuildPlan:
    """Return the plan of a build, after all checks that need no work; nothing is written.

    Raises:
        FingerprintMismatch: the run directory holds results of other settings, or of photos that this run does not have
            or that have other landmarks in it.
        WorkspaceError: the run directory lacks the results of the stages before `start`, or was changed, or files that
            are not of this run would be deleted.
    """
    plan = BuildPlan(request, request.workspace.read_state())
    after_redo = plan.after_redo()
    after_redo.check()
    outdated = outdated_results(after_redo)
    if outdated.ids and not request.redo_photos:
        raise FingerprintMismatch(
            f"{request.workspace.root} holds results of {outdated}; `redo` photos deletes only these results; or "
            "choose another `out`"
        )
    plan.check_start()
    plan.check_deletions()
    return plan


def grow(plan: BuildPlan) -> BuildPlan:
    """Prepare the run directory for a run with other photos; return the plan for it.

    A kill between any two steps leaves a directory that this run, and the one before, can use: manifests that
    are not moved describe the same batch in both. Selection and data set are made again; their files stay until then.
    """
    workspace, outdated = plan.request.workspace, outdated_results(plan)
    grown = plan.after_growth()
    log.info("the photos differ from those of the last command: finished results are kept, the data set is made again")
    if outdated.ids:
        log.info("deleted: results of %s", outdated)
    workspace.summary_path.unlink(missing_ok=True)
    for face in outdated.ids:
        delete_folder(workspace.example_path(face, "").parent, r"\w+\.jpg")
    for name in reversed([name for name in plan.stage_names if name not in plan.photo_stage_names]):
        workspace.stage(name).discard()
    changed = [name for name in plan.photo_stage_names if plan.has_other_photos(name)]
    for name in changed:
        workspace.stage(name).set_aside(plan.unchanged_batches(name))
    write_json(workspace.run_path, asdict(grown.description()))
    for name in changed:
        workspace.stage(name).begin(grown.ingredients[name], again=True)
    return grown


def warn_of_newer_photos(plan: BuildPlan) -> None:
    """Print a warning if photos of a table of one's own are newer than the results of their batch.

    This notices photos that were edited since. Photos of CelebA are not checked: they do not change, and the check
    would be slow.
    """
    source, stage = plan.request.source, plan.image_stage
    if not source.is_own or plan.has_other_photos(stage):
        return
    newer: set[str] = set()
    for batch in plan.state.stage(stage).batches:
        built_s = plan.request.workspace.stage(stage).manifest_path(batch).stat().st_mtime
        for photo in plan.photos_of(batch):
            with contextlib.suppress(OSError):  # a missing photo is reported elsewhere
                if photo_path(source.folder, photo.file).stat().st_mtime > built_s:
                    newer.add(photo.file)
    if newer:
        log.warning(
            "warning: %s newer than the results: %s; if they were edited, build again with `redo` %s",
            f"{counted(len(newer), 'photo')} {'is' if len(newer) == 1 else 'are'}",
            printable(_first(newer)),
            plan.stage_names[0],
        )


class EarlierResults:
    """The results of an earlier run for photos whose batch is not written yet."""

    def __init__(self, plan: BuildPlan) -> None:
        workspace, stages = plan.request.workspace, plan.stored_photo_stages
        self.folders = {stage.name: workspace.stage(stage.name) for stage in stages}
        self.image_stages = {stage.name for stage in stages if stage.saves_image}
        self.types = record_types(plan.request.recipe.photo_stages())
        self._manifests: dict[str, dict[PhotoKey, Path]] = {}
        """Manifest that holds the latest result of each photo, by stage."""
        for name, folder in self.folders.items():
            self._manifests[name] = {key: path for path in folder.earlier_manifests() for key in _read_kept(path)}
        self._read = functools.lru_cache(maxsize=16)(_read_kept)
        self._split: dict[int, BatchJob] = {}

    def without_finished(self, job: BatchJob) -> BatchJob:
        """Return a job without the photos that have results of all its stages; its result goes to `complete`."""
        finished = self._finished(job)
        if not finished:
            return job
        self._split[job.number] = job
        left = tuple((index, photo) for index, photo in job.photos if len(finished[photo.key]) < len(job.todo))
        resumed = [list(finished[photo.key].items())[-1] for _, photo in left if finished[photo.key]]
        return replace(job, photos=left, resumed=tuple((name, record.kept(self.types)) for name, record in resumed))

    def complete(self, result: BatchResult) -> BatchResult:
        """Return the result of a job of `without_finished` for all photos of the batch."""
        job = self._split.pop(result.number, None)
        if job is None:
            return result
        outcomes, moved = {}, []
        finished = self._finished(job).values()
        for name in job.todo:
            kept = []
            for record in [records[name] for records in finished if name in records]:
                if name in self.image_stages:
                    image, folder = record[ImageRecord], self.folders[name]
                    path = folder.image_path(job.number, record.identity.id)
                    if (before := folder.root / image.path) != path:
                        moved.append((before, path))
                    record = record.with_part(replace(image, path=path.relative_to(folder.root).as_posix()))
                kept.append(record.kept(self.types))
            outcomes[name] = job.in_order([*kept, *result.outcomes[name]])
        return replace(result, outcomes=outcomes, moved=tuple(moved))

    def _finished(self, job: BatchJob) -> Mapping[PhotoKey, Mapping[str, PhotoRecord]]:
        """Return the records of each photo at the first stages of a job, up to one that keeps images or to the last.

        Their identities are those of this run, and their images are where the records say.
        """
        finished: dict[PhotoKey, dict[str, PhotoRecord]] = defaultdict(dict)
        for index, photo in job.photos if any(self._manifests.values()) else ():
            stages: dict[str, PhotoRecord] = {}
            for name in job.todo:
                record = self._find(name, job.number, index, photo)
                if record is None:
                    break
                stages[name] = record
            while stages and len(stages) < len(job.todo) and [*stages][-1] not in self.image_stages:
                stages.popitem()
            if stages:
                finished[photo.key] = stages
        return finished

    def _find(self, name: str, number: int, index: int, photo: Photo) -> PhotoRecord | None:
        """Return the record of a photo at a stage, or None if there is none for this id and these landmarks."""
        manifest = self._manifests[name].get(photo.key)
        if manifest is None:
            return None
        record, identity = PhotoRecord.from_kept(self._read(manifest)[photo.key], self.types), Identity.of(photo, index)
        if replace(record.identity, index=index, split=photo.split, attributes=photo.attributes) != identity:
            return None
        record = replace(record, identity=identity)
        if name not in self.image_stages:
            return record
        folder, image = self.folders[name], record[ImageRecord]
        if not re.fullmatch(rf"images/\d+/{re.escape(photo.id)}\.png", image.path):
            return None
        if (folder.root / image.path).is_file():
            return record
        # A run that was killed may have moved the image before it wrote the manifest.
        path = folder.image_path(number, photo.id).relative_to(folder.root).as_posix()
        try:
            folder.read_image(path, image.sha256)
        except WorkspaceError:
            return None
        return record.with_part(replace(image, path=path))


def _first(files: Set[str]) -> str:
    """Return the names of the first files for a message."""
    return ", ".join([*sorted(files)[:MESSAGE_PHOTOS], *["..."] * (len(files) > MESSAGE_PHOTOS)])


def _read_kept(manifest: Path) -> dict[PhotoKey, Kept]:
    """Return the photos that a manifest names as kept."""
    return {one.key: one for one in read_outcomes(manifest) if isinstance(one, Kept)}
