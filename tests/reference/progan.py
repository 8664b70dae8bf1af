"""ProGAN's networks up to 8x8 in plain torch, and two of its layers in numpy, loop by loop."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Weights = dict[str, Tensor]


def pixel_norm(x: Array) -> Array:
    """Each pixel's feature vector over its root mean square."""
    out = np.empty_like(x)
    for n in range(x.shape[0]):
        for index in np.ndindex(*x.shape[2:]):
            vector = x[(n, slice(None), *index)]
            out[(n, slice(None), *index)] = vector / np.sqrt(np.mean(vector**2) + 1e-8)
    return out


def minibatch_stddev(x: Array, group: int) -> Array:
    """One more map: the standard deviation within each group, averaged over features and pixels."""
    n, c, h, w = x.shape
    groups = n // group
    extra = np.empty((n, 1, h, w))
    for g in range(groups):
        members = [g + k * groups for k in range(group)]
        total = 0.0
        for index in np.ndindex(c, h, w):
            values = np.array([x[(m, *index)] for m in members])
            total += np.sqrt(np.mean((values - values.mean()) ** 2) + 1e-8)
        for m in members:
            extra[m] = total / (c * h * w)
    return np.concatenate([x, extra], axis=1)


def conv(x: Tensor, weights: Weights, name: str, gain: float = 2**0.5) -> Tensor:
    weight = weights[f"{name}.weight"]
    scale = gain / (weight[0].numel()) ** 0.5
    return F.conv2d(x, weight * scale, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


def dense(x: Tensor, weights: Weights, name: str, gain: float) -> Tensor:
    weight = weights[f"{name}.weight"]
    return x @ (weight * (gain / weight.shape[1] ** 0.5)).t() + weights[f"{name}.bias"]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, 0.2 * x)


def norm(x: Tensor) -> Tensor:
    return x / ((x * x).mean(dim=1, keepdim=True) + 1e-8).sqrt()


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4


def generator(weights: Weights, z: Tensor, labels: Tensor | None, level: int, alpha: float) -> Tensor:
    x = norm(z if labels is None else torch.cat([z, labels], dim=1))
    x = norm(leaky(dense(x, weights, "dense", 2**0.5 / 4).reshape(len(z), -1, 4, 4)))
    small = norm(leaky(conv(x, weights, "blocks.0.0")))
    if level == 2:
        return conv(small, weights, "to_rgb.0", 1.0)
    large = norm(leaky(conv(doubled(small), weights, "blocks.1.0")))
    large = norm(leaky(conv(large, weights, "blocks.1.1")))
    old, new = doubled(conv(small, weights, "to_rgb.0", 1.0)), conv(large, weights, "to_rgb.1", 1.0)
    return (1 - alpha) * old + alpha * new


def discriminator(
    weights: Weights, images: Tensor, level: int, alpha: float, noisy: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Return scores and label logits."""
    if level == 2:
        x = leaky(conv(images, weights, "from_rgb.0"))
    else:
        x = leaky(conv(images, weights, "from_rgb.1"))
        x = leaky(conv(noisy(x), weights, "blocks.1.0"))
        x = halved(leaky(conv(noisy(x), weights, "blocks.1.1")))
        x = (1 - alpha) * leaky(conv(halved(images), weights, "from_rgb.0")) + alpha * x
    groups = x.reshape(4, len(x) // 4, *x.shape[1:])  # images i, i + N/4, ... form a group
    spread = ((groups - groups.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    x = torch.cat([x, spread.repeat(4).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)], dim=1)
    x = leaky(conv(noisy(x), weights, "blocks.0.0"))
    x = leaky(dense(noisy(x.flatten(1)), weights, "dense", 2**0.5))
    judged = dense(noisy(x), weights, "judge", 1.0)
    return judged[:, 0], judged[:, 1:]
