"""The landmark network: shapes, soft-argmax, symmetry of its training and evaluation."""

import numpy as np
import pytest
import torch

from celebahq_builder.models.landmark_network import LandmarkNetwork, soft_argmax


@pytest.mark.parametrize("side", [32, 96, 112])
def test_shapes(side: int) -> None:
    network = LandmarkNetwork((8, 12, 16), (1, 2, 0))
    points, error, heatmaps = network(torch.rand(3, 3, side, side))
    assert points.shape == (3, 5, 2)
    assert error.shape == (3, 5)
    assert heatmaps.shape == (3, 5, side // 4, side // 4)
    assert 0 < points.min() <= points.max() < 1


def test_soft_argmax_is_the_mean_of_the_softmax() -> None:
    """Slow reference in numpy."""
    heatmaps = np.random.default_rng(0).normal(size=(2, 5, 6, 8)) * 3
    expected = np.zeros((2, 5, 2))
    for n in range(2):
        for k in range(5):
            weights = np.exp(heatmaps[n, k])
            for row in range(6):
                for column in range(8):
                    centre = np.array([(column + 0.5) / 8, (row + 0.5) / 6])
                    expected[n, k] += weights[row, column] / weights.sum() * centre
    np.testing.assert_allclose(soft_argmax(torch.from_numpy(heatmaps).float()).numpy(), expected, atol=1e-6)


def test_image_of_a_batch_does_not_depend_on_the_others() -> None:
    network = LandmarkNetwork((8, 8, 8), (1, 1, 1)).eval()
    crops = torch.rand(4, 3, 64, 64)
    together = network(crops)[0]
    for i in range(4):
        torch.testing.assert_close(network(crops[i : i + 1])[0][0], together[i], atol=1e-5, rtol=0)


def test_dropout_is_for_training_only() -> None:
    network = LandmarkNetwork((8, 8, 8), (1, 1, 1), dropout=0.5)
    crops = torch.rand(2, 3, 64, 64)
    assert not torch.equal(network(crops)[1], network(crops)[1])
    network.eval()
    assert torch.equal(network(crops)[1], network(crops)[1])
