"""Tiny trainings of the landmark network, and what they write."""

import dataclasses
from pathlib import Path

from celebahq_builder.landmarks.training import LandmarkRecipe, LandmarkTask
from celebahq_builder.models.registry import NetworkShape
from celebahq_builder.training import loop
from celebahq_builder.training.interruption import StopRequest
from celebahq_builder.training.loop import TrainingOptions

SAMPLE = Path(__file__).parents[1] / "sample" / "celeba"

RECIPE = LandmarkRecipe(
    task="landmarks",
    net=NetworkShape("landmarks", (8, 8, 8), (1, 1, 1)),
    steps=7,
    batch=4,
    held_out=3,
    validate_every=3,
    learning_rate=0.05,
    bf16=False,
)
ONE_STEP = dataclasses.replace(RECIPE, steps=1)


def train(recipe: LandmarkRecipe, out: Path, faces: Path = SAMPLE, **more: int | StopRequest) -> Path:
    options = TrainingOptions(out=out, device="cpu", **more)  # type: ignore[arg-type]
    return loop.train(LandmarkTask, recipe, faces, options)


def files(out: Path) -> dict[str, bytes]:
    """Return the weights and the checkpoints of a run."""
    paths = (out / "weights.safetensors", *sorted((out / "checkpoints").iterdir()))
    return {path.name: path.read_bytes() for path in paths}
