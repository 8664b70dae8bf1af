"""The quality score: how broad and how radially symmetric a picture's power spectrum is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

RINGS = 32
SECTORS = 16
LOWEST_CYCLES = 4
"""Cycles per picture at the inner edge of the first ring: below it is composition, not sharpness."""
FLOOR_SHARE = 0.9
"""Frequencies above this share of the Nyquist frequency tell the noise floor."""


@dataclass(frozen=True)
class QualityScore:
    """A picture's score and what it is made of; all in [0, 1], higher is better."""

    score: float
    """breadth * symmetry."""
    breadth: float
    """Entropy of the energy over log-spaced rings of frequency, as a share of its maximum."""
    symmetry: float
    """Mean over the rings of geometric by arithmetic mean over the sectors."""


def quality_score(pixels: Tensor) -> QualityScore:
    """Score a picture by its power spectrum.

    After Karras et al. 2018, appendix C: the metric "favors images whose power spectrum contains a broad range
    of frequencies and is approximately radially symmetric". The paper gives no formula; this is ours:

    luma (BT.601) less its mean, times a radial Hann window that ends at the picture's edge, so that the middle,
    where the face is, counts most; P = |FFT|^2 averaged over 32 log-spaced rings, from 4 cycles per picture to
    the Nyquist frequency, times 16 sectors; the noise floor (mean of P above 0.9 Nyquist, what white noise
    spreads over all frequencies) is taken from every bin, down to 0 at most.
    breadth = entropy of p_k / log(rings), p_k proportional to f_k^2 P_k: the energy per ring.
    symmetry = mean over the rings of (geometric mean / arithmetic mean over the sectors).

    Args:
        pixels: uint8 [3, S, S], RGB.

    Pictures of less than 256 px have too few samples per bin for the score to tell a slight blur.

    Returns:
        The score and its components. A picture of one colour scores 0. Neither brightness nor contrast matters.
    """
    bins = _bins(pixels.shape[-1], pixels.device)
    power = _power(pixels).flatten()
    if power.sum() == 0:
        return QualityScore(0.0, 0.0, 0.0)
    floor = (power * bins.weight)[bins.tail].sum() / bins.weight[bins.tail].sum()
    sums = torch.zeros(RINGS * SECTORS, dtype=torch.float64, device=pixels.device)
    sums.index_add_(0, bins.bin, (power * bins.weight)[bins.sample])
    density = (sums / bins.count - floor).clamp_(min=0).view(RINGS, SECTORS)[bins.used]
    radial = density.mean(dim=1)
    peak = float(radial.max())
    if peak <= 0:
        return QualityScore(0.0, 0.0, 0.0)
    energy = bins.frequency.square() * radial
    share = (energy / energy.sum()).clamp_(min=1e-30)
    breadth = float(-(share * share.log()).sum() / math.log(len(share)))
    tiny = peak * 1e-12  # rings that the floor emptied count as wholly asymmetric
    geometric = density.clamp(min=tiny).log().mean(dim=1).exp()
    symmetry = float((geometric / radial.clamp(min=SECTORS * tiny)).mean())
    return QualityScore(breadth * symmetry, breadth, symmetry)


def _power(pixels: Tensor) -> Tensor:
    """Return |FFT|^2 of the windowed luma, float64 [S, S // 2 + 1]."""
    size = pixels.shape[-1]
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)
    luma = torch.einsum("c,chw->hw", weights, pixels.float())
    if luma.max() - luma.min() < 0.5:  # one colour, but for rounding
        return torch.zeros((size, size // 2 + 1), dtype=torch.float64, device=pixels.device)
    window = _window(size, pixels.device)
    luma = (luma - (luma * window).sum() / window.sum()) * window
    spectrum = torch.fft.rfft2(luma)
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    return power.double()


@functools.lru_cache(maxsize=4)
def _window(size: int, device: torch.device) -> Tensor:
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    radius = torch.hypot(axis[:, None], axis[None, :]).clamp_(max=1)
    window: Tensor = torch.cos(math.pi * radius).add_(1).mul_(0.5)
    return window


@dataclass(frozen=True)
class _Bins:
    """Which samples of a half spectrum belong to which ring and sector."""

    sample: Tensor
    """Flat indices of the samples that are in any ring."""
    bin: Tensor
    """Ring * SECTORS + sector of each of them."""
    weight: Tensor
    """How many samples of the whole spectrum each sample of the half spectrum stands for: 1 or 2."""
    count: Tensor
    """Samples of the whole spectrum per bin, at least 1."""
    used: Tensor
    """Rings in which every sector has samples; small pictures lack some of the inner ones."""
    frequency: Tensor
    """Centre of each used ring, cycles per picture."""
    tail: Tensor
    """Flat indices of the samples that tell the noise floor."""


@functools.lru_cache(maxsize=4)
def _bins(size: int, device: torch.device) -> _Bins:
    down = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None]
    right = torch.fft.rfftfreq(size, 1 / size, dtype=torch.float64)[None, :]
    radius = torch.hypot(down, right).flatten()
    edges = torch.logspace(math.log10(LOWEST_CYCLES), math.log10(size / 2), RINGS + 1, dtype=torch.float64)
    ring = torch.bucketize(radius, edges, right=True) - 1
    sample = ((ring >= 0) & (ring < RINGS)).nonzero()[:, 0]
    angle = torch.atan2(down, right).flatten() / math.pi + 0.5  # [0, 1]: opposite directions are the same
    sector = (angle * SECTORS).round().long() % SECTORS  # the axes lie in the middle of a sector, not between two
    index = (ring * SECTORS + sector)[sample]
    inner = (right > 0) & (right < size / 2)
    weight = (1.0 + inner.double()).expand(size, -1).flatten()
    count = torch.bincount(index, weight[sample], minlength=RINGS * SECTORS)
    used = (count.view(RINGS, SECTORS) > 0).all(dim=1)
    frequency = (edges[:-1] * edges[1:]).sqrt()[used]
    tail = ((radius > FLOOR_SHARE * size / 2) & (radius <= size / 2)).nonzero()[:, 0]
    parts = (sample, index, weight, count.clamp(min=1), used, frequency, tail)
    return _Bins(*(part.to(device) for part in parts))
