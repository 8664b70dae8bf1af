"""The state of a run directory, read once: its JSON files as dataclasses."""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from celebahq_builder import outcome
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.outcome import PhotoCounts
from celebahq_builder.storage import sha256

Table = dict[str, object]
"""A JSON object."""

Ingredients = list[Table]
"""The inputs and settings that decide a result: a table of the source, and one of each stage up to its own."""

T = TypeVar("T")


def fingerprint(ingredients: Ingredients) -> str:
    """Return a hash that is equal for equal ingredients only."""
    return sha256(json.dumps(ingredients, sort_keys=True, ensure_ascii=False).encode())


# --- JSON tables as dataclasses ---------------------------------------------------------------------------------


def read_table(cls: type[T] | None, table: object, where: object, name: str) -> T:
    """Return a JSON table as an instance of a dataclass, strictly: equal keys, equal types.

    Args:
        cls: frozen dataclass of int, float, str, bool, object, dict, list and tuple, whose `__post_init__` may raise
            ValueError; None for a table that has no dataclass.
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
            f"{where}: the table {name!r} is changed, corrupt, or of another version ({error}); delete the "
            "file that holds it and run again, or choose another `out`"
        ) from None


@functools.cache
def _type_hints(cls: Hashable) -> dict[str, Hashable]:
    assert isinstance(cls, type)
    hints = typing.get_type_hints(cls)
    return {one.name: hints[one.name] for one in fields(cls)}


@functools.cache
def _origin_and_args(hint: Hashable) -> tuple[object, tuple[object, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _checked(hint: object, value: object, key: str) -> object:
    """Return a JSON value as the type that a field has, and check what it contains; lists become tuples."""
    origin, inner = _origin_and_args(hint)
    if hint is object:
        return value
    if origin is tuple and isinstance(value, list):
        if inner[-1] is Ellipsis and all(type(item) is inner[0] for item in value):  # at once: 40 attributes
            return tuple(value)
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(hints) == len(value):
            return tuple(_checked(one, item, key) for one, item in zip(hints, value, strict=True))
    elif origin is list and isinstance(value, list):
        return [_checked(inner[0], item, key) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {name: _checked(inner[1], item, f"{key}.{name}") for name, item in value.items()}
    elif origin is types.UnionType:
        if type(value) in inner:
            return value
    elif type(value) is (origin or hint):
        return value
    raise ValueError(f"{key} = {str(value)[:80]!r} is not {getattr(hint, '__name__', hint)}")


# --- Files ------------------------------------------------------------------------------------------------------


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
class Provenance:
    """File plan.json, written when a stage begins: what the results in its folder depend on."""

    fingerprint: str
    ingredients: Ingredients

    def __post_init__(self) -> None:
        if not self.ingredients or not all(isinstance(table.get("name"), str) for table in self.ingredients):
            raise ValueError("every table of the ingredients needs a name")


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
    rejected_by_table: list[Table]
    """Outcomes of photos that the source rejected, as JSON."""
    warnings: list[str]
    until: str
    stages: list[str]
    """Stages with results on disk, or that this run will write, in order."""
    photo_stages: list[str]
    """All photo stages of the method, in order."""
    image_stage: str
    """The stage whose images are the result."""
    recipe: Table
    origins: dict[str, str]
    """Source of each setting that is not a default, by dotted name: a recipe's path, or an argument in backquotes."""
    versions: dict[str, str]
    files: int
    """Photo files of the source, which may have several faces; 0 if an earlier version did not count them."""

    def __post_init__(self) -> None:
        if self.batch_photos < 1 or self.photos < 0 or self.files < 0:
            raise ValueError(f"there are no batches of {self.batch_photos} from {self.photos} photos")
        if self.batches != -(-self.photos // self.batch_photos):
            raise ValueError(f"{self.photos} photos are not {self.batches} batches of {self.batch_photos}")
        if not all(name.isidentifier() for name in (self.until, *self.stages, *self.photo_stages)):
            raise ValueError("the name of a stage is not an identifier")
        if self.image_stage not in self.photo_stages or not {*self.photo_stages}.intersection(self.stages):
            raise ValueError("the stages have no photo stage")
        pack = self.recipe.get("pack")
        if type(self.recipe.get("resolution")) is not int or not isinstance(pack, dict) or "labels" not in pack:
            raise ValueError("the recipe has no resolution, or no table pack with labels")
        for values in self.rejected_by_table:
            outcome.from_json(values)

    @property
    def counts(self) -> PhotoCounts:
        """Numbers of photos and faces of the source."""
        unusable = len(self.rejected_by_table)
        return PhotoCounts(self.files or self.photos + unusable, self.photos, unusable)

    @property
    def resolution(self) -> int:
        """Side length of the result in px."""
        resolution = self.recipe["resolution"]
        assert isinstance(resolution, int)
        return resolution

    @property
    def method(self) -> str:
        """Name of the list of stages."""
        return str(self.recipe.get("method"))

    @property
    def labels(self) -> bool:
        """True if labels are written to a file next to the HDF5 file."""
        pack = self.recipe["pack"]
        return isinstance(pack, dict) and bool(pack["labels"])


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

    provenance: Provenance | None = None
    """None: the stage was not begun."""
    mark: StageMark | None = None
    """None: the stage is not complete."""
    batches: frozenset[int] = frozenset()
    """Batches that have a manifest."""

    @property
    def ingredients(self) -> Ingredients | None:
        """Ingredients of the results in the folder; None if the stage was not begun."""
        return self.provenance.ingredients if self.provenance else None

    def is_complete(self, ingredients: Ingredients) -> bool:
        """Return whether the stage is complete for these ingredients."""
        return self.mark is not None and self.mark.fingerprint == fingerprint(ingredients)


@dataclass(frozen=True)
class RunState:
    """State of a run directory at one moment."""

    run: RunDescription | None = None
    """None: the directory holds no run yet."""
    stages: Mapping[str, StageState] = field(default_factory=dict)
    """State of each stage that has a folder."""
    summary: Summary | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    """Size in bytes of each file outside the folders of stages, by its path in the directory."""

    def stage(self, name: str) -> StageState:
        """Return the state of a stage; empty where it has no folder."""
        return self.stages.get(name, StageState())
