"""The settings of a build, and the source of each value."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from celebahq_builder.config import bundled, flatten, from_mapping, override, parse_toml, read_toml_text, to_mapping
from celebahq_builder.errors import RecipeError
from celebahq_builder.imaging.pyramid import levels
from celebahq_builder.pipeline.stage import AnyPhotoStage, AnyStage, NoSettings, PhotoStage, Stage
from celebahq_builder.pipeline.stages import METHODS, load_stages

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

DEFAULT_RECIPE = "celebahq-1024"


@functools.cache
def _stage_tables() -> dict[str, type]:
    """Return the settings of the stages of all methods, by name; the first method that has any decides."""
    tables: dict[str, type] = {}
    for stage in (stage for method in METHODS for stage in load_stages(method)):
        if stage.Settings is not NoSettings:
            tables.setdefault(stage.name, stage.Settings)
    return tables


@dataclass(frozen=True)
class _Recipe:
    resolution: int = 1024
    """Side length of the result in px: a power of two, 64 to 2048."""
    method: str = "paper"
    """Name of a list of stages, see `stages.METHODS`. ``exact`` is the authors' public tool, without networks."""
    seed: int = 0
    """Seed of everything random: the order of a shuffled result."""
    keep_stages: tuple[str, ...] = ()
    """Stages whose images stay on disk in addition to the result's."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method = {self.method!r} must be one of {', '.join(METHODS)}")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} must be at least 0")
        levels(self.resolution)
        if not 64 <= self.resolution <= 2048:
            raise ValueError(f"resolution = {self.resolution} must be 64 to 2048")
        images = self.image_stages()
        for name in self.keep_stages:
            if name not in images:
                raise ValueError(f"keep_stages names {name!r}; stages with images are {', '.join(images)}")
        self._check_effect()

    def _check_effect(self) -> None:
        """Raise for settings of stages that the method does not have."""
        used = {stage.name: stage.Settings for stage in self.stages()}
        for name, table in _stage_tables().items():
            own = getattr(self, name)
            changed = [one.name for one in fields(own) if getattr(own, one.name) != one.default]
            if used.get(name) is not table and changed:
                value = getattr(own, changed[0])
                raise ValueError(
                    f'{name}.{changed[0]} = {value} has no effect with method = "{self.method}"; leave out [{name}]'
                )

    def stages(self) -> tuple[AnyStage, ...]:
        """Return the stages of the method, in order."""
        return load_stages(self.method)

    def photo_stages(self) -> tuple[AnyPhotoStage, ...]:
        """Return the stages of the method that work on one photo at a time, in order."""
        return tuple(stage for stage in self.stages() if isinstance(stage, PhotoStage))

    def image_stages(self) -> list[str]:
        """Return the names of the photo stages that change the image, in order; the last one makes the result."""
        return [stage.name for stage in self.photo_stages() if stage.saves_image]

    def settings(self, stage: Stage[S]) -> S:
        """Return the settings of a stage."""
        own = getattr(self, stage.name, None)
        return own if isinstance(own, stage.Settings) else stage.Settings()


if TYPE_CHECKING:
    BuildRecipe = _Recipe
else:
    BuildRecipe = make_dataclass(
        "BuildRecipe",
        [(name, table, field(default_factory=table)) for name, table in _stage_tables().items()],
        bases=(_Recipe,),
        frozen=True,
        namespace={
            "__module__": __name__,
            "__doc__": """Everything that decides the result of a build, apart from the photos.

            Fields are those of a recipe file in ``pipelines/``: resolution, method, seed, keep_stages, and one table
            of settings for each stage, such as ``crop`` or ``select``.
            """,
        },
    )


def resolve(
    recipe: BuildRecipe | str | Path, options: Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> tuple[BuildRecipe, dict[str, str]]:
    """Return the settings of a build, and the source of each value that is not a default.

    Args:
        recipe: settings, a TOML file, or the name of a bundled recipe.
        options: dotted setting -> value that overrides it, such as ``{"select.keep": 100}``; None overrides nothing.
        overrides: the same for any settings, from the argument of that name.

    Returns:
        The recipe; and by dotted name of a setting the path of its file, the name of its bundled recipe, or
        the argument's name in backquotes.

    Raises:
        RecipeError: the file cannot be read, or a value cannot be used.
    """
    given = {setting: value for setting, value in options.items() if value is not None}
    if isinstance(recipe, _Recipe):
        path, values, text = Path("the recipe"), to_mapping(recipe), ""
        origins: dict[str, str] = {}
    else:
        path = bundled_recipe(Path(recipe))
        text = read_toml_text(path)
        values = parse_toml(text, path)
        if "region" in values:
            raise RecipeError(f"{path}: the table [region] is called [crop] now; rename it")
        origin = f"recipe {path.stem}" if path.parent == bundled("pipelines") else str(path)
        origins = dict.fromkeys(flatten(values), origin)
        from_mapping(BuildRecipe, values, where=str(path), text=text)
    if overrides:
        values = override(values, overrides)
        from_mapping(BuildRecipe, values, where="`overrides`")
        for setting, value in overrides.items():
            origins = {key: origin for key, origin in origins.items() if not f"{key}.".startswith(f"{setting}.")}
            origins |= dict.fromkeys(flatten({setting: value}), "`overrides`")
    for setting, value in given.items():
        key = setting.rpartition(".")[2]
        if origins.get(setting) == "`overrides`":
            raise RecipeError(f"`{key}` and `overrides` both set {setting}; give one of them")
        values = override(values, {setting: value})
        origins[setting] = f"`{key}`"
        from_mapping(BuildRecipe, values, where=f"`{key}`")
    return from_mapping(BuildRecipe, values, where=str(path), text=text), origins


def bundled_recipe(path: Path, folder: str = "") -> Path:
    """Return the path of a recipe: as given, or that of a bundled one for a bare name that is no file here."""
    if path.parent == Path() and (path.is_dir() or not path.exists()):
        return bundled("pipelines") / folder / path.with_suffix(".toml")
    return path
