"""The distance is scipy's; directions are uniform."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from celebahq_builder.metrics.sliced import random_directions, sliced_wasserstein


def test_directions_are_unit_vectors_without_a_preference() -> None:
    found = random_directions(10, np.random.default_rng(0), 4000)
    assert torch.allclose(found.square().sum(dim=0), torch.ones(4000), atol=1e-5)
    assert float(found.mean(dim=1).abs().max()) < 0.03
    assert float((found @ found.T / 4000 - torch.eye(10) / 10).abs().max()) < 0.01


def test_distance_is_scipys_along_every_direction() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 5)), rng.normal(0.3, 1.4, size=(300, 5))
    directions = random_directions(5, rng, 200).double()
    expected = [wasserstein_distance(a @ d, b @ d) for d in directions.T.numpy()]
    found = sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b), directions)
    assert found == pytest.approx(np.mean(expected), rel=1e-9)
    with pytest.raises(ValueError, match="as many points"):
        sliced_wasserstein(torch.zeros(3, 5), torch.zeros(4, 5), directions)
