"""The settings of a build, and where each value comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from celebahq_builder.config import bundled, flatten, from_mapping, merge, read_toml
from celebahq_builder.errors import RecipeError
from celebahq_builder.imaging.pyramid import levels
from celebahq_builder.pipeline.stages.align import AlignSettings
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.pipeline.stages.denoise import DenoiseSettings
from celebahq_builder.pipeline.stages.pack import PackSettings
from celebahq_builder.pipeline.stages.score import ScoreSettings
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.stages.upscale import UpscaleSettings
from celebahq_builder.sources.official import RESOLUTION, archives
from celebahq_builder.storage import sha256

PHOTO_STAGES = ("region", "denoise", "upscale", "align", "score")
"""Stages that work on one photo at a time, in order."""

STAGES = (*PHOTO_STAGES, "select", "pack")
"""The data flow, in order."""

ALWAYS_KEPT = ("align", "score")
"""Photo stages whose output always lies on disk."""


@dataclass(frozen=True)
class BuildRecipe:
    """Everything that decides the result of a build, apart from the photos; a file in ``pipelines/``."""

    resolution: int = 1024
    """Side of the result in px: a power of two, 64 to 2048."""
    method: Literal["paper", "exact"] = "paper"
    """``paper``: with the networks; ``exact``: the authors' public tool step by step, to the last bit, without any."""
    seed: int = 0
    """Of whatever is random: the order of a shuffled result."""
    keep_stages: tuple[str, ...] = ()
    """Stages whose images stay on disk beside those of align."""
    region: CropSettings = field(default_factory=CropSettings)
    denoise: DenoiseSettings = field(default_factory=DenoiseSettings)
    upscale: UpscaleSettings = field(default_factory=UpscaleSettings)
    align: AlignSettings = field(default_factory=AlignSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    select: SelectSettings = field(default_factory=SelectSettings)
    pack: PackSettings = field(default_factory=PackSettings)

    def __post_init__(self) -> None:
        levels(self.resolution)
        if not 64 <= self.resolution <= 2048:
            raise ValueError(f"resolution = {self.resolution} must be 64 to 2048")
        for name in self.keep_stages:
            if name not in PHOTO_STAGES:
                raise ValueError(f"keep_stages names {name!r}; stages with images are {', '.join(PHOTO_STAGES[:-1])}")
        if self.method == "exact":
            self._check_exact()

    def _check_exact(self) -> None:
        """Raise for a setting without effect: of the public tool's steps, none has anything to set."""
        for name in ("denoise", "upscale", "align"):
            given = getattr(self, name)
            for setting in dataclasses.fields(given):
                if (value := getattr(given, setting.name)) != setting.default:
                    raise ValueError(
                        f'{name}.{setting.name} = {value} has no effect with method = "exact"; leave out [{name}]'
                    )

    def kept(self) -> tuple[str, ...]:
        """Return the photo stages whose output lies on disk."""
        return tuple(name for name in PHOTO_STAGES if name in (*ALWAYS_KEPT, *self.keep_stages))


DEFAULT_RECIPE = "celebahq-1024.toml"


def resolve(recipe: Path | None, options: Mapping[str, tuple[str, Any]]) -> tuple[BuildRecipe, dict[str, str]]:
    """Return the settings of a build and, by dotted name, where those come from that are not defaults.

    Args:
        recipe: a TOML file; None takes the bundled `DEFAULT_RECIPE`. A name without folder that does not exist
            here is looked for among the bundled recipes.
        options: dotted setting -> name and value of the option that overrides it; None leaves it.

    Raises:
        RecipeError: see `recipe.from_mapping`; an option's name stands for the file where it is to blame.
    """
    path = bundled_recipe(recipe or bundled("pipelines") / DEFAULT_RECIPE)
    values = read_toml(path)
    origins = dict.fromkeys(flatten(values), str(path))
    from_mapping(BuildRecipe, values, where=str(path), text=path.read_text(encoding="utf-8"))
    for setting, (option, value) in options.items():
        if value is None:
            continue
        nested: Any = value
        for part in reversed(setting.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
        origins[setting] = option
        from_mapping(BuildRecipe, values, where=option)
    return from_mapping(BuildRecipe, values, where=str(path)), origins


def bundled_recipe(path: Path, folder: str = "") -> Path:
    """Return a recipe's path: as given, or, for a bare name that does not exist here, among the bundled ones."""
    if not path.exists() and path.parent == Path():
        return bundled("pipelines") / folder / path.with_suffix(".toml")
    return path


def check_official(recipe: BuildRecipe, deltas: Path | None, image_list: Path | None) -> None:
    """Check that what the official deltas need is asked for with them.

    Raises:
        RecipeError: deltas without list, or either without the exact method at 1024.
        SourceError: the folder of deltas holds none.
    """
    if deltas is None and image_list is None:
        return
    option = "--deltas" if deltas else "--image-list"
    if image_list is None:
        raise RecipeError(
            f"--deltas {deltas} needs --image-list FILE too: the image_list.txt that comes with them says which photo "
            "each belongs to"
        )
    if recipe.method != "exact":
        raise RecipeError(
            f'{option} needs the bytes of the authors\' tool, method = "exact", but the recipe says "{recipe.method}"; '
            "give --recipe official-deltas"
        )
    if recipe.resolution != RESOLUTION:
        raise RecipeError(f"{option} needs resolution = {RESOLUTION}, got {recipe.resolution}; leave out --resolution")
    if deltas is not None:
        archives(deltas)


def read_ids(path: Path | None) -> frozenset[str] | None:
    """Return the names in a file of ids: one per line, empty lines and those that start with # aside.

    Raises:
        RecipeError: the file cannot be read, or names nothing.
    """
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--ids {path} cannot be read: {error}") from None
    names = frozenset(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not names:
        raise RecipeError(f"--ids {path} names no photos; give one id or file name per line")
    return names


def ids_hash(ids: frozenset[str] | None) -> str | None:
    """Return a hash of a set of ids, or None for none."""
    return None if ids is None else sha256("\n".join(sorted(ids)).encode())
