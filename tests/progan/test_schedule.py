"""Levels enter on schedule and fade in linearly; minibatches are split between groups."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.models.progan import group_size
from celebahq_builder.progan.schedule import Schedule, SchedulePoint

V2 = Schedule(total_kimg=12000, train_kimg=600, fade_kimg=600)


@pytest.mark.parametrize(
    ("kimg", "level", "alpha"),
    [
        (0, 2, 1),
        (599, 2, 1),
        (600, 3, 0),
        (750, 3, 0.25),
        (1200, 3, 1),
        (1799, 3, 1),
        (1800, 4, 0),
        (600 + 7 * 1200 + 300, 10, 0.5),
        (600 + 8 * 1200, 10, 1),
        (12000, 10, 1),
    ],
)
def test_growth_to_1024(kimg: float, level: int, alpha: float) -> None:
    moment = V2.at(kimg, 10)
    assert (moment.level, moment.alpha) == (level, alpha)


@given(st.floats(0, 15000), st.integers(2, 10), st.floats(1, 900), st.floats(0, 900), st.sampled_from([4, 8, 32]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_levels_never_shrink(kimg: float, level_max: int, train: float, fade: float, first: int) -> None:
    schedule = Schedule(train_kimg=train, fade_kimg=fade, first=first)
    before, after = schedule.at(kimg, level_max), schedule.at(kimg + 1, level_max)
    assert (before.level, before.alpha) <= (after.level, after.alpha)
    assert 2 <= before.level <= level_max
    assert schedule.begins(before.level, level_max) <= kimg + 1e-6
    if before.level < level_max:
        assert kimg < schedule.begins(before.level + 1, level_max) + 1e-6


def test_networks_that_do_not_grow() -> None:
    assert Schedule(growing=False).at(0, 7).level == 7
    assert Schedule(growing=False).at(0, 7).alpha == 1
    assert Schedule(first=1024).at(0, 5).level == 5


def test_tables_by_resolution_and_rampup() -> None:
    schedule = Schedule(
        minibatches={"4": 128, "32": 64}, per_gpu={"32": 16}, learning_rates={"8": 0.002}, rampup_kimg=100, minibatch=4
    )
    assert schedule.at(0, 10) == SchedulePoint(2, 1.0, 128, None, 0.0)
    assert schedule.at(50, 10).learning_rate == pytest.approx(0.0005)
    assert schedule.at(700, 10).learning_rate == 0.002
    assert schedule.at(700, 10).minibatch == 4
    assert (schedule.at(600 + 2 * 1200, 10).minibatch, schedule.at(600 + 2 * 1200, 10).per_gpu) == (64, 16)


@given(st.integers(1, 512), st.integers(1, 8), st.integers(0, 16), st.one_of(st.none(), st.integers(1, 64)))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_passes_are_equal_and_whole_groups(minibatch: int, gpus: int, group: int, most: int | None) -> None:
    moment = SchedulePoint(5, 1.0, minibatch, most, 0.001)
    share = minibatch // gpus
    size = group_size(share, group) if share else 0
    if minibatch % gpus or not share:
        with pytest.raises(ValueError, match="a minibatch of"):
            moment.passes(gpus, group)
        return
    count = moment.passes(gpus, group)
    assert share % count == 0
    assert share // count <= max(most or share, size)
    assert group_size(share // count, group) == size or group == 0
    images, rest = divmod(share // count, moment.parts(gpus, group))
    assert not rest
    assert images <= (most or share)
    assert images == share // count or share // count == size  # only a single group is split


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_kimg": 0}, "total_kimg = 0 must be positive"),
        ({"fade_kimg": -1}, "fade_kimg = -1 must not be negative"),
        ({"first": 5}, "first = 5 must be a power of two"),
        ({"minibatches": {"5": 3}}, "minibatches.5: the key must be a resolution"),
        ({"learning_rates": {"8": 0}}, "learning_rates.8 = 0 must be positive"),
        ({"minibatch": 0}, "minibatch = 0"),
    ],
)
def test_impossible_schedules(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**values)
