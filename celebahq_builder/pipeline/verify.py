"""Verification of run directories and HDF5 files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from celebahq_builder import outcome
from celebahq_builder.config import from_mapping
from celebahq_builder.errors import FormatError, WorkspaceError
from celebahq_builder.hdf5 import NAME_COLUMNS, PHOTOS
from celebahq_builder.hdf5.integrity import Checked, hdf5_file_problems, pyramid_problems
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES
from celebahq_builder.outcome import Kept, Outcome, PhotoKey, QualityScore, Rejected, counted
from celebahq_builder.pipeline.face import Identity, ImageRecord, PhotoRecord
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.results import read_records, rejected_csv, summary_fingerprint
from celebahq_builder.pipeline.stage import AnyPhotoStage, record_types
from celebahq_builder.pipeline.stages.pack import PackStage, in_order, photo_columns
from celebahq_builder.pipeline.stages.select import Candidate, SelectRecord, SelectStage, select_best, selection_csv
from celebahq_builder.run_directory.state import (
    Ingredients,
    RunDescription,
    RunState,
    StageMark,
    Summary,
    Table,
    fingerprint,
)
from celebahq_builder.run_directory.workspace import Workspace, count_outcomes, read_outcomes
from celebahq_builder.storage import read_file, read_text, sha256


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
        return hdf5_file_problems(path, checked)
    raise FormatError(f"{path} does not exist; give a run directory or an HDF5 file")


# --- Run directory ----------------------------------------------------------------------------------------------


def _workspace_problems(workspace: Workspace, checked: Checked) -> Iterator[str]:
    """Yield the problems of a run directory: plans, manifests, images, counts, tables, and its HDF5 file."""
    state = workspace.read_state()
    run = state.run or workspace.run()
    recipe = from_mapping(BuildRecipe, run.recipe, where=str(workspace.run_path))
    checked.source = str(run.counts)
    _check_run(workspace, run, recipe)
    yield from _plan_problems(run, recipe, state)
    manifests = _Manifests(workspace, run, recipe, state, checked)
    yield from manifests.problems()
    if state.stage("select").mark:
        yield from manifests.selection_problems()
    if "pack" in run.stages:
        yield from manifests.hdf5_problems()
    if state.summary and manifests.complete:
        yield from manifests.summary_problems(state.summary)
    elif not state.summary and all(state.stage(name).mark for name in run.stages):
        yield "summary.json is missing; run the same command again"


def _check_run(workspace: Workspace, run: RunDescription, recipe: BuildRecipe) -> None:
    """Raise a WorkspaceError if the values in run.json do not belong together."""
    expected = {
        "photo_stages": [stage.name for stage in recipe.photo_stages()],
        "image_stage": recipe.image_stages()[-1],
        "until": run.until if run.until in run.stages else run.stages[-1:],
        "stages": [stage.name for stage in recipe.stages() if stage.name in run.stages],
    }
    for name, value in expected.items():
        if (found := getattr(run, name)) != value:
            raise WorkspaceError(
                f"{workspace.run_path} has {name} = {found}, expected {value}; it was changed or is corrupt: delete it "
                "and run the same command again"
            )


def _plan_problems(run: RunDescription, recipe: BuildRecipe, state: RunState) -> Iterator[str]:
    """Yield the stages that are not complete, and those whose plan and mark do not belong together or to the recipe."""
    before: Ingredients = []
    for stage in recipe.stages():
        name, plan, mark = stage.name, state.stage(stage.name).provenance, state.stage(stage.name).mark
        if name not in run.stages:
            if plan or mark:
                yield f"{name}: run.json lacks this stage; run the same command again"
        elif not mark:
            yield f"{name}: not complete"
        elif not plan:
            yield f"{name}: plan.json is missing; {_redo(name)}"
        elif not plan.fingerprint == mark.fingerprint == fingerprint(plan.ingredients):
            yield f"{name}: plan.json and stage.json have fingerprints of other settings; {_redo(name)}"
        elif plan.ingredients[: len(before)] != before:
            yield f"{name}: plan.json has other settings than the stage before; {_redo(name)}"
        elif any(
            not one.fingerprinted(recipe.settings(one)).items() <= table.items()
            for one, table in zip(recipe.stages(), plan.ingredients[1:], strict=False)
        ):
            yield f"{name}: plan.json has other settings than run.json; run the same command again"
        else:
            before = plan.ingredients


def _redo(stage: str) -> str:
    return f"`redo` {stage} makes it again"


@dataclass
class _Batch:
    """A batch at a photo stage."""

    stage: AnyPhotoStage
    number: int
    path: Path
    """Manifest."""
    records: dict[PhotoKey, Table] = field(default_factory=dict)
    """Tables of the photos that the stage kept."""

    def problem(self, text: str) -> str:
        """Return the line about a problem of the manifest."""
        return f"{self.stage.name}: {self.path} {text}; delete it and run again: the batch is redone"


class _Manifests:
    """The manifests of a run, read batch by batch: the records of all photos would take too much memory.

    Attributes:
        complete: False if a manifest is missing or damaged, so that the photos cannot be counted.
        last: of each photo the first outcome that is not `Kept`, else `Kept` without its record.
        candidates: photos that the last stage kept.
        hashes: for each candidate, the hash of the tables that the selection repeats.
    """

    def __init__(
        self, workspace: Workspace, run: RunDescription, recipe: BuildRecipe, state: RunState, checked: Checked
    ) -> None:
        self.workspace, self.run, self.recipe, self.state, self.checked = workspace, run, recipe, state, checked
        self.types = record_types(recipe.stages())
        self.stages = [stage for stage in recipe.photo_stages() if stage.name in run.stages]
        self.counts: dict[str, Counter[str]] = {stage.name: Counter() for stage in self.stages}
        self.complete = True
        self.last: dict[PhotoKey, Outcome] = {}
        self.candidates: list[Candidate] = []
        self.hashes: dict[PhotoKey, str] = {}
        self._images: dict[PhotoKey, object] = {}

    # --- Photo stages ---

    def problems(self) -> Iterator[str]:
        """Yield the problems of the photo stages: manifests, the images that these name, and counts."""
        done = {stage.name: self.state.stage(stage.name).batches for stage in self.stages}
        there = {name: sum(number < self.run.batches for number in batches) for name, batches in done.items()}
        self.complete = all(number == self.run.batches for number in there.values())
        for number in sorted(frozenset().union(*done.values())):
            if number >= self.run.batches:
                break
            before: _Batch | None = None
            self._images.clear()
            for stage in self.stages:
                batch = _Batch(stage, number, self.workspace.stage(stage.name).manifest_path(number))
                outcomes = None
                if number in done[stage.name]:
                    self.checked.manifests += 1
                    try:
                        outcomes = read_outcomes(batch.path)
                    except WorkspaceError as error:
                        yield f"{stage.name}: {error}"
                if outcomes is None:
                    self.complete, before = False, None
                    continue
                yield from self._line_problems(batch, outcomes, before)
                yield from self._record_problems(batch, outcomes, before)
                before = batch
        entering = self.run.photos
        for name, counts in self.counts.items():
            mark = self.state.stage(name).mark
            if not mark:
                continue
            if there[name] < self.run.batches:
                yield f"{name}: {there[name]} of {self.run.batches} manifests are there; run the same command again"
            if others := len(done[name]) - there[name]:
                yield f"{name}: {counted(others, 'manifest')} of batches that the run does not have; delete them"
            yield from self._mark_problems(name, mark, entering, self.run.batches, counts)
            entering = mark.kept

    def _line_problems(self, batch: _Batch, outcomes: Sequence[Outcome], before: _Batch | None) -> Iterator[str]:
        """Yield the differences between the photos of a manifest and those that entered the stage."""
        lines = Counter(one.key for one in outcomes)
        for (file, _), number in lines.items():
            if number > 1:
                yield batch.problem(f"has {number} lines of {file}")
        if before:
            for file, _ in sorted(before.records.keys() - lines.keys()):
                yield batch.problem(f"has no line of {file}, which {before.stage.name} kept")
        elif batch.stage is self.stages[0]:
            size = self.run.batch_photos
            expected = min(size, self.run.photos - batch.number * size)
            if len(lines) != expected:
                yield batch.problem(f"is of {counted(len(lines), self.run.counts.unit)}, expected {expected}")

    def _record_problems(self, batch: _Batch, outcomes: Sequence[Outcome], before: _Batch | None) -> Iterator[str]:
        """Yield the problems of the records of a manifest and of their images; note the outcomes."""
        for one in outcomes:
            # A photo that ended before may have a line from a run that did not keep the results of that stage.
            if before is None or one.key in before.records:
                self.counts[batch.stage.name][type(one).__name__.lower()] += 1
            self._note(one)
            if not isinstance(one, Kept):
                continue
            batch.records[one.key] = one.record
            try:
                record = PhotoRecord.from_kept(one, self.types)
                problem = self._record_problem(batch, one, record.identity, before)
            except WorkspaceError as error:
                problem = f"has a damaged record ({error})"
            if problem:
                self.complete = False
                yield batch.problem(problem)
                continue
            if batch.stage.saves_image:
                yield from self._image_problems(batch, record)
            if batch.stage.name == self.run.image_stage:
                self._images[one.key] = one.record["image"]
            if batch.stage.name == self.run.photo_stages[-1]:
                score = record[QualityScore].score
                self.candidates.append(Candidate(one.key, record.identity.id, score))
                self.hashes[one.key] = _hash({**one.record, "image": self._images.get(one.key)})

    def _record_problem(self, batch: _Batch, kept: Kept, identity: Identity, before: _Batch | None) -> str:
        """Return the first problem of a photo's record in words; empty if there is none."""
        names = self.run.photo_stages[: self.run.photo_stages.index(batch.stage.name) + 1]
        expected = {"identity", *self.types.keys() & names, *(["image"] if batch.stage.saves_image else [])}
        if wrong := kept.record.keys() ^ expected:
            verb = "lacks" if wrong <= expected else "should not have"
            return f"has a line of {kept.photo} that {verb} the table {min(wrong)!r}"
        if identity.index // self.run.batch_photos != batch.number or kept.face not in ("", identity.id):
            return f"has a line of {kept.photo} with the identity of another photo"
        if before is None:
            return ""
        if kept.key not in before.records:
            return f"keeps {kept.photo}, which {before.stage.name} did not keep"
        for name, table in before.records[kept.key].items():
            if name != "image" and kept.record.get(name) != table:
                return f"has a line of {kept.photo} whose table {name!r} differs from that of {before.stage.name}"
        return ""

    def _image_problems(self, batch: _Batch, record: PhotoRecord) -> Iterator[str]:
        """Yield the problem of the image of a photo, if there is one."""
        folder, image = self.workspace.stage(batch.stage.name), record[ImageRecord]
        path = folder.image_path(batch.number, record.identity.id)
        if folder.root / image.path != path:
            yield batch.problem(f"has a line of {record.file} that names the image of another photo")
            return
        try:
            data = folder.read_image(image.path, image.sha256)
        except WorkspaceError as error:
            yield f"{batch.stage.name}: {error}"
            return
        self.checked.files += 1
        if len(data) != image.bytes:
            yield batch.problem(f"says {image.bytes} bytes of {path.name}, which has {len(data)}")

    def _note(self, one: Outcome) -> None:
        """Note the outcome of a photo at a stage, in the order of the stages."""
        if isinstance(self.last.get(one.key, Kept(one.photo)), Kept):
            self.last[one.key] = one.without_record()

    def _mark_problems(
        self, name: str, mark: StageMark, entering: int, batches: int, counts: Mapping[str, int]
    ) -> Iterator[str]:
        """Yield the differences between the mark of a stage and what was counted."""
        if mark.photos != entering:
            yield f"{name}: {counted(entering, self.run.counts.unit)} should have entered, {mark.photos} did"
        expected = {"batches": batches}
        if self.complete:
            expected |= {kind: counts[kind] for kind in ("kept", "rejected", "failed")}
        for kind, number in expected.items():
            if (recorded := getattr(mark, kind)) != number:
                yield f"{name}: stage.json counts {recorded} {kind}, expected {number}; {_redo(name)}"

    # --- Selection, HDF5 file, summary ---

    def selection_problems(self) -> Iterator[str]:
        """Yield the problems of the selection: manifest, counts and table."""
        path = self.workspace.stage("select").manifest_path(0)
        self.checked.manifests += 1
        try:
            outcomes = read_outcomes(path)
            kept = [one for one in outcomes if isinstance(one, Kept)]
            selected = [PhotoRecord.from_kept(one, self.types) for one in kept]
            table = selection_csv(selected)
            ranks = [one[SelectRecord].rank for one in selected]
        except WorkspaceError as error:
            self.complete = False
            yield f"select: {path} is missing or damaged ({error}); {_redo('select')}"
            return
        for one in outcomes:
            self._note(one)
        if mark := self.state.stage("select").mark:
            entering = len(self.candidates) if self.complete else mark.photos
            yield from self._mark_problems("select", mark, entering, 1, count_outcomes(outcomes))
        if self.complete:
            best, others = select_best(self.candidates, self.recipe.settings(SelectStage()).keep)
            expected = [*(Kept(file, face=face) for (file, face), _, _ in best), *others]
            if [one.without_record() for one in outcomes] != expected or ranks != [*range(1, len(best) + 1)]:
                yield f"select: {path} is not the selection by the scores; {_redo('select')}"
            for one in kept:
                tables = {name: table for name, table in one.record.items() if name != "select"}
                if _hash(tables) != self.hashes.get(one.key):
                    yield f"select: {path} has other tables of {one.photo} than the stages before; {_redo('select')}"
        yield from _table_problems(self.workspace.selection_path, table)

    def hdf5_problems(self) -> Iterator[str]:
        """Yield the problems of the HDF5 file, and the columns in which it differs from the selection."""
        path, pack = self.workspace.hdf5_path(self.recipe.resolution), self.state.stage("pack")
        settings = self.recipe.settings(PackStage())
        if not path.exists():
            yield f"{path.name} is missing"
            return
        if not pack.mark or not pack.provenance:
            return
        try:
            with PyramidFile(path) as pyramid:
                yield from pyramid_problems(pyramid, self.checked, of_build=True, labels=settings.labels)
                if pyramid.file.attrs.get("fingerprint") != pack.provenance.fingerprint:
                    yield f"{path.name} is of another run, or of other settings; {_redo('pack')}"
                if self.complete:
                    yield from self._mark_problems("pack", pack.mark, pyramid.count, 1, Counter(kept=pyramid.count))
                    yield from self._column_problems(pyramid, settings.order)
        except FormatError as error:
            yield str(error)

    def _column_problems(self, pyramid: PyramidFile, order: str) -> Iterator[str]:
        records = list(read_records(self.workspace.stage("select"), self.types))
        photos = in_order(records, order, self.recipe.seed)
        attributes = [str(number) for number, _ in enumerate(photos[0].identity.attributes if photos else ())]
        try:
            columns = photo_columns(photos, attributes)
        except ValueError:
            yield f"select: its manifest has tables of unequal lengths; {_redo('select')}"
            return
        for name, values in columns.items():
            found = pyramid.photos.get(name, ())
            if len(found) != len(values) or not (name in NAME_COLUMNS or np.array_equal(found, values)):
                yield f"{pyramid.path.name}: {PHOTOS}/{name} differs from the selection; {_redo('pack')}"

    def summary_problems(self, summary: Summary) -> Iterator[str]:
        """Yield the differences between the summary, the table of photos that are not kept, and the manifests."""
        ends = [*map(outcome.from_json, self.run.rejected_by_table), *self.last.values()]
        reasons = Counter(one.reason.value for one in ends if isinstance(one, Rejected))
        for name, number in {"photos": len(ends), **count_outcomes(ends)}.items():
            if (recorded := getattr(summary, name)) != number:
                yield f"summary.json counts {recorded} {name}, the manifests {number}"
        if summary.reasons != reasons:
            yield f"summary.json counts the reasons {summary.reasons}, the manifests {dict(reasons)}"
        plan = self.state.stage(self.run.until).provenance
        if plan and summary.fingerprint != summary_fingerprint(
            self.workspace, plan.ingredients, self.run.rejected_by_table
        ):
            yield "summary.json is of another run; run the same command again"
        yield from _table_problems(self.workspace.rejected_path, _rejected_table(self.workspace.rejected_path, ends))


def _table_problems(path: Path, expected: bytes) -> Iterator[str]:
    """Yield the problem of a table that is made of the manifests, if there is one."""
    try:
        is_equal = read_file(path) == expected
    except OSError as error:
        yield f"{path.name} cannot be read: {error.strerror}; run the same command again"
        return
    if not is_equal:
        yield f"{path.name} differs from the manifests; delete it and run the same command again"


def _rejected_table(path: Path, ends: Iterable[Outcome]) -> bytes:
    """Return the table of photos that are not kept; their ids, which are in no manifest, are those of the file."""
    ended = [one for one in ends if not isinstance(one, Kept)]
    try:
        rows = [*csv.reader(io.StringIO(read_text(path, MAX_IMAGE_FILE_BYTES), newline=""))]
        return rejected_csv(zip([row[1] for row in rows[1:]], ended, strict=True))
    except (OSError, ValueError, IndexError, csv.Error):
        return rejected_csv(("", one) for one in ended)


def _hash(tables: Mapping[str, object]) -> str:
    """Return a hash that is equal for equal tables."""
    return sha256(json.dumps(tables, sort_keys=True).encode())
