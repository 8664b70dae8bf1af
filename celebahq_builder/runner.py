"""Plan a build, run what is not done yet, reconcile the counts, mark it complete; it never touches a pixel."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from celebahq_builder import __version__, ledger, outcome, parallel
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.formats.deltas import archives
from celebahq_builder.formats.labels import labels_path
from celebahq_builder.outcome import Kept, Rejected
from celebahq_builder.pretrained import entry
from celebahq_builder.progress import Progress
from celebahq_builder.recipe import flatten, to_mapping
from celebahq_builder.report import page
from celebahq_builder.source.photo import Source
from celebahq_builder.stages import align, denoise, exact, example, official, pack, region, score, select, upscale
from celebahq_builder.stages.batch import BatchJob, run_batch
from celebahq_builder.stages.recipe import PHOTO_STAGES, STAGES, BuildRecipe
from celebahq_builder.workspace import Ingredients, Workspace, fingerprint, read_json, write_atomic, write_json

log = logging.getLogger(__name__)

BATCH_PHOTOS = (4, 16)
"""Fewest and most photos per batch; small sources get small batches, so that every worker has some."""

EXAMPLES = 8
"""Photos whose way through the stages is recorded for the report."""

VERSIONS = ("torch", "numpy", "pillow", "opencv-python-headless", "scipy", "h5py", "isal")


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    out: Path
    recipe: BuildRecipe
    origins: dict[str, str] = field(default_factory=dict)
    """Where each setting that is not a default comes from, by dotted name."""
    workers: int = 1
    device: str = "auto"
    limit: int | None = None
    ids: str | None = None
    """Hash of the list of ids asked for."""
    until: str = "pack"
    start: str | None = None
    redo: str | None = None
    deltas: Path | None = None
    """Folder of the official deltas; for photos of an image list, with the exact method."""


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    photos: int
    kept: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    complete: bool
    """Whether the last stage was reached."""
    hdf5: Path | None
    report: Path | None


def build(request: Request, source: Source) -> Summary:
    """Build a data set from a source, going on from what the run directory holds.

    Raises:
        WorkspaceLocked: another process is at work in the directory.
        FingerprintMismatch: it holds results of other settings or photos.
        DiskFull: no space left.
        CelebAHQError: see `errors`.
    """
    return _Run(request, source).build()


class _Run:
    def __init__(self, request: Request, source: Source) -> None:
        self.request, self.source, self.recipe = request, source, request.recipe
        self.workspace = Workspace(request.out)
        self.stages = STAGES[: STAGES.index(request.until) + 1]
        self.ingredients = ingredients(request, source)
        self.largest_worker_bytes = 0

    @property
    def kept(self) -> tuple[str, ...]:
        """Photo stages of this run whose output lies, or will lie, on disk."""
        wanted = {*self.recipe.kept(), self.request.until}
        begun = {name for name in PHOTO_STAGES if self.workspace.stage(name).plan_path.exists()}
        return tuple(name for name in PHOTO_STAGES if name in self.stages and name in wanted | begun)

    def build(self) -> Summary:
        with self.workspace.lock():
            self.workspace.sweep()
            self._check_order()
            self._check_labels()
            parallel.devices(self.request.device)
            for name in self._upstream_of_redo():
                self.workspace.stage(name).check(self.ingredients[name])
            if self.request.redo:
                self._check_start()  # before anything is deleted
                self._discard_from(self.request.redo)
            batch_photos = self._describe()
            if self._is_finished():
                log.info("all stages up to %s are complete", self.request.until)
            else:
                self._check_start()
                self._run_photo_stages(batch_photos)
                if "select" in self.stages:
                    self._select()
                if "pack" in self.stages:
                    self._pack()
            return self._conclude()

    def _is_finished(self) -> bool:
        if "pack" in self.stages and not self._is_packed():
            return False
        for name in self._on_disk():
            stage = self.workspace.stage(name)
            if not stage.is_complete(self.ingredients[name]):
                return False
            if name in PHOTO_STAGES and len(stage.batches_done()) != read_json(stage.complete_path)["batches"]:
                return False
        return True

    def _is_packed(self) -> bool:
        path = self.workspace.hdf5_path(self.recipe.resolution)
        return path.exists() and (labels_path(path).exists() or not self.recipe.pack.labels)

    def _upstream_of_redo(self) -> tuple[str, ...]:
        """Return the stages whose results stay: all, or those before the one to redo."""
        return STAGES[: STAGES.index(self.request.redo)] if self.request.redo else STAGES

    def _on_disk(self) -> list[str]:
        """Return the stages of this run that leave something on disk."""
        return [*self.kept, *(name for name in self.stages if name not in PHOTO_STAGES)]

    def _check_order(self) -> None:
        start, redo, until = self.request.start, self.request.redo, self.request.until
        for option, name in (("--from", start), ("--redo", redo)):
            if name and name not in self.stages:
                raise RecipeError(f"{option} {name} comes after --until {until}; the order is {', '.join(STAGES)}")
        if start and redo and STAGES.index(start) > STAGES.index(redo):
            raise RecipeError(f"--from {start} comes after --redo {redo}, and needs its results; leave out --from")

    def _check_labels(self) -> None:
        """Raise if labels are asked for that the source does not have: before days of work, not after."""
        if self.recipe.pack.labels and not self.source.attribute_names:
            raise RecipeError(
                f"pack.labels = true (--labels) needs photos with attributes, {self.source.folder} comes with none; "
                "CelebA's are in Anno/list_attr_celeba.txt"
            )

    def _check_start(self) -> None:
        """Raise if ``--from`` names a stage whose input is not on disk."""
        start = self.request.start
        if start is None or start == "region":
            return
        before = STAGES[STAGES.index(start) - 1]
        if not self.workspace.stage(before).is_complete(self.ingredients[before]):
            complete = [n for n in STAGES if self.workspace.stage(n).is_complete(self.ingredients[n])]
            raise WorkspaceError(
                f"--from {start} needs the results of {before} in {self.workspace.root}; complete there: "
                f"{', '.join(complete) or 'nothing'} (keep_stages in the recipe says what stays on disk)"
            )

    def _discard_from(self, redo: str) -> None:
        """Delete the results of a stage and of all that follow from it; the last first."""
        self.workspace.summary_path.unlink(missing_ok=True)
        if redo in example.STAGES:
            shutil.rmtree(self.workspace.report_path.parent / "examples", ignore_errors=True)
        for name in reversed(STAGES[STAGES.index(redo) :]):
            if name == "pack":
                path = self.workspace.hdf5_path(self.recipe.resolution)
                path.unlink(missing_ok=True)
                labels_path(path).unlink(missing_ok=True)
            self.workspace.stage(name).discard()

    def _describe(self) -> int:
        """Write run.json, and return how many photos a batch has."""
        batch_photos = _batch_photos(self.workspace, len(self.source.photos))
        description = {
            "batch_photos": batch_photos,
            "photos": len(self.source.photos),
            "batches": -(-len(self.source.photos) // batch_photos),
            "source": str(self.source.folder.absolute()),
            "rejected_by_table": [outcome.to_json(one) for one in self.source.rejected],
            "warnings": list(self.source.warnings),
            "until": self.request.until,
            "stages": [n for n in STAGES if n in self._on_disk() or self.workspace.stage(n).plan_path.exists()],
            "recipe": to_mapping(self.recipe),
            "origins": self.request.origins,
            "versions": versions(),
        }
        if not self.workspace.run_path.exists() or self.workspace.run() != description:
            write_json(self.workspace.run_path, description)
        return batch_photos

    def _run_photo_stages(self, batch_photos: int) -> None:
        jobs = list(self._jobs(batch_photos))
        if jobs:
            for name in self.kept:
                self.workspace.stage(name).begin(self.ingredients[name])
            todo = sum(len(job.photos) for job in jobs)
            progress = Progress(" > ".join(self.kept), len(self.source.photos), len(self.source.photos) - todo)
            try:
                for result in parallel.run(run_batch, jobs, workers=self.request.workers):
                    self._note({"batch": result.number, "photos": result.photos, "seconds": result.seconds})
                    self.largest_worker_bytes = max(self.largest_worker_bytes, result.peak_memory_bytes)
                    progress.advance(result.photos, result.rejected, result.failed)
            finally:
                progress.close()
        self._complete_photo_stages(-(-len(self.source.photos) // batch_photos))

    def _jobs(self, batch_photos: int) -> Iterator[BatchJob]:
        """Yield the batches that lack a manifest, each with the stage to go on from."""
        done = {name: self.workspace.stage(name).batches_done() for name in self.kept}
        numbered = list(enumerate(self.source.photos))
        shown = frozenset(photo.id for photo in self.source.photos[:: max(1, -(-len(self.source.photos) // EXAMPLES))])
        names = parallel.devices(self.request.device)
        for number in range(-(-len(numbered) // batch_photos)):
            todo = tuple(name for name in self.kept if number not in done[name])
            if not todo:
                continue
            before = PHOTO_STAGES[: PHOTO_STAGES.index(todo[0])]
            start = next((name for name in reversed(before) if name in done and number in done[name]), None)
            photos = tuple(numbered[number * batch_photos : (number + 1) * batch_photos])
            device = names[number % len(names)]
            folder = self.source.folder
            yield BatchJob(
                self.workspace.root,
                number,
                photos,
                folder,
                self.recipe,
                device,
                start,
                todo,
                shown,
                self.request.deltas,
            )

    def _complete_photo_stages(self, batches: int) -> None:
        """Check that every photo that entered a stage left it, and mark the stages complete."""
        entering = {photo.file for photo in self.source.photos}
        for name in self.kept:
            stage = self.workspace.stage(name)
            counts, kept = ledger.reconcile(stage, entering, batches)
            stage.begin(self.ingredients[name])
            stage.complete(self.ingredients[name], {"photos": len(entering), "batches": batches, **counts})
            entering = kept

    def _select(self) -> None:
        stage = self.workspace.stage("select")
        if stage.is_complete(self.ingredients["select"]):
            return
        stage.begin(self.ingredients["select"])
        stood = ledger.standings(self.workspace)
        candidates = [Kept(one.file, {"id": one.id, "score": one.score}) for one in stood if one.end is None]
        selected, low = select.best(candidates, self.recipe.select.keep)
        records = ledger.records(self.workspace, self.kept, {kept.photo for kept in selected})
        ranked = [Kept(k.photo, {**records[k.photo].record, "rank": rank}) for rank, k in enumerate(selected, start=1)]
        write_atomic(self.workspace.selection_path, select.selection_csv(ranked))
        stage.write_manifest(0, [*ranked, *low])
        if len(ranked) < self.recipe.select.keep:
            log.warning("select: %d photos were good enough, %d were asked for", len(ranked), self.recipe.select.keep)
        counts = {"kept": len(ranked), "rejected": len(low), "failed": 0}
        stage.complete(self.ingredients["select"], {"photos": len(candidates), "batches": 1, **counts})

    def _pack(self) -> None:
        stage = self.workspace.stage("pack")
        path = self.workspace.hdf5_path(self.recipe.resolution)
        if stage.is_complete(self.ingredients["pack"]) and self._is_packed():
            return
        stage.begin(self.ingredients["pack"])
        selected = [one for one in self.workspace.stage("select").read_manifest(0) if isinstance(one, Kept)]
        if not selected:
            raise WorkspaceError(
                f"no photo was kept, so there is nothing to pack; {self.workspace.rejected_path} says why"
            )
        progress = Progress("pack", len(selected))
        began = time.monotonic()
        try:
            pack.write(
                path,
                pack.in_order(selected, self.recipe.pack.order, self.recipe.seed),
                self.workspace.stage("align").root,
                self.recipe.pack,
                resolution=self.recipe.resolution,
                attribute_names=self.source.attribute_names,
                attributes={
                    "builder": f"celebahq_builder {__version__}",
                    "recipe": to_mapping(self.recipe),
                    "versions": versions(),
                    "seed": self.recipe.seed,
                    "fingerprint": fingerprint(self.ingredients["pack"]),
                },
                workers=self.request.workers,
                advance=progress.advance,
            )
        finally:
            progress.close()
        self._note({"photos": len(selected), "seconds": {"pack": time.monotonic() - began}})
        counts = {"photos": len(selected), "kept": len(selected), "rejected": 0, "failed": 0}
        stage.complete(self.ingredients["pack"], {**counts, "bytes": path.stat().st_size, "file": path.name})

    def _conclude(self) -> Summary:
        """Count how every photo ended, and see to the report."""
        reached = "pack" in self.stages
        table = [outcome.to_json(one) for one in self.source.rejected]
        mark = fingerprint([*self.ingredients[self.request.until], {"name": "table", "rejected": table}])
        summary = read_json(self.workspace.summary_path) if self.workspace.summary_path.exists() else {}
        if summary.get("fingerprint") != mark:
            summary = {"fingerprint": mark, **self._count()}
            if reached:
                self._note_resources()
                page.write(self.workspace)
            write_json(self.workspace.summary_path, summary)
        elif reached and not self.workspace.report_path.exists():
            page.write(self.workspace)
        return Summary(
            photos=summary["photos"],
            kept=summary["kept"],
            rejected=summary["rejected"],
            failed=summary["failed"],
            reasons=summary["reasons"],
            complete=reached,
            hdf5=self.workspace.hdf5_path(self.recipe.resolution) if reached else None,
            report=self.workspace.report_path if reached else None,
        )

    def _count(self) -> dict[str, Any]:
        stood = ledger.standings(self.workspace)
        counts = ledger.count(stood)
        photos = len(self.source.photos) + len(self.source.rejected)
        if sum(counts.values()) != photos:
            raise WorkspaceError(
                f"{self.workspace.root}: {photos} photos came in, {sum(counts.values())} are accounted for; "
                "its files were altered from outside, use another --out"
            )
        ends = [one.end for one in stood if one.end is not None]
        write_atomic(self.workspace.rejected_path, select.rejected_csv(ends))
        reasons = Counter(one.end.reason.value for one in stood if isinstance(one.end, Rejected))
        return {"photos": photos, **counts, "reasons": dict(reasons)}

    def _note(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(OSError), self.workspace.timings_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # no part of any result: a full disk speaks up elsewhere

    def _note_resources(self) -> None:
        """Record the peak memory of this process and of the largest worker; they are one where there is one worker."""
        peak = {"main": parallel.peak_memory_bytes(), "largest worker": self.largest_worker_bytes}
        self._note({"peak_memory_bytes": peak, "seconds": {}})


def ingredients(request: Request, source: Source) -> dict[str, Ingredients]:
    """Return what each stage's result depends on: its version, settings and weights, and all of that upstream."""
    recipe = request.recipe
    resolution: dict[str, Any] = {"resolution": recipe.resolution}
    own: dict[str, dict[str, Any]] = {
        "source": {
            "photos": len(source.photos),
            "limit": request.limit,
            "ids": request.ids,
            "sha256": source.sha256(),
        },
        "region": {"version": region.VERSION, **to_mapping(recipe.region), **resolution},
        "denoise": {"version": denoise.VERSION, **to_mapping(recipe.denoise), **_hash(recipe.denoise.weights)},
        "upscale": {"version": upscale.VERSION, **to_mapping(recipe.upscale), **_hash(recipe.upscale.weights)},
        "align": {"version": align.VERSION, **to_mapping(recipe.align), **resolution},
        "score": {"version": score.VERSION, **to_mapping(recipe.score)},
        "select": {"version": select.VERSION, **to_mapping(recipe.select)},
        "pack": {"version": pack.VERSION, **to_mapping(recipe.pack)},
    }
    if recipe.method == "exact":
        steps = {"method": recipe.method, "exact_version": exact.VERSION}
        own["region"] |= steps
        own["denoise"], own["upscale"], own["align"] = dict(steps), dict(steps), {**steps, **resolution}
        if any(photo.listed for photo in source.photos):
            own["align"] |= {"official_version": official.VERSION, "deltas": "added" if request.deltas else "none"}
    if recipe.pack.order == "shuffled":
        own["pack"]["seed"] = recipe.seed
    table = [{"name": name, **values} for name, values in own.items()]
    return {name: table[: i + 2] for i, name in enumerate(STAGES)}


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what decides the pixels."""
    found = {"celebahq_builder": __version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def dry_run(request: Request, source: Source) -> list[str]:
    """Return what a run would do, in lines: settings with their origins, what is done, what is left, disk needed."""
    workspace, recipe = Workspace(request.out), request.recipe
    lines = ["settings:"]
    for key, value in flatten(to_mapping(recipe)).items():
        lines.append(f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})")
    lines.append(f"photos: {len(source.photos)} in {source.folder}; {len(source.rejected)} rejected by the table")
    lines += [f"warning: {warning}" for warning in source.warnings]
    if any(photo.listed for photo in source.photos):
        there = f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        lines.append(f"image list: MD5s of all photos are checked; deltas: {there}")
    run = _Run(request, source)
    for name in run._upstream_of_redo():
        workspace.stage(name).check(run.ingredients[name])
    batch_photos = _batch_photos(workspace, len(source.photos))
    batches = -(-len(source.photos) // batch_photos)
    lines.append("stages:")
    left = 0
    for name in run._on_disk():
        stage = workspace.stage(name)
        done = len(stage.batches_done())
        complete = stage.is_complete(run.ingredients[name])
        if name == "align":
            left = len(source.photos) - min(done * batch_photos, len(source.photos))
        state = "complete" if complete else f"{done} of {batches} batches done" if name in PHOTO_STAGES else "to do"
        lines.append(f"  {name}: {state}")
    need = _disk_bytes(recipe, left, 0 if workspace.hdf5_path(recipe.resolution).exists() else len(source.photos))
    parent = next(p for p in (request.out, *request.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    lines.append(f"disk: about {need / 1e9:.1f} GB still to be written, {free / 1e9:.1f} GB free in {parent}")
    return lines


def _batch_photos(workspace: Workspace, photos: int) -> int:
    """Return how many photos a batch has: what an old run began with, else by the number of photos alone."""
    if workspace.run_path.exists():
        return int(workspace.run()["batch_photos"])
    return min(max(photos // 64, BATCH_PHOTOS[0]), BATCH_PHOTOS[1])


def _disk_bytes(recipe: BuildRecipe, images_left: int, to_pack: int) -> float:
    """Estimate what a run will write: PNGs of 1.3 bytes per pixel, and what real CelebA-HQ takes as a pyramid."""
    pixels = recipe.resolution**2
    pyramid = {"none": 4.0, "gzip": 2.7, "blosc2": 2.4}[recipe.pack.compression]
    return images_left * pixels * 1.3 + min(to_pack, recipe.select.keep) * pixels * pyramid


def _hash(weights: str) -> dict[str, str]:
    return {"weights_sha256": entry(weights).sha256}
