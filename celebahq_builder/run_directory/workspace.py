"""The run directory: the places of its files, manifests, images, and the lock."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Set
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from celebahq_builder import outcome
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES
from celebahq_builder.outcome import Kept, Outcome
from celebahq_builder.run_directory.shard import FOLDER, Shard, check_shards, shard_folders, wait_for_planning
from celebahq_builder.run_directory.state import (
    Ingredients,
    Provenance,
    RunDescription,
    RunState,
    StageCounts,
    StageMark,
    StageState,
    Summary,
    fingerprint,
    read_table,
)
from celebahq_builder.storage import (
    LOCK_NAME,
    LockedFolder,
    delete_folder,
    delete_partial_files,
    holds,
    lock,
    parse_json,
    read_file,
    read_json,
    read_text,
    sha256,
    sync_folder,
    write_atomic,
    write_json,
)

NAMES = (
    *("run.json", "summary.json", "timings.jsonl", "selection.csv", "rejected.csv", "stages", "report", "landmarks"),
    "shards",
    *("celebahq-*.h5", "celebahq-*.h5.partial", "celebahq-*-labels.npy"),
)
"""Names of all files and folders of a run directory, as patterns of `fnmatch`."""

T = TypeVar("T")


class StageFolder:
    """The files of one stage in the folder `root`: its `Provenance`, its `StageMark`, manifests and images."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.provenance_path = root / "plan.json"
        self.mark_path = root / "stage.json"

    def image_path(self, batch: int, photo_id: str) -> Path:
        """Return the path of a photo's image."""
        return self.root / "images" / f"{batch:05d}" / f"{photo_id}.png"

    def manifest_path(self, batch: int) -> Path:
        """Return the path of a batch's manifest."""
        return self.root / "batches" / f"{batch:05d}.jsonl"

    def batches(self) -> frozenset[int]:
        """Return the batches that have a manifest."""
        return frozenset(int(path.stem) for path in self.root.glob("batches/*.jsonl") if path.stem.isdigit())

    def read_state(self) -> StageState:
        """Read what the stage holds."""
        provenance = _read_optional(Provenance, self.provenance_path)
        return StageState(provenance, _read_optional(StageMark, self.mark_path), self.batches())

    def write_manifest(self, batch: int, outcomes: Iterable[Outcome]) -> None:
        """Write the outcome of each photo of a batch; only for the holder of the lock, after the batch's images."""
        lines = [json.dumps(outcome.to_json(one), ensure_ascii=False) for one in outcomes]
        write_atomic(self.manifest_path(batch), "".join(f"{line}\n" for line in lines).encode())

    def read_manifest(self, batch: int) -> list[Outcome]:
        """Return the outcomes of a batch's photos; see `read_outcomes`."""
        return read_outcomes(self.manifest_path(batch))

    def earlier_manifests(self) -> list[Path]:
        """Return the manifests of batches that a run with other photos made, the oldest first; see `growth`."""
        return sorted((self.root / "earlier").glob("*.jsonl"))

    def set_aside(self, first: int) -> None:
        """Make the stage incomplete, and put the manifests of its batches from `first` on among the earlier ones."""
        self.mark_path.unlink(missing_ok=True)
        moved = sorted(batch for batch in self.batches() if batch >= first)
        (self.root / "earlier").mkdir(parents=True, exist_ok=True)
        number = max((int(path.stem) + 1 for path in self.earlier_manifests()), default=0)
        for place, batch in enumerate(moved, start=number):
            self.manifest_path(batch).replace(self.root / "earlier" / f"{place:05d}.jsonl")
        for folder in (self.root / "earlier", self.root / "batches"):
            if folder.is_dir():
                sync_folder(folder)

    def forget_earlier(self, ids: Set[str]) -> None:
        """Delete the earlier manifests, and images that no manifest of a batch names.

        These are images that earlier manifests name, and those of photos with these ids. No other file is deleted.
        """
        if not (self.root / "earlier").is_dir():
            return
        outcomes = (one for path in self.earlier_manifests() for one in read_outcomes(path))
        earlier = self._image_paths(one for one in outcomes if isinstance(one, Kept))
        named = self._image_paths(self.kept())
        for path in (self.root / "images").glob("*/*.png"):
            if path not in named and (path in earlier or path.stem in ids):
                path.unlink()
        for folder in (self.root / "images").glob("*/"):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        delete_folder(self.root / "earlier", r"\d+\.jsonl")

    def _image_paths(self, kept: Iterable[Kept]) -> set[Path]:
        """Return the paths of the images that outcomes name."""
        images = (one.record.get("image") for one in kept)
        return {self.root / str(image["path"]) for image in images if isinstance(image, dict)}

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield batch and outcome of every photo recorded so far, in order."""
        for batch in sorted(self.batches()):
            for one in self.read_manifest(batch):
                yield batch, one

    def kept(self) -> Iterator[Kept]:
        """Yield the outcome of every photo that the stage has kept so far, in order."""
        return (one for _, one in self.outcomes() if isinstance(one, Kept))

    def read_image(self, path: str, image_sha256: str) -> bytes:
        """Return the content of a PNG file that the stage kept.

        Args:
            path: relative to the stage's folder.
            image_sha256: hash of the content.

        Raises:
            WorkspaceError: the file is missing or was changed.
        """
        try:
            data = read_file(self.root / path)
        except OSError as error:
            raise WorkspaceError(f"{self.root / path}: {error.strerror}; `redo` {self.name} makes it again") from None
        if sha256(data) != image_sha256:
            raise WorkspaceError(f"{self.root / path} was changed since it was made; `redo` {self.name} makes it again")
        return data

    def begin(self, ingredients: Ingredients, *, again: bool = False) -> None:
        """Write the provenance of the stage, unless it is there; with `again`, replace it."""
        if again or not self.provenance_path.exists():
            write_json(self.provenance_path, asdict(Provenance(fingerprint(ingredients), ingredients)))

    def complete(self, ingredients: Ingredients, counts: StageCounts) -> None:
        """Mark the stage complete, once the names of all its files are on the disk."""
        for folder in (self.root.parent.parent, self.root, self.root / "batches"):
            if folder.is_dir():
                sync_folder(folder)
        write_json(self.mark_path, asdict(StageMark(fingerprint=fingerprint(ingredients), **asdict(counts))))

    def discard(self) -> None:
        """Delete the stage's results: mark, manifests, provenance, then the rest.

        The provenance goes after the manifests, so a kill in between never leaves results of unknown settings. Files of
        others stay.

        Raises:
            WorkspaceError: see `check_links`.
        """
        self.check_links()
        manifests = sorted((self.root / "batches").glob("*.jsonl"))
        for path in (self.mark_path, *manifests, *self.earlier_manifests(), self.provenance_path):
            path.unlink(missing_ok=True)
        delete_folder(self.root, r"images/\d{5,}/[^/]+\.png")

    def check_links(self) -> None:
        """Check that no folder of the stage is a link.

        Raises:
            WorkspaceError: one is.
        """
        images = self.root / "images"
        for folder in (self.root, self.root / "batches", self.root / "earlier", images, *images.glob("*")):
            if folder.is_symlink():
                raise WorkspaceError(f"{folder} is a link, which is not deleted through; put the folder in its place")


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes in a manifest, with their records as JSON tables.

    Raises:
        WorkspaceError: the manifest was changed or is corrupt.
    """
    try:
        # Not splitlines(): names may hold separators such as U+2028, which JSON does not escape.
        lines = read_text(path, MAX_IMAGE_FILE_BYTES).removesuffix("\n").split("\n")
        return [outcome.from_json(parse_json(line)) for line in lines if line]
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{path} is damaged ({error}); delete it and run again: the batch is redone") from None


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
        landmarks_path: folder of the landmarks that were found or checked, see `landmark_source`.
        landmark_table_path: table of the landmarks that were found.
        doubtful_path: list of the photos whose landmarks are doubtful.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_path = root / "run.json"
        self.summary_path = root / "summary.json"
        self.timings_path = root / "timings.jsonl"
        self.selection_path = root / "selection.csv"
        self.rejected_path = root / "rejected.csv"
        self.report_path = root / "report" / "index.html"
        self.landmarks_path = root / "landmarks"
        self.landmark_table_path = self.landmarks_path / "landmarks.csv"
        self.doubtful_path = self.landmarks_path / "doubtful.json"

    def example_path(self, photo_id: str, stage: str) -> Path:
        """Return the path of the report's image of an example photo after a stage."""
        return self.root / "report" / "examples" / photo_id / f"{stage}.jpg"

    def is_packed(self) -> bool:
        """Return whether the HDF5 file, if it is there, has the photos of the run; an earlier run may have left it."""
        return self.stage("pack").mark_path.exists()

    def hdf5_path(self, resolution: int) -> Path:
        """Return the path of the data set."""
        return self.root / f"celebahq-{resolution}x{resolution}.h5"

    def stage(self, name: str) -> StageFolder:
        """Return the folder of a stage."""
        return StageFolder(self.root / "stages" / name, name)

    def read_state(self) -> RunState:
        """Read the state of the directory; empty where there is no run.

        Raises:
            WorkspaceError: a file was changed, is corrupt, or was written by an earlier version.
        """
        try:
            files = [*self.root.iterdir(), self.report_path] if self.root.is_dir() else []
            sizes = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in files if path.is_file()}
            stages = {path.name: self.stage(path.name).read_state() for path in sorted(self.root.glob("stages/*/"))}
            run = self.run() if self.run_path.exists() else None
            return RunState(run, stages, _read_optional(Summary, self.summary_path), sizes)
        except OSError as error:
            raise WorkspaceError(f"{self.root} cannot be read: {error.strerror}; check its permissions") from None

    def run(self) -> RunDescription:
        """Return what was asked of the last run.

        Raises:
            WorkspaceError: the directory holds no run, or the run of an earlier version.
        """
        if not os.path.lexists(self.run_path):  # no error where the directory cannot be read
            raise WorkspaceError(f"{self.root} is not a run directory: {self._what_it_is()}")
        values = read_json(self.run_path)
        if isinstance(values, dict) and "batch_photos" in values and "photo_stages" not in values:
            raise WorkspaceError(
                f"{self.root} was built by an earlier version, whose stages had other names and records; this version "
                "cannot resume or read it: keep that version for it, or build again with another `out`"
            )
        if isinstance(values, dict):
            values.setdefault("files", 0)
        return read_table(RunDescription, values, self.run_path, "run")

    def _what_it_is(self) -> str:
        """Return a phrase about a path that holds no run."""
        if not self.root.is_dir():
            return "it is a file" if self.root.exists() else "it does not exist"
        try:
            kind = read_text(self.root / LOCK_NAME).splitlines()[0].removeprefix("celebahq ")
        except (OSError, ValueError, IndexError):
            kind = ""
        if kind and kind != "run directory":
            return f"it is the {kind}; the command that made it resumes it"
        return "it has no run.json (celebahq build makes one)"

    @contextlib.contextmanager
    def lock(self, shard: Shard | None = None) -> Iterator[LockedFolder]:
        """Hold the directory for this process; see `storage.lock`.

        Args:
            shard: the part on which this process works: other shards may be in work, and it waits for one that plans.
                None for the whole.
        """
        known = holds(self.run_path, {"batch_photos", "photos", "batches"})
        role, wait = (shard.role, wait_for_planning(self.root)) if shard else ("", None)
        with lock(self.root, "run directory", "out", names=NAMES, known=known, role=role, wait=wait) as held:
            if shard is None:
                check_shards(self.root)
            yield held

    def timing_logs(self) -> list[Path]:
        """Return the logs of times of the run and of its shards."""
        return [self.timings_path, *(folder / self.timings_path.name for folder in shard_folders(self.root).values())]

    def sweep(self) -> None:
        """Delete the partial files of this run and of dead processes; only for the holder of the lock.

        The unfinished HDF5 file is not among them: the next pack replaces it.
        """
        delete_partial_files(self.root)
        for folder in ("stages", "report", "landmarks", FOLDER):
            delete_partial_files(self.root / folder, recursive=True)


def count_outcomes(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the numbers of photos that are kept, rejected and failed.

    >>> from celebahq_builder.outcome import Kept
    >>> count_outcomes([Kept("a.jpg"), Kept("b.jpg")])
    {'kept': 2, 'rejected': 0, 'failed': 0}
    """
    names = [type(one).__name__.lower() for one in outcomes]
    return {name: names.count(name) for name in ("kept", "rejected", "failed")}


def _read_optional(cls: type[T], path: Path) -> T | None:
    return read_table(cls, read_json(path), path, path.stem) if path.exists() else None
