"""Training of a restoration network from a recipe: batches, validations, checkpoints."""

from __future__ import annotations

import copy
import json
import logging
import math
import operator
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from torch import nn

from celebahq_builder.config import load, override, override_arguments, read_toml
from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.imaging.image_grid import image_grid
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.models.weight_file import first_line
from celebahq_builder.parallel import run_threads
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.photos import Pixels
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import SampleRows, Task
from celebahq_builder.storage import delete_partial_files, lock, write_atomic
from celebahq_builder.training.checkpoint import CheckpointFolder, StateDict, load_optimizer
from celebahq_builder.training.distributed import DistributedContext, join_processes
from celebahq_builder.training.logger import TrainingLogger
from celebahq_builder.training.trained_weights import FILE, TrainedWeights

log = logging.getLogger(__name__)

GRID_GAP_PX = 4
"""White pixels between sample images."""

NAMES = ("checkpoints", FILE, "log.jsonl", "samples", "tensorboard")
"""Names in the folder of a training."""


def train(
    kind: str,
    photos: Path,
    out: Path,
    recipe: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    start: str | None = None,
    device: str = "auto",
    threads: int = 1,
    workers: int | None = None,
) -> Path:
    """Train the network that a recipe describes, or resume its training.

    Args:
        kind: prefix of the recipe's key ``task``: ``denoise`` or ``upscale``.
        photos: folder of clean photos.
        out: folder of the run. If it holds a run with the same recipe and photos, that run is resumed.
        recipe: path of the training recipe.
        overrides: values by dotted key that replace those of the recipe.
        start: weights to start from, NAME or DIR/NAME of a registry, instead of those of the recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Under torchrun each process has its own device.
        threads: CPU threads of torch. Their number changes the last bits of the result.
        workers: threads that prepare batches ahead. Default: none on a CPU, up to 8 with a GPU.

    Returns:
        Path of the best weights.

    Raises:
        RecipeError: the recipe is malformed, or of another kind of training.
        TrainingError: the photos cannot be used, the run has another recipe or other photos, or a loss is not finite.
        WeightsError: the weights to start from are unknown or damaged.
    """
    torch.set_num_threads(threads)
    with join_processes(device) as context:
        task = _task(kind, photos, recipe, overrides or {}, start, context)
        if workers is None:
            workers = 0 if context.device.type == "cpu" else min(8, max(os.cpu_count() or 1, 2))
        name = f"train-{'denoiser' if kind == 'denoise' else 'upscaler'}"
        command = f"celebahq {name} PHOTOS --recipe {recipe.stem}" + (f" --start {start}" if start else "")
        command += override_arguments(overrides)
        return fit(task, out, context, command=command, workers=workers)


def _task(
    kind: str,
    photos: Path,
    path: Path,
    overrides: Mapping[str, object],
    start: str | None,
    context: DistributedContext,
) -> Task:
    found = str(override(read_toml(path, kind), overrides).get("task", ""))
    if not found.startswith(kind):
        raise RecipeError(f"{path}: task = {found}; this command trains task = {kind}, choose another `recipe`")
    if found == "upscale-adversarially":
        adversarial = load(AdversarialRecipe, path, overrides)
        return AdversarialTask(replace(adversarial, start=start or adversarial.start), photos, context)
    recipe = load(PixelRecipe, path, overrides)
    return PixelTask(replace(recipe, start=start or recipe.start), photos, context)


def fit(task: Task, out: Path, context: DistributedContext, *, command: str = "", workers: int = 0) -> Path:
    """Train the networks of a task, and resume from the last checkpoint in the folder of the run.

    Every validation writes a line of ``log.jsonl``, sample images, a checkpoint and, if the weights are the best so
    far, ``weights.safetensors``. A resumed run ends with the same weights as one that was not interrupted.

    Args:
        task: networks, data and training step.
        out: folder of the run; it is created if it does not exist.
        context: the processes that share each batch, and the device of this one. Rank 0 validates and writes.
        command: command line of the training, for the model card.
        workers: threads that prepare batches ahead; 0 or 1 prepares each batch when it is needed. The number does not
            change the result.

    Returns:
        Path of ``weights.safetensors``.

    Raises:
        TrainingError: the checkpoints of the folder are of another recipe or of other photos, or a loss is not finite.
        WorkspaceLocked: another process trains in the folder.
        DiskFull: no space is left.
        WorkspaceError: the folder cannot be created or holds files of others, or the file system failed.
    """
    cv2.setNumThreads(0)
    if context.rank > 0:
        return _fit(task, out, context, command, workers)
    known = (out / "checkpoints").is_dir()
    with lock(out, "folder of a training", "out", names=NAMES, known=known):
        for folder in (out, out / "checkpoints"):
            delete_partial_files(folder)
        return _fit(task, out, context, command, workers)


def _fit(task: Task, out: Path, context: DistributedContext, command: str, workers: int) -> Path:
    recipe = task.recipe
    # --- Resume
    checkpoints = CheckpointFolder(out / "checkpoints", {**task.config, "photos": task.photos.digest})
    averaged = copy.deepcopy(task.network).requires_grad_(False)
    first_step, best = 0, float("-inf")
    if checkpoint := checkpoints.latest():
        try:
            first_step, best = _load_state(task, averaged, checkpoint.state)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"{checkpoint.path} was written by another version ({first_line(error)}); choose another `out`"
            ) from None
    if first_step >= recipe.steps:
        return out / FILE
    # --- Train
    start_s, losses = time.monotonic(), []
    steps = range(first_step, recipe.steps)
    batches = run_threads(task.draw_batch, steps, workers=max(workers, 1))
    with TrainingLogger(out / "log.jsonl", "step", first_step) if context.rank == 0 else nullcontext() as logger:
        for step, batch in zip(steps, batches, strict=True):
            losses.append(task.training_step(step, batch))
            _update_average(averaged, task.network, min(recipe.ema, (1 + step) / (10 + step)))
            done = step + 1
            if done % recipe.validate_every and done < recipe.steps:
                continue
            # --- Check the losses
            means = context.mean(torch.stack(losses).mean(dim=0)).tolist()
            named, losses = dict(zip(task.loss_names, means, strict=True)), []
            if not all(map(math.isfinite, means)):
                raise TrainingError(f"{out}: the losses are {named} at step {done}; lower learning_rate")
            if logger is None:
                continue
            # --- Validate
            network = task.export_network(averaged)
            scores, rows = task.validate(network)
            steps_per_s = round((done - first_step) / (time.monotonic() - start_s), 3)
            # --- Write. The checkpoint is last: a resumed run deletes later lines and writes them again.
            line = {"step": done, **named, "steps_per_s": steps_per_s, **scores}
            log.info("step %d of %d: %s", done, recipe.steps, json.dumps(line))
            logger.write(line, _write_samples(out, done, rows))
            if (score := task.selection_score(scores)) > best:
                best = score
                tensors = dict(network.state_dict())
                TrainedWeights(tensors, task.shape, done, task.recipe, command, task.photos.summary).save(out)
            checkpoints.save(done, _state(task, averaged, done, best))
    return out / FILE


@torch.no_grad()
def _update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the current weights of a network."""
    for average, current in zip(averaged.parameters(), network.parameters(), strict=True):
        average.lerp_(current, 1 - decay)


def _state(task: Task, averaged: nn.Module, step: int, best: float) -> dict[str, object]:
    """Return all that changes during a training, for a checkpoint."""
    return {
        "step": step,
        "best": best,
        "averaged": averaged.state_dict(),
        "networks": {name: net.state_dict() for name, net in task.networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in task.optimizers.items()},
    }


def _load_state(task: Task, averaged: nn.Module, state: StateDict) -> tuple[int, float]:
    """Restore networks and optimizers from a checkpoint, and return its step and the best score so far."""
    averaged.load_state_dict(state["averaged"])
    for name, net in task.networks.items():
        net.load_state_dict(state["networks"][name])
    for name, optimizer in task.optimizers.items():
        load_optimizer(optimizer, state["optimizers"][name])
    return operator.index(state["step"]), float(state["best"])


def _write_samples(out: Path, step: int, rows: SampleRows) -> Pixels | None:
    """Write the sample images of a validation as one PNG file, and return it; None if there are none."""
    if not rows:
        return None
    images = (image.transpose(2, 0, 1) for row in rows for image in row)
    grid = image_grid(images, columns=len(rows[0]), rows=len(rows), gap_px=GRID_GAP_PX)
    write_atomic(out / "samples" / f"{step:07d}.png", encode_png(grid))
    return grid.transpose(1, 2, 0)
