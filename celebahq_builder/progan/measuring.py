"""The averaged generator measured every so many ticks, as the training goes on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.protocol import INCEPTION, METRICS, Protocol, too_small
from celebahq_builder.evaluation.reference import Reference
from celebahq_builder.evaluation.source import open_set
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.nets.progan import Generator
from celebahq_builder.progan.generator_source import GeneratorSource
from celebahq_builder.progan.recipe import ProganRecipe

if TYPE_CHECKING:
    from celebahq_builder.evaluation.inception_scores import Extractor

log = logging.getLogger(__name__)


class Measuring:
    """Scores of a generator, against pictures of its own resolution.

    What is computed of the reference alone is kept while the resolution stays the same.

    Args:
        run: folder of the run, for messages.
        reference: HDF5 file to compare with: the training's own, or pictures that it never sees.
        recipe: which metrics, of how many pictures, and the seed.
        device: to generate and to measure on.

    Raises:
        TrainingError: the reference has fewer pictures than the recipe asks for, or not its resolution.
        FormatError: the reference cannot be read.
        WeightsError: the Inception network is needed and cannot be loaded.
    """

    def __init__(self, run: Path, reference: Path, recipe: ProganRecipe, device: torch.device) -> None:
        self.run, self.path = run, reference
        self.protocol = Protocol(tuple(recipe.tick.metrics), recipe.tick.metric_num, recipe.seed, device)
        compared = [metric for metric in self.protocol.metrics if METRICS[metric].compares]
        with PyramidFile(reference) as file:
            if file.resolution < recipe.net.resolution:
                side, wanted = file.resolution, recipe.net.resolution
                raise TrainingError(f"{reference} has pictures of {side}x{side}, the recipe trains to {wanted}")
            if compared and file.count < recipe.tick.metric_num:
                raise TrainingError(
                    f"{reference} has {file.count} pictures, fewer than tick.metric_num = {recipe.tick.metric_num}; "
                    f"set it to {file.count} at most"
                )
        self._reference: Reference | None = None
        self._extractor: Extractor | None = None
        if any(metric in INCEPTION for metric in self.protocol.metrics):  # a missing file is told before the first step
            from celebahq_builder.metrics.inception import Inception

            self._extractor = Inception(None, device)

    def scores(self, generator: Generator, level: int, alpha: float) -> dict[str, float]:
        """Return the scores that this resolution allows by name (``swd8192``), of SWD also each level (``swd8192_16``).

        Where pictures cannot be measured, such as those of a generator that makes all the same, or of a reference that
        was damaged since, the log says why, and there are none: a training of days does not end for that.

        Raises:
            WeightsError: the generator makes numbers that are not finite.
        """
        side = 1 << level
        metrics = tuple(m for m in self.protocol.metrics if not too_small(m, side))
        if not metrics:
            return {}
        source = GeneratorSource(generator, level, alpha, self.protocol.seed, self.run, {})
        protocol = dataclasses.replace(self.protocol, metrics=metrics)
        try:
            if self._reference is None or self._reference.source.resolution != side:
                self._reference = Reference(open_set(self.path, side), self.protocol.seed)
            result = evaluate(source, self._reference, protocol, extractor=self._extractor)
        except FormatError as error:
            log.warning("not measured: %s; the training goes on", error)
            return {}
        found = {}
        for score in result.scores:
            found[score.name] = float(f"{score.number.value:.6g}")
            found |= {f"{score.name}_{side}": float(f"{v:.6g}") for side, v in score.number.levels.items()}
        return found
