"""Ticks of a ProGAN training: statistics, metrics, image grids and the report in the folder of a run."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import FormatError, TrainingError, WeightsError
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages, open_data_set
from celebahq_builder.evaluation.protocol import INCEPTION_METRICS, METRICS, EvaluationProtocol
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.imaging.image_grid import fit_grid, image_grid, png_bytes
from celebahq_builder.metrics.inception import Inception
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.progan import generate
from celebahq_builder.progan.evaluation import GeneratorSource
from celebahq_builder.progan.real_images import RealImages
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint, TrainingRequest
from celebahq_builder.progan.step import ProGANTrainer
from celebahq_builder.progan.training_report import REPORT, outlook, write_training_report
from celebahq_builder.storage import delete_partial_files, holds, lock, write_atomic
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted
from celebahq_builder.training.logger import TrainingLogger, read_lines

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

FIRST_REPORT_S, REPORT_EVERY_S = 30.0, 300.0
"""Time after which a new run writes images and its report, and time between two of them during a long tick."""

LOSS_MAX = 1e6
"""Larger losses and scores mean that the training exploded. WGAN-GP's drift term keeps the scores of real images below
500 or so; with the largest penalty target in use, 750, scores differ by 10,000 or so."""

BOUNDED = ("generator_loss", "discriminator_loss", "score_real", "score_fake")
"""The statistics that `LOSS_MAX` applies to; penalty and gradient grow with the square of a score."""


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
    """Time of all steps since the beginning of the training."""

    @property
    def kimg(self) -> float:
        """Thousands of real images shown so far."""
        return self.images / 1000

    @property
    def tick_images_per_s(self) -> float:
        """Speed of the present tick."""
        return (self.images - self.tick_began) / max(self.tick_seconds, 1e-9)

    def trained_level(self, recipe: ProGANRecipe) -> tuple[int, float]:
        """Return the level and the alpha at which the averaged generator is shown and exported."""
        return recipe.schedule.trained_level(self.kimg, self.level, recipe.net.level_max)

    def end_tick(self, now: SchedulePoint, means: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Return the line of the present tick for the log, and begin the next tick.

        Args:
            now: of the last step.
            means: of `STATISTICS` over the tick.
            device: of the networks. On CUDA, the peak of its memory is that of the tick.
        """
        self.ticks += 1
        line = {
            "tick": self.ticks,
            "images": self.images,
            "kimg": round(self.kimg, 3),
            "level": now.level,
            "resolution": now.resolution,
            "alpha": round(now.alpha, 6),
            "minibatch": now.minibatch,
            "learning_rate": now.learning_rate,
            **{name: float(f"{value:.6g}") for name, value in means.items()},
            "images_per_s": round(self.tick_images_per_s, 3),
            "seconds": round(self.seconds, 1),
            "memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes(),
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.tick_began, self.tick_steps, self.tick_seconds = self.images, 0, 0.0
        self.tick_sums = torch.zeros_like(self.tick_sums)
        return line


class TrainingMetrics:
    """Computes the metrics of a recipe, against real images of the generator's present resolution.

    Features of the real images are computed once for each resolution.

    Args:
        reference: HDF5 file of real images: the training data, or images that the training does not use.
        recipe: names the metrics, the number of images, and the seed.

    Raises:
        TrainingError: the reference has too few images, or too small ones.
        FormatError: the reference cannot be read.
        WeightsError: the Inception network is needed and cannot be loaded.
    """

    def __init__(self, run: Path, reference: Path, recipe: ProGANRecipe, device: torch.device) -> None:
        self.run, self.path = run, reference
        tick, wanted = recipe.tick, recipe.net.resolution
        self.protocol = EvaluationProtocol(tuple(tick.metrics), tick.metric_num, recipe.seed, device)
        with PyramidFile(reference) as file:
            if file.resolution < wanted:
                side = file.resolution
                raise TrainingError(
                    f"{reference} has images of {side}x{side}, the recipe trains to {wanted}; use a reference of "
                    f"{wanted}x{wanted}"
                )
            if file.count < tick.metric_num and any(METRICS[metric].compares for metric in self.protocol.metrics):
                raise TrainingError(
                    f"{reference} has {file.count} images, fewer than tick.metric_num = {tick.metric_num}; "
                    f"set it to {file.count} at most"
                )
        self._reference: SourceImages | None = None
        self._extractor: Inception | None = None
        if not set(INCEPTION_METRICS).isdisjoint(self.protocol.metrics):  # now: a missing file must not end a training
            self._extractor = Inception(None, device)

    def scores(self, generator: GeneratorNetwork, level: int, alpha: float) -> dict[str, float]:
        """Return the metrics by name (``swd8192``), and those of each pyramid level (``swd8192_16``).

        Their baselines have the kind before the name: ``floor_swd8192``, ``reference_ms-ssim8192``.
        Metrics that the resolution does not allow are left out. If the images cannot be measured, for example because
        all are equal, or the reference was deleted, the reason is logged and the result is empty: a training of days
        must not end for that.

        Raises:
            WeightsError: the generator returns values that are not finite.
        """
        resolution = 1 << level
        protocol = self.protocol.for_resolution(resolution)
        if not protocol.metrics:
            return {}
        channels = generator.architecture.colours
        source = GeneratorSource(str(self.run), lambda: generator, channels, level, alpha, protocol.seed)
        try:
            if self._reference is None or self._reference.source.resolution != resolution:
                self._reference = SourceImages(open_data_set(self.path, resolution), protocol.seed)
            result = evaluate(source, self._reference, protocol, extractor=self._extractor)
        except FormatError as error:
            log.warning("not measured: %s; the training continues", error)
            return {}
        found = {}
        for score in result.scores:
            numbers = {"": score.number}
            if score.baseline and score.baseline.number:
                numbers[f"{score.baseline.kind}_"] = score.baseline.number
            for prefix, number in numbers.items():
                found[f"{prefix}{score.name}"] = number.value
                found |= {f"{prefix}{score.name}_{side}": value for side, value in number.levels.items()}
        return {name: float(f"{value:.6g}") for name, value in found.items()}


class RunOutput:
    """The files of a run for its user, and the lines of the log; rank 0 writes them.

    Args:
        progan: networks; images are those of the averaged generator.
        progress: position of the training; the training updates it.
        stop: aborts a measurement of metrics.
        images_per_s: speed by level, for estimates of the time left.

    Raises:
        CelebAHQError: metrics cannot be computed; see `TrainingMetrics`.
    """

    def __init__(
        self,
        request: TrainingRequest,
        recipe: ProGANRecipe,
        progan: ProGANTrainer,
        reals: RealImages,
        progress: TrainingProgress,
        stop: StopRequest,
        images_per_s: Mapping[int, float],
    ) -> None:
        self.out, self.recipe, self.progan, self.reals = request.out, recipe, progan, reals
        self.progress, self.stop, self.images_per_s = progress, stop, dict(images_per_s)
        self.total_kimg = request.total_kimg or recipe.schedule.total_kimg
        self.metrics = None
        if recipe.tick.metric_ticks:
            reference = request.against or request.data
            self.metrics = TrainingMetrics(request.out, reference, recipe, progan.context.device)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder, and write the files of the start; after an error inside, images and the report as well."""
        out, progress = self.out, self.progress
        known = holds(out / "recipe.json", {"net", "schedule"})
        with lock(out, "folder of a run", "out", names=NAMES, known=known):
            for folder in (out, out / "checkpoints", out / "report"):
                delete_partial_files(folder)
            write_atomic(out / "recipe.json", (json.dumps(to_mapping(self.recipe), indent=1) + "\n").encode())
            with TrainingLogger(out / "stats.jsonl", "images", progress.images) as self.logger:
                for line in read_lines(out / "stats.jsonl"):
                    if line.get("images_per_s", 0) > 0 and line.get("level") in self.recipe.net.levels:
                        self.images_per_s[int(line["level"])] = line["images_per_s"]
                if not progress.images:
                    self.write_image_grid()
                self.write_report()
                log.info("report: %s", (out / REPORT).absolute())
                for text in self._outlook():
                    log.log(logging.WARNING if text.startswith("warning: ") else logging.INFO, "%s", text)
                self.last_line_s = time.monotonic()
                self.next_report_s = self.last_line_s + (REPORT_EVERY_S if progress.images else FIRST_REPORT_S)
                try:
                    yield
                except Exception as error:
                    with contextlib.suppress(Exception):  # nothing that fails meanwhile hides the error
                        self.write_image_grid()
                    with contextlib.suppress(Exception):
                        self.write_report(f"the training ended by an error: {error}")
                    raise

    def write_tick(self, line: dict[str, float]) -> None:
        """Write the line of a tick, with metrics if they are due, and an image grid if it is due."""
        tick, ticks = self.recipe.tick, self.progress.ticks
        if self.metrics is not None and ticks % tick.metric_ticks == 0:
            try:
                with self.stop.abandonable():
                    line |= self.metrics.scores(self.progan.averaged, *self.progress.trained_level(self.recipe))
            except TrainingInterrupted:
                log.info("tick %d is not measured, because the training is interrupted", ticks)
        self.logger.write(line)
        self.last_line_s = time.monotonic()
        self.images_per_s[int(line["level"])] = line["images_per_s"]
        log.info(
            "tick %d: %.1f images/s, scores %.2f and %.2f, gradient %.2f; %s",
            *(line["tick"], line["images_per_s"], line["score_real"], line["score_fake"], line["gradient_norm"]),
            self._outlook()[0],
        )
        if ticks % tick.grid_ticks == 0:
            self.write_image_grid()

    def write_between_ticks(self) -> bool:
        """Log a line from time to time, and write images and the report: in the first minute, and in long ticks.

        Returns:
            True if files were written.
        """
        progress, now_s = self.progress, time.monotonic()
        if progress.tick_steps > 1:  # the first step of a tick may be slow
            self.images_per_s[progress.level] = progress.tick_images_per_s
        if now_s >= self.last_line_s + LINE_EVERY_S:
            self.last_line_s = now_s
            log.info("%s", self._outlook()[0])
        if now_s < self.next_report_s:
            return False
        with contextlib.suppress(WeightsError):  # the next tick reports that the training diverged
            self.write_image_grid()
        self.write_report()
        took_s = time.monotonic() - now_s
        self.next_report_s = time.monotonic() + max(REPORT_EVERY_S, 50 * took_s)
        return True

    def write_report(self, *news: str) -> None:
        """Write the HTML report; `news` come before the position of the training."""
        write_training_report(self.out, [*news, *self._outlook()])

    def write_image_grid(self) -> None:
        """Write a grid of generated images of fixed latents; the first time, also one of real images.

        The number in its name is the kimg without decimals, and at least 1 after the start: no later grid replaces that
        of the start, 0.
        """
        out, generator, (level, alpha) = self.out, self.progan.averaged, self.progress.trained_level(self.recipe)
        columns, rows = fit_grid(*self.recipe.tick.grid, self.recipe.net.resolution)
        latents = generate.grid_latents(generator, columns * rows, self.recipe.seed)
        labels = generate.cyclic_labels(generator, columns * rows)
        fakes = generate.generate_images(generator, latents, level, alpha, labels)
        zoom = max(1, GRID_CELL_MIN_PX >> level)
        fakes = fakes.repeat(zoom, axis=2).repeat(zoom, axis=3)
        number = max(int(self.progress.kimg), 1) if self.progress.kimg else 0
        path = out / f"fakes-{number:06d}.png"
        write_atomic(path, png_bytes(image_grid(fakes, columns)))
        if not (out / "reals.png").exists():
            reals = self.reals.examples(columns * rows)
            write_atomic(out / "reals.png", png_bytes(image_grid(reals, columns)))

    def _outlook(self) -> list[str]:
        """Return the sentences of `training_report.outlook`."""
        kimg, level, on_cpu = self.progress.kimg, self.progress.level, self.progan.context.device.type == "cpu"
        return outlook(self.recipe, kimg, self.total_kimg, self.images_per_s, last_level=level, on_cpu=on_cpu)


def divergence_reason(statistics: dict[str, float], progan: ProGANTrainer) -> str | None:
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
