"""Counting finds what sorting finds, whatever the distribution."""

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

CPU = torch.device("cpu")
CLOUDS = {
    "normal": lambda rng, n: rng.normal(5, 3, (n, 12)),
    "heavy tails": lambda rng, n: rng.standard_t(2.5, (n, 12)),
    "nearly all in one place": lambda rng, n: rng.normal(0, 1, (n, 12)) * (rng.random((n, 1)) < 0.02),
    "two heaps": lambda rng, n: rng.normal(0, 0.01, (n, 12)) + rng.choice([-1, 1], (n, 1)),
}


def gap_of(a: torch.Tensor, b: torch.Tensor, directions: torch.Tensor) -> StreamingSlicedWasserstein:
    moments = tuple((cloud.double().mean(dim=0), cloud.double().std(dim=0, correction=0)) for cloud in (a, b))
    return StreamingSlicedWasserstein(directions, moments, CPU)


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("number", [200, 2_000])
def test_equals_sorting(kind: str, number: int) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (torch.from_numpy(CLOUDS[kind](rng, number).astype(np.float32)) for _ in range(3))
    directions = random_directions(12, rng, 512)
    for other in (b, c * c):
        gap = gap_of(a, other, directions)
        gap.add(0, a)
        gap.add(1, other)
        normal = [(p.double() - p.double().mean(dim=0)) / p.double().std(dim=0, correction=0) for p in (a, other)]
        exact = sliced_wasserstein(normal[0], normal[1], directions.double())
        assert gap.distance() == pytest.approx(exact, rel=3e-4)


def test_neither_order_nor_portions_nor_threads_matter() -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(20_000, 12)).astype(np.float32)) for _ in range(2))
    directions = random_directions(12, rng, 100)
    found = []
    for size, threads in ((20_000, 1), (20_000, 2), (8_192, 3)):
        gap = gap_of(a, b, directions)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for side, cloud in ((1, b), (0, a)):
                for part in torch.split(cloud, size):
                    gap.add(side, part)
            found.append(gap.distance())
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_numbers_are_those_of_the_rounded_values() -> None:
    values = torch.cat([torch.linspace(-50, 50, 9999), torch.tensor([0.0, -1e-9, 1e-5, 30_000, -30_000])])
    numbers, all_values = _half_index(values.half()), _half_values()
    assert 0 <= int(numbers.min()) < int(numbers.max()) < HALF_VALUES
    half = HALF_VALUES // 2
    rising = torch.where(numbers < half, half - 1 - numbers, numbers)
    assert torch.equal(all_values[rising], values.half().double())
    assert torch.equal(all_values, all_values.sort().values)
    assert bool(all_values.isfinite().all())


def test_clouds_must_be_of_one_size() -> None:
    a = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    gap = gap_of(a, a, random_directions(12, np.random.default_rng(0), 8))
    with pytest.raises(FormatError, match="got 0 and 0"):
        gap.distance()
    gap.add(0, a)
    with pytest.raises(FormatError, match="as many points are needed, got 10 and 0"):
        gap.distance()
    gap.add(1, a)
    assert gap.distance() == 0
