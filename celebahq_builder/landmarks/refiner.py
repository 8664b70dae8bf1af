"""Refinement of five landmarks by a small network, which sees a crop around the first points."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points
from celebahq_builder.imaging.orientation import MIRRORED
from celebahq_builder.landmarks.crops import Matrix, crop_matrix, inverse, sample_crop, transform
from celebahq_builder.models.landmark_network import LandmarkNetwork
from celebahq_builder.models.registry import load_network
from celebahq_builder.models.weight_file import load_tensors
from celebahq_builder.training.trained_weights import FILE, read_network

CROP_PX = 96
"""Width and height of the crops that the network sees."""

CROP_SHARE = 0.8
"""Width and height of these crops as a share of the side of CelebA-HQ's crop."""

PASSES = 2
"""Each pass cuts the crop around the points of the pass before it."""

CLOSE = 0.1
"""The confidence is the probability that a point is nearer to its true position than this share of the eye
distance."""


class Refiner:
    """Moves first landmarks, such as those of a detector, to more precise positions.

    Args:
        network: with trained weights.

    Examples:
        >>> network = LandmarkNetwork((8, 8, 8), (1, 1, 1))
        >>> image = np.zeros((120, 100, 3), np.uint8)
        >>> first = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
        >>> points, confidence = Refiner(network).refine(image, first)
        >>> points.shape, 0 <= confidence <= 1
        ((5, 2), True)
    """

    def __init__(self, network: LandmarkNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Return a refiner with trained weights, on the CPU.

        Args:
            path: the folder of a training run, or weights of a registry: NAME or DIR/NAME.

        Raises:
            WeightsError: the weights are missing, damaged, or those of another network.
            RecipeError: the registry is malformed.
        """
        if Path(path).is_dir():
            _, shape, tensors = read_network(Path(path))
            network = shape.build()
            load_tensors(network, tensors, Path(path) / FILE)
        else:
            network = load_network(str(path))
        if not isinstance(network, LandmarkNetwork):
            raise WeightsError(f"{path} holds weights of another network; give those of `celebahq train-landmarks`")
        return cls(network.requires_grad_(False))

    def sha256(self) -> str:
        """Return a hash of the weights."""
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def refine(self, image: Pixels, points: Points) -> tuple[Points, float]:
        """Return refined landmarks and their confidence.

        Each pass averages the points of the crop and of its mirror image. On a CPU the result is deterministic.

        Args:
            image: uint8 [H, W, 3], RGB.
            points: first landmarks, float [5, 2], pixel positions in CelebA's order.

        Returns:
            Landmarks, float64 [5, 2], and the estimated probability that one of them is nearer to its true position
            than a tenth of the eye distance, from 0 to 1. If the network finds no face, the first landmarks and 0.

        Raises:
            ValueError: the image or the points have another shape or type, or the points leave the size or the
                direction of the face undefined.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if points.shape != (5, 2):
            raise ValueError(f"points must have shape [5, 2], got {list(points.shape)}")
        matrices = _both_views(points)
        refined, confidence = points, 0.0
        for _ in range(PASSES):
            refined, confidence = self._pass(image, matrices)
            try:
                matrices = _both_views(refined)
            except ValueError:  # the points coincide
                return np.array(points, dtype=np.float64), 0.0
        return refined, confidence

    def _pass(self, image: Pixels, matrices: Sequence[Matrix]) -> tuple[Points, float]:
        crops = np.stack([sample_crop(image, matrix, CROP_PX) for matrix in matrices])
        shares, errors, _ = self.network(to_tensor(crops, next(self.network.parameters()).device))
        plain, mirrored = (
            transform(inverse(matrix), found * CROP_PX - 0.5)
            for matrix, found in zip(matrices, shares.double().cpu().numpy(), strict=True)
        )
        eyes = (shares[:, 1] - shares[:, 0]).norm(dim=-1, keepdim=True)
        return (plain + mirrored[MIRRORED]) / 2, float(within(CLOSE * eyes, errors.exp()).mean())


def within(distance: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the probability that an error is smaller than a distance.

    The density of errors in the plane is exp(-r / scale) / (2 pi scale^2), so the mean error is twice the scale.

    >>> within(torch.tensor(1.678), torch.tensor(1.0)).item()
    0.49...
    """
    ratio = distance / scale
    return 1 - (1 + ratio) * torch.exp(-ratio)


def to_tensor(crops: Pixels, device: torch.device) -> torch.Tensor:
    """Return crops, uint8 [N, S, S, 3], as float [N, 3, S, S] in [0, 1], channels last."""
    return torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float().div_(255)


def _both_views(points: Points) -> tuple[Matrix, Matrix]:
    return crop_matrix(points, CROP_PX, CROP_SHARE), crop_matrix(points, CROP_PX, CROP_SHARE, mirror=True)
