"""Training of the landmark network on a folder in CelebA's layout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks, normalized_mean_error
from celebahq_builder.landmarks.faces import AugmentationSettings, LandmarkFaces, jittered_points, random_crop
from celebahq_builder.landmarks.refiner import CROP_PX, Refiner, to_tensor
from celebahq_builder.models.landmark_network import LandmarkNetwork, cell_centres
from celebahq_builder.models.registry import NetworkShape
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interface import SampleRows, Scores, Task, initial_network, start_weights

VALIDATION = AugmentationSettings(shift=0.03, scale=0.05, rotation_deg=3.0)
"""Jitter of the first points in validations; a detector errs about as much."""

WARMUP_STEPS = 200
GRADIENT_NORM_MAX = 5.0
BATCH_MAX = 4096
"""Largest number of crops in a step: 113 MB as uint8."""

FaceBatch = tuple[Pixels, Tensor]
"""Crops, uint8 [N, S, S, 3], and their landmarks as shares of S, [N, 5, 2]."""


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
        if not 2 <= self.batch <= BATCH_MAX:  # the batch normalization needs two
            raise ValueError(f"batch = {self.batch} must be from 2 to {BATCH_MAX}")
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


class LandmarkTask(Task[FaceBatch]):
    """The landmark network, trained on crops around faces.

    The exported weights are always the last ones: they are not selected by their errors on the held-out faces.

    The folder of photos is one in CelebA's layout, see `sources.celeba.read_celeba`.

    Raises:
        SourceError: the folder cannot be read.
        TrainingError: the faces cannot be used, the weights to start from belong to a network of another shape, or
            torchrun started several processes.
    """

    Recipe = LandmarkRecipe
    photos: LandmarkFaces
    loss_names = ("distance_percent", "heatmap", "likelihood")
    """Mean distance of the landmarks in per cent of the crop; cross-entropy of the heatmaps; negative log-likelihood
    of the distances."""

    def __init__(self, recipe: LandmarkRecipe, photos: Path, context: DistributedContext) -> None:
        if context.size > 1:  # the batch normalization needs the whole batch
            raise TrainingError("the landmark network trains in one process; start the command without torchrun")
        self.recipe: LandmarkRecipe = recipe
        self.shape, self.device = recipe.net, context.device
        self.photos = LandmarkFaces.read(photos, held_out=recipe.held_out)
        self.config = config = {**to_mapping(recipe)}
        start = start_weights(recipe.start, recipe.net, config)
        self.network = initial_network(recipe.net, start, recipe.seed, self.device)
        assert isinstance(self.network, LandmarkNetwork)
        self.network.dropout.p = recipe.dropout
        self.adam = torch.optim.AdamW(_parameter_groups(self.network, recipe.weight_decay), lr=1.0)
        self.networks, self.optimizers = {"network": self.network}, {"network": self.adam}

    def draw_batch(self, step: int) -> FaceBatch:
        """Return the crops of a step and their landmarks."""
        examples = []
        for i in range(self.recipe.batch):
            rng = np.random.default_rng((self.recipe.seed, step, i))
            face = self.photos.face(int(rng.integers(len(self.photos.training))))
            examples.append(random_crop(*face, self.recipe.augmentation, rng))
        crops, points = zip(*examples, strict=True)
        return np.stack(crops), torch.from_numpy((np.stack(points) + 0.5) / CROP_PX).float()

    def training_step(self, step: int, batch: FaceBatch) -> Tensor:
        """Update the network once, and return its losses."""
        recipe, device, (crops, points) = self.recipe, self.device, batch
        # --- Losses. The generator is that of dropout.
        torch.manual_seed(int(np.random.default_rng((recipe.seed, step)).integers(2**63)))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            found, scale, heatmaps = self.network(to_tensor(crops, device))
        losses = landmark_losses(found, scale, heatmaps, points.to(device), recipe.heatmap_sigma)
        weights = losses.new_tensor([1.0, recipe.heatmap_weight, recipe.likelihood_weight])
        # --- Update
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(losses @ weights)
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_MAX)
        for group in self.adam.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        self.adam.step()
        return losses.detach().double()

    def validate(self, net: nn.Module) -> tuple[Scores, SampleRows]:
        """Return median errors of refined first points of the held-out faces; no sample images."""
        assert isinstance(net, LandmarkNetwork)
        errors = validation_errors(Refiner(net), self.photos, self.recipe.seed)
        return {name: round(value, 4) for name, value in vars(errors).items()}, []


TASKS = {"landmarks": LandmarkTask}
"""Trainings by the key ``task`` of their recipes; see `training.loop.train`."""


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return the parameters for AdamW: weights decay, biases and the scales of a normalization do not."""
    weights = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def landmark_losses(found: Tensor, scale: Tensor, heatmaps: Tensor, true: Tensor, sigma: float) -> Tensor:
    """Return the three losses that `LandmarkTask.loss_names` names, float [3].

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


# --- Errors against true landmarks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LandmarkErrors:
    """Errors of the landmarks of one face, or medians of many faces."""

    nme: float
    """Normalized mean error: the mean distance between found and true landmarks as a share of the true eye distance."""
    side_percent: float
    """Error of the side of CelebA-HQ's crop, in per cent of the true side."""
    rotation_deg: float
    """Angle between the crop and the true one."""


def landmark_errors(found: Points, true: Points) -> LandmarkErrors:
    """Return the errors of landmarks.

    Args:
        found: landmarks [5, 2], px, in CelebA's order.
        true: landmarks [5, 2].

    Raises:
        ValueError: the landmarks leave the size or the direction of a face undefined.

    Examples:
        >>> true = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
        >>> landmark_errors(true + [2, 0], true)
        LandmarkErrors(nme=0.1, side_percent=0.0, rotation_deg=0.0)
    """
    crop, expected = crop_from_landmarks(found), crop_from_landmarks(true)
    side_percent = 100 * abs(crop.side / expected.side - 1)
    return LandmarkErrors(normalized_mean_error(found, true), side_percent, crop.turn_deg(expected))


def median_errors(errors: Iterable[LandmarkErrors]) -> LandmarkErrors:
    """Return the median of each error over some faces."""
    table = np.array([(one.nme, one.side_percent, one.rotation_deg) for one in errors])
    return LandmarkErrors(*np.median(table, axis=0).tolist())


def validation_errors(refiner: Refiner, faces: LandmarkFaces, seed: int) -> LandmarkErrors:
    """Return the median errors of a refiner on the held-out faces; the first points are true points with jitter."""
    errors = []
    for i, (image, true) in enumerate(faces.held_out):
        first = jittered_points(true, VALIDATION, np.random.default_rng((seed, i)))
        errors.append(landmark_errors(refiner.refine(image, first)[0], true))
    return median_errors(errors)
