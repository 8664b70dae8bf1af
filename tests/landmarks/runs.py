"""Tiny trainings of the landmark network, and what they write."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from celebahq_builder.landmarks.faces import LandmarkFaces
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


def train(recipe: LandmarkRecipe, faces: LandmarkFaces, out: Path, **more: int | StopRequest) -> Path:
    options = TrainingOptions(out=out, device="cpu", **more)  # type: ignore[arg-type]
    return loop.train(SAMPLE, lambda context: LandmarkTask(recipe, faces, context), options)


def log_lines(out: Path) -> list[dict[str, float]]:
    """Return the lines of the log, without the measured speed."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines]


def files(out: Path) -> dict[str, bytes]:
    """Return the weights and the checkpoints of a run."""
    paths = (out / "weights.safetensors", *sorted((out / "checkpoints").iterdir()))
    return {path.name: path.read_bytes() for path in paths}


def equal_runs(a: Path, b: Path) -> bool:
    """Return whether two runs have the same weights, last checkpoint and log, to the last bit.

    The order of the metadata in a safetensors file is random, so its tensors are compared; of the checkpoints the
    digests of their contents.
    """
    x, y = (load_file(run / "weights.safetensors") for run in (a, b))
    last = "checkpoints/checkpoint-000000007.pt"
    digests = [torch.load(run / last, weights_only=True)["sha256"] for run in (a, b)]
    equal = x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
    return equal and digests[0] == digests[1] and log_lines(a) == log_lines(b)
