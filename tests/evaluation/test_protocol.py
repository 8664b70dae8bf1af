"""Scores are named by their protocol, and protocols that do not fit are refused in one line."""

import re
from pathlib import Path

import pytest

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.evaluation import protocol as protocols
from celebahq_builder.evaluation.protocol import (
    EvaluationProtocol,
    check_evaluation,
    half_count,
    parse_metrics,
    reference_count,
    score_name,
)


class Fixed:
    """Properties of a source without images."""

    def __init__(self, count: int | None, resolution: int = 32, channels: int = 3, where: str = "a.h5") -> None:
        self.count, self.resolution, self.channels, self.where = count, resolution, channels, where


@pytest.mark.parametrize(
    ("metric", "count", "name"),
    [
        ("swd", 16_384, "swd16k"),
        ("swd", 16_000, "swd16000"),
        ("swd", 1000, "swd1k"),
        ("swd", 1024, "swd1024"),
        ("fid", 50_000, "fid50k"),
        ("ms-ssim", 10_000, "ms-ssim10k"),
        ("is", 999, "is999"),
    ],
)
def test_score_names(metric: str, count: int, name: str) -> None:
    assert score_name(metric, count) == name


def test_counts_of_the_papers_are_the_default() -> None:
    paper = EvaluationProtocol(("swd", "ms-ssim", "fid", "kid", "is"))
    assert [paper.name(metric) for metric in paper.metrics] == ["swd16k", "ms-ssim10k", "fid50k", "kid10k", "is50k"]
    assert [paper.images(metric) for metric in paper.metrics] == [16_384, 20_000, 50_000, 10_000, 50_000]
    few = EvaluationProtocol(("swd", "ms-ssim"), 100)
    assert [few.images(metric) for metric in few.metrics] == [100, 200]


def test_parse_metrics() -> None:
    assert parse_metrics("FID, swd,ms_ssim,swd") == ("swd", "ms-ssim", "fid")
    with pytest.raises(RecipeError, match="`metrics` names none; give some of swd, ms-ssim, fid, kid, is"):
        parse_metrics(" , ")
    with pytest.raises(RecipeError, match="`metrics` lpips is no metric; there are swd, ms-ssim, fid, kid, is"):
        EvaluationProtocol(parse_metrics("swd,lpips"))
    with pytest.raises(RecipeError, match="`num` 5 is too few for is; it needs 10 at least"):
        EvaluationProtocol(("is",), 5)


@pytest.mark.parametrize(
    ("there", "wanted", "halves"), [(None, 100, 100), (500, 100, 100), (150, 100, 75), (100, 100, 50), (99, 100, 0)]
)
def test_halves_are_disjoint_and_as_large_as_possible(there: int | None, wanted: int, halves: int) -> None:
    assert half_count(Fixed(there), wanted) == halves
    assert there is None or 2 * halves <= there


def test_fid50k_of_celebahq_is_allowed() -> None:
    check_evaluation(Fixed(None), Fixed(30_000), EvaluationProtocol(("fid",)))
    assert reference_count(Fixed(30_000), 50_000) == 30_000
    assert half_count(Fixed(30_000), 50_000) == 0
    assert half_count(Fixed(30_000), 16_384) == 15_000


@pytest.mark.parametrize(
    ("source", "reference", "metric", "num", "line"),
    [
        (
            Fixed(100),
            Fixed(10**6, 64, where="b.h5"),
            "swd",
            10,
            "a.h5 has images of 32x32, b.h5 of 64x64; only images of one size can be compared",
        ),
        (Fixed(100, 32, 1), Fixed(10**6, where="b.h5"), "swd", 10, "a.h5 is grey, b.h5 is in colour; only images of"),
        (Fixed(100, 8), Fixed(100, 8), "swd", 10, "swd needs images of 16x16 or more, a.h5 has 8x8; leave swd out"),
        (Fixed(100), None, "fid", 10, "fid compares a.h5 with other images, and there are none: add `against`"),
        (
            Fixed(1000),
            Fixed(10**6),
            "fid",
            None,
            "fid50k needs 50,000 images, a.h5 has 1,000; `num` 1000 gives fid1k, which cannot be compared with",
        ),
        (
            Fixed(1000),
            None,
            "ms-ssim",
            None,
            "ms-ssim10k needs 20,000 images for 10,000 pairs, a.h5 has 1,000; `num` 500 gives ms-ssim500, which",
        ),
        (Fixed(1), None, "ms-ssim", None, "a.h5 has 1; that is too few for ms-ssim at all"),
        (
            Fixed(None),
            Fixed(10_000, where="b.h5"),
            "swd",
            None,
            "swd16k compares with 16,384 images at least, b.h5 has 10,000; `num` 10000 gives swd10k, which cannot",
        ),
        (Fixed(None), Fixed(24_999), "fid", None, "fid50k compares with 25,000 images at least, a.h5 has 24,999"),
        (Fixed(None), Fixed(25), "fid", 51, "fid51 compares with 26 images at least, a.h5 has 25"),
    ],
)
def test_protocols_that_do_not_fit(
    source: Fixed, reference: Fixed | None, metric: str, num: int | None, line: str
) -> None:
    with pytest.raises(FormatError, match=re.escape(line)) as error:
        check_evaluation(source, reference, EvaluationProtocol((metric,), num))
    assert "\n" not in str(error.value)


def test_every_metric_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in text for name in protocols.METRICS)
