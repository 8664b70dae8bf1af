"""IS has the known limits, and equals its definition and torch-fidelity's result."""

import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.inception_metrics import inception_score
from tests.metrics.torch_fidelity_metrics import import_metric


def logits_of(count: int, classes: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (count, classes)).astype(np.float32))


def by_definition(p: np.ndarray, splits: int) -> tuple[float, float]:
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        marginal = part.mean(axis=0)
        kl = [sum(x * np.log(x / m) for x, m in zip(row, marginal, strict=True) if x) for row in part]
        scores.append(np.exp(np.mean(kl)))
    return float(np.mean(scores)), float(np.std(scores))


def test_limits_are_1_and_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(50, 1008)) == pytest.approx((1, 0))
    sure = 1e4 * torch.eye(10).repeat(20, 1)
    assert inception_score(sure, splits=1) == pytest.approx((10, 0))
    assert inception_score(sure[torch.arange(200).sort().indices], splits=10, seed=None) == pytest.approx((10, 0))
    assert inception_score(torch.log(torch.eye(10)), splits=1) == pytest.approx((10, 0))  # of probabilities of 0


def test_equals_the_definition_and_torch_fidelity() -> None:
    logits = logits_of(400)
    found = inception_score(logits, 10, seed=None)
    assert found == pytest.approx(by_definition(logits.double().softmax(1).numpy(), 10), rel=1e-9)
    theirs = import_metric("metric_isc")
    expected = theirs.isc_features_to_metric(logits, splits=10, shuffle=False)
    assert found == pytest.approx((expected["inception_score_mean"], expected["inception_score_std"]), rel=1e-9)


def test_a_set_sorted_by_classes_is_shuffled() -> None:
    sorted_set = 1e4 * torch.eye(10).repeat_interleave(100, dim=0)
    assert inception_score(sorted_set, seed=None) == pytest.approx((1, 0))
    assert inception_score(sorted_set)[0] == pytest.approx(9.6, abs=0.2)  # splits of 100 have not quite ten of each
    assert inception_score(sorted_set) == inception_score(sorted_set, seed=0)


def test_uneven_splits_count_every_image() -> None:
    logits = logits_of(23)
    parts = [inception_score(part, 1)[0] for part in logits.tensor_split(10)]
    assert inception_score(logits, 10, seed=None)[0] == pytest.approx(np.mean(parts))


def test_more_splits_than_images() -> None:
    with pytest.raises(FormatError, match="IS of 9 images in 10 splits"):
        inception_score(logits_of(9))
