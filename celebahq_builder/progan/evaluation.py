"""Evaluation of a data set, a generator, or all checkpoints of a training run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import FormatError, TrainingError, WeightsError
from celebahq_builder.evaluation import result as result_module
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages, check_resolution, data_set_format, open_data_set
from celebahq_builder.evaluation.protocol import (
    METRICS,
    EvaluationProtocol,
    ImageSource,
    check_evaluation,
    parse_metrics,
)
from celebahq_builder.evaluation.result import Result
from celebahq_builder.image_set import Numbers
from celebahq_builder.models.generator_file import build_generator, load_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.parallel import devices
from celebahq_builder.progan.generate import BLOCK, generate_block
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.storage import check_free, check_writable, holds, new_files
from celebahq_builder.training.checkpoint import DamagedCheckpoint, checkpoint_paths, read_checkpoint

log = logging.getLogger(__name__)

JSON, PAGE = "evaluation.json", "index.html"


# --- Generators ---------------------------------------------------------------------------------------------------


def is_run(path: Path) -> bool:
    """Return whether a path is the folder of a ProGAN training that has checkpoints."""
    return bool(checkpoint_paths(path / "checkpoints"))


def checkpoint_sources(run: Path, seed: int, device: torch.device) -> list[GeneratorSource]:
    """Return the checkpoints of a run, the earliest first: the last two, and the last of each resolution.

    Raises:
        TrainingError: a checkpoint is damaged.
    """
    paths = checkpoint_paths(run / "checkpoints")
    return [GeneratorSource.of_checkpoint(path, seed, device) for path in paths]


@dataclass
class GeneratorSource:
    """Generated images as an `evaluation.protocol.ImageSource`, in any number.

    Image i of a seed is that of `generate.GeneratedImages`. Latents pass the network in whole blocks, whichever images
    are read, so that an image has the same bits in every evaluation.
    """

    where: str
    """Path of its file or run, for messages and records."""
    load: Callable[[], GeneratorNetwork]
    """Returns the generator in evaluation mode, on its device. It is called when the first image is read."""
    channels: int
    level: int
    """log2 of the resolution."""
    alpha: float
    """Weight of that level, from 0 to 1."""
    seed: int
    kimg: float | None = None
    """Thousands of real images that it was trained on, if it is known."""
    trained_on: Mapping[str, object] | None = None
    """Identity of the training data, if it is known; see `real_images.DataIdentity`."""
    count: ClassVar[int | None] = None

    @property
    def resolution(self) -> int:
        """Side length of the images, px."""
        return 1 << self.level

    @classmethod
    def of_file(cls, path: Path, seed: int, device: torch.device) -> Self:
        """Open a ``generator.safetensors``, or the one in the folder of a run.

        Raises:
            WeightsError: there is no such file, it is of another format, or it is damaged.
        """
        made = load_generator(path, device)
        channels = made.network.architecture.colours
        return cls(str(path), lambda: made.network, channels, made.level, made.alpha, seed, made.kimg, made.data)

    @classmethod
    def of_checkpoint(cls, path: Path, seed: int, device: torch.device) -> Self:
        """Open a checkpoint of a run; its averaged generator is loaded when the first image is read.

        Raises:
            TrainingError: the checkpoint is damaged; also later, when it is loaded.
        """

        def damaged(reason: object) -> TrainingError:
            return TrainingError(f"{path} is damaged ({reason}); delete it to evaluate the other checkpoints")

        def load() -> GeneratorNetwork:
            try:
                averaged = read_checkpoint(path).state["networks"]["averaged"]
                return build_generator(recipe.net, averaged, device)
            except (DamagedCheckpoint, RuntimeError, KeyError, TypeError, AttributeError) as error:
                raise damaged(" ".join(str(error).split())[:200]) from None

        try:
            checkpoint = read_checkpoint(path, verify=False)
            settings = {key: value for key, value in checkpoint.config.items() if key != "data"}
            recipe = from_mapping(ProGANRecipe, settings, where=str(path))
            progress, data = checkpoint.state["progress"], checkpoint.config["data"]
            kimg, last_level = float(progress["images"]) / 1000, int(progress["level"])
            level, alpha = recipe.schedule.trained_level(kimg, last_level, recipe.net.level_max)
            if level not in recipe.net.levels or not isinstance(data, dict):
                raise TypeError(f"level {level}, data {type(data).__name__}")
        except DamagedCheckpoint as error:
            raise damaged(error) from None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged(f"{type(error).__name__} {error}") from None
        return cls(str(path), load, recipe.net.colours, level, alpha, seed, kimg, data)

    @functools.cached_property
    def generator(self) -> GeneratorNetwork:
        """The network in evaluation mode, on its device."""
        return self.load()

    @property
    def facts(self) -> dict[str, object]:
        """The record of this source in an evaluation: kind, path, and what decides its images."""
        return {
            "kind": "generator",
            "path": self.where,
            "images": None,
            "weights_sha256": self._weights_sha256(),
            "level": self.level,
            "alpha": self.alpha,
            "seed": self.seed,
            "kimg": self.kimg,
            "trained_on": self.trained_on,
        }

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images of consecutive numbers, uint8 [n, C, R, R], n at most `at_once`.

        Raises:
            WeightsError: the generator returns values that are not finite.
        """
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        for block in range(first // BLOCK, -(-last // BLOCK)):
            try:
                made = torch.from_numpy(generate_block(self.generator, self.level, self.alpha, self.seed, block))
            except WeightsError as error:
                raise WeightsError(f"{self.where}: {error}") from None
            yield from torch.split(made[max(0, first - block * BLOCK) : last - block * BLOCK], at_once)

    def _weights_sha256(self) -> str:
        """Return the SHA-256 of the weights, which does not depend on the file that holds them."""
        digest = hashlib.sha256()
        for name, value in sorted(self.generator.state_dict().items()):
            digest.update(f"{name} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


# --- Evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationRequest:
    """Images to evaluate, images to compare them with, and files to write."""

    source: Path
    """HDF5 file, folder, zip, ``generator.safetensors``, or folder of a run."""
    protocol: EvaluationProtocol
    against: Path | None = None
    """Reference, also any of these; of a run, its ``generator.safetensors``."""
    resolution: int | None = None
    """Level of HDF5 files; of a run, only the checkpoints of this resolution."""
    json_path: Path | None = None
    """File for all results."""
    out: Path | None = None
    """Folder for a page and for the same file as ``evaluation.json``."""

    @property
    def files(self) -> dict[Path, str]:
        """Files to write, in this order, each with the name of the argument that asks for it."""
        files = {} if self.out is None else {self.out / JSON: "out"}
        if self.json_path is not None and os.path.realpath(self.json_path) not in map(os.path.realpath, files):
            files[self.json_path] = "json"
        return files if self.out is None else {**files, self.out / PAGE: "out"}


def evaluate_images(
    source: Path | str,
    against: Path | str | None = None,
    metrics: Iterable[str] = ("swd",),
    *,
    num: int | None = None,
    seed: int = 0,
    resolution: int | None = None,
    device: str = "auto",
    inception: Path | str | None = None,
) -> list[Result]:
    """Evaluate a data set, a generator or a run; one result each, for a run one per checkpoint.

    Args:
        source: HDF5 file, folder or zip of images, ``generator.safetensors``, or folder of a run.
        against: reference, any of these; needed for ``swd``, ``fid`` and ``kid``.
        metrics: some of ``swd``, ``ms-ssim``, ``fid``, ``kid``, ``is``.
        num: images per side (pairs for ms-ssim); None takes the numbers of the papers.
        seed: seed of latents, of the choice of images, and of random choices of the metrics.
        resolution: level of HDF5 files in px; for a run, only its checkpoints of this resolution.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        inception: weights for fid, kid and is; None downloads them once.

    Raises:
        RecipeError: a metric does not exist or cannot be computed from these arguments.
        FormatError: a source cannot be read, or has too few images or another resolution.
        WeightsError: a generator or the Inception weights cannot be used.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)):
        ...     Image.fromarray(pixels).save(folder / f"{i}.png")
        >>> [result] = evaluate_images(folder, folder, ["swd"], num=4, device="cpu")
        >>> result.scores[0].name
        'swd4'
    """
    where = torch.device(devices(device)[0])
    weights = None if inception is None else Path(inception)
    protocol = EvaluationProtocol(parse_metrics(",".join(metrics)), num, seed, where, weights)
    reference = None if against is None else Path(against)
    return list(evaluation_results(EvaluationRequest(Path(source), protocol, reference, resolution)))


def evaluate_and_report(request: EvaluationRequest) -> Iterator[str]:
    """Evaluate a request, and write its files; yield the results as lines of text.

    Raises:
        CelebAHQError: one of `evaluation_results`, or a file that would be written exists.
    """
    out, json_path = request.out, request.json_path
    if out is not None and out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file; choose a folder for {JSON} and {PAGE} as `out`")
    if out and json_path and os.path.realpath(json_path) == os.path.realpath(out / PAGE):
        raise FormatError(f"{json_path} would be the page in `out`; choose another `json`")
    paths = request.files
    for path, argument in paths.items():
        left_by_a_killed_command = path != [*paths][-1] and holds(path, {"format"})
        if not left_by_a_killed_command:
            check_free(path, argument)
        check_writable(path, argument)
    results = list(evaluation_results(request))
    if is_run(request.source):
        yield from result_module.snapshot_lines(results)
        each = [one.to_json() for one in results]
        values = {"format": each[0]["format"], "run": str(request.source), "snapshots": each}
    else:
        yield from result_module.result_lines(results[0])
        values = results[0].to_json()
    listed = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    with new_files() as files:
        for path in paths:
            is_page = out is not None and path == out / PAGE
            files.write(path, result_module.evaluation_page(request.source, results) if is_page else listed)


def evaluation_results(request: EvaluationRequest) -> Iterator[Result]:
    """Yield the result of a source, or those of all checkpoints of a run, the earliest first.

    Raises:
        FormatError: source, reference and protocol do not fit together, or cannot be read.
        WeightsError: a generator or the Inception network cannot be used.
        TrainingError: a checkpoint is damaged.
    """
    if is_run(request.source):
        yield from _run_results(request)
        return
    source = open_source(request.source, request.resolution, request.protocol)
    yield evaluate(source, _open_reference(request, source.resolution, source.where), request.protocol)


def open_source(path: Path, resolution: int | None, protocol: EvaluationProtocol) -> ImageSource:
    """Open a data set or a generator.

    Raises:
        FormatError: there is no readable file of a known format, or it does not have that resolution.
        WeightsError: the generator cannot be used.
    """
    if is_generator(path):
        generator = GeneratorSource.of_file(path, protocol.seed, protocol.device)
        check_resolution(generator.where, generator.resolution, resolution)
        return generator
    return open_data_set(path, resolution)


def is_generator(path: Path) -> bool:
    """Return whether a path is the file of a generator, or a folder that holds one."""
    return path.suffix == ".safetensors" or (path / "generator.safetensors").is_file()


def _run_results(request: EvaluationRequest) -> Iterator[Result]:
    run, protocol = request.source, request.protocol
    found = checkpoint_sources(run, protocol.seed, protocol.device)
    chosen = [one for one in found if request.resolution in (None, one.resolution)]
    if not chosen:
        resolutions = ", ".join(map(str, sorted({one.resolution for one in found})))
        wanted = f"{request.resolution}x{request.resolution}"
        raise FormatError(f"{run} has no checkpoint of {wanted}; it has checkpoints of {resolutions} px")
    largest = chosen[-1].resolution
    if not protocol.for_resolution(largest).metrics:
        names = ", ".join(protocol.metrics)
        raise FormatError(f"the checkpoints of {run} are {largest}x{largest} at most, too small for {names}; train on")

    # Check all resolutions before the first of hours of work.
    for source in {one.resolution: one for one in chosen}.values():
        reference = _open_reference(request, source.resolution, source.where)
        possible = protocol.for_resolution(source.resolution)
        check_evaluation(source, reference.source if reference else None, possible)

    reference = None
    for source in chosen:
        side = source.resolution
        where = f"{run}: {source.kimg:g} kimg"
        log.info("%s, %dx%d", where, side, side)
        if reference is None or reference.source.resolution != side:
            reference = _open_reference(request, side, source.where)
        possible = protocol.for_resolution(side)
        result = evaluate(source, reference, possible)
        del source.generator  # free its memory
        left_out = {
            metric: f"needs {METRICS[metric].least_px}x{METRICS[metric].least_px} or more, this is {side}x{side}"
            for metric in protocol.metrics
            if metric not in possible.metrics
        }
        log.info("%s: %s", where, result_module.short_line(result))  # kept even if a later checkpoint fails
        yield dataclasses.replace(result, left_out=left_out)


def _open_reference(request: EvaluationRequest, resolution: int, source: str) -> SourceImages | None:
    """Open the reference at the resolution of the source, which messages call `source`; None without a reference."""
    path, protocol = request.against, request.protocol
    if path is None:
        return None
    if is_generator(path) or data_set_format(path) != "hdf5":
        reference = open_source(path, None, protocol)
    else:
        try:
            reference = open_data_set(path, resolution)
        except FormatError as error:
            raise FormatError(f"{source} has images of {resolution}x{resolution}: {error}") from None
    if reference.resolution != resolution:
        side = reference.resolution
        raise FormatError(
            f"{source} has images of {resolution}x{resolution}, {path} of {side}x{side}, and only images of one size "
            "can be compared; choose another `resolution` of an HDF5 file or a run"
        )
    return SourceImages(reference, protocol.seed)
