"""The ProGAN training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from celebahq_builder import __version__
from celebahq_builder.config import to_mapping
from celebahq_builder.data.dataset import Batch, to_device
from celebahq_builder.errors import TrainingError, WeightsError
from celebahq_builder.imaging.image_grid import fit_grid, image_grid, png_bytes
from celebahq_builder.models.generator_file import export_generator
from celebahq_builder.models.weight_file import first_line
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.progan import generate, training_report
from celebahq_builder.progan.forecast import Position, outlook
from celebahq_builder.progan.real_images import DataIdentity, RealImages
from celebahq_builder.progan.schedule import RESUMABLE_KEYS, ProGANRecipe, SchedulePoint, TickSettings
from celebahq_builder.progan.step import STATISTICS, ProGANStep, RealBatch
from celebahq_builder.progan.training_metrics import TrainingMetrics
from celebahq_builder.storage import delete_partial_files, holds, lock, write_atomic
from celebahq_builder.training.checkpoint import Checkpoint, CheckpointFolder
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted
from celebahq_builder.training.logger import LogLine, TrainingLogger, read_lines

log = logging.getLogger(__name__)

NAMES = (
    *("recipe.json", "stats.jsonl", "tensorboard", "checkpoints", "report", "reals.png", "fakes-*.png"),
    *("generator.safetensors", "generator.json"),
)
"""Files and folders in the folder of a run, as patterns of `fnmatch`."""

GRID_CELL_MIN_PX = 32
"""Smaller images are enlarged in image grids, pixel by pixel."""

LINE_EVERY_S = 30.0
"""Time between two lines of the log."""

FIRST_LOOK_S, LOOK_EVERY_S = 30.0, 300.0
"""Time after which a new run writes images and its report, and time between two of them during a long tick."""


@dataclass(frozen=True)
class TrainingRequest:
    """Everything that a training needs, apart from the recipe."""

    data: Path
    """HDF5 file."""
    out: Path
    """Folder of the run."""
    resume: bool = False
    """Require a checkpoint to resume from."""
    total_kimg: float | None = None
    """Length of the training, instead of the recipe's."""
    workers: int = 0
    """Processes that read; 0 for threads."""
    against: Path | None = None
    """HDF5 file of real images for the metrics; None for the training data."""
    changed: tuple[str, ...] = ()
    """Those of `RESUMABLE_KEYS` that may differ from the recipe of the checkpoint."""


@dataclass
class TrainingProgress:
    """The position of a training, and the sums of the present tick."""

    tick_sums: Tensor
    """Sums of `STATISTICS` over the steps of the present tick, on the device."""
    step: int = 0
    """Updates of both networks so far."""
    images: int = 0
    """Real images shown so far, to all processes together."""
    level: int = 0
    """Level of the last step; 0 before the first."""
    ticks: int = 0
    """Complete ticks."""
    tick_began: int = 0
    """Images shown before the present tick."""
    tick_steps: int = 0
    """Steps of the present tick."""
    tick_seconds: float = 0.0
    """Time of the present tick."""
    seconds: float = 0.0
    """Time of all steps, over all sessions."""

    @property
    def kimg(self) -> float:
        """Thousands of real images shown so far."""
        return self.images / 1000


class Training:
    """A ProGAN training in the folder of a run, resumed from its last checkpoint if there is one.

    Raises:
        TrainingError: the data do not fit the recipe, the run has another recipe or other data, or there is no
            checkpoint and `request.resume` is set.
        FormatError: the HDF5 file is unusable.
    """

    def __init__(
        self,
        request: TrainingRequest,
        recipe: ProGANRecipe,
        context: DistributedContext,
        stop: StopRequest | None = None,
        images_per_s: Mapping[int, float] | None = None,
    ) -> None:
        self.request, self.recipe, self.context, self.stop = request, recipe, context, stop or StopRequest()
        self.images_per_s = dict(images_per_s or {})
        """Speed by level, for estimates of the time left."""
        self.total_kimg = request.total_kimg or recipe.schedule.total_kimg
        self.reals = RealImages(request.data, recipe, context, workers=request.workers)
        self.metrics = (
            TrainingMetrics(request.out, request.against or request.data, recipe, context.device)
            if recipe.tick.metric_ticks and context.is_main
            else None
        )
        self.progan = ProGANStep(recipe, context, self.reals.labels)
        self.progress = TrainingProgress(torch.zeros(len(STATISTICS), device=context.device))
        self.saved_images = -1
        """Images shown before the last checkpoint; -1: there is none."""
        self.checkpoints = open_checkpoints(request.out, recipe, self.reals.identity)
        checkpoint = self.checkpoints.latest(request.changed)
        if checkpoint:
            self._restore(checkpoint)
        elif request.resume:
            raise TrainingError(f"{request.out} has no checkpoint; leave out `resume` to begin a training there")
        self.stop.saved(f"{self.progress.kimg:g} kimg" if checkpoint else "")

    def run(self) -> Path:
        """Train until the end; return the folder of the run.

        Whatever ends the training, images and the report of its last step are written.

        Raises:
            TrainingError: the losses are not finite, or have exploded. The last checkpoint is unchanged.
            TrainingInterrupted: the training was interrupted. A checkpoint holds all steps, unless it was the second
                Ctrl-C.
        """
        out, context, progress, tick = self.request.out, self.context, self.progress, self.recipe.tick
        with contextlib.ExitStack() as stack:
            # Open the folder of the run.
            stack.enter_context(self.stop.listening())
            logger = None
            if context.is_main:
                known = holds(out / "recipe.json", {"net", "schedule"})
                stack.enter_context(lock(out, "folder of a run", "out", names=NAMES, known=known))
                for folder in (out, out / "checkpoints", out / "report"):
                    delete_partial_files(folder)
                write_atomic(out / "recipe.json", (json.dumps(to_mapping(self.recipe), indent=1) + "\n").encode())
                logger = stack.enter_context(TrainingLogger(out / "stats.jsonl", "images", progress.images))
                for line in read_lines(out / "stats.jsonl"):
                    if line.get("images_per_s", 0) > 0 and line.get("level") in self.recipe.net.levels:
                        self.images_per_s[int(line["level"])] = line["images_per_s"]
                if not progress.images:
                    self._write_image_grid()
                self._write_report()
                log.info("report: %s", self.report.absolute())
                for text in self._outlook():
                    log.info("%s", text)
                stack.push(self._show_failure)

            minibatches = stack.enter_context(contextlib.closing(self.reals.minibatches(self._now)))
            parent, began_s = os.getppid(), time.monotonic()
            self.line_s, self.look_s = began_s, began_s + (FIRST_LOOK_S if not progress.images else LOOK_EVERY_S)
            interrupted = context.any(self.stop.requested)
            while progress.kimg < self.total_kimg and not interrupted:
                # Step.
                now = self._now()
                if progress.level not in (0, now.level):
                    self.progan.reset_optimizers()
                    log.info("%dx%d enters at %.1f kimg", now.resolution, now.resolution, progress.kimg)
                self._step(now, next(minibatches))
                took_s, began_s = time.monotonic() - began_s, time.monotonic()
                progress.seconds += took_s
                progress.tick_seconds += took_s

                # Tick: log, image grid, checkpoint.
                if progress.images - progress.tick_began >= tick.kimg * 1000 or progress.kimg >= self.total_kimg:
                    line = self._end_tick(now)
                    if logger is not None:
                        if tick.metric_ticks and progress.ticks % tick.metric_ticks == 0:
                            line |= self._scores()
                        logger.write(line)
                        self._log_tick(line)
                        if progress.ticks % tick.grid_ticks == 0:
                            self._write_image_grid()
                        if progress.ticks % tick.checkpoint_ticks == 0:
                            self._save()
                            self._write_report()
                    began_s = time.monotonic()
                elif logger is not None and self._between_ticks(now):
                    began_s = time.monotonic()

                # Interruption, of all processes after the same step. Without torchrun, nobody would end its processes.
                orphaned = context.size > 1 and os.getppid() != parent
                interrupted = context.any(self.stop.requested or orphaned)

            # Last checkpoint, images, report. A cluster may kill the training some seconds after SIGTERM.
            if progress.tick_steps:
                self._mean_statistics()
            if progress.images > max(self.saved_images, 0) or progress.kimg >= self.total_kimg:
                self._save()
            if context.is_main:
                if progress.images:
                    self._write_image_grid()
                self._write_report(*[f"interrupted; {self.stop.advice}"] * (progress.kimg < self.total_kimg))
            context.any(False)  # torchrun kills the other processes as soon as one has ended
        if progress.kimg < self.total_kimg:
            raise self.stop.interruption(f"; report: {self.report.absolute()}")
        return out

    def _now(self) -> SchedulePoint:
        return self.recipe.schedule.at(self.progress.kimg, self.recipe.net.level_max)

    def _trained_level(self) -> tuple[int, float]:
        """Return the level and the alpha at which the averaged generator is shown and exported."""
        progress = self.progress
        return self.recipe.schedule.trained_level(progress.kimg, progress.level, self.recipe.net.level_max)

    def _step(self, now: SchedulePoint, batch: Batch) -> None:
        passes = now.passes(self.context.size, self.recipe.net.stddev_group)
        images, labels = to_device(batch, self.context.device, now.alpha)
        reals = [RealBatch(images[i::passes], None if labels is None else labels[i::passes]) for i in range(passes)]
        progress = self.progress
        try:
            progress.tick_sums += self.progan.step(progress.step, now, reals)
        except torch.cuda.OutOfMemoryError:
            side, n = now.resolution, len(reals[0].images)
            raise TrainingError(
                f"{self.request.out}: {self.context.device} has no memory for a pass of {n} images at {side}x{side}; "
                f"set schedule.per_gpu.{side} to less than {n}, or end other programs on the GPU; then run the same "
                "command to resume"
            ) from None
        progress.tick_steps += 1
        progress.step += 1
        progress.images += now.minibatch
        progress.level = now.level

    def _end_tick(self, now: SchedulePoint) -> dict[str, float]:
        """Return the statistics of the tick, and begin the next one."""
        progress, device = self.progress, self.context.device
        means = self._mean_statistics()
        progress.ticks += 1
        line = {
            "tick": progress.ticks,
            "images": progress.images,
            "kimg": round(progress.kimg, 3),
            "level": now.level,
            "resolution": now.resolution,
            "alpha": round(now.alpha, 6),
            "minibatch": now.minibatch,
            "learning_rate": now.learning_rate,
            **{name: float(f"{value:.6g}") for name, value in means.items()},
            "images_per_s": round((progress.images - progress.tick_began) / max(progress.tick_seconds, 1e-9), 3),
            "seconds": round(progress.seconds, 1),
            "memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes(),
        }
        progress.tick_began, progress.tick_steps, progress.tick_seconds = progress.images, 0, 0.0
        progress.tick_sums = torch.zeros_like(progress.tick_sums)
        return line

    def _log_tick(self, line: LogLine) -> None:
        self.line_s = time.monotonic()
        self.images_per_s[int(line["level"])] = line["images_per_s"]
        log.info(
            "tick %d: %.1f images/s, scores %.2f and %.2f, gradient %.2f; %s",
            *(line["tick"], line["images_per_s"], line["score_real"], line["score_fake"], line["gradient_norm"]),
            self._outlook()[0],
        )

    def _mean_statistics(self) -> dict[str, float]:
        """Return the means of the present tick; raise TrainingError if the training diverged."""
        progress = self.progress
        means = self.context.mean(progress.tick_sums / progress.tick_steps).tolist()
        statistics = dict(zip(STATISTICS, means, strict=True))
        reason = divergence_reason(statistics, self.progan)
        if reason:
            advice = "there is no checkpoint yet: lower schedule.learning_rate and begin again"
            if self.saved_images > 0:
                advice = (
                    f"the checkpoint at {self.saved_images / 1000:g} kimg is good: lower schedule.learning_rate, and "
                    "resume with `changed` schedule.learning_rate"
                )
            where = f"tick {progress.ticks + 1}, at {progress.kimg:g} kimg"
            raise TrainingError(f"{self.request.out}: {where}, {reason}; {advice}")
        return statistics

    def _scores(self) -> dict[str, float]:
        """Return the metrics of the averaged generator; nothing if the training is interrupted meanwhile."""
        if self.metrics is None:
            return {}
        try:
            with self.stop.abandonable():
                return self.metrics.scores(self.progan.averaged, *self._trained_level())
        except TrainingInterrupted:
            log.info("tick %d is not measured, because the training is interrupted", self.progress.ticks)
            return {}

    def _between_ticks(self, now: SchedulePoint) -> bool:
        """Log a line from time to time, and write images and the report: in the first minute, and in long ticks.

        Returns:
            Whether files were written.
        """
        progress, now_s = self.progress, time.monotonic()
        if progress.tick_steps > 1:  # the first step of a tick may be slow
            speed = (progress.images - progress.tick_began) / max(progress.tick_seconds, 1e-9)
            self.images_per_s[now.level] = speed
        if now_s >= self.line_s + LINE_EVERY_S:
            self.line_s = now_s
            log.info("%s", self._outlook()[0])
        if now_s < self.look_s:
            return False
        with contextlib.suppress(WeightsError):  # the next tick reports that the training diverged
            self._write_image_grid()
        self._write_report()
        took_s = time.monotonic() - now_s
        self.look_s = time.monotonic() + max(LOOK_EVERY_S, 50 * took_s)
        return True

    def _outlook(self) -> list[str]:
        """Return sentences about the position of the training and what to expect when; see `forecast.outlook`."""
        on_cpu = self.context.device.type == "cpu"
        position = Position(self.progress.kimg, self.total_kimg, *self._trained_level())
        return outlook(self.recipe, position, self.images_per_s, on_cpu=on_cpu)

    def _write_report(self, *news: str) -> None:
        training_report.write_training_report(self.request.out, [*news, *self._outlook()])

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.request.out / "report" / "index.html"

    def _show_failure(self, _: object, error: BaseException | None, *__: object) -> None:
        """Write images and the report after an error; nothing that fails meanwhile hides the error."""
        if isinstance(error, Exception):
            with contextlib.suppress(Exception):
                self._write_image_grid()
            with contextlib.suppress(Exception):
                self._write_report(f"the training ended by an error: {error}")

    def _write_image_grid(self) -> None:
        """Write a grid of generated images of fixed latents; the first time, also one of real images."""
        out, generator, (level, alpha) = self.request.out, self.progan.averaged, self._trained_level()
        columns, rows = fit_grid(*self.recipe.tick.grid, self.recipe.net.resolution)
        latents = generate.grid_latents(generator, columns * rows, self.recipe.seed)
        labels = generate.cyclic_labels(generator, columns * rows)
        fakes = generate.generate_images(generator, latents, level, alpha, labels)
        zoom = max(1, GRID_CELL_MIN_PX >> level)
        fakes = fakes.repeat(zoom, axis=2).repeat(zoom, axis=3)
        path = out / f"fakes-{int(self.progress.kimg):06d}.png"
        write_atomic(path, png_bytes(image_grid(fakes, columns)))
        if not (out / "reals.png").exists():
            reals = self.reals.examples(columns * rows)
            write_atomic(out / "reals.png", png_bytes(image_grid(reals, columns)))

    def _save(self) -> None:
        """Write a checkpoint and the averaged generator."""
        progress = self.progress
        self.saved_images = progress.images
        if not self.context.is_main:
            return
        state = {
            "networks": self.progan.state_dict(),
            "progress": vars(progress),
            "order": self.reals.order.state_dict(),
        }
        self.checkpoints.save(progress.images, state, stage=f"r{1 << progress.level:04d}")
        self.stop.saved(f"{progress.kimg:g} kimg")
        about = {
            "kimg": progress.kimg,
            "data": self.reals.identity.to_mapping(),
            "recipe": to_mapping(self.recipe),
            "versions": {
                "celebahq-builder": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        export_generator(self.request.out, self.progan.averaged, *self._trained_level(), about)

    def _restore(self, checkpoint: Checkpoint) -> None:
        try:
            self.progan.load_state_dict(checkpoint.state["networks"])
            progress = TrainingProgress(**checkpoint.state["progress"])
            wrong = [
                name for name, value in vars(self.progress).items() if type(value) is not type(vars(progress)[name])
            ]
            if wrong or progress.level not in (0, *self.recipe.net.levels):
                raise ValueError(f"progress: {', '.join(wrong) or 'level'}")
            progress.tick_sums = progress.tick_sums.to(self.progress.tick_sums)
            progress.tick_sums += self.progress.tick_sums  # the same shape, or an error
            self.progress = progress
            self.reals.order.load_state_dict(checkpoint.state["order"])
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = first_line(error)
            raise TrainingError(
                f"{checkpoint.path} was written by another version ({reason}); choose another `out`"
            ) from None
        self.saved_images = self.progress.images
        log.info("resuming from %s", checkpoint.path)


def open_checkpoints(run: Path, recipe: ProGANRecipe, data: DataIdentity) -> CheckpointFolder:
    """Return the checkpoints of a run; they are refused if recipe or data differ.

    The length of the training, the settings of ticks, and the number of passes may differ: they do not affect what a
    step computes, apart from rounding.
    """
    config = to_mapping(dataclasses.replace(recipe, tick=TickSettings()))
    del config["tick"]
    free = ("total_kimg", "per_gpu")
    config["schedule"] = {key: value for key, value in to_mapping(recipe.schedule).items() if key not in free}
    return CheckpointFolder(run / "checkpoints", {**config, "data": data.to_mapping()}, RESUMABLE_KEYS)


def resume_kimg(checkpoints: CheckpointFolder, changed: tuple[str, ...] = ()) -> float | None:
    """Return the kimg from which a run resumes, or None for a new run; see `CheckpointFolder.latest` for the errors."""
    checkpoint = checkpoints.latest(changed)
    return None if checkpoint is None else float(checkpoint.state["progress"]["images"]) / 1000


LOSS_MAX = 1e6
"""Larger losses and scores mean that the training exploded. WGAN-GP's drift term keeps the scores of real images below
500 or so; with the largest penalty target in use, 750, scores differ by 10,000 or so."""

BOUNDED = ("generator_loss", "discriminator_loss", "score_real", "score_fake")
"""The statistics that `LOSS_MAX` applies to; penalty and gradient grow with the square of a score."""


def divergence_reason(statistics: dict[str, float], progan: ProGANStep) -> str | None:
    """Detect non-finite or exploding losses, and non-finite weights.

    Args:
        statistics: means over a tick, by the names of `STATISTICS`.
        progan: the networks; the last step may have spoilt their weights without effect on the losses yet.

    Returns:
        The reason as a part of a message, or None if there is none.
    """
    values = ", ".join(f"{name} {value:g}" for name, value in statistics.items())
    if not all(map(math.isfinite, statistics.values())):
        return f"is not finite ({values})"
    if any(abs(statistics[name]) > LOSS_MAX for name in BOUNDED):
        return f"has exploded ({values})"
    weights: list[Tensor] = [*progan.generator.parameters(), *progan.discriminator.parameters()]
    with torch.no_grad():
        largest = torch.stack(list(torch._foreach_norm(weights, float("inf"))))
    return None if bool(largest.isfinite().all()) else f"left weights that are not finite ({values})"
