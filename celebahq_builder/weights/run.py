"""What a training run's folder tells of its best weights: tensors, and how they came about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.pretrained import Shape, load_tensors, not_finite
from celebahq_builder.recipe import from_mapping

METADATA = ("step", "shape", "recipe", "command", "photos")
"""Keys of the metadata that a training writes into its weight file; `shape` and `recipe` are JSON."""


@dataclass(frozen=True)
class Run:
    """The best weights of a training run, with their origin."""

    tensors: dict[str, Tensor]
    shape: Shape
    step: int
    """Steps of training behind them."""
    recipe: dict[str, Any]
    """As plain values; has the key ``task``."""
    command: str
    photos: str
    """How many, as ``308 photos, 8 held out``."""


def read_run(folder: Path) -> Run:
    """Read ``weights.safetensors`` of a training run's folder.

    Raises:
        WeightsError: missing, damaged, without the metadata of its origin, of another network than its metadata
            says, or with values that are not finite.
    """
    path = folder / "weights.safetensors"
    try:
        data = path.read_bytes()  # once: a training that still runs may put a better file in its place
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}; give the --out folder of a training that has validated once"
        ) from None
    try:
        tensors = load_safetensors(data)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}; train again") from None
    metadata = _metadata(data)
    missing = [key for key in METADATA if key not in metadata]
    if missing:
        raise WeightsError(
            f"{path} lacks the metadata {', '.join(missing)}: the run was made by an older version; resume it by its "
            "command until better weights are found, or train again in another --out"
        )
    shape, recipe, step = _origin(metadata, path)
    net = shape.build()
    load_tensors(net, data, path)
    if wrong := not_finite(net):
        raise WeightsError(f"{path}: {wrong} has values that are not finite; lower learning_rate and train again")
    return Run(tensors, shape, step, recipe, metadata["command"], metadata["photos"])


def _origin(metadata: dict[str, str], path: Path) -> tuple[Shape, dict[str, Any], int]:
    try:
        shape = from_mapping(Shape, json.loads(metadata["shape"]), where=f"{path}, metadata shape")
        recipe = dict(json.loads(metadata["recipe"]))
        str(recipe["task"])
        return shape, recipe, int(metadata["step"])
    except RecipeError as error:
        raise WeightsError(f"{error}; train again") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path} has damaged metadata ({error!r}); train again") from None


def _metadata(data: bytes) -> dict[str, str]:
    """Return the string metadata of a sound safetensors file: its header is JSON behind its length in 8 bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))
