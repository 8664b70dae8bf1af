"""The time left follows from the schedule and the speeds; the sentences say what comes when."""

import re

import pytest

from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import ProGANRecipe, Schedule
from celebahq_builder.progan.training_report import EXPECTATIONS, outlook, remaining_s

GROWING = ProGANRecipe(
    "progan",
    Architecture(resolution=16, channels_base=32, channels_max=4, latent=4),
    Schedule(train_kimg=2, fade_kimg=1, total_kimg=10),
)
"""4x4 until 2 kimg, 8x8 until 5 kimg, 16x16 until 10 kimg; 4 channels at all levels."""


def test_time_of_levels_that_were_measured() -> None:
    speeds = {2: 100.0, 3: 50.0, 4: 10.0}
    assert remaining_s(GROWING, 0, 10, speeds) == pytest.approx({2: 20, 3: 60, 4: 500})
    assert remaining_s(GROWING, 3.5, 10, speeds) == pytest.approx({3: 30, 4: 500})
    assert remaining_s(GROWING, 0, 4, speeds) == pytest.approx({2: 20, 3: 40})
    assert remaining_s(GROWING, 10, 10, speeds) == {}


def test_time_of_levels_that_were_not() -> None:
    """All levels have equal channels, so the cost of a level is 4 times that of the one below, added to it."""
    assert remaining_s(GROWING, 0, 10, {3: 50.0}) == pytest.approx({2: 2000 / 250, 3: 60, 4: 5000 / 50 * 21 / 5})


def test_networks_that_do_not_grow() -> None:
    recipe = ProGANRecipe("progan", GROWING.net, Schedule(total_kimg=10, growing=False))
    assert remaining_s(recipe, 4, 10, {4: 10.0}) == pytest.approx({4: 600})


def test_sentences() -> None:
    speeds = {2: 100.0, 3: 50.0, 4: 10.0}
    assert outlook(GROWING, 1, 10, speeds) == [
        "1 of 10 kimg, 4x4, alpha 1.00; estimated: 8x8 in 10 s (at 2 kimg), the end in 10 min (at 10 kimg)",
        "new levels, estimated: 8x8 in 10 s (at 2 kimg), 16x16 in 70 s (at 5 kimg), the end in 10 min (at 10 kimg)",
        EXPECTATIONS,
    ]
    assert outlook(GROWING, 9, 10, speeds)[0].endswith("estimated: the end in 2 min (at 10 kimg)")
    assert outlook(GROWING, 10, 10, speeds) == ["10 of 10 kimg, 16x16, alpha 1.00; the training is complete"]
    assert outlook(GROWING, 0, 10, {2: 0.1}, on_cpu=True)[-1].startswith("this recipe is for GPUs")
    assert outlook(GROWING, 0, 10, {2: 0.1})[-1] == EXPECTATIONS
    *_, last = outlook(GROWING, 0, 10, {2: 1e-4})
    assert re.fullmatch(r"warning: the training is not feasible on this device: it takes about \d+ years; .*", last)
