"""The ProGAN training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from celebahq_builder import __version__
from celebahq_builder.config import to_mapping
from celebahq_builder.data.dataset import Batch, to_device
from celebahq_builder.device_errors import is_out_of_memory
from celebahq_builder.errors import TrainingError
from celebahq_builder.models.generator_file import export_generator
from celebahq_builder.progan.real_images import DataIdentity, RealImages
from celebahq_builder.progan.schedule import RESUMABLE_KEYS, ProGANRecipe, SchedulePoint, TickSettings, TrainingRequest
from celebahq_builder.progan.step import STATISTICS, Microbatch, ProGANTrainer
from celebahq_builder.progan.ticks import RunOutput, TrainingProgress, divergence_reason
from celebahq_builder.progan.training_report import REPORT
from celebahq_builder.training.checkpoint import Checkpoint, CheckpointFolder, resuming
from celebahq_builder.training.distributed import DistributedContext, PolledFlag
from celebahq_builder.training.interruption import StopRequest

log = logging.getLogger(__name__)


class Training:
    """A ProGAN training in the folder of a run, resumed from its last checkpoint if there is one.

    Args:
        images_per_s: speed by level, for estimates of the time left.

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
        self.reals = RealImages(request.data, recipe, context, workers=request.workers)
        self.progan = ProGANTrainer(recipe, context, self.reals.labels)
        self.progress = TrainingProgress(torch.zeros(len(STATISTICS), device=context.device))
        self.saved_images = -1
        """Images shown before the last checkpoint; -1: there is none."""
        self.checkpoints, checkpoint = open_checkpoints(request, recipe, self.reals.identity)
        if checkpoint:
            self._restore(checkpoint)
        self.stop.saved(f"{self.progress.kimg:g} kimg" if checkpoint else "")
        self.output = None
        """The files for the user; None in other processes than rank 0."""
        if context.is_main:
            parts = (self.progan, self.reals, self.progress, self.stop)
            self.output = RunOutput(request, recipe, *parts, images_per_s or {})

    def run(self) -> Path:
        """Train until the end; return the folder of the run.

        Whatever ends the training, images and the report of its last step are written.

        Raises:
            TrainingError: the losses are not finite, or have exploded. The last checkpoint is unchanged.
            TrainingInterrupted: the training was interrupted. A checkpoint holds all steps, unless it was the second
                Ctrl-C.
        """
        context, progress, output, tick = self.context, self.progress, self.output, self.recipe.tick
        total_kimg = self.request.total_kimg or self.recipe.schedule.total_kimg
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.stop.listening())
            if output is not None:
                stack.enter_context(output.opened())
            minibatches = stack.enter_context(contextlib.closing(self.reals.minibatches(self._now)))
            parent, began_s = os.getppid(), time.monotonic()
            stop = PolledFlag(context)
            interrupted = stop.any(self.stop.requested)
            while progress.kimg < total_kimg and not interrupted:
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
                if progress.images - progress.tick_began >= tick.kimg * 1000 or progress.kimg >= total_kimg:
                    line = progress.end_tick(now, self._mean_statistics(), context.device)
                    if output is not None:
                        output.write_tick(line)
                        if progress.ticks % tick.checkpoint_ticks == 0:
                            self._save()
                            output.write_report()
                    began_s = time.monotonic()
                elif output is not None and output.write_between_ticks():
                    began_s = time.monotonic()

                # Interruption, of all processes after the same step. Without torchrun, nobody would end its processes.
                orphaned = context.size > 1 and os.getppid() != parent
                interrupted = stop.any(self.stop.requested or orphaned)

            # Last checkpoint, images, report. A cluster may kill the training some seconds after SIGTERM.
            if progress.tick_steps:
                self._mean_statistics()
            if progress.images > max(self.saved_images, 0) or progress.kimg >= total_kimg:
                self._save()
            if output is not None:
                if progress.images:
                    output.write_image_grid()
                output.write_report(*[f"interrupted; {self.stop.advice}"] * (progress.kimg < total_kimg))
            context.any(False)  # torchrun kills the other processes as soon as one has ended
        if progress.kimg < total_kimg:
            raise self.stop.interruption(f"; report: {(self.request.out / REPORT).absolute()}")
        return self.request.out

    def _now(self) -> SchedulePoint:
        return self.recipe.schedule.at(self.progress.kimg, self.recipe.net.level_max)

    def _step(self, now: SchedulePoint, batch: Batch) -> None:
        passes = now.passes(self.context.size, self.recipe.net.stddev_group)
        images, labels = to_device(batch, self.context.device, now.alpha)
        reals = [Microbatch(images[i::passes], None if labels is None else labels[i::passes]) for i in range(passes)]
        progress = self.progress
        try:
            progress.tick_sums += self.progan.step(progress.step, now, reals)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            side = now.resolution
            n = len(reals[0].images) // now.parts(self.context.size, self.recipe.net.stddev_group)
            raise TrainingError(
                f"{self.request.out}: {self.context.device} has no memory for a pass of {n} images at {side}x{side}; "
                f"set schedule.per_gpu.{side} to less than {n}, or end other programs on the GPU; then run the same "
                "command to resume"
            ) from None
        progress.tick_steps += 1
        progress.step += 1
        progress.images += now.minibatch
        progress.level = now.level

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
        export_generator(self.request.out, self.progan.averaged, *progress.trained_level(self.recipe), about)

    def _restore(self, checkpoint: Checkpoint) -> None:
        with resuming(checkpoint) as state:
            self.progan.load_state_dict(state["networks"])
            progress = TrainingProgress(**state["progress"])
            loaded = vars(progress)
            wrong = [name for name, value in vars(self.progress).items() if not isinstance(value, type(loaded[name]))]
            if wrong or progress.level not in (0, *self.recipe.net.levels):
                raise ValueError(f"progress: {', '.join(wrong) or 'level'}")
            if progress.kimg < 0:
                raise ValueError(f"progress: images = {progress.images}")
            progress.tick_sums = progress.tick_sums.to(self.progress.tick_sums)
            progress.tick_sums += self.progress.tick_sums  # the same shape, or an error
            self.progress = progress
            self.reals.order.load_state_dict(state["order"])
        self.saved_images = self.progress.images
        log.info("resuming from %s", checkpoint.path)


def open_checkpoints(
    request: TrainingRequest, recipe: ProGANRecipe, data: DataIdentity
) -> tuple[CheckpointFolder, Checkpoint | None]:
    """Return the checkpoints of a run, and the one from which it resumes; None for a new run.

    The length of the training, the settings of ticks, and the number of passes may differ: they do not affect what a
    step computes, apart from rounding.

    Raises:
        TrainingError: the run has another recipe or other data, or there is no checkpoint and `request.resume` is set.
    """
    config = to_mapping(dataclasses.replace(recipe, tick=TickSettings()))
    del config["tick"]
    free = ("total_kimg", "per_gpu")
    config["schedule"] = {key: value for key, value in to_mapping(recipe.schedule).items() if key not in free}
    folder = CheckpointFolder(request.out / "checkpoints", {**config, "data": data.to_mapping()}, RESUMABLE_KEYS)
    checkpoint = folder.latest(request.changed)
    if checkpoint is None and request.resume:
        raise TrainingError(f"{request.out} has no checkpoint; leave out `resume` to begin a training there")
    return folder, checkpoint
