"""FID, KID and IS equal closed forms, their definitions and torch-fidelity's results; KID is unbiased."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.inception_metrics import (
    KERNEL_ROWS,
    MOMENT_ROWS,
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    polynomial_mmd2,
)
from tests.metrics.torch_fidelity_metrics import import_metric
from tests.reference.frechet import frechet

# --- Frechet Inception distance -------------------------------------------------------------------------------


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


def test_features_that_cannot_be_compared() -> None:
    moments = moments_of(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least two features, got 1"):
        moments.moments()
    with pytest.raises(ValueError, match=r"shape \[n, 3\] are needed, got \[2, 4\]"):
        moments.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="of 3 and of 4 dimensions"):
        frechet_distance(moments_of(np.zeros((2, 3))), moments_of(np.zeros((2, 4))))
    with pytest.raises(ValueError, match="got 0"):
        FeatureMoments().moments()


# --- Kernel Inception distance --------------------------------------------------------------------------------


def drawn(count: int, dimensions: int = 16, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=(count, dimensions)) + shift
    return torch.from_numpy(np.maximum(values, 0).astype(np.float32))


def by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(s, 2)]) for s in (a, b)]
    return sum(within) - 2 * float(np.mean([kernel(x, y) for x in a for y in b]))


def test_mmd_equals_the_definition() -> None:
    a, b = drawn(12), drawn(9, seed=1, shift=0.5)
    assert polynomial_mmd2(a, b) == pytest.approx(by_pairs(a.double().numpy(), b.double().numpy()), abs=1e-6)
    assert polynomial_mmd2(a.double(), b.double()) == pytest.approx(by_pairs(a.double().numpy(), b.double().numpy()))


def test_float32_is_enough_for_features_like_inceptions() -> None:
    a, b = drawn(2 * KERNEL_ROWS + 30, 2048), drawn(2 * KERNEL_ROWS + 30, 2048, seed=1)
    assert polynomial_mmd2(a, b) == pytest.approx(polynomial_mmd2(a.double(), b.double()), abs=2e-7)


def test_kid_equals_torch_fidelity() -> None:
    """With one subset of all features, so that the order does not matter."""
    a, b = drawn(600, 64), drawn(600, 64, seed=1, shift=0.1)
    theirs = import_metric("metric_kid")
    expected = theirs.kid_features_to_metric(
        a.double(), b.double(), kid_subsets=1, kid_subset_size=600, verbose=False, rng_seed=0
    )
    found = kernel_inception_distance(a.double(), b.double(), subsets=1, subset_size=600)
    assert found[0] == pytest.approx(expected[theirs.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert found[1] == 0


def test_one_distribution_gives_zero_within_the_error() -> None:
    """The biased estimate, which includes pairs of a feature with itself, does not."""
    found = [polynomial_mmd2(drawn(100, seed=2 * i), drawn(100, seed=2 * i + 1)) for i in range(300)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    a = drawn(100)
    itself = float(((a.square().sum(1) / 16 + 1) ** 3).mean())
    mean_pair = float(((a @ drawn(100, seed=1).T / 16 + 1) ** 3).mean())
    assert 2 * (itself - mean_pair) / 100 > 10 * error


def test_another_distribution_gives_a_large_distance() -> None:
    near, spread = kernel_inception_distance(drawn(3000), drawn(3000, seed=1), subsets=20, subset_size=500)
    far, _ = kernel_inception_distance(drawn(3000), drawn(3000, seed=1, shift=0.3), subsets=20, subset_size=500)
    assert abs(near) < 2 * spread
    assert far > 20 * spread


def test_the_seed_decides_the_subsets() -> None:
    a, b = drawn(300), drawn(400, seed=1)
    one = kernel_inception_distance(a, b, 5, 100, seed=3)
    assert one == kernel_inception_distance(a, b, 5, 100, seed=3)
    assert one != kernel_inception_distance(a, b, 5, 100, seed=4)


def test_subsets_that_cannot_be_drawn() -> None:
    with pytest.raises(FormatError, match="subsets of 1000 images, there are 999 and 2000"):
        kernel_inception_distance(drawn(999), drawn(2000))
    with pytest.raises(ValueError, match=r"got \[5, 16\] and \[5, 8\]"):
        kernel_inception_distance(drawn(5), drawn(5, 8), subset_size=5)
    with pytest.raises(ValueError, match="one subset of two"):
        kernel_inception_distance(drawn(5), drawn(5), subset_size=1)


def test_subsets_are_those_of_the_paper() -> None:
    """Binkowski et al. 2018 take 100 subsets of 1,000 images."""
    parameters = inspect.signature(kernel_inception_distance).parameters
    assert [parameters[name].default for name in ("subsets", "subset_size", "seed")] == [100, 1000, 0]


# --- Inception score ------------------------------------------------------------------------------------------


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


def test_score_equals_the_definition_and_torch_fidelity() -> None:
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
