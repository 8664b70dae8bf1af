"""The ProGAN training loop."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import resource
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from celebahq_builder import __version__
from celebahq_builder.config import to_mapping
from celebahq_builder.data.dataset import Batch, to_device
from celebahq_builder.errors import TrainingError
from celebahq_builder.models.generator_file import export
from celebahq_builder.progan import checkpoint, image_grid, training_report
from celebahq_builder.progan.checkpoint import TrainingProgress
from celebahq_builder.progan.evaluation import Measuring
from celebahq_builder.progan.real_images import RealImages
from celebahq_builder.progan.schedule import Moment, ProganRecipe
from celebahq_builder.progan.stats import Stats
from celebahq_builder.progan.step import STATISTICS, ProGANStep, RealBatch
from celebahq_builder.storage import delete_partial_files, holds, lock, write_atomic
from celebahq_builder.training.distributed import World
from celebahq_builder.training.interruption import Stopped, StopRequest

EXPLODED = 1e6
"""No loss and no score of a training that goes well is as large. The drift term holds scores of real images to some
500; the largest target of the penalty in use, 750, makes scores differ by some 10,000."""

BOUNDED = ("generator_loss", "discriminator_loss", "score_real", "score_fake")
"""The figures that `EXPLODED` is about: penalty and gradient grow with the square of what they are taken of."""


def divergence_reason(figures: dict[str, float], players: ProGANStep) -> str | None:
    """Return what is wrong with a training, in words for a message; None where nothing is.

    Args:
        figures: means over a tick, by the names of `players.STATISTICS`.
        players: whose weights must be finite: the last step may have spoilt them and not yet shown it.
    """
    told = ", ".join(f"{name} {value:g}" for name, value in figures.items())
    if not all(map(math.isfinite, figures.values())):
        return f"is not finite ({told})"
    if any(abs(figures[name]) > EXPLODED for name in BOUNDED):
        return f"has exploded ({told})"
    if not _finite(players):
        return f"left weights that are not finite ({told})"
    return None


@torch.no_grad()
def _finite(players: ProGANStep) -> bool:
    weights: list[torch.Tensor] = [*players.generator.parameters(), *players.discriminator.parameters()]
    largest = torch._foreach_norm(weights, float("inf"))
    return bool(torch.stack(list(largest)).isfinite().all())


log = logging.getLogger(__name__)

NAMES = (
    *("recipe.json", "stats.jsonl", "tensorboard", "checkpoints", "report", "reals.png", "fakes-*.png"),
    *("generator.safetensors", "generator.json"),
)
"""All that lies in the folder of a run, as patterns of `fnmatch`."""


@dataclass(frozen=True)
class TrainingRequest:
    """What was asked for, apart from the recipe."""

    data: Path
    """HDF5 file."""
    out: Path
    """Folder of the run."""
    resume: bool = False
    """A run must lie there already."""
    total_kimg: float | None = None
    """Length of the training in place of the recipe's."""
    workers: int = 0
    """Processes that read; 0: threads."""
    memory_bytes: int = 2 * 2**30
    """Budget for keeping a level in memory."""
    against: Path | None = None
    """HDF5 file that the generator is measured against; None for the data themselves."""
    changed: tuple[str, ...] = ()
    """Keys of the recipe, of `CHANGEABLE`, that the run goes on with other values of."""


class Training:
    """A run: opened, gone on with, and saved.

    Raises:
        TrainingError: data that do not fit the recipe, a run of another recipe or other data, or none to resume.
        FormatError: the HDF5 file is unusable.
    """

    def __init__(
        self, request: TrainingRequest, recipe: ProganRecipe, world: World, stop: StopRequest | None = None
    ) -> None:
        self.request, self.recipe, self.world = request, recipe, world
        self.total_kimg = request.total_kimg or recipe.schedule.total_kimg
        self.reals = RealImages(request.data, recipe, world, workers=request.workers, memory_bytes=request.memory_bytes)
        self.measuring = (
            Measuring(request.out, request.against or request.data, recipe, world.device)
            if recipe.tick.metric_ticks and world.first
            else None
        )
        self.checkpoints = request.out / "checkpoints"
        self.players = ProGANStep(recipe, world, self.reals.labels)
        self.progress = TrainingProgress(tick_sums=torch.zeros(len(STATISTICS), device=world.device))
        self.stop = stop or StopRequest()
        self.identity = checkpoint.identity(recipe, self.reals.fingerprint)
        found = checkpoint.restore(self.checkpoints, self.players, self.progress, self.identity, request.changed)
        if found:
            self.reals.order.load_state_dict(found[1])
            log.info("going on from %s", found[0])
        elif request.resume:
            raise TrainingError(f"{request.out} holds no checkpoint to resume from; leave out --resume to begin there")
        self.saved = self.progress.images if found else -1
        """Images shown when the last checkpoint was written; -1: there is none."""

    def run(self) -> Path:
        """Train until the end, or until told to stop; return the folder of the run.

        Raises:
            TrainingError: the losses are not finite, or have exploded; the last checkpoint is as it was.
        """
        out = self.request.out
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.stop.listening())
            stats = None
            if self.world.first:
                known = holds(out / "recipe.json", {"net", "schedule"})
                stack.enter_context(lock(out, "folder of a run", "out", names=NAMES, known=known))
                for folder in (out, out / "checkpoints", out / "report"):
                    delete_partial_files(folder)
                write_atomic(out / "recipe.json", (json.dumps(to_mapping(self.recipe), indent=1) + "\n").encode())
                stats = stack.enter_context(Stats(out, self.progress.images))
            if self.world.first and not self.progress.images:
                self._show()
            stopped = self._train(stats)
            if self.progress.tick_steps:
                self._figures()
            if self.progress.images > max(self.saved, 0) or self.progress.kimg >= self.total_kimg:
                self._save()
        if stopped:
            log.info("stopped at %g kimg; the same command goes on from there", self.progress.kimg)
        return out

    def _train(self, stats: Stats | None) -> bool:
        """Train until the end, or until told to stop; return whether it was that."""
        progress, began, parent = self.progress, time.monotonic(), os.getppid()
        stopping = self.world.any(self.stop.asked)
        with closing(self.reals.minibatches(self._moment)) as minibatches:
            while progress.kimg < self.total_kimg and not stopping:
                moment = self._moment()
                self._enter(moment.level)
                self._step(moment, next(minibatches))
                took, began = time.monotonic() - began, time.monotonic()
                progress.seconds += took
                progress.tick_seconds += took
                if self._tick_ends():
                    self._tick(stats, moment)
                    began = time.monotonic()  # grids and checkpoints are not training
                # Without torchrun, which started it, nobody would end a process of several.
                orphaned = self.world.size > 1 and os.getppid() != parent
                stopping = self.world.any(self.stop.asked or orphaned)  # of all processes at the same step
        return stopping and progress.kimg < self.total_kimg

    def _enter(self, level: int) -> None:
        """Begin anew with the optimisers when a resolution enters, as the paper does."""
        if self.progress.level not in (0, level):
            self.players.reset_optimisers()
            log.info("%dx%d enters at %.1f kimg", 1 << level, 1 << level, self.progress.kimg)

    def _moment(self) -> Moment:
        return self.recipe.schedule.at(self.progress.kimg, self.recipe.net.level_max)

    def _grown(self) -> tuple[int, float]:
        """Return the level and the alpha that the generator is shown at: a level that it was not trained at is not."""
        moment = self._moment()
        level = self.progress.level or moment.level
        return level, moment.alpha if level == moment.level else 1.0

    def _step(self, moment: Moment, batch: Batch) -> None:
        passes = moment.passes(self.world.size, self.recipe.net.stddev_group)
        images, labels = to_device(batch, self.world.device, moment.alpha)
        reals = [RealBatch(images[i::passes], None if labels is None else labels[i::passes]) for i in range(passes)]
        progress = self.progress
        try:
            found = self.players.step(progress.step, moment, reals)
        except torch.cuda.OutOfMemoryError:
            side, n = moment.resolution, len(reals[0].images)
            raise TrainingError(
                f"{self.request.out}: {self.world.device} has no room for a pass of {n} images at {side}x{side}; set "
                f"schedule.per_gpu.{side} to less than {n}, or free the GPU of others: the same command goes on"
            ) from None
        if progress.tick_sums is not None:
            progress.tick_sums += found
        progress.tick_steps += 1
        progress.step += 1
        progress.images += moment.minibatch
        progress.level = moment.level

    def _tick_ends(self) -> bool:
        progress = self.progress
        done = progress.images - progress.tick_began >= self.recipe.tick.kimg * 1000
        return done or progress.kimg >= self.total_kimg

    def _tick(self, stats: Stats | None, moment: Moment) -> None:
        progress = self.progress
        figures = self._figures()
        progress.ticks += 1
        shown = progress.images - progress.tick_began
        line = {
            "tick": progress.ticks,
            "images": progress.images,
            "kimg": round(progress.kimg, 3),
            "level": moment.level,
            "resolution": moment.resolution,
            "alpha": round(moment.alpha, 6),
            "minibatch": moment.minibatch,
            "learning_rate": moment.learning_rate,
            **{name: float(f"{value:.6g}") for name, value in figures.items()},
            "images_per_s": round(shown / max(progress.tick_seconds, 1e-9), 3),
            "seconds": round(progress.seconds, 1),
            "memory_bytes": _peak_memory(self.world.device),
        }
        progress.tick_began, progress.tick_steps, progress.tick_seconds = progress.images, 0, 0.0
        progress.tick_sums = torch.zeros(len(STATISTICS), device=self.world.device)
        if stats is None:
            return
        if self.measuring and progress.ticks % self.recipe.tick.metric_ticks == 0:
            try:
                with self.stop.at_once():
                    line |= self.measuring.scores(self.players.averaged, *self._grown())
            except Stopped:
                log.info("tick %d is not measured: told to stop", progress.ticks)
        stats.write(line, self.total_kimg)
        if progress.ticks % self.recipe.tick.grid_ticks == 0:
            self._show()
        if progress.ticks % self.recipe.tick.checkpoint_ticks == 0:
            self._save()

    def _figures(self) -> dict[str, float]:
        """Return the means of the present tick so far; raise if they say that the training is lost."""
        progress = self.progress
        sums = progress.tick_sums if progress.tick_sums is not None else torch.zeros(len(STATISTICS))
        figures = dict(zip(STATISTICS, self.world.mean(sums / progress.tick_steps).tolist(), strict=True))
        wrong = divergence_reason(figures, self.players)
        if wrong:
            if self.saved > 0:
                kept = (
                    f"the checkpoint at {self.saved / 1000:g} kimg is sound: lower schedule.learning_rate, and go on "
                    "with --changed schedule.learning_rate"
                )
            else:
                kept = "there is no checkpoint yet: lower schedule.learning_rate and begin again"
            raise TrainingError(
                f"{self.request.out}: tick {progress.ticks + 1}, at {progress.kimg:g} kimg, {wrong}; {kept}"
            )
        return figures

    def _save(self) -> None:
        self.saved = self.progress.images
        if not self.world.first:
            return
        checkpoint.save(self.checkpoints, self.players, self.progress, self.identity, self.reals.order.state_dict())
        about = {
            "kimg": self.progress.kimg,
            "data": self.reals.fingerprint,
            "recipe": to_mapping(self.recipe),
            "versions": {
                "celebahq-builder": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        training_report.write_training_report(self.request.out)
        export(self.request.out, self.players.averaged, *self._grown(), about)

    def _show(self) -> None:
        """Write the grid of the fixed latents, and once that of real images."""
        level, alpha = self._grown()
        columns, rows = self.recipe.tick.grid
        columns, rows = image_grid.fit(columns, rows, self.recipe.net.resolution)
        latents = image_grid.fixed_latents(self.players.averaged, columns * rows, self.recipe.seed)
        labels = image_grid.fixed_labels(self.players.averaged, columns * rows)
        made = image_grid.generated(self.players.averaged, latents, level, alpha, labels)
        side = 1 << level
        if side < 32:  # too small to look at
            made = made.repeat(32 // side, axis=2).repeat(32 // side, axis=3)
        image_grid.write_png(
            self.request.out / f"fakes-{int(self.progress.kimg):06d}.png", image_grid.tiled(made, columns)
        )
        reals = self.request.out / "reals.png"
        if not reals.exists():
            image_grid.write_png(reals, image_grid.tiled(self.reals.some(columns * rows), columns))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
