"""The weight file of a training run: its best weights, with the metadata of their origin."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from celebahq_builder.config import from_mapping, to_mapping
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.models.registry import NetworkShape, nonfinite_tensor
from celebahq_builder.models.weight_file import load_tensors, read_weights
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe
from celebahq_builder.restoration.pixel_training import PixelRecipe
from celebahq_builder.restoration.task import TrainingRecipe
from celebahq_builder.storage import parse_json, write_atomic

FILE = "weights.safetensors"
"""Name of the file in the folder of a run."""

METADATA = ("step", "shape", "recipe", "command", "photos")
"""Keys of the file's metadata. All values are text; `shape` and `recipe` are JSON."""

RECIPES: dict[str, type[TrainingRecipe]] = {
    "denoise": PixelRecipe,
    "upscale": PixelRecipe,
    "upscale-adversarially": AdversarialRecipe,
}
"""Class of the recipe by its key ``task``."""


@dataclass(frozen=True)
class TrainedWeights:
    """The best weights of a training run, with their origin."""

    tensors: dict[str, Tensor]
    shape: NetworkShape
    step: int
    """Number of training steps."""
    recipe: TrainingRecipe
    command: str
    """Command line that trains the weights again."""
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
        write_atomic(folder / FILE, save_safetensors(tensors, metadata))

    @classmethod
    def read(cls, folder: Path) -> TrainedWeights:
        """Read and check the weight file of a run.

        Raises:
            WeightsError: the file is missing or damaged, lacks metadata, belongs to another network than its metadata
                says, or has values that are not finite.
        """
        path = folder / FILE
        advice = "`run` must be the folder of a training that has validated at least once"
        metadata, tensors = read_weights(path, advice)
        if missing := [key for key in METADATA if key not in metadata]:
            raise WeightsError(
                f"{path} lacks the metadata {', '.join(missing)}: it was written by an older version; resume the run "
                "until it finds better weights, or train again"
            )
        try:
            shape = from_mapping(NetworkShape, _table(metadata["shape"]), where=f"{path}, metadata shape")
            recipe, step = _read_recipe(metadata["recipe"], f"{path}, metadata recipe"), int(metadata["step"])
            with torch.device("meta"):
                load_tensors(shape.build(), tensors, path)  # compares names and shapes only
        except RecipeError as error:
            raise WeightsError(f"{error}; train again") from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise WeightsError(f"{path} has damaged metadata ({error!r}); train again") from None
        if name := nonfinite_tensor(tensors):
            raise WeightsError(f"{path}: {name} has values that are not finite; lower learning_rate and train again")
        return cls(tensors, shape, step, recipe, metadata["command"], metadata["photos"])


def _read_recipe(text: str, where: str) -> TrainingRecipe:
    """Return a recipe from JSON; keys that are not in a recipe, such as hashes of weights and photos, are ignored."""
    values = _table(text)
    kind = RECIPES[str(values["task"])]
    names = {field.name for field in fields(kind)}
    return from_mapping(kind, {key: value for key, value in values.items() if key in names}, where=where)


def _table(text: str) -> dict[str, object]:
    """Return the JSON object in a text."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise TypeError(f"expected a JSON object, got {values!r}")
    return values
