"""Tiny trainings and what they write."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from celebahq_builder.models.registry import NetworkShape
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import Phase
from celebahq_builder.training import loop
from celebahq_builder.training.checkpoint import checkpoint_paths, read_checkpoint
from celebahq_builder.training.interruption import StopRequest
from celebahq_builder.training.loop import TrainingOptions

DENOISE = PixelRecipe(
    task="denoise",
    net=NetworkShape("autoencoder", (4, 6, 8), (1, 1, 1)),
    phases=(Phase(4, 16, 2), Phase(3, 32, 1)),
    learning_rate=0.05,
    held_out=2,
    validate_every=2,
    bf16=False,
)
UPSCALE = dataclasses.replace(
    DENOISE, task="upscale", net=NetworkShape("srgan", (6,), (1,)), phases=(Phase(3, 16, 2), Phase(2, 32, 1))
)
RECIPES = {"denoise": DENOISE, "upscale": UPSCALE}
ONE_STEP = dataclasses.replace(DENOISE, phases=(Phase(1, 16, 1),))


def train(recipe: PixelRecipe, photos: Path, out: Path, workers: int = 0, stop: StopRequest | None = None) -> Path:
    options = TrainingOptions(out=out, device="cpu", workers=workers, stop=stop or StopRequest())
    return loop.train(PixelTask, recipe, photos, options)


def log_lines(out: Path) -> list[dict[str, float]]:
    """Return the lines of the log, without the measured speed."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines]


def last_state(out: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the last checkpoint, by dotted keys."""
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: object, key: str) -> None:
        if isinstance(value, torch.Tensor):
            tensors[key] = value
        elif isinstance(value, dict):
            for name, item in value.items():
                collect(item, f"{key}.{name}" if key else str(name))

    collect(read_checkpoint(checkpoint_paths(out / "checkpoints")[-1]).state, "")
    return tensors


def equal_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def equal_runs(a: Path, b: Path) -> bool:
    """Return whether two runs have the same weights, checkpoint and log, to the last bit."""
    weights = [load_file(run / "weights.safetensors") for run in (a, b)]
    paths = [checkpoint_paths(run / "checkpoints")[-1] for run in (a, b)]
    digests = [torch.load(path, weights_only=True)["sha256"] for path in paths]
    equal = paths[0].name == paths[1].name and digests[0] == digests[1] and log_lines(a) == log_lines(b)
    return equal and equal_tensors(*weights)
