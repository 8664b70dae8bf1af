"""Metrics of the averaged generator, computed during a training."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages, open_data_set
from celebahq_builder.evaluation.protocol import INCEPTION_METRICS, METRICS, EvaluationProtocol, too_small
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.progan.evaluation import GeneratorSource
from celebahq_builder.progan.schedule import ProGANRecipe

if TYPE_CHECKING:
    from celebahq_builder.evaluation.features import Extractor

log = logging.getLogger(__name__)


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
        self._extractor: Extractor | None = None
        if not set(INCEPTION_METRICS).isdisjoint(self.protocol.metrics):  # now: a missing file must not end a training
            from celebahq_builder.metrics.inception import Inception

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
        metrics = tuple(metric for metric in self.protocol.metrics if not too_small(metric, resolution))
        if not metrics:
            return {}
        channels = generator.architecture.colours
        source = GeneratorSource(self.run, lambda: generator, channels, level, alpha, self.protocol.seed)
        protocol = dataclasses.replace(self.protocol, metrics=metrics)
        try:
            if self._reference is None or self._reference.source.resolution != resolution:
                self._reference = SourceImages(open_data_set(self.path, resolution), self.protocol.seed)
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
