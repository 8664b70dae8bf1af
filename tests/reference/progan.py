"""ProGAN's layers in numpy, loop by loop, as the paper describes them."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


def convolution(x: Array, weight: Array, bias: Array, gain: float) -> Array:
    """A convolution with the run-time scale gain / sqrt(fan in), zeros around the image."""
    fan_out, fan_in, k, _ = weight.shape
    scaled = weight * gain / np.sqrt(fan_in * k * k)
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((x.shape[0], fan_out, *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = padded[:, :, i : i + k, j : j + k]
            out[:, :, i, j] = np.einsum("ncij,ocij->no", window, scaled) + bias
    return out


def leaky(x: Array) -> Array:
    """A leaky rectifier of slope 0.2."""
    return np.where(x > 0, x, 0.2 * x)


def doubled(x: Array) -> Array:
    """Nearest upsampling."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def halved(x: Array) -> Array:
    """2x2 means."""
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def dense(x: Array, weight: Array, bias: Array, gain: float) -> Array:
    """A dense layer with the run-time scale."""
    return x @ (weight * gain / np.sqrt(weight.shape[1])).T + bias


SQRT2 = np.sqrt(2)


def generator_8(p: dict[str, Array], latents: Array, alpha: float) -> Array:
    """The generator at 8x8."""
    x = dense(pixel_norm(latents), p["dense.weight"], p["dense.bias"], SQRT2 / 4)
    x = pixel_norm(leaky(x.reshape(len(x), -1, 4, 4)))
    x = pixel_norm(leaky(convolution(x, p["blocks.0.0.weight"], p["blocks.0.0.bias"], SQRT2)))
    old = convolution(x, p["to_rgb.0.weight"], p["to_rgb.0.bias"], 1)
    x = pixel_norm(leaky(convolution(doubled(x), p["blocks.1.0.weight"], p["blocks.1.0.bias"], SQRT2)))
    x = pixel_norm(leaky(convolution(x, p["blocks.1.1.weight"], p["blocks.1.1.bias"], SQRT2)))
    new = convolution(x, p["to_rgb.1.weight"], p["to_rgb.1.bias"], 1)
    return (1 - alpha) * doubled(old) + alpha * new


def discriminator_8(p: dict[str, Array], images: Array, alpha: float, group: int) -> Array:
    """The discriminator at 8x8."""
    x = leaky(convolution(images, p["from_rgb.1.weight"], p["from_rgb.1.bias"], SQRT2))
    x = leaky(convolution(x, p["blocks.1.0.weight"], p["blocks.1.0.bias"], SQRT2))
    x = halved(leaky(convolution(x, p["blocks.1.1.weight"], p["blocks.1.1.bias"], SQRT2)))
    old = leaky(convolution(halved(images), p["from_rgb.0.weight"], p["from_rgb.0.bias"], SQRT2))
    x = minibatch_stddev((1 - alpha) * old + alpha * x, group)
    x = leaky(convolution(x, p["blocks.0.0.weight"], p["blocks.0.0.bias"], SQRT2))
    x = leaky(dense(x.reshape(len(x), -1), p["dense.weight"], p["dense.bias"], SQRT2))
    return dense(x, p["judge.weight"], p["judge.bias"], 1)[:, 0]
