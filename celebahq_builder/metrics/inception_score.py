"""Inception score (Salimans et al. 2016): how sure the classes of images are, and how many there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError


def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """Return the mean and the standard deviation over splits of exp(E KL(p(y|x) || p(y))).

    Salimans et al. 2016, section 4; p(y) is the mean over a split, as in their code. The literature has 10 splits of
    50,000 images: fewer images a split give a smaller score.

    Args:
        logits: [N, classes], float; of probabilities, their logarithms.
        splits: equal parts, but for one image.
        seed: of the order in which images go to the splits: a set that is sorted by classes would else have splits
            of one class. None for the order they have.

    Returns:
        From 1 (every image has the same classes) to the number of classes.

    Raises:
        FormatError: fewer images than splits.
    """
    count = len(logits)
    if not 1 <= splits <= count:
        raise FormatError(f"IS of {count} images in {splits} splits: take more images, or fewer splits")
    order = torch.arange(count) if seed is None else torch.from_numpy(np.random.default_rng(seed).permutation(count))
    scores = [_score(logits[part.to(logits.device)]) for part in order.tensor_split(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Tensor) -> float:
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    log_mean = torch.logsumexp(log_p, dim=0) - np.log(len(log_p))
    surprise = p * (log_p - log_mean)
    return float(surprise.masked_fill(p == 0, 0).sum(dim=1).mean().exp())
