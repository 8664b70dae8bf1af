"""KID equals its definition, pair by pair, and torch-fidelity's result; it is unbiased."""

import inspect
import itertools

import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.inception_metrics import KERNEL_ROWS, kernel_inception_distance, polynomial_mmd2
from tests.metrics.torch_fidelity_metrics import import_metric


def drawn(count: int, dimensions: int = 16, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=(count, dimensions)) + shift
    return torch.from_numpy(np.maximum(values, 0).astype(np.float32))


def by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(s, 2)]) for s in (a, b)]
    return sum(within) - 2 * float(np.mean([kernel(x, y) for x in a for y in b]))


def test_equals_the_definition() -> None:
    a, b = drawn(12), drawn(9, seed=1, shift=0.5)
    assert polynomial_mmd2(a, b) == pytest.approx(by_pairs(a.double().numpy(), b.double().numpy()), abs=1e-6)
    assert polynomial_mmd2(a.double(), b.double()) == pytest.approx(by_pairs(a.double().numpy(), b.double().numpy()))


def test_float32_is_enough_for_features_like_inceptions() -> None:
    a, b = drawn(2 * KERNEL_ROWS + 30, 2048), drawn(2 * KERNEL_ROWS + 30, 2048, seed=1)
    assert polynomial_mmd2(a, b) == pytest.approx(polynomial_mmd2(a.double(), b.double()), abs=2e-7)


def test_equals_torch_fidelity() -> None:
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


def test_seed() -> None:
    a, b = drawn(300), drawn(400, seed=1)
    one = kernel_inception_distance(a, b, 5, 100, seed=3)
    assert one == kernel_inception_distance(a, b, 5, 100, seed=3)
    assert one != kernel_inception_distance(a, b, 5, 100, seed=4)


def test_bad_input() -> None:
    with pytest.raises(FormatError, match="subsets of 1000 images, there are 999 and 2000"):
        kernel_inception_distance(drawn(999), drawn(2000))
    with pytest.raises(ValueError, match=r"got \[5, 16\] and \[5, 8\]"):
        kernel_inception_distance(drawn(5), drawn(5, 8), subset_size=5)
    with pytest.raises(ValueError, match="one subset of two"):
        kernel_inception_distance(drawn(5), drawn(5), subset_size=1)


def test_the_defaults_are_those_of_the_paper() -> None:
    """Binkowski et al. 2018 take 100 subsets of 1,000 images."""
    parameters = inspect.signature(kernel_inception_distance).parameters
    assert [parameters[name].default for name in ("subsets", "subset_size", "seed")] == [100, 1000, 0]
