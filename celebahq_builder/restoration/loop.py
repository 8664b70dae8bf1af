"""The training loop of the restoration networks, resumable at every validation."""

from __future__ import annotations

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from celebahq_builder.errors import TrainingError
from celebahq_builder.models.registry import Shape
from celebahq_builder.restoration.checkpoint import Checkpoint, Trained
from celebahq_builder.restoration.journal import TrainingLog
from celebahq_builder.restoration.photos import PhotoFolder, Pixels
from celebahq_builder.storage import lock
from celebahq_builder.training.distributed import World


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one patch size."""

    steps: int
    patch_px: int
    """Side of the network's input patches."""
    batch: int
    """Patches per step, over all processes."""


class Phased:
    """What every recipe has, and what it can tell of its phases."""

    phases: tuple[Phase, ...]
    ema: float
    validate_every: int
    held_out: int

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return sum(p.steps for p in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase that step `step`, counted from 0, belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def check(self) -> None:
        """Raise ValueError for what makes no sense in any recipe."""
        if not self.phases or min(min(p.steps, p.batch) for p in self.phases) < 1:
            raise ValueError("phases must name at least one phase of one step and one patch")
        if any(p.patch_px % 16 or p.patch_px < 16 for p in self.phases):
            raise ValueError("patch_px must be a multiple of 16 in every phase")
        if self.validate_every < 1 or self.held_out < 1:
            raise ValueError("validate_every and held_out must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema} must be in [0, 1)")


log = logging.getLogger(__name__)

NAMES = ("checkpoint.safetensors*", "weights.safetensors*", "log.jsonl", "samples", "tensorboard")
"""All that lies in the folder of a training, as patterns of `fnmatch`."""

Scores = dict[str, float]
"""Figures of a validation, by name with unit."""

Rows = list[list[Pixels]]
"""Sample images: a row for each photo."""


class Task(ABC):
    """What is trained, on what, and how one step goes; the loop does the rest."""

    recipe: Phased
    photos: PhotoFolder
    shape: Shape
    """Of the first network, the one that is exported."""
    nets: Trained
    identity: dict[str, Any]
    """All that decides the weights, as plain values."""
    losses: tuple[str, ...]
    """Names of what `update` returns."""

    @abstractmethod
    def draw(self, step: int) -> Any:
        """Return this process' part of a step's batch, on the CPU; called from several threads."""

    @abstractmethod
    def update(self, step: int, drawn: Any) -> Tensor:
        """Update all networks once; return the losses, float [len(losses)], detached."""

    @abstractmethod
    def validate(self, net: nn.Module) -> tuple[Scores, Rows]:
        """Return the scores of a network on the held-out photos, and some images."""

    def finished(self, averaged: nn.Module) -> nn.Module:
        """Return the network that is validated and exported, made of the averaged one, which stays as it is."""
        return averaged

    @abstractmethod
    def merit(self, scores: Scores) -> float:
        """Return the one number that says which weights are the best; higher is better."""


def fit(task: Task, out: Path, world: World, *, command: str = "", workers: int = 0) -> Path:
    """Train, going on from a checkpoint in `out` if there is one.

    Args:
        task: what is trained.
        out: folder of the run.
        world: the processes that share the work; the first one writes.
        command: the command line, for the model card.
        workers: threads that draw batches ahead; 0 draws them in turn. Never changes the result.

    Returns:
        Path of ``weights.safetensors``: the averaged and finished weights with the best validation.

    Raises:
        TrainingError: a checkpoint of another recipe or other photos, or a loss that exploded.
    """
    cv2.setNumThreads(0)
    recipe = task.recipe
    shape = {"architecture": task.shape.architecture, "widths": task.shape.widths, "blocks": task.shape.blocks}
    about = {"shape": json.dumps(shape), "command": command, "photos": task.photos.summary}
    state = Checkpoint.open(out, task.nets, {**task.identity, "photos": task.photos.digest}, about)
    if state.step >= recipe.steps:
        return state.best_path
    began, first, losses = time.monotonic(), state.step, []
    with ExitStack() as stack:
        journal: TrainingLog | None = None
        if world.first:
            stack.enter_context(lock(out, "folder of a training", "out", names=NAMES, known=state.step > 0))
            journal = stack.enter_context(TrainingLog(out, state.step, recipe.steps))
        for step, drawn in drawn_ahead(task.draw, range(state.step, recipe.steps), workers):
            losses.append(task.update(step, drawn))
            state.average(min(recipe.ema, (1 + step) / (10 + step)))
            if (step + 1) % recipe.validate_every and step + 1 < recipe.steps:
                continue
            means = world.mean(torch.stack(losses).mean(dim=0)).tolist()
            named = dict(zip(task.losses, means, strict=True))
            losses = []
            if not all(map(math.isfinite, means)):
                raise TrainingError(f"{out}: the losses are {named} at step {step + 1}; lower learning_rate")
            if journal:
                final = task.finished(state.averaged)
                scores, rows = task.validate(final)
                per_s = (step + 1 - first) / (time.monotonic() - began)
                # The journal first: resuming drops lines of steps that the checkpoint does not hold.
                journal.write({"step": step + 1, **named, "steps_per_s": round(per_s, 3), **scores}, rows)
                state.save(step + 1, task.merit(scores), final)
    return state.best_path


def drawn_ahead(draw: Callable[[int], Any], steps: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    """Yield each step with what `draw` returns for it, in order; `workers` threads draw the next ones meanwhile."""
    if workers == 0:
        yield from ((step, draw(step)) for step in steps)
        return
    pool = ThreadPoolExecutor(workers)
    ahead: deque[tuple[int, Future[Any]]] = deque()
    try:
        for step in steps:
            ahead.append((step, pool.submit(draw, step)))
            if len(ahead) > 2 * workers:
                ready, future = ahead.popleft()
                yield ready, future.result()
        for ready, future in ahead:
            yield ready, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
