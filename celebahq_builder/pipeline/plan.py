"""The plan of a build: the state of its run directory, and the work that is left."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any

from celebahq_builder import __version__, outcome
from celebahq_builder.config import to_mapping
from celebahq_builder.errors import FingerprintMismatch, WorkspaceError
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import BuildRequest
from celebahq_builder.pipeline.stage import AnyDatasetStage, AnyPhotoStage, AnyStage, DatasetStage
from celebahq_builder.run_directory.state import (
    Ingredients,
    Provenance,
    RunDescription,
    RunState,
    StageState,
    Table,
    fingerprint,
)
from celebahq_builder.sources.photo import Photo, subset

VERSIONS = ("torch", "numpy", "pillow", "opencv-python-headless", "scipy", "h5py", "deflate")
"""Packages that decide the pixels."""

BATCH_PHOTOS = (4, 16)
"""Fewest and most photos per batch; small sources get small batches, so that every worker has some."""


@dataclass(frozen=True)
class BuildPlan:
    """A request and the state of its run directory; nothing here reads files."""

    request: BuildRequest
    state: RunState
    earlier_photos: int = 0
    """Photos of a run that grows whose results are used; an estimate."""

    # --- Stages ---

    @cached_property
    def stage_names(self) -> list[str]:
        """All stages of the method, in order."""
        return [stage.name for stage in self.request.recipe.stages()]

    @cached_property
    def photo_stage_names(self) -> list[str]:
        """The photo stages of the method, in order."""
        return [stage.name for stage in self.request.recipe.photo_stages()]

    @property
    def image_stage(self) -> str:
        """The last stage that changes images; its images are the result."""
        return self.request.recipe.image_stages()[-1]

    @cached_property
    def _lasting(self) -> list[str]:
        """Stages whose results stay on disk in any run of this request, in order.

        These are the stages that the recipe keeps, the stage of the result's images, the last photo stage, those that
        an earlier run kept, and all stages that work on the whole data set.
        """
        asked = {*self.request.recipe.keep_stages, self.image_stage, self.photo_stage_names[-1]}
        begun = {name for name in self.stage_names if self.state.stage(name).provenance}
        return [name for name in self.stage_names if name in asked | begun or name not in self.photo_stage_names]

    @cached_property
    def until(self) -> str:
        """Last stage of the run: as asked for, or a later one up to which everything is complete already."""
        return max([self.request.until, *takewhile(self.is_complete, self._lasting)], key=self.stage_names.index)

    @cached_property
    def on_disk(self) -> list[str]:
        """Stages of this run that have results on disk, or will write some, in order."""
        until = self.stage_names[: self.stage_names.index(self.until) + 1]
        return [name for name in until if name in self._lasting or name == self.until]

    @property
    def stored_photo_stages(self) -> list[AnyPhotoStage]:
        """The photo stages among those `on_disk`."""
        return [stage for stage in self.request.recipe.photo_stages() if stage.name in self.on_disk]

    @property
    def stages_with_images(self) -> list[str]:
        """The names of those `stored_photo_stages` that keep images."""
        return [stage.name for stage in self.stored_photo_stages if stage.saves_image]

    @property
    def dataset_stages(self) -> list[AnyDatasetStage]:
        """The stages among those `on_disk` that work on the whole data set."""
        stages = self.request.recipe.stages()
        return [stage for stage in stages if isinstance(stage, DatasetStage) and stage.name in self.on_disk]

    @cached_property
    def ingredients(self) -> dict[str, Ingredients]:
        """The ingredients of each stage's result: the source, and the versions and settings of all stages up to it."""
        request, source = self.request, self.request.source
        asked: Table = {"photos": len(source.photos), "limit": request.limit, "ids": request.ids}
        tables: Ingredients = [{"name": "source", **asked, "sha256": source.sha256()}]
        for stage in request.recipe.stages():
            settings = request.recipe.settings(stage)
            own = {**stage.fingerprinted(settings), **stage.ingredients(settings, request.inputs)}
            tables.append({"name": stage.name, "version": stage.version, **own})
        return {name: tables[: i + 2] for i, name in enumerate(self.stage_names)}

    @cached_property
    def worker_recipe(self) -> BuildRecipe:
        """The recipe with which workers run the photo stages, see `PhotoStage.for_workers`."""
        recipe = self.request.recipe
        changed: dict[str, Any] = {}
        for stage in recipe.photo_stages():
            settings = recipe.settings(stage)
            own = stage.for_workers(settings, self.ingredients[stage.name][-1])
            if own is not settings:
                changed[stage.name] = own
        return replace(recipe, **changed)

    # --- Batches ---

    @property
    def batch_photos(self) -> int:
        """Photos per batch: as an earlier run of these photos began, or by the number of photos."""
        if self.state.run and not self.grows and any(stage.provenance for stage in self.state.stages.values()):
            return self.state.run.batch_photos
        return min(max(len(self.request.source.photos) // 64, BATCH_PHOTOS[0]), BATCH_PHOTOS[1])

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.request.source.photos) // self.batch_photos)

    def photos_of(self, batch: int) -> tuple[Photo, ...]:
        """Return the photos of a batch."""
        return self.request.source.photos[batch * self.batch_photos : (batch + 1) * self.batch_photos]

    @cached_property
    def batches_left(self) -> frozenset[int]:
        """The batches that lack a manifest of some stage on disk."""
        done = [self.state.stage(stage.name).batches for stage in self.stored_photo_stages]
        return frozenset(range(self.batches)) - frozenset.intersection(*done)

    # --- Growth ---

    @cached_property
    def grows(self) -> bool:
        """True if the run directory holds results of a run with other photos; this run uses them, see `growth`."""
        return any(self.has_other_photos(name) for name in self.stage_names)

    def has_other_photos(self, name: str) -> bool:
        """Return whether the results of a stage are those of a run with other photos."""
        before = self.state.stage(name).ingredients
        return before is not None and fingerprint(before[:1]) != fingerprint(self.ingredients[name][:1])

    def unchanged_photos(self, name: str) -> int:
        """Return the number of a stage's photos if all are the first photos of this run, in the same order; else 0."""
        source = (self.state.stage(name).ingredients or [{}])[0]
        photos = source.get("photos")
        return photos if isinstance(photos, int) and self._sha256_of_first(photos) == source.get("sha256") else 0

    def unchanged_batches(self, name: str) -> int:
        """Return how many batches of a stage, from the first, are complete batches of this run."""
        if not self.has_other_photos(name):
            return self.batches
        is_same_size = self.state.run is not None and self.state.run.batch_photos == self.batch_photos
        return self.unchanged_photos(name) // self.batch_photos if is_same_size else 0

    @cached_property
    def _sha256_of_first(self) -> Callable[[int], str]:
        """Function that returns the hash of the first photos of the source; of at least one."""
        return functools.cache(lambda photos: subset(self.request.source, limit=max(photos, 1)).sha256())

    def after_growth(self) -> BuildPlan:
        """Return the plan for the run directory once `growth.grow` has prepared it."""
        if not self.grows or self.state.run is None:
            return self
        stages = {}
        for name in self.photo_stage_names:
            state, own = self.state.stage(name), self.ingredients[name]
            if self.has_other_photos(name):
                left = frozenset(batch for batch in state.batches if batch < self.unchanged_batches(name))
                state = StageState(Provenance(fingerprint(own), own), batches=left)
            if state.provenance:
                stages[name] = state
        before = self.state.run
        earlier = min(len(self.state.stage(self.image_stage).batches) * before.batch_photos, before.photos)
        run = replace(before, batch_photos=self.batch_photos, batches=-(-before.photos // self.batch_photos))
        return BuildPlan(self.request, replace(self.state, run=run, stages=stages, summary=None), earlier)

    # --- State ---

    @property
    def redone(self) -> list[AnyStage]:
        """The stages whose results `redo` deletes, in order."""
        stages = self.request.recipe.stages()
        return list(stages[self.stage_names.index(self.request.redo) :]) if self.request.redo else []

    def after_redo(self) -> BuildPlan:
        """Return the plan for the run directory once the results of `redone` are deleted."""
        if not self.redone:
            return self
        gone = {stage.name for stage in self.redone}
        stages = {name: state for name, state in self.state.stages.items() if name not in gone}
        paths = {path.relative_to(self.request.workspace.root).as_posix() for path in self.redone_files()}
        files = {name: size for name, size in self.state.files.items() if name not in paths}
        return BuildPlan(self.request, replace(self.state, stages=stages, summary=None, files=files))

    def redone_files(self) -> list[Path]:
        """Return the files outside the folders of `redone` that `redo` deletes, whether they exist or not."""
        workspace, resolution = self.request.workspace, self.request.recipe.resolution
        files = [workspace.summary_path, workspace.rejected_path, workspace.report_path]
        for stage in reversed(self.redone):
            files += stage.files(workspace, resolution) if isinstance(stage, DatasetStage) else ()
        return files

    def check_deletions(self) -> None:
        """Check that no file of others is in the way of what `redo` or growth deletes.

        Raises:
            WorkspaceError: a folder is a link, or a file was not written by the run.
        """
        workspace, after = self.request.workspace, self.after_redo()
        gone = {stage.name for stage in self.redone}
        for stage in self.request.recipe.stages():
            if isinstance(stage, DatasetStage) and not after.is_complete(stage.name):
                before = (self.state.stage(stage.name).ingredients or [{}])[-1]
                stage.check_files(before, workspace, self.request.recipe.resolution)
                gone |= {stage.name} if self.grows else set()
        for name in gone:
            workspace.stage(name).check_links()

    def is_complete(self, name: str) -> bool:
        """Return whether a stage is complete for this request, with all manifests of its batches and all its files."""
        state, recipe, workspace = self.state.stage(name), self.request.recipe, self.request.workspace
        stage = recipe.stages()[self.stage_names.index(name)]
        if isinstance(stage, DatasetStage):
            needed = stage.needed_files(recipe.settings(stage), workspace, recipe.resolution)
            has_all = all(path.relative_to(workspace.root).as_posix() in self.state.files for path in needed)
        else:
            has_all = len(state.batches) == self.batches
        return state.is_complete(self.ingredients[name]) and has_all

    def check(self) -> None:
        """Check that the run directory holds no results of other settings.

        A run that grows makes selection and data set again, so that their settings may be others.

        Raises:
            FingerprintMismatch: it does; names the first setting that differs and what to do.
        """
        for name in self.photo_stage_names if self.grows else self.stage_names:
            before = self.state.stage(name).ingredients
            if before is not None and fingerprint(before[1:]) != fingerprint(self.ingredients[name][1:]):
                raise FingerprintMismatch(self._explain_mismatch(before[1:], self.ingredients[name][1:]))

    def _explain_mismatch(self, before: Ingredients, now: Ingredients) -> str:
        """Return a message with the first setting that differs, and what to do."""
        defaults = _by_setting([{"name": one.name, **one.new_defaults()} for one in self.request.recipe.stages()])
        old, new = defaults | _by_setting(before), defaults | _by_setting(json.loads(json.dumps(now)))
        if self.state.run:  # the method is an ingredient of only one of the methods, and of a stage in the middle
            method = (self.stage_names[0], "method")
            old, new = {method: self.state.run.method, **old}, {method: self.request.recipe.method, **new}
        changed = next((key for key in [*new, *old] if old.get(key) != new.get(key)), None)
        if changed is None:
            return f"a plan.json in {self.request.workspace.root / 'stages'} was changed; choose another `out`"
        stage, setting = changed
        # A setting at the top level of a recipe is an ingredient of every stage that depends on it.
        name = setting if hasattr(BuildRecipe, setting) else f"[{stage}] {setting}"
        return (
            f"{self.request.workspace.root} was built with {name} = {old.get((stage, setting))}, this run asks "
            f"{new.get((stage, setting))}; outputs would mix. Choose another `out`, or `redo` {stage}"
        )

    def check_start(self) -> None:
        """Check that the input of the stage to start from is on disk.

        Raises:
            WorkspaceError: it is not; names the stages that are.
        """
        start = self.request.start
        if start is None or start == self.stage_names[0]:
            return
        before = self.stage_names[self.stage_names.index(start) - 1]
        if not self.state.stage(before).is_complete(self.ingredients[before]):
            if self.has_other_photos(before):
                raise WorkspaceError(
                    f"`start` {start} needs the results of {before} for all {len(self.request.source.photos)} photos; "
                    f"{self.request.workspace.root} has those of a run with other photos; leave out `start`: what is "
                    "done is used"
                )
            complete = [name for name in self.stage_names if self.state.stage(name).is_complete(self.ingredients[name])]
            raise WorkspaceError(
                f"`start` {start} needs the results of {before} in {self.request.workspace.root}; complete there: "
                f"{', '.join(complete) or 'nothing'} (keep_stages in the recipe says what stays on disk)"
            )

    def description(self) -> RunDescription:
        """Return the content of run.json."""
        source = self.request.source
        return RunDescription(
            batch_photos=self.batch_photos,
            photos=len(source.photos),
            batches=self.batches,
            source=str(source.folder.absolute()),
            rejected_by_table=[outcome.to_json(one) for one in source.rejected],
            warnings=list(source.warnings),
            until=self.until,
            stages=[name for name in self.stage_names if name in self.on_disk or self.state.stage(name).provenance],
            photo_stages=self.photo_stage_names,
            image_stage=self.image_stage,
            recipe=to_mapping(self.request.recipe),
            origins=self.request.origins,
            versions=versions(),
            files=source.counts.photos,
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


def _by_setting(ingredients: Ingredients) -> dict[tuple[str, str], object]:
    return {(str(table["name"]), key): value for table in ingredients for key, value in table.items() if key != "name"}
