"""The run directory: locations of its files, manifests, fingerprints, and its state as read once."""

from __future__ import annotations

import contextlib
import functools
import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from celebahq_builder import outcome
from celebahq_builder.errors import FingerprintMismatch, WorkspaceError
from celebahq_builder.outcome import Kept, Outcome
from celebahq_builder.storage import (
    LockedFolder,
    delete_folder,
    delete_partial_files,
    holds,
    lock,
    read_json,
    sha256,
    sync_folder,
    write_atomic,
    write_json,
)

Ingredients = list[dict[str, Any]]
"""What a result depends on: one table for the source, then one for each stage up to the stage itself."""

NAMES = (
    *("run.json", "summary.json", "timings.jsonl", "selection.csv", "rejected.csv", "stages", "report"),
    *("celebahq-*.h5", "celebahq-*.h5.partial", "celebahq-*-labels.npy"),
)
"""Names of all files and folders of a run directory, as patterns of `fnmatch`."""

T = TypeVar("T")


def fingerprint(ingredients: Ingredients) -> str:
    """Return a hash that is equal for equal ingredients only."""
    return sha256(json.dumps(ingredients, sort_keys=True, ensure_ascii=False).encode())


# --- JSON tables as dataclasses ---------------------------------------------------------------------------------


def read_table(cls: type[T] | None, table: object, where: object, name: str) -> T:
    """Return a JSON table as an instance of a dataclass, strictly: equal keys, equal types.

    Args:
        cls: frozen dataclass of int, float, str, bool, dict, list and tuple; None for a table that has no dataclass.
        table: as `json` reads it.
        where: file or photo, for the message.
        name: of the table, for the message.

    Raises:
        WorkspaceError: the table does not fit.
    """
    try:
        if cls is None:
            raise ValueError("no stage writes it")
        hints = _type_hints(cls)  # type: ignore[arg-type]
        if not isinstance(table, dict) or table.keys() != hints.keys():
            raise ValueError(f"expected the keys {', '.join(hints)}")
        return cls(**{key: _checked(hint, table[key], key) for key, hint in hints.items()})
    except ValueError as error:
        raise WorkspaceError(
            f"{where}: the table {name!r} is changed, corrupt, or of another version ({error}); delete its file and "
            "run again, or choose another `out`"
        ) from None


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {one.name: hints[one.name] for one in fields(cls)}


def _checked(hint: Any, value: object, key: str) -> Any:
    """Return a JSON value as the type that a field has; lists become tuples."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(hints) == len(value):
            return tuple(_checked(one, item, key) for one, item in zip(hints, value, strict=True))
    elif origin is types.UnionType:
        if type(value) in inner:
            return value
    elif type(value) is (origin or hint):
        return value
    raise ValueError(f"{key} = {str(value)[:80]!r} is not {getattr(hint, '__name__', hint)}")


@dataclass(frozen=True)
class ImageRecord:
    """The image that a stage keeps of a photo, and what of the face is not in its pixels."""

    path: str
    """Relative to the stage's folder."""
    bytes: int
    sha256: str
    quad: tuple[tuple[float, float], ...]
    """Corners of the crop; `quad`, `border` and `margin` are those of `face.Face`."""
    border: int
    margin: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """Counts of a complete stage."""

    photos: int
    """Photos that entered the stage."""
    batches: int
    kept: int
    rejected: int
    failed: int = 0


@dataclass(frozen=True)
class StagePlan:
    """File plan.json: what the results in a stage's folder depend on."""

    fingerprint: str
    ingredients: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class StageMark(StageCounts):
    """File stage.json, written when the stage is complete."""

    fingerprint: str


@dataclass(frozen=True)
class RunDescription:
    """File run.json: what was asked of the last run."""

    batch_photos: int
    photos: int
    """Photos that enter the first stage."""
    batches: int
    source: str
    """Absolute path of the folder of photos."""
    rejected_by_table: list[dict[str, Any]]
    """Outcomes of photos that the source rejected, as JSON."""
    warnings: list[str]
    until: str
    stages: list[str]
    """Stages with results on disk, or that this run will write, in order."""
    photo_stages: list[str]
    """All photo stages of the method, in order."""
    image_stage: str
    """The stage whose images are the result."""
    recipe: dict[str, Any]
    origins: dict[str, str]
    """Source of each setting that is not a default, by dotted name: a recipe's path, or an argument in backquotes."""
    versions: dict[str, str]

    @property
    def resolution(self) -> int:
        """Side length of the result in px."""
        return int(self.recipe["resolution"])


@dataclass(frozen=True)
class Summary:
    """File summary.json: counts of the last run that reached its end."""

    fingerprint: str
    photos: int
    kept: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    """Photos by reason of rejection."""


# --- State ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageState:
    """State of one stage's folder."""

    plan: StagePlan | None = None
    """None: the stage was not begun."""
    mark: StageMark | None = None
    """None: the stage is not complete."""
    batches: frozenset[int] = frozenset()
    """Batches that have a manifest."""

    def is_complete(self, ingredients: Ingredients) -> bool:
        """Return whether the stage is complete for these ingredients."""
        return self.mark is not None and self.mark.fingerprint == fingerprint(ingredients)

    def check(self, ingredients: Ingredients, root: Path) -> None:
        """Check that the stage holds no results of other ingredients.

        Raises:
            FingerprintMismatch: it does; names the first setting that differs and what to do.
        """
        if self.plan is None or self.plan.fingerprint == fingerprint(ingredients):
            return
        old, new = _flatten(self.plan.ingredients), _flatten(json.loads(json.dumps(ingredients)))
        order = [*new, *(key for key in old if key not in new)]
        key = next(key for key in order if old.get(key) != new.get(key))
        stage, _, setting = key.partition(".")
        remedy = "" if stage == "source" else f", or `redo` {stage}"
        raise FingerprintMismatch(
            f"{root} was built with [{stage}] {setting} = {old.get(key)}, this run asks {new.get(key)}; outputs would "
            f"mix. Choose another `out`{remedy}"
        )


@dataclass(frozen=True)
class RunState:
    """State of a run directory at one moment."""

    run: RunDescription | None = None
    """None: the directory holds no run yet."""
    stages: dict[str, StageState] = field(default_factory=dict)
    """State of each stage that has a folder."""
    summary: Summary | None = None

    def stage(self, name: str) -> StageState:
        """Return the state of a stage; empty where it has no folder."""
        return self.stages.get(name, StageState())


# --- Files ------------------------------------------------------------------------------------------------------


class StageFolder:
    """The files of one stage.

    Attributes:
        root: path of the folder.
        name: of the stage.
        plan_path: the `StagePlan`.
        mark_path: the `StageMark`.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.plan_path = root / "plan.json"
        self.mark_path = root / "stage.json"

    def image_path(self, batch: int, photo_id: str) -> Path:
        """Return the path of a photo's image."""
        return self.root / "images" / f"{batch:05d}" / f"{photo_id}.png"

    def manifest_path(self, batch: int) -> Path:
        """Return the path of a batch's manifest."""
        return self.root / "batches" / f"{batch:05d}.jsonl"

    def read_state(self) -> StageState:
        """Read what the stage holds."""
        return StageState(
            _read_optional(StagePlan, self.plan_path),
            _read_optional(StageMark, self.mark_path),
            frozenset(int(path.stem) for path in self.root.glob("batches/*.jsonl") if path.stem.isdigit()),
        )

    def write_manifest(self, batch: int, outcomes: Iterable[Outcome]) -> None:
        """Write the outcome of each photo of a batch; only for the holder of the lock, after the batch's images."""
        lines = [json.dumps(outcome.to_json(one), ensure_ascii=False) for one in outcomes]
        write_atomic(self.manifest_path(batch), "".join(f"{line}\n" for line in lines).encode())

    def read_manifest(self, batch: int) -> list[Outcome]:
        """Return the outcomes of a batch's photos, with their records as JSON tables.

        Raises:
            WorkspaceError: the manifest was changed or is corrupt.
        """
        path = self.manifest_path(batch)
        try:
            return [outcome.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WorkspaceError(f"{path} is damaged ({error}); delete it and run again: the batch is redone") from None

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield batch and outcome of every photo recorded so far, in order."""
        for batch in sorted(self.read_state().batches):
            for one in self.read_manifest(batch):
                yield batch, one

    def read_image(self, image: ImageRecord) -> bytes:
        """Return the content of a PNG file that the stage kept.

        Raises:
            WorkspaceError: the file is missing or was changed.
        """
        path = self.root / image.path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkspaceError(f"{path}: {error.strerror}; `redo` {self.name} makes it again") from None
        if sha256(data) != image.sha256:
            raise WorkspaceError(f"{path} was changed since it was made; `redo` {self.name} makes it again")
        return data

    def begin(self, ingredients: Ingredients) -> None:
        """Write the stage's plan, if it has none."""
        if not self.plan_path.exists():
            write_json(self.plan_path, asdict(StagePlan(fingerprint(ingredients), ingredients)))

    def complete(self, ingredients: Ingredients, counts: StageCounts) -> None:
        """Mark the stage complete, once the names of all its files are on the disk."""
        for folder in (self.root.parent.parent, self.root, self.root / "batches"):
            if folder.is_dir():
                sync_folder(folder)
        write_json(self.mark_path, asdict(StageMark(fingerprint=fingerprint(ingredients), **asdict(counts))))

    def discard(self) -> None:
        """Delete the stage's results, the marks first: a kill in between leaves nothing that looks complete."""
        if self.root.is_symlink():
            raise WorkspaceError(f"{self.root} is a link, which is not deleted through; put the folder in its place")
        for path in (self.mark_path, *sorted((self.root / "batches").glob("*.jsonl")), self.plan_path):
            path.unlink(missing_ok=True)
        delete_folder(self.root)


class Workspace:
    """A run directory.

    Attributes:
        root: path of the directory.
        run_path: the `RunDescription`.
        summary_path: the `Summary`.
        timings_path: log of seconds per batch and stage; not part of any result.
        selection_path: table of selected photos, best first.
        rejected_path: table of rejected and failed photos.
        report_path: the HTML report.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_path = root / "run.json"
        self.summary_path = root / "summary.json"
        self.timings_path = root / "timings.jsonl"
        self.selection_path = root / "selection.csv"
        self.rejected_path = root / "rejected.csv"
        self.report_path = root / "report" / "index.html"

    def example_path(self, photo_id: str, stage: str) -> Path:
        """Return the path of the report's image of an example photo after a stage."""
        return self.root / "report" / "examples" / photo_id / f"{stage}.jpg"

    def hdf5_path(self, resolution: int) -> Path:
        """Return the path of the data set."""
        return self.root / f"celebahq-{resolution}x{resolution}.h5"

    def stage(self, name: str) -> StageFolder:
        """Return the folder of a stage."""
        return StageFolder(self.root / "stages" / name, name)

    def read_state(self) -> RunState:
        """Read the state of the directory.

        Raises:
            WorkspaceError: a file was changed, is corrupt, or was written by an earlier version.
        """
        run = self.run() if self.run_path.exists() else None
        folders = sorted(self.root.glob("stages/*/"))
        stages = {folder.name: self.stage(folder.name).read_state() for folder in folders}
        return RunState(run, stages, _read_optional(Summary, self.summary_path))

    def run(self) -> RunDescription:
        """Return what was asked of the last run.

        Raises:
            WorkspaceError: the directory holds no run, or the run of an earlier version.
        """
        if not self.run_path.exists():
            raise WorkspaceError(f"{self.root} is not a run directory: it has no run.json (celebahq build makes one)")
        values = read_json(self.run_path)
        if isinstance(values, dict) and "batch_photos" in values and "photo_stages" not in values:
            raise WorkspaceError(
                f"{self.root} was built by an earlier version, whose stages had other names and records; this version "
                "cannot resume or read it: keep that version for it, or build again with another `out`"
            )
        return read_table(RunDescription, values, self.run_path, "run")

    def lock(self) -> contextlib.AbstractContextManager[LockedFolder]:
        """Hold the directory for this process; see `storage.lock`."""
        known = holds(self.run_path, {"batch_photos", "photos", "batches"})
        return lock(self.root, "run directory", "out", names=NAMES, known=known)

    def sweep(self) -> None:
        """Delete the partial files of this run and of dead processes; only for the holder of the lock.

        The unfinished HDF5 file is not among them: the next pack replaces it.
        """
        delete_partial_files(self.root)
        for folder in ("stages", "report"):
            delete_partial_files(self.root / folder, recursive=True)

    def final_outcomes(self, run: RunDescription) -> Iterator[tuple[str, int, Outcome]]:
        """Yield stage, batch and outcome of each photo at each stage on disk, in the order of the stages.

        A selection counts only when it is complete.
        """
        for name in run.stages:
            if name in run.photo_stages or (name == "select" and self.stage(name).mark_path.exists()):
                for batch, one in self.stage(name).outcomes():
                    yield name, batch, one


def without_record(one: Outcome) -> Outcome:
    """Return an outcome without the record of the photo, which takes kilobytes."""
    return Kept(one.photo) if isinstance(one, Kept) else one


def count_outcomes(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the numbers of photos that are kept, rejected and failed.

    >>> count_outcomes([Kept("a.jpg"), Kept("b.jpg")])
    {'kept': 2, 'rejected': 0, 'failed': 0}
    """
    names = [type(one).__name__.lower() for one in outcomes]
    return {name: names.count(name) for name in ("kept", "rejected", "failed")}


def _read_optional(cls: type[T], path: Path) -> T | None:
    return read_table(cls, read_json(path), path, path.stem) if path.exists() else None


def _flatten(ingredients: Ingredients) -> dict[str, Any]:
    return {f"{table['name']}.{key}": value for table in ingredients for key, value in table.items() if key != "name"}
