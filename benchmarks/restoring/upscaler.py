"""Rows of the upscalers: Set5 and Set14 from the official low-resolution files, and crops never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import Row
from torch import Tensor

from celebahq_builder.image_set import Pixels
from celebahq_builder.metrics.fidelity import psnr_y, spectrum_error_db
from celebahq_builder.metrics.texture import lattice, texture_distance
from celebahq_builder.models.community_network import CommunityNetwork
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.restoration.degradation import apply_jpeg, reduced
from restoring.images import Network, held_out, low_and_high, read, restore, tensor

PSNR_DB = {
    ("upscaler-psnr", "Set5"): 31.2,
    ("upscaler-psnr", "Set14"): 27.9,
    ("upscaler-psnr-large", "Set5"): 31.9,
    ("upscaler-psnr-large", "Set14"): 27.9,
    ("upscaler-gan", "Set5"): 29.0,
}
"""Least Y-PSNR, 4 px border."""

ABOVE_BICUBIC_DB = {
    ("upscaler-psnr", "Set5"): 1.5,
    ("upscaler-psnr", "Set14"): 1.0,
    ("upscaler-psnr-large", "Set5"): 1.5,
    ("upscaler-psnr-large", "Set14"): 1.0,
}
TEXTURE_SHARE = 0.35
"""Largest sliced Wasserstein distance of the finest Laplacian level, as a share of upscaler-psnr's. This goal and the
next one are for networks with noise, which synthesize texture."""

SPECTRUM_DB = 4.0
"""Largest error of the radial log power spectrum."""

COLOUR = 0.5
"""Largest shift of the mean colour from the input's, grey levels; a goal of the bundled networks."""

LATTICE = 0.04
"""Largest autocorrelation at 4 px above that of the true image, for faces; a goal of networks that synthesize texture.
The first bundled upscaler-gan had 0.07 and 0.09."""

FACE_PX, FACE_QUALITY = 256, 90
"""Width, height and JPEG quality of the faces before they are denoised and enlarged."""

FACE_PART = (slice(64, 192), slice(48, 208))
"""Rows and columns of a face that are enlarged: from the forehead to the chin, with some hair."""

PATCHES = 1024
"""Neighbourhoods per image for the texture's distance; the sets are small."""


@dataclass
class Figures:
    """Figures of one network on one set of images."""

    psnr_db: list[float] = field(default_factory=list)
    spectrum_db: list[float] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)
    truths: list[Tensor] = field(default_factory=list)
    colour: float = 0.0
    """Largest shift of any channel's mean."""
    phases: list[np.ndarray] = field(default_factory=list)
    """Mean error of each of the 16 pixels that one input pixel becomes."""

    @property
    def texture(self) -> float:
        """Sliced Wasserstein distance of the finest Laplacian level, x 1000."""
        return 1000 * texture_distance(self.results, self.truths, PATCHES)


def upscaler_rows(nets: dict[str, Network], data: Path) -> list[Row]:
    """Return the rows of the networks, and of bicubic enlargement; upscaler-psnr must be one of the networks."""
    sets = {
        "Set5": list(low_and_high(data, "Set5")),
        "Set14": list(low_and_high(data, "Set14")),
        "held out": list(held_out(data)),
    }
    ways: dict[str, Callable[[Pixels], Tensor]] = {"bicubic": _bicubic}
    ways |= {name: lambda low, net=net: restore(net, low) for name, net in nets.items()}  # type: ignore[misc]
    synthesizing = {name for name, net in nets.items() if isinstance(net, SRGenerator) and net.noise is not None}
    rows = []
    for set_name, pairs in sets.items():
        found = {way: _measure(enlarge, pairs) for way, enlarge in ways.items()}
        for way, figures in found.items():
            title = f"{set_name} ({len(pairs)}), {way}"
            mean = float(np.mean(figures.psnr_db))
            rows.append(Row(f"{title}: Y-PSNR", mean, "dB", PSNR_DB.get((way, set_name))))
            if (way, set_name) in ABOVE_BICUBIC_DB:
                above = mean - float(np.mean(found["bicubic"].psnr_db))
                rows.append(Row(f"{title}: above bicubic", above, "dB", ABOVE_BICUBIC_DB[way, set_name]))
            if set_name == "Set5":
                continue
            is_gan = way in synthesizing
            limit = SPECTRUM_DB if is_gan else None
            rows.append(Row(f"{title}: error of spectrum", float(np.mean(figures.spectrum_db)), "dB", at_most=limit))
            rows.append(Row(f"{title}: SWD of finest level", figures.texture, "x 1e-3"))
            if is_gan:
                share = figures.texture / found["upscaler-psnr"].texture
                rows.append(Row(f"{title}: SWD / upscaler-psnr's", share, "", at_most=TEXTURE_SHARE))
            if way != "bicubic":
                most = None if isinstance(nets[way], CommunityNetwork) else COLOUR
                rows.append(Row(f"{title}: shift of mean colour, worst", figures.colour, "levels", at_most=most))
                spread = float(np.ptp(np.mean(figures.phases, axis=0)))
                rows.append(Row(f"{title}: checkerboard, spread of 4x4 phases", spread, "levels"))
    return rows


def face_rows(denoiser: Network, nets: dict[str, Network], data: Path) -> list[Row]:
    """Return the rows of the networks for real CelebA-HQ images, reduced by two filters, compressed and denoised."""
    truths = [read(path) for path in sorted((data / "celebahq_1024").glob("*.jpg"))]
    rows = []
    for filter_name, reduce in (("bicubic", _reduce_bicubic), ("area", lambda face: reduced(face, FACE_PX))):
        denoised = [restore(denoiser, apply_jpeg(reduce(truth), FACE_QUALITY)).permute(1, 2, 0) for truth in truths]
        parts = [np.ascontiguousarray(image[FACE_PART]) for image in denoised]
        large = [truth[4 * FACE_PART[0].start : 4 * FACE_PART[0].stop] for truth in truths]
        targets = [tensor(truth[:, 4 * FACE_PART[1].start : 4 * FACE_PART[1].stop]) for truth in large]
        for name, net in nets.items():
            results = [restore(net, part) for part in parts]
            pairs = list(zip(results, targets, strict=True))
            title = f"faces ({len(truths)}) of {FACE_PX} px, {filter_name} filter, JPEG {FACE_QUALITY}, {name}"
            rows.append(Row(f"{title}: Y-PSNR", float(np.mean([psnr_y(a, b) for a, b in pairs])), "dB"))
            spectrum = float(np.mean([spectrum_error_db(a, b) for a, b in pairs]))
            rows.append(Row(f"{title}: error of spectrum", spectrum, "dB"))
            swd = 1000 * texture_distance(results, targets, PATCHES)
            rows.append(Row(f"{title}: SWD of finest level", swd, "x 1e-3"))
            limit = LATTICE if isinstance(net, SRGenerator) and net.noise is not None else None
            repeated = float(np.mean([lattice(a, b) for a, b in pairs]))
            rows.append(Row(f"{title}: lattice, excess autocorrelation at 4 px", repeated, "", at_most=limit))
    return rows


def _reduce_bicubic(face: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(face).resize((FACE_PX, FACE_PX), Image.Resampling.BICUBIC))


def _measure(enlarge: Callable[[Pixels], Tensor], pairs: list[tuple[Pixels, Pixels]]) -> Figures:
    figures = Figures()
    for low, high in pairs:
        result, truth = enlarge(low), tensor(high)
        shift = result.double().mean(dim=(1, 2)) - tensor(low).double().mean(dim=(1, 2))
        figures.colour = max(figures.colour, float(shift.abs().max()))
        height, width = (min(a, b) for a, b in zip(result.shape[1:], truth.shape[1:], strict=True))
        result, truth = result[:, :height, :width], truth[:, :height, :width]
        figures.psnr_db.append(psnr_y(result, truth))
        figures.spectrum_db.append(spectrum_error_db(result, truth))
        figures.results.append(result)
        figures.truths.append(truth)
        error = (result.double() - truth.double()).mean(dim=0)[: height // 4 * 4, : width // 4 * 4]
        figures.phases.append(error.reshape(height // 4, 4, width // 4, 4).mean(dim=(0, 2)).numpy())
    return figures


def _bicubic(low: Pixels) -> Tensor:
    enlarged = Image.fromarray(low).resize((low.shape[1] * 4, low.shape[0] * 4), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(enlarged).transpose(2, 0, 1).copy())
