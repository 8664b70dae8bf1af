"""The run directory: manifests, fingerprints and file locations."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder import outcome
from celebahq_builder.errors import FingerprintMismatch, WorkspaceError
from celebahq_builder.outcome import Outcome
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
"""What a result depends on: one table per stage, from the source to the stage itself."""

NAMES = (
    *("run.json", "summary.json", "timings.jsonl", "selection.csv", "rejected.csv", "stages", "report"),
    *("celebahq-*.h5", "celebahq-*.h5.partial", "celebahq-*-labels.npy"),
)
"""Names of all files and folders of a run directory, as patterns of `fnmatch`."""


def fingerprint(ingredients: Ingredients) -> str:
    """Return a hash that is equal exactly for equal ingredients."""
    return sha256(json.dumps(ingredients, sort_keys=True, ensure_ascii=False).encode())


def batch_name(batch: int) -> str:
    """Return the name of a batch's files: five digits."""
    return f"{batch:05d}"


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage."""

    root: Path
    name: str

    @property
    def plan_path(self) -> Path:
        """What the results depend on."""
        return self.root / "plan.json"

    @property
    def complete_path(self) -> Path:
        """The stage's counts; present when it is complete."""
        return self.root / "stage.json"

    def image_path(self, batch: int, photo_id: str) -> Path:
        """Return where a photo's image lies."""
        return self.root / "images" / batch_name(batch) / f"{photo_id}.png"

    def manifest_path(self, batch: int) -> Path:
        """Return where a batch's manifest lies."""
        return self.root / "batches" / f"{batch_name(batch)}.jsonl"

    def batches_done(self) -> set[int]:
        """Return the numbers of the batches whose manifests are there."""
        folder = self.root / "batches"
        if not folder.is_dir():
            return set()
        names = (entry.name for entry in os.scandir(folder))
        return {int(name[:-6]) for name in names if name.endswith(".jsonl") and name[:-6].isdigit()}

    def write_manifest(self, batch: int, outcomes: Iterable[Outcome]) -> None:
        """Write the outcome of each photo of a batch; only for the holder of the lock, after the batch's images."""
        lines = [json.dumps(outcome.to_json(o), ensure_ascii=False) for o in outcomes]
        write_atomic(self.manifest_path(batch), "".join(f"{line}\n" for line in lines).encode())

    def read_manifest(self, batch: int) -> list[Outcome]:
        """Return how the photos of a batch ended.

        Raises:
            WorkspaceError: the manifest was altered.
        """
        path = self.manifest_path(batch)
        try:
            return [outcome.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{path} is damaged ({error}); delete it and run again: the batch is redone") from None

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield batch and outcome of every photo recorded so far, in order."""
        for batch in sorted(self.batches_done()):
            for one in self.read_manifest(batch):
                yield batch, one

    def begin(self, ingredients: Ingredients) -> None:
        """Write the stage's plan; or check that the one there is the same.

        Raises:
            FingerprintMismatch: the folder holds results that depend on something else; names the first
                setting that differs.
        """
        if self.plan_path.exists():
            self.check(ingredients)
        else:
            write_json(self.plan_path, {"fingerprint": fingerprint(ingredients), "ingredients": ingredients})

    def check(self, ingredients: Ingredients) -> None:
        """Raise if the stage has results that depend on other ingredients.

        Raises:
            FingerprintMismatch: names the first setting that differs and what to do.
        """
        if not self.plan_path.exists():
            return
        plan = read_json(self.plan_path)
        if plan["fingerprint"] == fingerprint(ingredients):
            return
        old, new = _flat(plan["ingredients"]), _flat(json.loads(json.dumps(ingredients)))
        order = [*new, *(key for key in old if key not in new)]
        key = next(key for key in order if old.get(key) != new.get(key))
        stage, _, setting = key.partition(".")
        remedy = "" if stage == "source" else f", or --redo {stage}"
        raise FingerprintMismatch(
            f"{self.root.parent.parent} was built with [{stage}] {setting} = {old.get(key)}, this run asks "
            f"{new.get(key)}; outputs would mix. Use another --out{remedy}"
        )

    def is_complete(self, ingredients: Ingredients) -> bool:
        """Return whether the stage is complete with just these ingredients."""
        if not self.complete_path.exists():
            return False
        return bool(read_json(self.complete_path)["fingerprint"] == fingerprint(ingredients))

    def complete(self, ingredients: Ingredients, counts: dict[str, Any]) -> None:
        """Mark the stage complete, once the names of all its files are on the disk."""
        for folder in (self.root.parent.parent, self.root, self.root / "batches"):
            if folder.is_dir():
                sync_folder(folder)
        write_json(self.complete_path, {"fingerprint": fingerprint(ingredients), **counts})

    def discard(self) -> None:
        """Delete the stage's results: its marks first, so that a kill in between leaves nothing that looks complete."""
        if self.root.is_symlink():
            raise WorkspaceError(f"{self.root} is a link, which is not deleted through; put the folder in its place")
        for path in (self.complete_path, *sorted((self.root / "batches").glob("*.jsonl")), self.plan_path):
            path.unlink(missing_ok=True)
        delete_folder(self.root)


class Workspace:
    """A run directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run_path(self) -> Path:
        """What was asked of the run."""
        return self.root / "run.json"

    @property
    def summary_path(self) -> Path:
        """How all photos ended, of the last run that came to its end."""
        return self.root / "summary.json"

    @property
    def timings_path(self) -> Path:
        """Seconds per batch and stage, one line per batch; no part of any result."""
        return self.root / "timings.jsonl"

    @property
    def selection_path(self) -> Path:
        """Table of the photos kept, best first."""
        return self.root / "selection.csv"

    @property
    def rejected_path(self) -> Path:
        """Table of the photos not kept, with reasons."""
        return self.root / "rejected.csv"

    @property
    def report_path(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "index.html"

    def example_path(self, photo_id: str, stage: str) -> Path:
        """Return where the report's image of an example photo after a stage lies."""
        return self.root / "report" / "examples" / photo_id / f"{stage}.jpg"

    def hdf5_path(self, resolution: int) -> Path:
        """Return where the result lies."""
        return self.root / f"celebahq-{resolution}x{resolution}.h5"

    def stage(self, name: str) -> StageFolder:
        """Return the folder of a stage."""
        return StageFolder(self.root / "stages" / name, name)

    def run(self) -> dict[str, Any]:
        """Return what was asked of the run.

        Raises:
            WorkspaceError: the directory holds no run.
        """
        if not self.run_path.exists():
            raise WorkspaceError(f"{self.root} is not a run directory: it has no run.json (build.py --out makes one)")
        return dict(read_json(self.run_path))

    def lock(self) -> contextlib.AbstractContextManager[LockedFolder]:
        """Hold the directory for this process: see `lock`."""
        known = holds(self.run_path, {"batch_photos", "photos", "batches"})
        return lock(self.root, "run directory", "out", names=NAMES, known=known)

    def sweep(self) -> None:
        """Delete the partial files of this run and of dead processes; only for the holder of the lock.

        The unfinished HDF5 file is not among them: the next pack replaces it.
        """
        delete_partial_files(self.root)
        for folder in ("stages", "report"):
            delete_partial_files(self.root / folder, recursive=True)


def _flat(ingredients: Ingredients) -> dict[str, Any]:
    return {f"{table['name']}.{key}": value for table in ingredients for key, value in table.items() if key != "name"}
