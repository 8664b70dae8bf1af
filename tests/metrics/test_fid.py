"""The Frechet distance equals closed forms, SciPy's matrix square root and torch-fidelity's FID."""

import numpy as np
import pytest
import scipy.linalg
import torch

from celebahq_builder.metrics.inception_metrics import MOMENT_ROWS, FeatureMoments, frechet_distance
from tests.metrics.torch_fidelity_metrics import import_metric
from tests.reference.frechet import frechet


def moments_of(features: np.ndarray | torch.Tensor, batch: int = 1000) -> FeatureMoments:
    moments = FeatureMoments()
    for part in torch.as_tensor(features).split(batch):
        moments.add(part)
    return moments


def whitened(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Features of mean 0 and covariance 1 exactly."""
    x = np.random.default_rng(seed).normal(size=(count, dimensions))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(scipy.linalg.sqrtm(np.cov(x.T)).real)


def spread(scales: np.ndarray, mean: np.ndarray, seed: int, turn: np.ndarray | None = None) -> np.ndarray:
    """Features of a given mean, and covariance diag(scales^2), turned."""
    x = whitened(200, len(scales), seed) * scales
    return (x @ turn.T if turn is not None else x) + mean


def test_closed_form_where_covariances_commute() -> None:
    rng = np.random.default_rng(1)
    scales_a, scales_b = rng.uniform(0.1, 3, 8), rng.uniform(0.1, 3, 8)
    mean_a, mean_b = rng.normal(size=8), rng.normal(size=8)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    found = frechet_distance(
        moments_of(spread(scales_a, mean_a, 2, turn)), moments_of(spread(scales_b, mean_b, 3, turn))
    )
    assert found == pytest.approx(np.square(mean_a - mean_b).sum() + np.square(scales_a - scales_b).sum(), rel=1e-10)


def test_closed_form_of_2x2_covariances_that_do_not_commute() -> None:
    c, s = np.cos(0.7), np.sin(0.7)
    a, b = np.diag([4.0, 1.0]), np.array([[c, -s], [s, c]]) @ np.diag([9.0, 0.25]) @ np.array([[c, s], [-s, c]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))  # the trace of a root of 2x2
    base = whitened(50, 2)
    found = frechet_distance(moments_of(base @ np.linalg.cholesky(a).T), moments_of(base @ np.linalg.cholesky(b).T))
    assert found == pytest.approx(np.trace(a + b) - 2 * root, rel=1e-10)


def test_equals_the_matrix_root_and_torch_fidelity() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(64, 64)) / 8
    a, b = np.maximum(rng.normal(size=(700, 64)), 0), np.maximum(rng.normal(size=(900, 64)) @ mix + 0.3, 0)
    found = frechet_distance(moments_of(a), moments_of(b))
    assert found == pytest.approx(frechet(a, b), rel=1e-9)
    theirs = import_metric("metric_fid")
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    assert found == pytest.approx(theirs.fid_statistics_to_metric(*statistics, False)[theirs.KEY_METRIC_FID], rel=1e-9)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_fewer_features_than_dimensions(count: int) -> None:
    """Closed form: the features of both sets lie in orthogonal subspaces."""
    rng = np.random.default_rng(count)
    a, b = np.zeros((count, 128)), np.zeros((count, 128))
    a[:, :64], b[:, 64:] = rng.normal(size=(2, count, 64))
    found = frechet_distance(moments_of(a), moments_of(b))
    apart = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))
    assert found == pytest.approx(apart, rel=1e-10)
    assert frechet_distance(moments_of(a), moments_of(a)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(moments_of(a), moments_of(2 * a)) == pytest.approx(
        np.square(a.mean(0)).sum() + np.trace(np.cov(a.T)), rel=1e-9
    )


def test_constant_features_have_the_distance_of_their_means() -> None:
    assert frechet_distance(moments_of(np.full((5, 3), 2.0)), moments_of(np.full((7, 3), -1.0))) == pytest.approx(27)


def test_moments_do_not_depend_on_batches_and_survive_a_large_mean() -> None:
    features = np.random.default_rng(0).normal(size=(2 * MOMENT_ROWS + 300, 6)).astype(np.float32)
    far = torch.from_numpy(features).double() + 1e6
    one, *others = (moments_of(far, batch) for batch in (7, 64, 1024, 5000))
    for other in others:
        assert all(map(torch.equal, one.moments(), other.moments()))
        assert other.count == 2 * MOMENT_ROWS + 300
    assert np.allclose(one.moments()[1], np.cov(far.numpy().T), rtol=1e-8)
    assert np.allclose(one.moments()[0], far.mean(0), rtol=1e-14)


def test_bad_input() -> None:
    moments = moments_of(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least two features, got 1"):
        moments.moments()
    with pytest.raises(ValueError, match=r"shape \[n, 3\] are needed, got \[2, 4\]"):
        moments.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="of 3 and of 4 dimensions"):
        frechet_distance(moments_of(np.zeros((2, 3))), moments_of(np.zeros((2, 4))))
    with pytest.raises(ValueError, match="got 0"):
        FeatureMoments().moments()
