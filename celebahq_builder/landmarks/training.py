"""Training of the landmark network on a folder in CelebA's layout."""

from __future__ import annotations

import copy
import json
import logging
import math
import operator
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from celebahq_builder import parallel
from celebahq_builder.config import load, override_arguments, read_toml, to_mapping
from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.image_set import Pixels
from celebahq_builder.landmarks.accuracy import LandmarkErrors, landmark_errors, median_errors
from celebahq_builder.landmarks.augmentation import AugmentationSettings, jittered_points, random_crop
from celebahq_builder.landmarks.faces import LandmarkFaces
from celebahq_builder.landmarks.refiner import CROP_PX, Refiner, to_tensor
from celebahq_builder.models.landmark_network import LandmarkNetwork, cell_centres
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network
from celebahq_builder.models.weight_file import first_line
from celebahq_builder.storage import delete_partial_files, lock
from celebahq_builder.training.checkpoint import CheckpointFolder, StateDict, load_optimizer
from celebahq_builder.training.interruption import StopRequest
from celebahq_builder.training.logger import TrainingLogger
from celebahq_builder.training.trained_weights import FILE, TrainedWeights

log = logging.getLogger(__name__)

NAMES = ("checkpoints", FILE, "log.jsonl", "tensorboard")
"""Names in the folder of a training."""

VALIDATION = AugmentationSettings(shift=0.03, scale=0.05, rotation_deg=3.0)
"""Jitter of the first points in validations; a detector errs about as much."""

WARMUP_STEPS = 200
GRADIENT_NORM_MAX = 5.0

LOSS_NAMES = ("distance_percent", "heatmap", "likelihood")
"""Mean distance of the landmarks in per cent of the crop; cross-entropy of the heatmaps; negative log-likelihood of
the distances."""


@dataclass(frozen=True, kw_only=True)
class LandmarkRecipe:
    """Settings of a training of the landmark network."""

    task: Literal["landmarks"]
    net: NetworkShape
    steps: int
    batch: int = 32
    """Crops per step."""
    start: str = ""
    """Weights to start from, NAME or DIR/NAME of a registry; empty for random weights."""
    seed: int = 0
    learning_rate: float = 2e-3
    """Learning rate of AdamW: 200 steps of linear warm-up, then a cosine to zero."""
    weight_decay: float = 0.05
    dropout: float = 0.1
    """Share of the channels of the coarsest level that are dropped in training."""
    heatmap_weight: float = 0.1
    """Weight of the cross-entropy between heatmaps and normal distributions around the true landmarks."""
    heatmap_sigma: float = 1.5
    """Standard deviation of these distributions, in cells of 4 px."""
    likelihood_weight: float = 0.1
    """Weight of the likelihood of the distances, which trains the confidence only."""
    ema: float = 0.998
    """Decay per step of the averaged weights. The averaged weights are validated and exported."""
    held_out: int = 200
    """Number of rows for validation."""
    validate_every: int = 500
    """Steps between validations. Each validation writes a checkpoint and the weights."""
    bf16: bool = True
    """Compute convolutions in bfloat16 in training; weights and losses stay float32."""
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        if self.net.architecture != "landmarks":
            raise ValueError(f"task = landmarks trains landmarks, net.architecture is {self.net.architecture}")
        for name in ("steps", "held_out", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise ValueError(f"batch = {self.batch} must be at least 2, because of the batch normalization")
        for name in ("learning_rate", "heatmap_sigma"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("weight_decay", "heatmap_weight", "likelihood_weight", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1)")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(
    celeba_root: Path,
    out: Path,
    recipe: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    start: str | None = None,
    device: str = "auto",
    threads: int = 1,
    workers: int | None = None,
) -> Path:
    """Train the landmark network, or resume its training.

    Args:
        celeba_root: folder in CelebA's layout, see `sources.celeba.read_celeba`.
        out: folder of the run. If it holds a run with the same recipe and faces, that run is resumed.
        recipe: path of the training recipe.
        overrides: values by dotted key that replace those of the recipe.
        start: weights to start from, NAME or DIR/NAME of a registry, instead of those of the recipe.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of torch. Their number changes the last bits of the result.
        workers: threads that prepare batches ahead. Default: none on a CPU, up to 8 with a GPU.

    Returns:
        Path of the weights.

    Raises:
        RecipeError: the recipe is malformed, or of another kind of training.
        SourceError: the folder cannot be read.
        TrainingError: the faces cannot be used, the run has another recipe or other faces, or a loss is not finite.
        WeightsError: the weights to start from are unknown or damaged.
        KeyboardInterrupt: the training was interrupted; a checkpoint was written.
    """
    found = str(read_toml(recipe, "landmarks").get("task", ""))
    if found != "landmarks":
        raise RecipeError(f"{recipe}: task = {found}; this command trains task = landmarks, choose another `recipe`")
    settings = load(LandmarkRecipe, recipe, overrides)
    settings = replace(settings, start=start or settings.start)
    torch.set_num_threads(threads)
    where = torch.device(parallel.devices(device)[0])
    if workers is None:
        workers = 0 if where.type == "cpu" else min(8, max(os.cpu_count() or 1, 2))
    faces = LandmarkFaces.read(celeba_root, held_out=settings.held_out)
    command = f"celebahq train-landmarks CELEBA_ROOT --recipe {recipe.stem}" + (f" --start {start}" if start else "")
    command += override_arguments(overrides)
    return fit(settings, faces, out, where, command=command, workers=workers)


def fit(
    recipe: LandmarkRecipe,
    faces: LandmarkFaces,
    out: Path,
    device: torch.device,
    *,
    command: str = "",
    workers: int = 0,
    stop: StopRequest | None = None,
) -> Path:
    """Train the landmark network on faces, and resume from the last checkpoint in the folder of the run.

    Every validation writes a line of ``log.jsonl``, ``weights.safetensors`` and a checkpoint. The weights are always
    the last ones: they are not selected by their errors on the held-out faces. A resumed run ends with the same
    weights as one that was not interrupted.

    Args:
        recipe: settings.
        faces: training faces and held-out faces.
        out: folder of the run; it is created if it does not exist.
        device: where the network is trained.
        command: command line of the training, for the model card.
        workers: threads that prepare batches ahead; 0 or 1 prepares each batch when it is needed. The number does not
            change the result.
        stop: ends the training after the current step; by default on Ctrl-C and SIGTERM.

    Returns:
        Path of ``weights.safetensors``.

    Raises:
        TrainingError: the checkpoints of the folder are of another recipe or of other faces, or a loss is not finite.
        WorkspaceLocked: another process trains in the folder.
        DiskFull: no space is left.
        WorkspaceError: the folder cannot be created or holds files of others, or the file system failed.
        KeyboardInterrupt: the training was interrupted; a checkpoint was written.
    """
    cv2.setNumThreads(0)
    stop = stop or StopRequest()
    known = (out / "checkpoints").is_dir()
    with stop.listening(), lock(out, "folder of a training", "out", names=NAMES, known=known):
        for folder in (out, out / "checkpoints"):
            delete_partial_files(folder)
        return _Training(recipe, faces, out, device, command).run(workers, stop)


class _Training:
    """The state of a training: networks, optimizer, position."""

    def __init__(
        self, recipe: LandmarkRecipe, faces: LandmarkFaces, out: Path, device: torch.device, command: str
    ) -> None:
        self.recipe, self.faces, self.out, self.device, self.command = recipe, faces, out, device, command
        config = {**to_mapping(recipe), "photos": faces.digest}
        torch.manual_seed(recipe.seed)
        self.network = _initial_network(recipe, config).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, recipe.weight_decay), lr=1.0)
        self.checkpoints = CheckpointFolder(out / "checkpoints", config)
        self.step = 0
        self.losses = torch.zeros(len(LOSS_NAMES), dtype=torch.float64)
        """Sums since the last validation."""

    def run(self, workers: int, stop: StopRequest) -> Path:
        """Train to the last step; see `fit`."""
        recipe = self.recipe
        # --- Resume
        if checkpoint := self.checkpoints.latest():
            try:
                self._load_state(checkpoint.state)
            except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
                raise TrainingError(
                    f"{checkpoint.path} was written by another version ({first_line(error)}); choose another `out`"
                ) from None
        if self.step >= recipe.steps:
            return self.out / FILE
        # --- Train
        first_step, start_s = self.step, time.monotonic()
        batches = parallel.run_threads(self._draw_batch, range(first_step, recipe.steps), workers=max(workers, 1))
        with TrainingLogger(self.out / "log.jsonl", "step", first_step) as logger:
            for crops, points in batches:
                self.losses += self._training_step(crops, points)
                self.step += 1
                if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                    # The checkpoint is last: a resumed run deletes later lines and writes them again.
                    speed = (self.step - first_step) / (time.monotonic() - start_s)
                    logger.write(self._validate(speed))
                    weights = dict(self.averaged.state_dict())
                    TrainedWeights(weights, recipe.net, self.step, recipe, self.command, self.faces.summary).save(
                        self.out
                    )
                    self.checkpoints.save(self.step, self._state())
                elif stop.requested:
                    self.checkpoints.save(self.step, self._state())
                if stop.requested and self.step < recipe.steps:
                    raise KeyboardInterrupt
        return self.out / FILE

    def _draw_batch(self, step: int) -> tuple[Pixels, Tensor]:
        """Return the crops of a step, uint8 [N, S, S, 3], and their landmarks as shares of S, [N, 5, 2]."""
        examples = []
        for i in range(self.recipe.batch):
            rng = np.random.default_rng((self.recipe.seed, step, i))
            face = self.faces.face(int(rng.integers(len(self.faces.training))))
            examples.append(random_crop(*face, self.recipe.augmentation, rng))
        crops, points = zip(*examples, strict=True)
        return np.stack(crops), torch.from_numpy((np.stack(points) + 0.5) / CROP_PX).float()

    def _training_step(self, crops: Pixels, points: Tensor) -> Tensor:
        """Update the network once, and return its losses."""
        recipe, device = self.recipe, self.device
        # --- Losses. The generator is that of dropout.
        torch.manual_seed(int(np.random.default_rng((recipe.seed, self.step)).integers(2**63)))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            found, scale, heatmaps = self.network(to_tensor(crops, device))
        losses = landmark_losses(found, scale, heatmaps, points.to(device), recipe.heatmap_sigma)
        weights = losses.new_tensor([1.0, recipe.heatmap_weight, recipe.likelihood_weight])
        # --- Update
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses @ weights)
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_MAX)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step)
        self.optimizer.step()
        # --- Weight average, that of the batch normalization too
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, current in zip(
                self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                average.lerp_(current, 1 - decay) if average.is_floating_point() else average.copy_(current)
        return losses.detach().double().cpu()

    def _validate(self, steps_per_s: float) -> dict[str, float]:
        """Return the line of the log: mean losses, and median errors of refined first points of the held-out faces.

        Raises:
            TrainingError: a loss is not finite.
        """
        count = (self.step - 1) % self.recipe.validate_every + 1
        losses = dict(zip(LOSS_NAMES, (self.losses / count).tolist(), strict=True))
        self.losses.zero_()
        if not all(map(math.isfinite, losses.values())):
            raise TrainingError(f"{self.out}: the losses are {losses} at step {self.step}; lower learning_rate")
        errors = validation_errors(Refiner(self.averaged), self.faces, self.recipe.seed)
        scores = {name: round(value, 4) for name, value in vars(errors).items()}
        line = {"step": self.step, **losses, "steps_per_s": round(steps_per_s, 3), **scores}
        log.info("step %d of %d: %s", self.step, self.recipe.steps, json.dumps(line))
        return line

    def _state(self) -> dict[str, object]:
        """Return all that changes during a training, for a checkpoint."""
        return {
            "step": self.step,
            "losses": self.losses,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _load_state(self, state: StateDict) -> None:
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.losses.copy_(state["losses"])
        self.step = operator.index(state["step"])


def _initial_network(recipe: LandmarkRecipe, config: dict[str, object]) -> LandmarkNetwork:
    """Return the network to train; the hash of weights to start from is added to the config."""
    network = LandmarkNetwork(recipe.net.widths, recipe.net.blocks, recipe.dropout)  # type: ignore[arg-type]
    if recipe.start:
        known = find_entry(recipe.start)
        if known.shape != recipe.net:
            raise TrainingError(f"start = {recipe.start} is {known.shape}, the recipe's net is {recipe.net}")
        config["start_sha256"] = known.sha256
        network.load_state_dict(load_network(recipe.start).state_dict())
    return network


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return the parameters for AdamW: weights decay, biases and the scales of a normalization do not."""
    weights = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def landmark_losses(found: Tensor, scale: Tensor, heatmaps: Tensor, true: Tensor, sigma: float) -> Tensor:
    """Return the three losses of `LOSS_NAMES`, float [3].

    Args:
        found: landmarks [N, 5, 2], as shares of the crop.
        scale: logarithm of the scale of their errors, [N, 5].
        heatmaps: before the softmax, [N, 5, H, W].
        true: landmarks [N, 5, 2].
        sigma: standard deviation of the target of the heatmaps, in cells.
    """
    distance = ((found - true).square().sum(dim=-1) + 1e-8).sqrt()
    # The density is that of `refiner.within`. The network's points do not learn from it: it would weigh down faces
    # that are difficult.
    likelihood = (distance.detach() * torch.exp(-scale) + 2 * scale).mean()
    height, width = heatmaps.shape[-2:]
    x = cell_centres(width, heatmaps.device) - true[..., 0:1]
    y = cell_centres(height, heatmaps.device) - true[..., 1:2]
    squared = (x * width).square()[..., None, :] + (y * height).square()[..., :, None]
    target = (squared / (-2 * sigma**2)).flatten(2).softmax(dim=-1)
    entropy = -(target * heatmaps.flatten(2).log_softmax(dim=-1)).sum(dim=-1).mean()
    return torch.stack([100 * distance.mean(), entropy, likelihood])


def validation_errors(refiner: Refiner, faces: LandmarkFaces, seed: int) -> LandmarkErrors:
    """Return the median errors of a refiner on the held-out faces; the first points are true points with jitter."""
    errors = []
    for i, (image, true) in enumerate(faces.held_out):
        first = jittered_points(true, VALIDATION, np.random.default_rng((seed, i)))
        errors.append(landmark_errors(refiner.refine(image, first)[0], true))
    return median_errors(errors)
