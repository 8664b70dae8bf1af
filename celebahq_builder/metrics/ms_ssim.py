"""Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), and with it how varied a set of pictures is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.errors import RecipeError
from celebahq_builder.metrics.batches import Batches, take
from celebahq_builder.metrics.ssim import contrast_structure, ssim
from celebahq_builder.metrics.threads import in_threads

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first."""

PAIRS_A_JOB = 16
"""Pairs that a thread compares."""

PIECE_VALUES = 1 << 16
"""Pixels of them that are compared at once: in float64, all that is made of them stays in the cache."""


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of pairs of pictures.

    Contrast and structure count at five scales, luminance at the coarsest; between scales each 2x2 pixels are averaged
    (an odd last row or column with itself), and where a scale is smaller than the window, that shrinks. A picture's
    mean below 0 counts as 0, as in the original.

    Args:
        a: [N, C, H, W], uint8 or float in [0, 255].
        b: as `a`.

    Returns:
        float64 [N], from 0 to 1.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"MS-SSIM needs pictures of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    pairs = zip(torch.split(a, PAIRS_A_JOB), torch.split(b, PAIRS_A_JOB), strict=True)
    return torch.cat([*in_threads(_of_some, pairs, a.device)]) if len(a) else torch.zeros(0, dtype=torch.float64)


def diversity(
    pictures: Batches, pairs: int, *, name: str = "the set", advance: Callable[[int], None] | None = None
) -> float:
    """Return the mean MS-SSIM of pairs of pictures of one set: the lower, the more varied it is.

    Pairs follow each other in the set: its first picture with its second, its third with its fourth. The paper draws
    10,000 pairs of generated pictures, whose latents are independent, in this way; pictures of a data set that is
    sorted by anything ought to be shuffled first.

    Args:
        pictures: uint8 [n, C, R, R] batches, or float in [0, 255]; only the first 2 `pairs` pictures are read.
        pairs: how many, at least 1.
        name: what errors call the set.
        advance: called with numbers of pictures done.

    Raises:
        FormatError: fewer than 2 `pairs` pictures, or pictures of several shapes.
        RecipeError: no pairs.
    """
    if pairs < 1:
        raise RecipeError(f"{pairs} pairs have no MS-SSIM; expected at least 1, the paper takes 10000")
    found = []
    for even in _even(take(pictures, 2 * pairs, name=name)):
        found.append(ms_ssim(even[0::2], even[1::2]).cpu())
        if advance:
            advance(len(even))
    return float(torch.cat(found).mean())


def _even(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches of even length: a last picture without a partner waits for the next batch."""
    single: Tensor | None = None
    for batch in batches:
        whole = batch if single is None else torch.cat([single, batch])
        even = len(whole) // 2 * 2
        single = whole[even:] if even < len(whole) else None
        if even:
            yield whole[:even]


def _of_some(pair: tuple[Tensor, Tensor]) -> Tensor:
    n, channels = pair[0].shape[:2]
    a, b = (images.flatten(0, 1)[:, None] for images in pair)
    product = torch.ones(n, dtype=torch.float64, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _half(a), _half(b)
        size = max(1, PIECE_VALUES // a[0].numel()) if a.device.type == "cpu" else len(a)
        few = zip(torch.split(a, size), torch.split(b, size), strict=True)
        last = scale == len(WEIGHTS) - 1
        found = torch.cat([ssim(*planes)[0] if last else contrast_structure(*planes) for planes in few])
        product *= found.view(n, channels).mean(dim=1).clamp_(min=0) ** weight
    return product


def _half(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    images = images.double()
    if height % 2 or width % 2:
        images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(images, 2)
