"""The weight file of a training run: the weights that it exports, with the metadata of their origin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import torch
from torch import Tensor

from celebahq_builder.config import from_mapping, to_mapping
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.models.registry import NetworkShape, nonfinite_tensor
from celebahq_builder.models.weight_file import load_tensors, read_weights, weight_bytes
from celebahq_builder.storage import parse_json, write_atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FILE = "weights.safetensors"
"""Name of the file in the folder of a run."""

METADATA = ("step", "shape", "recipe", "command", "photos")
"""Keys of the file's metadata. All values are text; `shape` and `recipe` are JSON."""

Recipe = TypeVar("Recipe", bound="DataclassInstance")


@dataclass(frozen=True)
class TrainedWeights(Generic[Recipe]):
    """The weights that a training run exports, with their origin."""

    tensors: dict[str, Tensor]
    shape: NetworkShape
    step: int
    """Number of training steps."""
    recipe: Recipe
    command: str
    """Command line of the training."""
    photos: str
    """Number of training photos as text: ``300 photos, 8 held out``."""

    def save(self, folder: Path) -> None:
        """Write the weight file of a run; it is either complete or unchanged.

        Raises:
            DiskFull: no space is left.
            WorkspaceError: the file system failed.
        """
        metadata = {
            "step": str(self.step),
            "shape": json.dumps(to_mapping(self.shape)),
            "recipe": json.dumps(to_mapping(self.recipe)),
            "command": self.command,
            "photos": self.photos,
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        write_atomic(folder / FILE, weight_bytes(tensors, metadata))

    @classmethod
    def read(cls, folder: Path, recipes: Mapping[str, type[Recipe]]) -> Self:
        """Read and check the weight file of a run.

        Args:
            folder: of the run.
            recipes: class of the recipe by its key ``task``.

        Raises:
            WeightsError: the file is missing or damaged, lacks metadata, belongs to another network than its metadata
                says, or has values that are not finite.
        """
        metadata, shape, tensors = read_network(folder)
        path = folder / FILE
        with _reporting_damage(path):
            recipe = _read_recipe(metadata["recipe"], recipes, f"{path}, metadata recipe")
            step = int(metadata["step"])
        return cls(tensors, shape, step, recipe, metadata["command"], metadata["photos"])


def read_network(folder: Path) -> tuple[dict[str, str], NetworkShape, dict[str, Tensor]]:
    """Return the metadata of a run's weight file, the shape of its network, and its tensors.

    Raises:
        WeightsError: see `TrainedWeights.read`.
    """
    path = folder / FILE
    advice = "`run` must be the folder of a training that has validated at least once"
    metadata, tensors = read_weights(path, advice)
    if missing := [key for key in METADATA if key not in metadata]:
        raise WeightsError(
            f"{path} lacks the metadata {', '.join(missing)}: it was written by an older version; resume the run "
            "until it finds better weights, or train again"
        )
    with _reporting_damage(path):
        shape = from_mapping(NetworkShape, _json_object(metadata["shape"]), where=f"{path}, metadata shape")
    with torch.device("meta"):
        load_tensors(shape.build(), tensors, path)  # compares names and shapes only
    if name := nonfinite_tensor(tensors):
        raise WeightsError(f"{path}: {name} has values that are not finite; lower learning_rate and train again")
    return metadata, shape, tensors


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Report errors of metadata as a `WeightsError`."""
    try:
        yield
    except RecipeError as error:
        raise WeightsError(f"{error}; train again") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path} has damaged metadata ({error!r}); train again") from None


def _read_recipe(text: str, recipes: Mapping[str, type[Recipe]], where: str) -> Recipe:
    """Return a recipe from JSON; keys that are not in a recipe, such as hashes of weights and photos, are ignored."""
    values = _json_object(text)
    kind = recipes[str(values["task"])]
    names = {field.name for field in fields(kind)}
    return from_mapping(kind, {key: value for key, value in values.items() if key in names}, where=where)


def _json_object(text: str) -> dict[str, object]:
    """Return the JSON object in a text."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise TypeError(f"expected a JSON object, got {str(values)[:80]}")
    return values
