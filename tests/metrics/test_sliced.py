"""Sliced Wasserstein distance: sorting equals SciPy, counting equals sorting, directions are uniform."""

import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.sliced import (
    HALF_VALUES,
    StreamingSlicedWasserstein,
    _half_index,
    _half_values,
    random_directions,
    sliced_wasserstein,
)
from celebahq_builder.training.distributed import torch_threads


def test_directions_are_unit_vectors_without_a_preference() -> None:
    found = random_directions(10, np.random.default_rng(0), 4000)
    assert torch.allclose(found.square().sum(dim=0), torch.ones(4000), atol=1e-5)
    assert float(found.mean(dim=1).abs().max()) < 0.03
    assert float((found @ found.T / 4000 - torch.eye(10) / 10).abs().max()) < 0.01


def test_distance_equals_scipys_along_every_direction() -> None:
    from scipy.stats import wasserstein_distance  # one second to import, which every worker of xdist would need

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 5)), rng.normal(0.3, 1.4, size=(300, 5))
    directions = random_directions(5, rng, 200).double()
    expected = [wasserstein_distance(a @ d, b @ d) for d in directions.T.numpy()]
    found = sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b), directions)
    assert found == pytest.approx(np.mean(expected), rel=1e-9)
    with pytest.raises(ValueError, match="the same number of points"):
        sliced_wasserstein(torch.zeros(3, 5), torch.zeros(4, 5), directions)


# Counting

CPU = torch.device("cpu")
CLOUDS = {
    "normal": lambda rng, n: rng.normal(5, 3, (n, 12)),
    "heavy tails": lambda rng, n: rng.standard_t(2.5, (n, 12)),
    "nearly all equal": lambda rng, n: rng.normal(0, 1, (n, 12)) * (rng.random((n, 1)) < 0.02),
    "two clusters": lambda rng, n: rng.normal(0, 0.01, (n, 12)) + rng.choice([-1, 1], (n, 1)),
}


def streaming(a: torch.Tensor, b: torch.Tensor, directions: torch.Tensor) -> StreamingSlicedWasserstein:
    moments = tuple((cloud.double().mean(dim=0), cloud.double().std(dim=0, correction=0)) for cloud in (a, b))
    return StreamingSlicedWasserstein(directions, moments, CPU)


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("number", [200, 2_000])
def test_counting_equals_sorting(kind: str, number: int) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (torch.from_numpy(CLOUDS[kind](rng, number).astype(np.float32)) for _ in range(3))
    directions = random_directions(12, rng, 128)
    for other in (b, c * c):
        distance = streaming(a, other, directions)
        distance.add(0, a)
        distance.add(1, other)
        normal = [(p.double() - p.double().mean(dim=0)) / p.double().std(dim=0, correction=0) for p in (a, other)]
        exact = sliced_wasserstein(normal[0], normal[1], directions.double())
        assert distance.compute() == pytest.approx(exact, rel=3e-4)


def test_order_blocks_and_threads_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(20_000, 12)).astype(np.float32)) for _ in range(2))
    directions = random_directions(12, rng, 140)  # two jobs for threads
    found = []
    for size, threads in ((20_000, 1), (20_000, 2), (8_192, 3)):
        distance = streaming(a, b, directions)
        with torch_threads(threads):
            for side, cloud in ((1, b), (0, a)):
                for part in torch.split(cloud, size):
                    distance.add(side, part)
            found.append(distance.compute())
            assert torch.get_num_threads() == threads
    assert found[0] == found[1] == found[2]


def test_indices_of_half_precision() -> None:
    values = torch.cat([torch.linspace(-50, 50, 9999), torch.tensor([0.0, -1e-9, 1e-5, 30_000, -30_000])])
    numbers, all_values = _half_index(values.half()), _half_values()
    assert 0 <= int(numbers.min()) < int(numbers.max()) < HALF_VALUES
    half = HALF_VALUES // 2
    rising = torch.where(numbers < half, half - 1 - numbers, numbers)
    assert torch.equal(all_values[rising], values.half().double())
    assert torch.equal(all_values, all_values.sort().values)
    assert bool(all_values.isfinite().all())


def test_sets_must_have_equal_sizes() -> None:
    a = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    distance = streaming(a, a, random_directions(12, np.random.default_rng(0), 8))
    with pytest.raises(FormatError, match="got 0 and 0"):
        distance.compute()
    distance.add(0, a)
    with pytest.raises(FormatError, match="the same number of points are needed, got 10 and 0"):
        distance.compute()
    distance.add(1, a)
    assert distance.compute() == 0
