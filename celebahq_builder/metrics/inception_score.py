"""Inception score, IS (Salimans et al. 2016): the arithmetic on logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError


def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """Return the mean and the standard deviation over splits of exp(E KL(p(y|x) || p(y))).

    It is high if the class of each image is certain and the classes of the set are many. p(y) is the mean over a split,
    as in the authors' code. The literature uses 10 splits of 50,000 images; smaller splits give lower scores.

    Args:
        logits: [N, classes], float; for probabilities give their logarithms.
        splits: number of parts, of equal size up to one image.
        seed: of the random assignment of images to splits; None keeps their order, in which a set that is sorted by
            classes has splits of one class.

    Returns:
        The mean, from 1 (all images have the same class probabilities) to the number of classes, and the deviation.

    Raises:
        FormatError: there are fewer images than splits.

    References:
        Salimans et al. 2016, "Improved Techniques for Training GANs", section 4.

    Examples:
        Ten classes, each image certain:

        >>> score, deviation = inception_score(100 * torch.eye(10).repeat(20, 1), splits=1)
        >>> round(score, 6), deviation
        (10.0, 0.0)
    """
    count = len(logits)
    if not 1 <= splits <= count:
        raise FormatError(f"IS of {count} images in {splits} splits: take more images or fewer splits")
    order = torch.arange(count) if seed is None else torch.from_numpy(np.random.default_rng(seed).permutation(count))
    scores = [_score(logits[part.to(logits.device)]) for part in order.tensor_split(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Tensor) -> float:
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    log_mean = torch.logsumexp(log_p, dim=0) - np.log(len(log_p))
    divergence = p * (log_p - log_mean)
    return float(divergence.masked_fill(p == 0, 0).sum(dim=1).mean().exp())
