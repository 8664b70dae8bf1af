"""What a run has to do: the stages asked for, what their results depend on, and how far the run directory is."""

from __future__ import annotations

from celebahq_builder import outcome
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.files import read_json, write_json
from celebahq_builder.formats.labels import labels_path
from celebahq_builder.recipe import to_mapping
from celebahq_builder.runner.ingredients import ingredients
from celebahq_builder.runner.request import Request
from celebahq_builder.runner.versions import versions
from celebahq_builder.source.photo import Source
from celebahq_builder.stages.recipe import PHOTO_STAGES, STAGES
from celebahq_builder.workspace import Workspace

BATCH_PHOTOS = (4, 16)
"""Fewest and most photos per batch; small sources get small batches, so that every worker has some."""


class Plan:
    """A request, its source, and the run directory that they meet in."""

    def __init__(self, request: Request, source: Source) -> None:
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
