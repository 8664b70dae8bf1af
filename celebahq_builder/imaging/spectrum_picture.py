"""The power spectrum that the quality score looks at, as a picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.imaging.spectrum import LUMA, PLATEAU, radial_window

RANGE_DB = (-30.0, 6.0)
"""Energy against the plateau's that is black, and that is white."""


def spectrum_picture(pixels: Tensor, side_px: int) -> NDArray[np.uint8]:
    """Return the energy of all frequencies of a picture, as grey levels.

    Shown is what `imaging.spectrum.quality_scores` measures: f^2 P(f), P = |FFT|^2 of the luma under the radial Hann
    window, against the mean of the plateau, the frequencies up to a tenth of the Nyquist frequency. So a sharp photo
    is an evenly grey disc, blur and enlargement are dark towards the edges, noise is bright in the corners, and
    grids, screens and motion are dots and stripes.

    Args:
        pixels: uint8 [3, S, S], RGB.
        side_px: side of the result; frequencies that fall on one pixel are averaged.

    Returns:
        uint8 [side_px, side_px], frequency 0 in the middle, the Nyquist frequency at the edges: -30 dB is black, 6 dB
        is white. A picture of one colour is black.
    """
    size = pixels.shape[-1]
    window = radial_window(size, pixels.device)
    luma = torch.einsum("c,chw->hw", torch.tensor(LUMA, device=pixels.device), pixels.float())
    if luma.max() - luma.min() < 0.5:  # one colour, but for rounding
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
