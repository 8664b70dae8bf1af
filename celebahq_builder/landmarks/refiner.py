"""Refinement of five landmarks by a small network, which sees a crop around the first points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from celebahq_builder.errors import WeightsError
from celebahq_builder.imaging.geometry import Points, bounding_box, crop_from_landmarks
from celebahq_builder.models.landmark_network import LandmarkNetwork
from celebahq_builder.models.registry import load_network
from celebahq_builder.models.weight_file import load_tensors
from celebahq_builder.training.trained_weights import FILE, read_network

Pixels = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

Matrix = NDArray[np.float64]
"""Affine transformation [2, 3] from pixel positions of a photo to pixel positions of a crop."""

CROP_PX = 96
"""Width and height of the crops that the network sees."""

CROP_SHARE = 0.8
"""Width and height of these crops as a share of the side of CelebA-HQ's crop."""

MIRRORED = (1, 0, 2, 4, 3)
"""Index of each landmark in the mirror image of a face."""

PASSES = 2
"""Each pass cuts the crop around the points of the pass before it."""

CLOSE = 0.1
"""The confidence is the probability that a point is nearer to its true position than this share of the eye
distance."""

SUPERSAMPLING_MAX = 16
"""Largest number of samples per crop pixel in each direction; very large faces are sampled more coarsely."""


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
        return (plain + mirrored[list(MIRRORED)]) / 2, float(within(CLOSE * eyes, errors.exp()).mean())


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


# --- Geometry of the crop ---------------------------------------------------------------------------------------


def crop_matrix(points: Points, size_px: int = CROP_PX, share: float = CROP_SHARE, *, mirror: bool = False) -> Matrix:
    """Return the transformation from a photo to an upright crop around five landmarks.

    Args:
        points: landmarks [5, 2], pixel positions.
        size_px: width and height of the crop.
        share: width and height of the crop as a share of the side of CelebA-HQ's crop.
        mirror: exchange left and right of the crop.

    Raises:
        ValueError: the points leave the size or the direction of the face undefined.

    Examples:
        >>> points = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
        >>> transform(crop_matrix(points), points).round(1).tolist()
        [[36.4, 44.2], [58.6, 44.2], [47.5, 60.8], [38.6, 77.5], [56.4, 77.5]]
        >>> transform(crop_matrix(points, mirror=True), points).round(1).tolist()[0]
        [58.6, 44.2]
    """
    quad = crop_from_landmarks(points).quad - 0.5  # from pixel-edge coordinates to pixel positions
    x, y = quad[3] - quad[0], quad[1] - quad[0]
    axes = np.stack([-x if mirror else x, y]) / (x @ x)  # they map the square to widths of 1
    linear = axes * (size_px / share)
    return np.column_stack([linear, (size_px - 1) / 2 - linear @ quad.mean(axis=0)])


def _both_views(points: Points) -> tuple[Matrix, Matrix]:
    return crop_matrix(points), crop_matrix(points, mirror=True)


def transform(matrix: Matrix, points: Points) -> Points:
    """Return points [N, 2] after an affine transformation."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of an affine transformation."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def sample_crop(image: Pixels, matrix: Matrix, size_px: int) -> Pixels:
    """Return a square crop of a photo.

    A crop that is smaller than its part of the photo is sampled bilinearly at a multiple of its size and reduced by a
    box filter. Positions outside the photo take the nearest pixel.

    Args:
        image: uint8 [H, W, 3].
        matrix: see `Matrix`.
        size_px: width and height of the crop.

    Returns:
        uint8 [size_px, size_px, 3].
    """
    # --- Only the part of the photo that the crop shows; OpenCV takes at most 32767 px
    corners = np.array([[-1.0, -1.0], [size_px, -1.0], [-1.0, size_px], [size_px, size_px]])
    box = np.array(bounding_box(transform(inverse(matrix), corners), margin=2))
    low = np.clip(box[:2], 0, np.array(image.shape[1::-1]) - 1)
    high = np.clip(box[2:], low + 1, image.shape[1::-1])
    part = image[low[1] : high[1], low[0] : high[0]]
    # --- Samples
    shrink = 1 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    samples = min(max(math.ceil(shrink - 0.35), 1), SUPERSAMPLING_MAX)
    fine = matrix * samples
    fine[:, 2] += (samples - 1) / 2 + fine[:, :2] @ low
    size = (samples * size_px, samples * size_px)
    crop = cv2.warpAffine(part, fine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if samples > 1:
        crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return cast(Pixels, crop)
