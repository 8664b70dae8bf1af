"""Evaluation of data sets, generators and training runs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.evaluation import evaluation_report
from celebahq_builder.evaluation import result as result_module
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.evaluate import evaluate as scores
from celebahq_builder.evaluation.image_sources import (
    ImageSource,
    Reference,
    check_resolution,
    data_set_format,
    open_data_set,
)
from celebahq_builder.evaluation.protocol import (
    INCEPTION_METRICS,
    METRICS,
    EvaluationProtocol,
    check_evaluation,
    too_small,
)
from celebahq_builder.evaluation.result import Result
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.models.progan import Generator
from celebahq_builder.progan.generator_source import GeneratorSource, Snapshot, is_run, snapshots
from celebahq_builder.progan.schedule import ProganRecipe
from celebahq_builder.storage import check_free, check_writable, new_files

if TYPE_CHECKING:
    from celebahq_builder.evaluation.features import Extractor

log = logging.getLogger(__name__)


class Measuring:
    """Scores of a generator, against images of its own resolution.

    What is computed of the reference alone is kept while the resolution stays the same.

    Args:
        run: folder of the run, for messages.
        reference: HDF5 file to compare with: the training's own, or images that it never sees.
        recipe: which metrics, of how many images, and the seed.
        device: to generate and to measure on.

    Raises:
        TrainingError: the reference has fewer images than the recipe asks for, or not its resolution.
        FormatError: the reference cannot be read.
        WeightsError: the Inception network is needed and cannot be loaded.
    """

    def __init__(self, run: Path, reference: Path, recipe: ProganRecipe, device: torch.device) -> None:
        self.run, self.path = run, reference
        self.protocol = EvaluationProtocol(tuple(recipe.tick.metrics), recipe.tick.metric_num, recipe.seed, device)
        compared = [metric for metric in self.protocol.metrics if METRICS[metric].compares]
        with PyramidFile(reference) as file:
            if file.resolution < recipe.net.resolution:
                side, wanted = file.resolution, recipe.net.resolution
                raise TrainingError(f"{reference} has images of {side}x{side}, the recipe trains to {wanted}")
            if compared and file.count < recipe.tick.metric_num:
                raise TrainingError(
                    f"{reference} has {file.count} images, fewer than tick.metric_num = {recipe.tick.metric_num}; "
                    f"set it to {file.count} at most"
                )
        self._reference: Reference | None = None
        self._extractor: Extractor | None = None
        if any(
            metric in INCEPTION_METRICS for metric in self.protocol.metrics
        ):  # a missing file is told before the first step
            from celebahq_builder.metrics.inception import Inception

            self._extractor = Inception(None, device)

    def scores(self, generator: Generator, level: int, alpha: float) -> dict[str, float]:
        """Return the scores that this resolution allows by name (``swd8192``), of SWD also each level (``swd8192_16``).

        Where images cannot be measured, such as those of a generator that makes all the same, or of a reference that
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
                self._reference = Reference(open_data_set(self.path, side), self.protocol.seed)
            result = evaluate(source, self._reference, protocol, extractor=self._extractor)
        except FormatError as error:
            log.warning("not measured: %s; the training goes on", error)
            return {}
        found = {}
        for score in result.scores:
            found[score.name] = float(f"{score.number.value:.6g}")
            found |= {f"{score.name}_{side}": float(f"{v:.6g}") for side, v in score.number.levels.items()}
        return found


JSON, PAGE = "evaluation.json", "index.html"


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be evaluated, against what."""

    source: Path
    """HDF5 file, folder, zip, generator.safetensors, or folder of a run."""
    protocol: EvaluationProtocol
    against: Path | None = None
    """The same; of a run its generator.safetensors."""
    resolution: int | None = None
    """Level of HDF5 files; of a run, only the snapshots of this resolution."""
    json_path: Path | None = None
    """File for all that was found."""
    out: Path | None = None
    """Folder for a page, and the same file as evaluation.json."""

    @property
    def files(self) -> dict[Path, str]:
        """What is to be written, and the option that asks for it."""
        files = {} if self.out is None else {self.out / JSON: "--out", self.out / PAGE: "--out"}
        if self.json_path is not None and self.json_path.resolve() not in (path.resolve() for path in files):
            files[self.json_path] = "--json"
        return files


def evaluate_and_report(request: EvaluationRequest) -> Iterator[str]:
    """Evaluate what is asked for: yield the numbers in lines of text, and then what was written.

    Raises:
        CelebAHQError: what `results` raises; or a file that is to be written is there already.
    """
    if request.out is not None and request.out.exists() and not request.out.is_dir():
        raise FormatError(f"{request.out} is a file; give a folder for {JSON} and {PAGE} as --out")
    if request.out and request.json_path and request.json_path.resolve() == (request.out / PAGE).resolve():
        raise FormatError(f"--json {request.json_path} is where --out puts its page; choose another --json")
    for path, option in request.files.items():
        check_free(path, option)
        check_writable(path, option)
    found = list(results(request))
    of_run = is_run(request.source)
    yield from result_module.snapshot_lines(found) if of_run else result_module.result_lines(found[0])
    values = found[0].to_json()
    if of_run:
        each = [one.to_json() for one in found]
        values = {"format": values["format"], "run": str(request.source), "snapshots": each}
    listed = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    with new_files() as files:
        for path in request.files:
            is_page = path.name == PAGE and path.parent == request.out
            files.write(path, evaluation_report.evaluation_page(request.source, found) if is_page else listed)
    yield from (f"written: {path}" for path in request.files)


def results(request: EvaluationRequest) -> Iterator[Result]:
    """Yield the result of a source, or those of all snapshots of a run, the earliest first.

    Raises:
        FormatError: source, reference and protocol do not fit together, or cannot be read.
        WeightsError: a generator or the Inception network cannot be used.
        TrainingError: a checkpoint cannot be read.
    """
    if is_run(request.source):
        yield from _of_run(request)
        return
    source = open_source(request.source, request.resolution, request.protocol)
    yield scores(source, _reference(request, source.resolution, source.where), request.protocol)


def open_source(path: Path, resolution: int | None, protocol: EvaluationProtocol) -> ImageSource:
    """Open a data set or a generator.

    Raises:
        FormatError: nothing there, of no known format, damaged, or not of that resolution.
        WeightsError: a generator that cannot be used.
    """
    if is_generator(path):
        generator = GeneratorSource.of_file(path, protocol.seed, protocol.device)
        check_resolution(generator.where, generator.resolution, resolution)
        return generator
    return open_data_set(path, resolution)


def is_generator(path: Path) -> bool:
    """Whether a path is that of a generator, or of a run that has one."""
    return path.suffix == ".safetensors" or (path / "generator.safetensors").is_file()


def _of_run(request: EvaluationRequest) -> Iterator[Result]:
    found = snapshots(request.source)
    chosen = [one for one in found if request.resolution in (None, one.resolution)]
    if not chosen:
        has = ", ".join(map(str, sorted({one.resolution for one in found})))
        raise FormatError(
            f"{request.source} has no snapshot of {request.resolution}x{request.resolution}; it has those of {has} px"
        )
    usable = [metric for metric in request.protocol.metrics if not too_small(metric, chosen[-1].resolution)]
    if not usable:
        r = chosen[-1].resolution
        raise FormatError(
            f"the snapshots of {request.source} are {r}x{r} at most, too small for "
            f"{', '.join(request.protocol.metrics)}; train on"
        )
    for snapshot in {one.resolution: one for one in chosen}.values():  # what is amiss is told before hours of work
        expected = _reference(request, snapshot.resolution, snapshot.where)
        check_evaluation(
            snapshot, expected.source if expected else None, _fitting(request.protocol, snapshot.resolution)
        )
    reference: Reference | None = None
    for snapshot in chosen:
        r = snapshot.resolution
        log.info("%s: %g kimg, %dx%d", request.source, snapshot.kimg, r, r)
        if reference is None or reference.source.resolution != r:
            reference = _reference(request, r, snapshot.where)
        result = _of_snapshot(snapshot, reference, request.protocol)
        log.info(
            "%s: %g kimg: %s", request.source, snapshot.kimg, result_module.short_line(result)
        )  # should a later one fail
        yield result


def _of_snapshot(snapshot: Snapshot, reference: Reference | None, protocol: EvaluationProtocol) -> Result:
    """Return the scores of a snapshot: those that its resolution allows."""
    source = GeneratorSource.of_snapshot(snapshot, protocol.seed, protocol.device)
    r = snapshot.resolution
    left_out = {
        metric: f"needs {METRICS[metric].least_px}x{METRICS[metric].least_px} or more, this is {r}x{r}"
        for metric in protocol.metrics
        if too_small(metric, r)
    }
    result = scores(source, reference, _fitting(protocol, r))
    return dataclasses.replace(result, left_out=left_out)


def _fitting(protocol: EvaluationProtocol, resolution: int) -> EvaluationProtocol:
    """Return a protocol without the metrics that images are too small for."""
    fitting = tuple(metric for metric in protocol.metrics if not too_small(metric, resolution))
    return dataclasses.replace(protocol, metrics=fitting)


def _reference(request: EvaluationRequest, resolution: int, beside: str) -> Reference | None:
    """Open the reference at the resolution of the source: of an HDF5 file that level; what else there is has but one.

    Args:
        request: names the reference, or none.
        resolution: of the source.
        beside: how messages name the source.
    """
    path, protocol = request.against, request.protocol
    if path is None:
        return None
    if is_generator(path) or data_set_format(path) != "hdf5":
        source = open_source(path, None, protocol)
    else:
        try:
            source = open_data_set(path, resolution)
        except FormatError as error:
            raise FormatError(f"{beside} has images of {resolution}x{resolution}: {error}") from None
    if source.resolution != resolution:
        raise FormatError(
            f"{beside} has images of {resolution}x{resolution}, {path} of {source.resolution}x{source.resolution}; "
            "only images of one size can be compared: of an HDF5 file or a run, --resolution takes those of another"
        )
    return Reference(source, protocol.seed)
