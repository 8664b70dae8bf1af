"""What a user writes stands for the pictures that Python would take."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import numbers
from celebahq_builder.formats.hdf5 import PyramidFile
from tests.formats.files import noise, store

LIMIT = st.none() | st.integers(-40, 40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 30), LIMIT, LIMIT, st.none() | st.integers(-5, 5).filter(bool))
def test_slices_are_those_of_python(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    text = ":".join("" if limit is None else str(limit) for limit in (start, stop, step))
    expected = list(range(count))[start:stop:step]
    if expected:
        assert numbers.parse(text, count) == expected
    else:
        with pytest.raises(FormatError, match="leaves no picture"):
            numbers.parse(text, count)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(-n, n - 1), min_size=1))))
def test_lists_are_those_of_python(case: tuple[int, list[int]]) -> None:
    count, asked = case
    expected = list(dict.fromkeys(list(range(count))[number] for number in asked))
    assert numbers.parse(",".join(map(str, asked)), count) == expected


def test_mixed() -> None:
    assert numbers.parse("8:, 0:3 ,1,-1", 10) == [8, 9, 0, 1, 2]
    assert numbers.parse("::4", 10) == [0, 4, 8]
    assert numbers.parse("-1", 1) == [0]


@pytest.mark.parametrize("text", ["10", "-11", "0,10", "5,-11,6"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(FormatError, match=r"no picture -?1[01]; the file has 10: 0 to 9, or -1 to -10"):
        numbers.parse(text, 10)


@pytest.mark.parametrize("text", ["", "a", "1,", ",", "1.5", "1-3", "0:1:2:3", "::0", "0:x", "[1]"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(FormatError, match=r"is no number or slice; expected 0:10, 1,5,7, -1 or ::100"):
        numbers.parse(text, 10)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    scores = [0.5, np.nan, 0.9, 0.1, 0.5, 0.7]
    files = ["a.jpg", "b.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    return store(tmp_path / "known.h5", noise(6, 2), id=["a", "b-1", "b-2", "c", "d", "e"], file=files, score=scores)


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    return store(tmp_path / "unknown.h5", noise(6, 2))


def test_names(known: Path, unknown: Path) -> None:
    with PyramidFile.with_pictures(known) as stored:
        assert numbers.of_names(["d", "a.jpg", "d.jpg", "b.jpg"], stored) == [4, 0, 1, 2]
        with pytest.raises(FormatError, match=r"no picture of the id or source file f; its first is a or a\.jpg"):
            numbers.of_names(["a", "f"], stored)
    with PyramidFile.with_pictures(unknown) as stored, pytest.raises(FormatError, match="knows no ids or source files"):
        numbers.of_names(["a"], stored)


def test_ranked(known: Path, unknown: Path) -> None:
    with PyramidFile.with_pictures(known) as stored:
        assert list(numbers.ranked(stored)) == [2, 5, 0, 4, 3]  # equal scores as they lie; none without a score
        assert numbers.extremes(stored, 2, best=True, worst=False) == [2, 5]
        assert numbers.extremes(stored, 2, best=False, worst=True) == [4, 3]
        assert numbers.extremes(stored, 3, best=True, worst=True) == [2, 5, 3]
        assert numbers.extremes(stored, 9, best=True, worst=True) == [2, 5, 0, 4, 3]
    with PyramidFile.with_pictures(unknown) as stored, pytest.raises(FormatError, match="knows no scores"):
        numbers.ranked(stored)


def test_drawn() -> None:
    drawn = numbers.drawn(20, 30, seed=1)
    assert len(set(drawn)) == 20
    assert set(drawn) < set(range(30))
    assert drawn == numbers.drawn(20, 30, seed=1) != numbers.drawn(20, 30, seed=2)
    assert drawn != sorted(drawn)
    assert sorted(numbers.drawn(99, 30, seed=1)) == list(range(30))
