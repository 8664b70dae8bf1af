"""The training loop of the restoration and landmark networks: batches, validations, checkpoints, interruption."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import operator
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.image_grid import image_grid
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.parallel import cores
from celebahq_builder.progress import Progress
from celebahq_builder.storage import delete_partial_files, lock, write_atomic
from celebahq_builder.training.batch_loader import draw_batches
from celebahq_builder.training.checkpoint import CheckpointFolder, StateDict, load_optimizer, resuming
from celebahq_builder.training.distributed import DistributedContext, PolledFlag, join_processes, torch_threads
from celebahq_builder.training.interface import AnyTask, LoopRecipe, SampleRows, Scores
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted
from celebahq_builder.training.logger import TrainingLogger
from celebahq_builder.training.trained_weights import FILE, TrainedWeights

log = logging.getLogger(__name__)

GRID_GAP_PX = 4
"""White pixels between sample images."""

FORECAST_AFTER_S = 5.0
"""Time after which the speed is known well enough to say when the first validation is."""

NAMES = ("checkpoints", FILE, "log.jsonl", "samples", "tensorboard")
"""Names in the folder of a training."""

# --- The loop -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Arguments of a training apart from its recipe and its photos."""

    out: Path
    """Folder of the run, which is created if it does not exist. If it holds a run with the same recipe and photos, that
    run is resumed."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Under torchrun each process has its own device."""
    threads: int = 1
    """CPU threads of torch. Their number changes the last bits of the result."""
    workers: int | None = None
    """Processes that prepare batches ahead; 0 prepares each batch when it is needed. The number does not change the
    result. None: none on a CPU, up to 8 with a GPU."""
    command: str = ""
    """Command line of the training, for the model card."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Interrupts the training after the present step. It listens to Ctrl-C and SIGTERM during the training."""


def train(task: type[AnyTask], recipe: LoopRecipe, photos: Path, options: TrainingOptions) -> Path:
    """Train networks, or resume their training, in this process or, under torchrun, in all processes that it started.

    Every validation writes a line of ``log.jsonl``, sample images, a checkpoint and, if the weights are the best so
    far, ``weights.safetensors``. A resumed run ends with the same weights as one that was not interrupted.

    Args:
        task: the training.
        recipe: of this training, see `load_recipe`.
        photos: folder of the photos: any folder of clean photos, or for landmarks one in CelebA's layout.
        options: see `TrainingOptions`.

    Returns:
        Path of ``weights.safetensors``.

    Raises:
        SourceError: the folder in CelebA's layout cannot be read.
        WeightsError: the weights to start from are unknown or damaged.
        TrainingError: the photos cannot be used, the folder has checkpoints of another recipe or other photos, or a
            loss is not finite.
        WorkspaceLocked: another process trains in the folder.
        DiskFull: no space is left.
        WorkspaceError: the folder cannot be created or holds files of others, or the file system failed.
        TrainingInterrupted: the training was interrupted. A checkpoint holds all steps; a validation that ran is
            repeated when the run is resumed.
    """
    out, stop = options.out, options.stop
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.listening())
        stack.enter_context(torch_threads(options.threads))
        context = stack.enter_context(join_processes(options.device))
        with stop.abandonable():
            log.info("reading the photos in %s", photos)
            made = task(recipe, photos, context)
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(0)
        if context.is_main:
            known = (out / "checkpoints").is_dir()
            stack.enter_context(lock(out, "folder of a training", "out", names=NAMES, known=known))
            for folder in (out, out / "checkpoints"):
                delete_partial_files(folder)
        workers = options.workers
        if workers is None:
            workers = 0 if context.device.type == "cpu" else min(8, cores())
        return _Training(made, context, options).run(workers)


class _Training:
    """The state of a training: networks, optimizers, position."""

    def __init__(self, task: AnyTask, context: DistributedContext, options: TrainingOptions) -> None:
        self.task, self.context = task, context
        self.out, self.command, self.stop = options.out, options.command, options.stop
        self.averaged = copy.deepcopy(task.network).eval().requires_grad_(False)
        averaged, current = (list(net.state_dict().values()) for net in (self.averaged, task.network))
        self.weights = [[one for one in each if one.is_floating_point()] for each in (averaged, current)]
        """The averaged tensors and the current ones, which share their memory with the networks."""
        self.counters = [[one for one in each if not one.is_floating_point()] for each in (averaged, current)]
        """Tensors that are copied, not averaged."""
        self.checkpoints = CheckpointFolder(self.out / "checkpoints", {**task.config, "photos": task.photos.digest})
        self.step, self.best = 0, float("-inf")
        self.saved_step = 0
        """Step of the last checkpoint; 0: there is none."""
        self.losses: list[Tensor] = []
        """Losses of the steps since the last validation. A validation that is due and not done leaves them."""

    def run(self, workers: int) -> Path:
        """Train to the last step; see `train`."""
        task, stop, recipe = self.task, self.stop, self.task.recipe
        # --- Resume
        if checkpoint := self.checkpoints.latest():
            with resuming(checkpoint) as state:
                self._load_state(state)
            log.info("resuming from %s", checkpoint.path)
        stop.saved(f"step {self.step}" if self.step else "")
        if self.step >= recipe.steps and not self.losses:
            return self.out / FILE
        # --- Train
        self.first_step, self.start_s, first, forecast = self.step, time.monotonic(), True, False
        cuda = self.context.device.type == "cuda"
        log.info(
            "%s; steps %d to %d on %s; the next validation, which writes weights, is after step %d",
            *(task.photos.summary, self.step + 1, recipe.steps, self.context.device, self._next_validation()),
        )
        progress = Progress("training", recipe.steps, self.step, unit="step", judged=False)
        batches = draw_batches(task.draw_batch, range(self.step, recipe.steps), workers)
        with contextlib.ExitStack() as stack:
            stack.callback(progress.close)
            stack.callback(batches.close)
            # All batches of a phase have one shape: cuDNN measures once which algorithm is the fastest.
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.backends.cudnn.benchmark = cuda
            logger = None
            if self.context.is_main:
                # The line of a validation that is due is written again.
                logger = TrainingLogger(self.out / "log.jsonl", "step", self.step - bool(self.losses and self._due))
                stack.enter_context(logger)
            polled = PolledFlag(self.context)
            while True:
                abandoned = False
                if self.losses and self._due:
                    abandoned = self._validate(logger)
                if self.step >= recipe.steps and not self.losses:
                    return self.out / FILE
                if abandoned or polled.any(stop.requested):
                    self._interrupt()
                self.losses.append(task.training_step(self.step, next(batches)))
                self._update_average()
                self.step += 1
                progress.advance(1)
                if first and not self._due:
                    # The first step includes the compilation, which would distort the speed.
                    self.first_step, self.start_s = self.step, time.monotonic()
                    progress.first, progress.began = self.first_step, self.start_s
                first, elapsed_s = False, time.monotonic() - self.start_s
                if not forecast and self.step > self.first_step and elapsed_s >= FORECAST_AFTER_S:
                    forecast, speed = True, (self.step - self.first_step) / elapsed_s
                    left_min = [(step - self.step) / speed / 60 for step in (self._next_validation(), recipe.steps)]
                    log.info("%.3g steps/s: the next validation in %.1f min, the end in %.0f min", speed, *left_min)

    @property
    def _due(self) -> bool:
        """True if a validation follows the last step."""
        return self.step % self.task.recipe.validate_every == 0 or self.step == self.task.recipe.steps

    def _next_validation(self) -> int:
        """Return the step after which the next validation is due."""
        every = self.task.recipe.validate_every
        step = self.step if self.losses and self._due else (self.step // every + 1) * every
        return min(step, self.task.recipe.steps)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights towards the current ones; statistics of a batch normalization, too."""
        decay = min(self.task.recipe.ema, (1 + self.step) / (10 + self.step))
        averaged, current = self.weights
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for average, current in zip(*self.counters, strict=True):
            average.copy_(current)

    def _mean_losses(self) -> Scores:
        """Return the mean losses since the last validation; raise TrainingError if one of them is not finite."""
        self.losses = list(self.context.mean(torch.stack(self.losses)))
        means = torch.stack(self.losses).mean(dim=0).tolist()
        named = dict(zip(self.task.loss_names, means, strict=True))
        if not all(map(math.isfinite, means)):
            raise TrainingError(f"{self.out}: the losses are {named} at step {self.step}; lower learning_rate")
        return named

    def _validate(self, logger: TrainingLogger | None) -> bool:
        """Validate, and write the results and a checkpoint; return whether an interruption abandoned the validation."""
        task, losses, abandoned = self.task, self._mean_losses(), False
        if logger is not None:
            try:
                with self.stop.abandonable():
                    network = task.export_network(self.averaged)
                    scores, rows = task.validate(network)
            except TrainingInterrupted:
                abandoned = True
            else:
                # The checkpoint is last: a resumed run deletes later lines and writes them again.
                steps_per_s = round((self.step - self.first_step) / (time.monotonic() - self.start_s), 3)
                line = {"step": self.step, **losses, "steps_per_s": steps_per_s, **scores}
                figures = ", ".join(f"{name} {value:g}" for name, value in line.items() if name != "step")
                log.info("step %d of %d: %s", self.step, task.recipe.steps, figures)
                logger.write(line, _write_samples(self.out, self.step, rows))
                score = task.selection_score(scores)
                if score is None or score > self.best:
                    self.best = self.best if score is None else score
                    tensors = dict(network.state_dict())
                    weights = TrainedWeights(
                        tensors, task.shape, self.step, task.recipe, self.command, task.photos.summary
                    )
                    weights.save(self.out)
        abandoned = self.context.any(abandoned)
        if not abandoned:
            self.losses = []
            self._save()
        return abandoned

    def _save(self) -> None:
        if self.context.is_main:
            self.checkpoints.save(self.step, self._state())
        self.saved_step = self.step
        self.stop.saved(f"step {self.step}")

    def _interrupt(self) -> None:
        """Write a checkpoint of the last step, unless a loss is not finite, and raise TrainingInterrupted."""
        if self.step > self.saved_step:
            self._mean_losses()
            self._save()
        self.context.any(False)  # torchrun kills the other processes as soon as one has ended
        weights = self.out / FILE
        raise self.stop.interruption(f"; weights so far: {weights.absolute()}" if weights.exists() else "")

    def _state(self) -> dict[str, object]:
        """Return all that changes during a training, for a checkpoint."""
        task = self.task
        return {
            "step": self.step,
            "best": self.best,
            "losses": torch.stack(self.losses) if self.losses else torch.zeros(0, len(task.loss_names)),
            "averaged": self.averaged.state_dict(),
            "networks": {name: net.state_dict() for name, net in task.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in task.optimizers.items()},
        }

    def _load_state(self, state: StateDict) -> None:
        task = self.task
        self.averaged.load_state_dict(state["averaged"])
        for name, net in task.networks.items():
            net.load_state_dict(state["networks"][name])
        for name, optimizer in task.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.losses = list(state["losses"].reshape(-1, len(task.loss_names)).to(self.context.device))
        self.step = self.saved_step = operator.index(state["step"])
        if not 0 <= self.step <= task.recipe.steps:
            raise ValueError(f"step {self.step}")
        self.best = float(state["best"])


def _write_samples(out: Path, step: int, rows: SampleRows) -> Pixels | None:
    """Write the sample images of a validation as one PNG file, and return it; None if there are none."""
    if not rows:
        return None
    images = (image.transpose(2, 0, 1) for row in rows for image in row)
    grid = image_grid(images, columns=len(rows[0]), rows=len(rows), gap_px=GRID_GAP_PX)
    write_atomic(out / "samples" / f"{step:07d}.png", encode_png(grid))
    return grid.transpose(1, 2, 0)
