"""The interface of a stage: its declarations, and the context in which it runs.

Recipes are checked before torch is imported, which takes seconds. So the file of a stage imports torch, and modules
that need torch, inside the functions that work on pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from celebahq_builder.config import to_mapping
from celebahq_builder.pipeline.face import Face, RecordTypes
from celebahq_builder.run_directory.state import StageCounts, Table
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.photo import Photo, PhotoSource

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class NoSettings:
    """Settings of a stage that has none; such a stage has no table in a recipe."""


S = TypeVar("S", bound="DataclassInstance")

Precision: TypeAlias = Literal["fp32", "bf16"]
"""Precision in which a network computes its convolutions; everything else is fp32."""


@dataclass(frozen=True)
class BuildInputs:
    """Inputs of a build apart from the settings of its stages."""

    source: PhotoSource
    resolution: int
    seed: int
    deltas: Path | None = None
    """Folder of the official deltas; None adds none."""


class Stage(ABC, Generic[S]):
    """A step of a build.

    A stage keeps no state between calls: what it needs comes with its settings and its context.
    """

    name: ClassVar[str]
    """Name in recipes, options, manifests and reports."""
    version: ClassVar[int] = 1
    """Increase it when the results change for equal settings: earlier results are then refused."""
    Settings: type[S]
    """Frozen dataclass: the stage's table in a recipe."""
    new_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that earlier versions lacked. With their defaults, results are those of earlier runs, which resume."""
    Record: type | None = None
    """Frozen dataclass of what the stage adds to the record of a photo; None for a stage that adds nothing."""

    def new_defaults(self) -> Table:
        """Return the defaults of the `new_settings`."""
        values = to_mapping(self.Settings())
        return {name: values[name] for name in self.new_settings}

    def fingerprinted(self, settings: S) -> Table:
        """Return the settings that distinguish results: all but the `new_settings` that have their defaults."""
        values, defaults = to_mapping(settings), self.new_defaults()
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    def ingredients(self, settings: S, inputs: BuildInputs) -> Mapping[str, object]:
        """Return what the result depends on apart from version and settings, such as hashes of weights; JSON values."""
        return {}

    def check(self, settings: S, inputs: BuildInputs) -> None:
        """Raise a RecipeError if the settings do not fit the source; called before any work."""


@dataclass
class PhotoContext:
    """Context of photo stages in a worker process."""

    resolution: int
    """Side length of the result in px."""
    device: torch.device
    read_photo: Callable[[Photo], bytes]
    """Returns the bytes of a photo's file; raises a Rejection if the file is missing."""
    batch_windows: int = 1
    """Image windows of equal shape that pass a network at once; halved where memory is short."""
    deltas: Path | None = None
    """Folder of the official deltas; None adds none."""


class PhotoStage(Stage[S]):
    """A stage that works on one photo at a time, in worker processes."""

    saves_image: ClassVar[bool] = True
    """True if the stage changes the image. If not, only its record is written."""
    reads_photo: ClassVar[bool] = False
    """True if the stage reads the photo's file and needs no GPU: threads may run it ahead, on the CPU."""
    restores: ClassVar[bool] = False
    """True if the stage repairs or enlarges the photo; `build.align` runs these stages only if it is asked to."""
    grouped: ClassVar[bool] = False
    """True if the stage is faster over several faces at once."""
    example_title: ClassVar[str] = ""
    """Title of the stage's image among the report's examples; empty for a stage that the examples leave out."""

    def for_workers(self, settings: S, ingredients: Table) -> S:
        """Return the settings with which workers run the stage; `ingredients` are those of its fingerprint."""
        return settings

    def load(self, settings: S) -> None:
        """Load the network of a stage that has one; raises an error that every photo would have."""

    @abstractmethod
    def run(self, faces: Sequence[Face], settings: S, context: PhotoContext) -> list[Face]:
        """Return the faces after this stage, in order. The result of a face does not depend on the other faces.

        Args:
            faces: one face, or several where the stage is `grouped`.
            settings: of this stage.
            context: what else it may use.

        Raises:
            Rejection: the photo cannot or should not be used; raised for a single face only.
            CelebAHQError: an error that every photo would have.
        """


@dataclass(frozen=True)
class DatasetContext:
    """Context of a dataset stage in the main process."""

    workspace: Workspace
    inputs: BuildInputs
    record_types: RecordTypes
    image_stage: str
    """Name of the photo stage whose images are the result."""
    photo_stage: str
    """Name of the last photo stage; its manifests hold the records of all photo stages."""
    workers: int
    hdf5_attributes: Table
    """Attributes that are stored with the HDF5 file: versions, recipe, fingerprint."""


class DatasetStage(Stage[S]):
    """A stage that works on all photos at once, in the main process."""

    @abstractmethod
    def run(self, settings: S, context: DatasetContext) -> StageCounts:
        """Write the stage's results and return its counts.

        Raises:
            CelebAHQError: the stage cannot be run.
        """

    def most_kept(self, settings: S, photos: int) -> int:
        """Return how many of a number of photos the stage keeps at most."""
        return photos

    def estimate_bytes(self, settings: S, photos: int, resolution: int) -> float:
        """Estimate the size of what the stage writes for a number of photos."""
        return 0

    def files(self, workspace: Workspace, resolution: int) -> tuple[Path, ...]:
        """Return the files outside the stage's folder that the stage may write; a redo deletes them."""
        return ()

    def needed_files(self, settings: S, workspace: Workspace, resolution: int) -> tuple[Path, ...]:
        """Return those of `files` that a complete stage with these settings has."""
        return self.files(workspace, resolution)

    def check_files(self, before: Table, workspace: Workspace, resolution: int) -> None:
        """Check that no file of others lies in the place of one of `files`, before the stage is run again.

        Args:
            before: ingredients of the results that are there; empty for none.
            workspace: the run directory.
            resolution: of the images in px.

        Raises:
            WorkspaceError: one does.
        """


AnyStage: TypeAlias = Stage[Any]
AnyPhotoStage: TypeAlias = PhotoStage[Any]
AnyDatasetStage: TypeAlias = DatasetStage[Any]


def record_types(stages: Sequence[AnyStage]) -> RecordTypes:
    """Return the type of the record of each stage that has one, by name of the stage."""
    return {stage.name: stage.Record for stage in stages if stage.Record is not None}
