"""The plan of a build: what was requested, what each stage depends on, what is done, what is left."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from celebahq_builder import __version__, outcome
from celebahq_builder.config import flatten, to_mapping
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.models.registry import find_entry
from celebahq_builder.pipeline.recipe import PHOTO_STAGES, STAGES, BuildRecipe
from celebahq_builder.pipeline.stages import align, crop, denoise, official, pack, score, select, upscale
from celebahq_builder.pipeline.workspace import Ingredients, Workspace
from celebahq_builder.sources.official import archives
from celebahq_builder.sources.photo import PhotoSource
from celebahq_builder.storage import read_json, write_json


@dataclass(frozen=True)
class BuildRequest:
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


VERSIONS = ("torch", "numpy", "pillow", "opencv-python-headless", "scipy", "h5py", "deflate")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what decides the pixels."""
    found = {"celebahq_builder": __version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def ingredients(request: BuildRequest, source: PhotoSource) -> dict[str, Ingredients]:
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
        "region": {"version": crop.VERSION, **to_mapping(recipe.region), **resolution},
        "denoise": {"version": denoise.VERSION, **to_mapping(recipe.denoise), **_hash(recipe.denoise.weights)},
        "upscale": {"version": upscale.VERSION, **to_mapping(recipe.upscale), **_hash(recipe.upscale.weights)},
        "align": {"version": align.VERSION, **to_mapping(recipe.align), **resolution},
        "score": {"version": score.VERSION, **to_mapping(recipe.score)},
        "select": {"version": select.VERSION, **to_mapping(recipe.select)},
        "pack": {"version": pack.VERSION, **to_mapping(recipe.pack)},
    }
    if recipe.method == "exact":
        steps = {"method": recipe.method, "exact_version": official.VERSION}
        own["region"] |= steps
        own["denoise"], own["upscale"], own["align"] = dict(steps), dict(steps), {**steps, **resolution}
        if any(photo.listed for photo in source.photos):
            own["align"] |= {"official_version": official.VERSION, "deltas": "added" if request.deltas else "none"}
    if recipe.pack.order == "shuffled":
        own["pack"]["seed"] = recipe.seed
    table = [{"name": name, **values} for name, values in own.items()]
    return {name: table[: i + 2] for i, name in enumerate(STAGES)}


def _hash(weights: str) -> dict[str, str]:
    return {"weights_sha256": find_entry(weights).sha256}


BATCH_PHOTOS = (4, 16)
"""Fewest and most photos per batch; small sources get small batches, so that every worker has some."""


class Plan:
    """A request, its source, and the run directory that they meet in."""

    def __init__(self, request: BuildRequest, source: PhotoSource) -> None:
        self.request, self.source, self.recipe = request, source, request.recipe
        self.workspace = Workspace(request.out)
        self.stages = STAGES[: STAGES.index(request.until) + 1]
        self.ingredients = ingredients(request, source)

    @property
    def kept(self) -> tuple[str, ...]:
        """Photo stages of this run whose output lies, or will lie, on disk."""
        wanted = {*self.recipe.kept(), self.request.until}
        begun = {name for name in PHOTO_STAGES if self.workspace.stage(name).plan_path.exists()}
        return tuple(name for name in PHOTO_STAGES if name in self.stages and name in wanted | begun)

    @property
    def on_disk(self) -> list[str]:
        """Stages of this run that leave something on disk."""
        return [*self.kept, *(name for name in self.stages if name not in PHOTO_STAGES)]

    @property
    def upstream_of_redo(self) -> tuple[str, ...]:
        """Stages whose results stay: all, or those before the one to redo."""
        return STAGES[: STAGES.index(self.request.redo)] if self.request.redo else STAGES

    @property
    def batch_photos(self) -> int:
        """How many photos a batch has: what an old run began with, else by the number of photos alone."""
        if self.workspace.run_path.exists():
            return int(self.workspace.run()["batch_photos"])
        return min(max(len(self.source.photos) // 64, BATCH_PHOTOS[0]), BATCH_PHOTOS[1])

    @property
    def batches(self) -> int:
        """How many batches the photos make."""
        return -(-len(self.source.photos) // self.batch_photos)

    def is_finished(self) -> bool:
        """Return whether every stage of this run is complete, and its files are there."""
        if "pack" in self.stages and not self.is_packed():
            return False
        for name in self.on_disk:
            stage = self.workspace.stage(name)
            if not stage.is_complete(self.ingredients[name]):
                return False
            if name in PHOTO_STAGES and len(stage.batches_done()) != read_json(stage.complete_path)["batches"]:
                return False
        return True

    def is_packed(self) -> bool:
        """Return whether the HDF5 file is there, with its labels where they are asked for."""
        path = self.workspace.hdf5_path(self.recipe.resolution)
        return path.exists() and (labels_path(path).exists() or not self.recipe.pack.labels)

    def check(self) -> None:
        """Raise what can be known before any work.

        Raises:
            RecipeError: options that contradict each other or the source.
            FingerprintMismatch: the directory holds results of other settings or photos.
        """
        self._check_order()
        self._check_labels()
        for name in self.upstream_of_redo:
            self.workspace.stage(name).check(self.ingredients[name])

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

    def check_start(self) -> None:
        """Raise if ``--from`` names a stage whose input is not on disk.

        Raises:
            WorkspaceError: it does; says what is there.
        """
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

    def describe(self) -> None:
        """Write run.json, if it does not say all of this already."""
        description = {
            "batch_photos": self.batch_photos,
            "photos": len(self.source.photos),
            "batches": self.batches,
            "source": str(self.source.folder.absolute()),
            "rejected_by_table": [outcome.to_json(one) for one in self.source.rejected],
            "warnings": list(self.source.warnings),
            "until": self.request.until,
            "stages": [n for n in STAGES if n in self.on_disk or self.workspace.stage(n).plan_path.exists()],
            "recipe": to_mapping(self.recipe),
            "origins": self.request.origins,
            "versions": versions(),
        }
        if not self.workspace.run_path.exists() or self.workspace.run() != description:
            write_json(self.workspace.run_path, description)


def dry_run(request: BuildRequest, source: PhotoSource) -> list[str]:
    """Return what a run would do, in lines: settings with their origins, what is done, what is left, disk needed.

    Raises:
        FingerprintMismatch: the directory holds results of other settings or photos.
    """
    plan = Plan(request, source)
    workspace, recipe = plan.workspace, plan.recipe
    lines = ["settings:"]
    for key, value in flatten(to_mapping(recipe)).items():
        lines.append(f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})")
    lines.append(f"photos: {len(source.photos)} in {source.folder}; {len(source.rejected)} rejected by the table")
    lines += [f"warning: {warning}" for warning in source.warnings]
    if any(photo.listed for photo in source.photos):
        there = f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        lines.append(f"image list: MD5s of all photos are checked; deltas: {there}")
    plan.check()
    lines.append("stages:")
    left = 0
    for name in plan.on_disk:
        stage = workspace.stage(name)
        done = len(stage.batches_done())
        complete = stage.is_complete(plan.ingredients[name])
        if name == "align":
            left = len(source.photos) - min(done * plan.batch_photos, len(source.photos))
        state = (
            "complete" if complete else f"{done} of {plan.batches} batches done" if name in PHOTO_STAGES else "to do"
        )
        lines.append(f"  {name}: {state}")
    need = _disk_bytes(recipe, left, 0 if workspace.hdf5_path(recipe.resolution).exists() else len(source.photos))
    parent = next(p for p in (request.out, *request.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    lines.append(f"disk: about {need / 1e9:.1f} GB still to be written, {free / 1e9:.1f} GB free in {parent}")
    return lines


def _disk_bytes(recipe: BuildRecipe, images_left: int, to_pack: int) -> float:
    """Estimate what a run will write: PNGs of 1.3 bytes per pixel, and what real CelebA-HQ takes as a pyramid."""
    pixels = recipe.resolution**2
    pyramid = {"none": 4.0, "gzip": 2.7, "blosc2": 2.4}[recipe.pack.compression]
    return images_left * pixels * 1.3 + min(to_pack, recipe.select.keep) * pixels * pyramid
