"""The plan of a build: a request, the state of its run directory, and the work that is left."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from celebahq_builder import __version__, outcome
from celebahq_builder.config import flatten, to_mapping
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.pipeline.recipe import (
    DEFAULT_RECIPE,
    BuildRecipe,
    check_official,
    ids_hash,
    read_ids,
    resolve,
)
from celebahq_builder.pipeline.stage import BuildInputs, DatasetStage, PhotoStage
from celebahq_builder.pipeline.stages.pack import PackStage
from celebahq_builder.pipeline.stages.select import SelectStage
from celebahq_builder.pipeline.workspace import Ingredients, RunDescription, RunState, Workspace
from celebahq_builder.sources.official import archives, read_image_list
from celebahq_builder.sources.photo import PhotoSource, listed_photos, subset

VERSIONS = ("torch", "numpy", "pillow", "opencv-python-headless", "scipy", "h5py", "deflate")
"""Packages that decide the pixels."""

BATCH_PHOTOS = (4, 16)
"""Fewest and most photos per batch; small sources get small batches, so that every worker has some."""


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of `build.build`, read and checked."""

    workspace: Workspace
    source: PhotoSource
    recipe: BuildRecipe
    origins: dict[str, str]
    """Source of each setting that is not a default; see `recipe.resolve`."""
    workers: int
    device: str
    limit: int | None
    ids: str | None
    """Hash of the ids asked for."""
    until: str
    start: str | None
    redo: str | None
    deltas: Path | None
    """Folder of the official deltas."""

    @property
    def inputs(self) -> BuildInputs:
        """The inputs on which results depend, apart from the settings of the stages."""
        return BuildInputs(self.source, self.recipe.resolution, self.recipe.seed, self.deltas)


def make_request(
    source: PhotoSource,
    out: Path | str,
    *,
    recipe: BuildRecipe | str | Path = DEFAULT_RECIPE,
    keep: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    labels: bool | None = None,
    workers: int | None = None,
    device: str = "auto",
    until: str = "pack",
    start: str | None = None,
    redo: str | None = None,
    limit: int | None = None,
    ids: Path | str | Iterable[str] | None = None,
    image_list: Path | str | None = None,
    deltas: Path | str | None = None,
) -> BuildRequest:
    """Read and check the arguments of a build, see `build.build`.

    Raises:
        RecipeError: arguments that cannot be used, or contradict each other.
        SourceError: the image list cannot be read, or the source lacks photos that were asked for.
    """
    options = {"select.keep": keep, "resolution": resolution, "seed": seed, "pack.labels": labels}
    settings, origins = resolve(recipe, options)
    names = read_ids(ids)
    deltas, image_list = Path(deltas) if deltas else None, Path(image_list) if image_list else None
    check_official(settings, deltas, image_list)
    if image_list:
        source = listed_photos(source, read_image_list(image_list))
    source = subset(source, limit=limit, ids=names)
    order = [stage.name for stage in settings.stages()]
    for argument, name in (("until", until), ("start", start), ("redo", redo)):
        if name is not None and name not in order:
            raise RecipeError(
                f'`{argument}` {name} is no stage of method = "{settings.method}"; its stages are {", ".join(order)}'
            )
    for argument, name in (("start", start), ("redo", redo)):
        if name is not None and order.index(name) > order.index(until):
            raise RecipeError(f"`{argument}` {name} comes after `until` {until}; the order is {', '.join(order)}")
    if start and redo and order.index(start) > order.index(redo):
        raise RecipeError(f"`start` {start} comes after `redo` {redo}, and needs its results; leave out `start`")
    request = BuildRequest(
        workspace=Workspace(Path(out)),
        source=source,
        recipe=settings,
        origins=origins,
        workers=workers or os.cpu_count() or 1,
        device=device,
        limit=limit,
        ids=ids_hash(names),
        until=until,
        start=start,
        redo=redo,
        deltas=deltas,
    )
    for stage in settings.stages():
        stage.check(settings.settings(stage), request.inputs)
    return request


@dataclass(frozen=True)
class Plan:
    """A request and the state of its run directory; nothing here reads files."""

    request: BuildRequest
    state: RunState

    # --- Stages ---

    @cached_property
    def names(self) -> list[str]:
        """All stages of the method, in order."""
        return [stage.name for stage in self.request.recipe.stages()]

    @cached_property
    def photo_names(self) -> list[str]:
        """The photo stages of the method, in order."""
        return [stage.name for stage in self.request.recipe.photo_stages()]

    @property
    def image_stage(self) -> str:
        """The last stage that changes images; its images are the result."""
        return [stage.name for stage in self.request.recipe.photo_stages() if stage.saves_image][-1]

    @cached_property
    def on_disk(self) -> list[str]:
        """Stages of this run that have results on disk, or will write some, in order.

        These are the stages that the recipe keeps, the stage of the result's images, the last photo stage, the last
        stage of the run, those that an earlier run kept, and all stages that work on the whole data set.
        """
        asked = {*self.request.recipe.keep_stages, self.image_stage, self.photo_names[-1], self.request.until}
        begun = {name for name in self.names if self.state.stage(name).plan}
        until = self.names[: self.names.index(self.request.until) + 1]
        return [name for name in until if name in asked | begun or name not in self.photo_names]

    @property
    def photo_stages(self) -> list[PhotoStage[Any]]:
        """The photo stages among those `on_disk`."""
        return [stage for stage in self.request.recipe.photo_stages() if stage.name in self.on_disk]

    @property
    def dataset_stages(self) -> list[DatasetStage[Any]]:
        """The other stages of this run."""
        stages = self.request.recipe.stages()
        return [stage for stage in stages if isinstance(stage, DatasetStage) and stage.name in self.on_disk]

    @cached_property
    def ingredients(self) -> dict[str, Ingredients]:
        """The ingredients of each stage's result: the source, and the versions and settings of all stages up to it."""
        request = self.request
        source = request.source
        own = {"photos": len(source.photos), "limit": request.limit, "ids": request.ids, "sha256": source.sha256()}
        tables: Ingredients = [{"name": "source", **own}]
        for stage in request.recipe.stages():
            settings = request.recipe.settings(stage)
            own = {"version": stage.version, **to_mapping(settings), **stage.ingredients(settings, request.inputs)}
            tables.append({"name": stage.name, **own})
        return {name: tables[: i + 2] for i, name in enumerate(self.names)}

    # --- Batches ---

    @property
    def batch_photos(self) -> int:
        """Photos per batch: as an earlier run began, or by the number of photos."""
        if self.state.run:
            return self.state.run.batch_photos
        return min(max(len(self.request.source.photos) // 64, BATCH_PHOTOS[0]), BATCH_PHOTOS[1])

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.request.source.photos) // self.batch_photos)

    # --- State ---

    def is_complete(self, name: str) -> bool:
        """Return whether a stage is complete for this request, with all manifests of its batches."""
        state = self.state.stage(name)
        all_batches = name not in self.photo_names or len(state.batches) == self.batches
        return state.is_complete(self.ingredients[name]) and all_batches

    def check(self) -> None:
        """Check that the run directory holds no results of other settings or photos, apart from those to redo.

        Raises:
            FingerprintMismatch: it does.
        """
        redo = self.request.redo
        for name in self.names[: self.names.index(redo)] if redo else self.names:
            self.state.stage(name).check(self.ingredients[name], self.request.workspace.root)

    def check_start(self) -> None:
        """Check that the input of the stage to start from is on disk.

        Raises:
            WorkspaceError: it is not; names the stages that are.
        """
        start = self.request.start
        if start is None or start == self.names[0]:
            return
        before = self.names[self.names.index(start) - 1]
        if not self.state.stage(before).is_complete(self.ingredients[before]):
            complete = [name for name in self.names if self.state.stage(name).is_complete(self.ingredients[name])]
            raise WorkspaceError(
                f"`start` {start} needs the results of {before} in {self.request.workspace.root}; complete there: "
                f"{', '.join(complete) or 'nothing'} (keep_stages in the recipe says what stays on disk)"
            )

    def description(self) -> RunDescription:
        """Return the content of run.json."""
        source, begun = self.request.source, [name for name in self.names if self.state.stage(name).plan]
        return RunDescription(
            batch_photos=self.batch_photos,
            photos=len(source.photos),
            batches=self.batches,
            source=str(source.folder.absolute()),
            rejected_by_table=[outcome.to_json(one) for one in source.rejected],
            warnings=list(source.warnings),
            until=self.request.until,
            stages=[name for name in self.names if name in self.on_disk or name in begun],
            photo_stages=self.photo_names,
            image_stage=self.image_stage,
            recipe=to_mapping(self.request.recipe),
            origins=self.request.origins,
            versions=versions(),
        )


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the packages that decide the pixels."""
    found = {"celebahq_builder": __version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def describe_plan(plan: Plan) -> Iterator[str]:
    """Yield the plan in lines for people: settings with their sources, stages, disk space."""
    request, source = plan.request, plan.request.source
    yield "settings:"
    for key, value in flatten(to_mapping(request.recipe)).items():
        yield f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})"
    yield f"photos: {len(source.photos)} in {source.folder}; {len(source.rejected)} rejected by the table"
    yield from (f"warning: {warning}" for warning in source.warnings)
    if any(photo.listed for photo in source.photos):
        deltas = (
            f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        )
        yield f"image list: MD5s of all photos are checked; deltas: {deltas}"
    yield "stages:"
    for name in plan.on_disk:
        done = f"{len(plan.state.stage(name).batches)} of {plan.batches} batches done"
        todo = done if name in plan.photo_names else "to do"
        yield f"  {name}: {'complete' if plan.is_complete(name) else todo}"
    parent = next(
        path for path in (request.workspace.root, *request.workspace.root.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(parent).free
    yield f"disk: about {_disk_bytes(plan) / 1e9:.1f} GB still to be written, {free / 1e9:.1f} GB free in {parent}"


def _disk_bytes(plan: Plan) -> float:
    """Estimate what a run will write: PNGs of 1.3 bytes per pixel, and what real CelebA-HQ takes as a pyramid."""
    recipe, photos = plan.request.recipe, len(plan.request.source.photos)
    pixels = recipe.resolution**2
    batches_done = len(plan.state.stage(plan.image_stage).batches)
    images_left = photos - min(batches_done * plan.batch_photos, photos) if plan.image_stage in plan.on_disk else 0
    pyramid = {"none": 4.0, "gzip": 2.7, "blosc2": 2.4}[recipe.settings(PackStage()).compression]
    is_packed_now = "pack" in plan.on_disk and not plan.is_complete("pack")
    to_pack = min(photos, recipe.settings(SelectStage()).keep) if is_packed_now else 0
    return images_left * pixels * 1.3 + to_pack * pixels * pyramid
