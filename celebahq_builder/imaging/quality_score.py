"""Quality score of an image, computed from its power spectrum."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.outcome import QualityScore as QualityScore

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

EULER_GAMMA = 0.5772156649015329
"""log of the mean - mean of the log of an exponential distribution, which the power of random phases follows."""

# Rings of the spectrum. A share is one of the Nyquist frequency.

RINGS_PER_OCTAVE = 8
CYCLES_MIN = 4
"""Cycles per image at the inner edge of the first ring, at least; below it the window shows, not the image."""
OCTAVES = 5
"""Octaves that the rings cover below the Nyquist frequency, at most; what lies lower is composition, not sharpness."""
PLATEAU = 0.1
"""Share up to which rings form the plateau, which measures the image's contrast."""
DETAIL = (1 / 16, 0.92)
"""Shares between which breadth and symmetry are measured."""
ONSET = (1 / 12, 1 / 8)
"""Shares between which sharp images have almost as much energy as on the plateau."""
TAIL = 0.9
"""Share above which frequencies form the tail, which measures the floor."""
BELOW_TAIL = (0.4, 0.55)
"""Shares between which the power is measured that the tail is compared with."""

# Components of the score.

CONTRAST = 2.4
"""Smallest standard deviation of an octave of the plateau, in grey levels. In an image of less contrast, rounding and
the errors of JPEG are as strong as its detail."""
DETAIL_RANGE_DB = 16.0
"""A ring whose energy is this far below the plateau's counts as empty."""
ONSET_DB = (-6.0, 3.0)
"""Energy at the onset below which breadth falls, and the further fall that divides it by e. An image that is blurred
but whose spectrum continues consists of the noise and the JPEG errors of a murky photo there."""
NOISE_REMOVED = 3.0
"""Factor of the noise that is subtracted: above 1, so detail near the noise does not count (Berouti et al. 1979)."""
NOISE_SHARE = 0.6
"""Smallest share of the floor that is noise."""
FALL = (0.95 / 0.47) ** 1.5
"""Ratio of the power below the tail to that in the tail without noise; a little smaller than in photos."""
FLOOR_DB = (-24.0, -7.2)
"""Energy of the floor relative to the plateau at which purity is 1, and at which it is 0."""
PURITY_WEIGHT = 0.175
GRID_LOG10 = (1.3, 2.5)
"""log10 of the prominence of the strongest line of the edges' spectrum where blockfree is 1, and where it is 0."""
BLOCKFREE_WEIGHT = 0.08


def quality_score(pixels: Tensor) -> QualityScore:
    """Score one image uint8 [3, S, S], RGB; see `quality_scores`.

    Examples:
        >>> noise = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        >>> quality_score(noise).symmetry > 0.9
        True
        >>> quality_score(torch.full((3, 128, 128), 99, dtype=torch.uint8)).score
        0.0
    """
    return quality_scores(pixels[None])[0]


def quality_scores(images: Tensor) -> list[QualityScore]:
    """Score images by their power spectra.

    Karras et al. 2018, appendix C, use a metric that "favors images whose power spectrum contains a broad range of
    frequencies and is approximately radially symmetric", and give no formula. This formula is ours.

    Spectrum: luma (BT.601) minus its mean, times a radial Hann window that ends at the image's edge, so that the
    middle, where the face is, counts most; P = |FFT|^2. Rings are an eighth of an octave wide and reach from 1/32 of
    the Nyquist frequency f_N (at least 4 cycles per image) to f_N. P_k is the mean power of a ring and f_k its centre.
    The energy f_k^2 P_k is about constant over the rings of a sharp photo (Field 1987).

        plateau    mean energy of the rings below 0.1 f_N
        contrast   max(plateau, 2.4^2 S^2 W / (2 pi ln 2)), W the sum of the squared window: an octave that deviates
                   by 2.4 grey levels
        floor      mean P above 0.9 f_N
        noise      the part of the floor that does not fall as photos do: max((r floor - P_b) / (r - 1), 0.6 floor),
                   P_b the mean of P_k from 0.4 to 0.55 f_N, r = (0.95 / 0.47)^1.5
        d_k        10 log10(f_k^2 (P_k - 3 noise) / contrast)
        onset      mean of max(d_k, -16) from 1/12 to 1/8 f_N; above a gap in the spectrum there is no detail

        breadth    mean of clip(1 + d_k / 16, 0, 1) from 1/16 to 0.92 f_N, times exp(min(0, onset + 6) / 3)
        symmetry   geometric mean, over the same rings, of min(1, e^gamma geometric mean / arithmetic mean of P in the
                   ring): the spectral flatness, 1 for random phases, lower if directions or single lines stand out
        purity     1 - clip((n + 24) / 16.8, 0, 1), n = 10 log10(f_N^2 floor / plateau)
        blockfree  1 - clip((g - 1.3) / 1.2, 0, 1), g = log10 of the prominence of the strongest line in the spectrum
                   of the windowed sums |differences| of neighbouring columns, relative to the median around the line;
                   mean over columns and rows
        score      breadth * sqrt(symmetry) * (1 - 0.175 (1 - purity)) * (1 - 0.08 (1 - blockfree))

    Args:
        images: uint8 [N, 3, S, S], RGB, on any device. Below 256 px there are too few frequencies to detect a slight
            blur.

    Returns:
        Score and components of each image. An image of one colour scores 0. Brightness does not matter; contrast does
        not either, unless there is hardly any.

    References:
        Field 1987, "Relations between the statistics of natural images and the response properties of cortical cells".
        Wang, Bovik & Evans 2000, "Blind measurement of blocking artifacts in images" (blockfree).
    """
    luma = torch.einsum("c,nchw->nhw", _luma_weights(images.device), images.float())
    plain = luma.amax(dim=(1, 2)) - luma.amin(dim=(1, 2)) < 0.5  # one colour, except for rounding
    power = power_spectrum(luma).flatten(1).double().clamp_(min=1e-9)
    rings = _rings(images.shape[-1], power.device)
    mean, log_mean = _ring_means(power, rings), _ring_means(power.log(), rings)

    # --- Floor and noise ---
    floor = (power[:, rings.tail] * rings.weight[rings.tail]).sum(dim=1) / rings.weight[rings.tail].sum()
    energy = rings.frequency.square() * mean
    plateau = energy[:, rings.low].mean(dim=1)
    noise = torch.maximum((FALL * floor - mean[:, rings.before].mean(dim=1)) / (FALL - 1), NOISE_SHARE * floor)
    above = rings.frequency.square() * (mean - NOISE_REMOVED * noise[:, None])

    # --- Breadth ---
    contrast = plateau.clamp(min=_least_contrast(luma.shape[-1], luma.device))
    level_db = 10 * (above.clamp(min=1e-9) / contrast[:, None]).log10()
    onset_db = level_db.clamp(min=-DETAIL_RANGE_DB)[:, rings.onset].mean(dim=1)
    breadth = (1 + level_db / DETAIL_RANGE_DB).clamp_(0, 1)[:, rings.detail].mean(dim=1)
    breadth *= ((onset_db - ONSET_DB[0]) / ONSET_DB[1]).clamp(max=0).exp()

    # --- Symmetry ---
    flatness = (log_mean + EULER_GAMMA - mean.log()).clamp_(max=0)
    symmetry = flatness[:, rings.detail].mean(dim=1).exp()

    # --- Purity and blocks ---
    floor_db = 10 * (rings.nyquist**2 * floor / plateau).log10()
    purity = 1 - ((floor_db - FLOOR_DB[0]) / (FLOOR_DB[1] - FLOOR_DB[0])).clamp_(0, 1)
    blockfree = 1 - ((_grid_log10(luma) - GRID_LOG10[0]) / (GRID_LOG10[1] - GRID_LOG10[0])).clamp_(0, 1)

    # --- Score ---
    score = breadth * symmetry.sqrt() * (1 - PURITY_WEIGHT * (1 - purity)) * (1 - BLOCKFREE_WEIGHT * (1 - blockfree))
    table = torch.stack([score, breadth, symmetry, purity, blockfree, plain.double()], dim=1)
    rows = table.tolist()  # the only wait for the device
    return [QualityScore(*((0.0,) * 5 if flat else row)) for *row, flat in rows]


def power_spectrum(luma: Tensor) -> Tensor:
    """Return |FFT|^2 of images minus their means, under a radial Hann window; the half spectrum of real images.

    Shapes: float [N, S, S] -> [N, S, S // 2 + 1].
    """
    window = radial_window(luma.shape[-1], luma.device)
    mean = (luma * window).sum(dim=(1, 2), keepdim=True) / window.sum()
    spectrum = torch.fft.rfft2((luma - mean).mul_(window))
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    return power


@functools.lru_cache(maxsize=4)
def _least_contrast(size: int, device: torch.device) -> float:
    """Return f^2 P of an octave whose standard deviation is `CONTRAST`, of images [size, size] (Parseval)."""
    weight = float(radial_window(size, device).square().sum())
    return CONTRAST**2 * size**2 * weight / (2 * math.pi * math.log(2))


def _ring_means(values: Tensor, rings: _Rings) -> Tensor:
    """Return the mean of values [N, frequencies] over each ring: [N, rings]."""
    sums = torch.zeros((len(values), len(rings.count)), dtype=values.dtype, device=values.device)
    sums.index_add_(1, rings.ring, values[:, rings.sample] * rings.weight[rings.sample])
    return sums / rings.count


def _grid_log10(luma: Tensor) -> Tensor:
    """Return log10 of the prominence of periodic edges in images [N, S, S]: [N], about 1 where there are none."""
    size = luma.shape[-1]
    window = radial_window(size, luma.device)
    prominences: list[Tensor] = []
    for axis in (1, 2):
        edges = luma.diff(dim=axis).abs_().mul_(window.narrow(axis - 1, 1, size - 1)).sum(dim=3 - axis)
        around = _smoothed(edges, size // 32 * 2 + 1)
        profile = (edges / around.clamp_(min=1e-6) - 1).clamp_(-1, 2)
        taper = torch.hann_window(size - 1, periodic=False, device=luma.device)
        power = torch.fft.rfft(profile * taper).abs().square()[:, size // 32 :]
        reach = size // 32
        near = F.pad(power[:, None], (reach, reach), mode="reflect")[:, 0].unfold(1, 2 * reach + 1, 1)
        prominences.append((power / (near.median(dim=2).values + 1e-9)).amax(dim=1).clamp_(min=1e-9).log10())
    return torch.stack(prominences).mean(dim=0)


def _smoothed(profile: Tensor, width: int) -> Tensor:
    """Return profiles [N, M] averaged over `width` neighbours."""
    padded = F.pad(profile[:, None], (width // 2, width // 2), mode="reflect")
    return F.avg_pool1d(padded, width, stride=1)[:, 0]


@functools.lru_cache(maxsize=4)
def _luma_weights(device: torch.device) -> Tensor:
    return torch.tensor(LUMA, device=device)


@functools.lru_cache(maxsize=4)
def radial_window(size: int, device: torch.device) -> Tensor:
    """Return a Hann window over the distance from the middle of an image, float32 [size, size]."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    radius = torch.hypot(axis[:, None], axis[None, :]).clamp_(max=1)
    window: Tensor = torch.cos(math.pi * radius).add_(1).mul_(0.5)
    return window


@dataclass(frozen=True)
class _Rings:
    """Assignment of the samples of a half spectrum [S, S // 2 + 1] to rings."""

    nyquist: float
    """Cycles per image."""
    sample: Tensor
    """Flat indices of the samples that lie in any ring."""
    ring: Tensor
    """Ring of each of them."""
    weight: Tensor
    """Samples of the full spectrum that each sample of the half spectrum stands for: 1 or 2."""
    count: Tensor
    """Samples of the full spectrum per ring."""
    frequency: Tensor
    """Centre of each ring, cycles per image."""
    low: Tensor
    """Indices of the rings of the plateau."""
    detail: Tensor
    """Those of breadth and symmetry."""
    onset: Tensor
    """Those at the onset of detail."""
    before: Tensor
    """Those that the tail is compared with."""
    tail: Tensor
    """Flat indices of the samples of the tail."""


@functools.lru_cache(maxsize=4)
def _rings(size: int, device: torch.device) -> _Rings:
    nyquist = size / 2
    down = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None]
    right = torch.fft.rfftfreq(size, 1 / size, dtype=torch.float64)[None, :]
    radius = torch.hypot(down, right).flatten()
    octaves = min(OCTAVES, math.log2(nyquist / CYCLES_MIN))
    wanted = int(octaves * RINGS_PER_OCTAVE)
    edges = nyquist * 2.0 ** (torch.arange(-wanted, 1, dtype=torch.float64) / RINGS_PER_OCTAVE)
    ring = torch.bucketize(radius, edges, right=True) - 1
    inner = (right > 0) & (right < nyquist)
    weight = (1.0 + inner.double()).expand(size, -1).flatten()
    sample = ((ring >= 0) & (ring < wanted)).nonzero()[:, 0]
    count = torch.bincount(ring[sample], weight[sample], minlength=wanted)
    filled = count > 0  # the lowest rings of small images can be empty
    number = filled.long().cumsum(dim=0) - 1
    frequency = (edges[:-1] * edges[1:]).sqrt()[filled]
    low = frequency < max(PLATEAU * nyquist, float(frequency[min(2, len(frequency) - 1)]))
    detail = (frequency > DETAIL[0] * nyquist) & (frequency < DETAIL[1] * nyquist)
    onset = (frequency > ONSET[0] * nyquist) & (frequency < ONSET[1] * nyquist)
    if not onset.any():  # the rings of small images begin higher
        onset = frequency == frequency[0]
    before = (frequency > BELOW_TAIL[0] * nyquist) & (frequency < BELOW_TAIL[1] * nyquist)
    tail = ((radius > TAIL * nyquist) & (radius <= nyquist)).nonzero()[:, 0]
    chosen = (mask.nonzero()[:, 0] for mask in (low, detail, onset, before))  # a mask as an index waits for the device
    parts = (sample, number[ring[sample]], weight, count[filled], frequency, *chosen, tail)
    return _Rings(nyquist, *(part.to(device) for part in parts))


RANGE_DB = (-30.0, 6.0)
"""Energy relative to the plateau that is shown black, and that is shown white."""


def spectrum_image(pixels: Tensor, side_px: int) -> NDArray[np.uint8]:
    """Return the energy spectrum of an image as a grey image.

    It shows the energy that `quality_scores` measures: f^2 P(f), P = |FFT|^2 of the luma under the radial Hann window,
    relative to the mean of the plateau, the frequencies up to a tenth of the Nyquist frequency. A sharp photo is a
    uniformly grey disc; blur and enlargement are dark towards the edges; noise is bright in the corners; grids,
    halftone screens and motion blur are dots and stripes.

    Args:
        pixels: uint8 [3, S, S], RGB.
        side_px: side length of the result; frequencies that share a pixel are averaged.

    Returns:
        uint8 [side_px, side_px] with frequency 0 in the middle and the Nyquist frequency at the edges; -30 dB is black
        and 6 dB is white. The result is black if the image has one colour.

    Examples:
        >>> spectrum_image(torch.full((3, 64, 64), 77, dtype=torch.uint8), side_px=16).tolist() == [[0] * 16] * 16
        True
    """
    size = pixels.shape[-1]
    window = radial_window(size, pixels.device)
    luma = torch.einsum("c,chw->hw", _luma_weights(pixels.device), pixels.float())
    if luma.max() - luma.min() < 0.5:  # one colour, except for rounding
        return np.zeros((side_px, side_px), dtype=np.uint8)
    spectrum = torch.fft.fft2((luma - (luma * window).sum() / window.sum()) * window)
    cycles = torch.fft.fftfreq(size, 1 / size, device=pixels.device)
    square = cycles.square()[:, None] + cycles.square()[None, :]
    energy = square * (spectrum.real.square() + spectrum.imag.square())
    low = (square > 0) & (square <= (PLATEAU * size / 2) ** 2)
    plateau = float(energy[low].mean()) if low.any() else 0.0
    shown = cv2.resize(torch.fft.fftshift(energy).cpu().numpy(), (side_px, side_px), interpolation=cv2.INTER_AREA)
    level_db = 10 * np.log10(np.maximum(shown, 1e-9) / max(plateau, 1e-9))
    grey = (level_db - RANGE_DB[0]) / (RANGE_DB[1] - RANGE_DB[0]) * 255
    return np.asarray(np.clip(np.rint(grey), 0, 255), dtype=np.uint8)
