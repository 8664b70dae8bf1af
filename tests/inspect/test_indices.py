"""What a user writes stands for the images that Python would take."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.inspect import extract
from tests.hdf5.files import noise, store

LIMIT = st.none() | st.integers(-40, 40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 30), LIMIT, LIMIT, st.none() | st.integers(-5, 5).filter(bool))
def test_slices_are_those_of_python(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    text = ":".join("" if limit is None else str(limit) for limit in (start, stop, step))
    expected = list(range(count))[start:stop:step]
    if expected:
        assert extract.parse_indices(text, count) == expected
    else:
        with pytest.raises(FormatError, match="leaves no image"):
            extract.parse_indices(text, count)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(-n, n - 1), min_size=1))))
def test_lists_are_those_of_python(case: tuple[int, list[int]]) -> None:
    count, asked = case
    expected = list(dict.fromkeys(list(range(count))[number] for number in asked))
    assert extract.parse_indices(",".join(map(str, asked)), count) == expected


def test_mixed() -> None:
    assert extract.parse_indices("8:, 0:3 ,1,-1", 10) == [8, 9, 0, 1, 2]
    assert extract.parse_indices("::4", 10) == [0, 4, 8]
    assert extract.parse_indices("-1", 1) == [0]


@pytest.mark.parametrize("text", ["10", "-11", "0,10", "5,-11,6"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(FormatError, match=r"no image -?1[01]; the file has 10: 0 to 9, or -1 to -10"):
        extract.parse_indices(text, 10)


@pytest.mark.parametrize("text", ["", "a", "1,", ",", "1.5", "1-3", "0:1:2:3", "::0", "0:x", "[1]"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(FormatError, match=r"is no number or slice; expected 0:10, 1,5,7, -1 or ::100"):
        extract.parse_indices(text, 10)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    scores = [0.5, np.nan, 0.9, 0.1, 0.5, 0.7]
    files = ["a.jpg", "b.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    return store(tmp_path / "known.h5", noise(6, 2), id=["a", "b-1", "b-2", "c", "d", "e"], file=files, score=scores)


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    return store(tmp_path / "unknown.h5", noise(6, 2))


def test_names(known: Path, unknown: Path) -> None:
    with PyramidFile.with_images(known) as stored:
        assert extract.indices_of_ids(["d", "a.jpg", "d.jpg", "b.jpg"], stored) == [4, 0, 1, 2]
        with pytest.raises(FormatError, match=r"no image of the id or source file f; its first is a or a\.jpg"):
            extract.indices_of_ids(["a", "f"], stored)
    with PyramidFile.with_images(unknown) as stored, pytest.raises(FormatError, match="knows no ids or source files"):
        extract.indices_of_ids(["a"], stored)


def test_ranked(known: Path, unknown: Path) -> None:
    with PyramidFile.with_images(known) as stored:
        assert list(extract.rank_by_score(stored)) == [2, 5, 0, 4, 3]  # equal scores as they lie; none without a score
        assert extract.best_and_worst(stored, 2, best=True, worst=False) == [2, 5]
        assert extract.best_and_worst(stored, 2, best=False, worst=True) == [4, 3]
        assert extract.best_and_worst(stored, 3, best=True, worst=True) == [2, 5, 3]
        assert extract.best_and_worst(stored, 9, best=True, worst=True) == [2, 5, 0, 4, 3]
    with PyramidFile.with_images(unknown) as stored, pytest.raises(FormatError, match="knows no scores"):
        extract.rank_by_score(stored)


def test_drawn() -> None:
    drawn = extract.draw_indices(20, 30, seed=1)
    assert len(set(drawn)) == 20
    assert set(drawn) < set(range(30))
    assert drawn == extract.draw_indices(20, 30, seed=1) != extract.draw_indices(20, 30, seed=2)
    assert drawn != sorted(drawn)
    assert sorted(extract.draw_indices(99, 30, seed=1)) == list(range(30))
