"""Selections equal those of Python lists; extracted images equal the stored ones, and no file is overwritten."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.inspect.extract import (
    best_and_worst,
    draw_indices,
    extract,
    indices_of_ids,
    parse_indices,
    rank_by_score,
)
from celebahq_builder.storage import outputs
from tests.hdf5.files import damage, levels_of, noise, store

# --- Selection ---------------------------------------------------------------------------------------------------

LIMIT = st.none() | st.integers(-40, 40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 30), LIMIT, LIMIT, st.none() | st.integers(-5, 5).filter(bool))
def test_slices_are_those_of_python(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    text = ":".join("" if limit is None else str(limit) for limit in (start, stop, step))
    expected = list(range(count))[start:stop:step]
    if expected:
        assert parse_indices(text, count) == expected
    else:
        with pytest.raises(FormatError, match="leaves no image"):
            parse_indices(text, count)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(-n, n - 1), min_size=1))))
def test_lists_are_those_of_python(case: tuple[int, list[int]]) -> None:
    count, asked = case
    expected = list(dict.fromkeys(list(range(count))[number] for number in asked))
    assert parse_indices(",".join(map(str, asked)), count) == expected


def test_mixed_numbers_and_slices() -> None:
    assert parse_indices("8:, 0:3 ,1,-1", 10) == [8, 9, 0, 1, 2]
    assert parse_indices("::4", 10) == [0, 4, 8]
    assert parse_indices("-1", 1) == [0]


@pytest.mark.parametrize("text", ["10", "-11", "0,10", "5,-11,6"])
def test_numbers_out_of_range(text: str) -> None:
    with pytest.raises(FormatError, match=r"no image -?1[01]; the file has 10: 0 to 9, or -1 to -10"):
        parse_indices(text, 10)


@pytest.mark.parametrize("text", ["", "a", "1,", ",", "1.5", "1-3", "0:1:2:3", "::0", "0:x", "[1]"])
def test_syntax_errors(text: str) -> None:
    with pytest.raises(FormatError, match=r"is no number or slice; expected 0:10, 1,5,7, -1 or ::100"):
        parse_indices(text, 10)


@pytest.fixture
def described(tmp_path: Path) -> Path:
    scores = [0.5, np.nan, 0.9, 0.1, 0.5, 0.7]
    files = ["a.jpg", "b.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    return store(tmp_path / "known.h5", noise(6, 2), id=["a", "b-1", "b-2", "c", "d", "e"], file=files, score=scores)


@pytest.fixture
def levels_only(tmp_path: Path) -> Path:
    return store(tmp_path / "unknown.h5", noise(6, 2))


def test_indices_of_ids(described: Path, levels_only: Path) -> None:
    with open_pyramid(described) as stored:
        assert indices_of_ids(["d", "a.jpg", "d.jpg", "b.jpg"], stored) == [4, 0, 1, 2]
        with pytest.raises(FormatError, match=r"no image of the id or source file f; its first is a or a\.jpg"):
            indices_of_ids(["a", "f"], stored)
    with (
        open_pyramid(levels_only) as stored,
        pytest.raises(FormatError, match="has no ids or source files"),
    ):
        indices_of_ids(["a"], stored)


def test_rank_by_score(described: Path, levels_only: Path) -> None:
    with open_pyramid(described) as stored:
        assert list(rank_by_score(stored)) == [2, 5, 0, 4, 3]  # equal scores by number; image 1 has no score
        assert best_and_worst(stored, 2, best=True, worst=False) == [2, 5]
        assert best_and_worst(stored, 2, best=False, worst=True) == [4, 3]
        assert best_and_worst(stored, 3, best=True, worst=True) == [2, 5, 3]
        assert best_and_worst(stored, 9, best=True, worst=True) == [2, 5, 0, 4, 3]
    with open_pyramid(levels_only) as stored, pytest.raises(FormatError, match="has no scores"):
        rank_by_score(stored)


def test_draw_indices() -> None:
    drawn = draw_indices(20, 30, seed=1)
    assert len(set(drawn)) == 20
    assert set(drawn) < set(range(30))
    assert drawn == draw_indices(20, 30, seed=1) != draw_indices(20, 30, seed=2)
    assert drawn != sorted(drawn)
    assert sorted(draw_indices(99, 30, seed=1)) == list(range(30))


# --- Extraction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("resolution", [None, 16, 8, 1])
@pytest.mark.parametrize("columns", [{}, {"id": ["a", "b", "c", "d", "e"]}])
def test_extracted_pixels(channels: int, resolution: int | None, columns: dict[str, list[str]], tmp_path: Path) -> None:
    images = noise(5, 16, channels)
    path = store(tmp_path / "data.h5", images, **columns)
    expected = levels_of(images)[resolution or 16]
    with open_pyramid(path) as stored:
        written = extract(stored, [3, 0], tmp_path / "deep" / "out", resolution)
    assert written == [tmp_path / "deep" / "out" / "00003.png", tmp_path / "deep" / "out" / "00000.png"]
    assert sorted(written) == sorted((tmp_path / "deep" / "out").iterdir())
    for file, number in zip(written, (3, 0), strict=True):
        with Image.open(file) as image:
            assert (image.format, image.mode) == ("PNG", "RGB" if channels == 3 else "L")
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1), expected[number])


def test_equal_images_make_equal_files(tmp_path: Path) -> None:
    with open_pyramid(store(tmp_path / "data.h5", noise(2, 16))) as stored:
        one, other = (extract(stored, [1], tmp_path / name)[0].read_bytes() for name in "ab")
    assert one == other


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "00001.png").write_text("mine")
    (out / "00002.png").symlink_to("nowhere")
    with open_pyramid(store(tmp_path / "data.h5", noise(4, 4))) as stored:
        with pytest.raises(FormatError, match=r"00001\.png exists with other contents; nothing is overwritten"):
            extract(stored, [0, 1, 2, 3], out)
        assert sorted(one.name for one in out.iterdir()) == ["00001.png", "00002.png"]
        extract(stored, [0, 3], out)
    assert (out / "00001.png").read_text() == "mine"
    assert sorted(one.name for one in out.iterdir()) == ["00000.png", "00001.png", "00002.png", "00003.png"]


def test_repeated_after_a_kill(tmp_path: Path) -> None:
    """The files of a killed command are kept, and the others are added."""
    with open_pyramid(store(tmp_path / "data.h5", noise(4, 4))) as stored:
        whole = extract(stored, [2, 0, 3], tmp_path / "whole")
        extract(stored, [2, 0], tmp_path / "out")
        before = (tmp_path / "out" / "00002.png").stat().st_mtime_ns
        repeated = extract(stored, [2, 0, 3], tmp_path / "out")
    assert [path.read_bytes() for path in repeated] == [path.read_bytes() for path in whole]
    assert (tmp_path / "out" / "00002.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("there", [False, True])
def test_nothing_remains_after_a_damaged_image(there: bool, tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", noise(4, 16))
    damage(path, 16, 2)
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
        (out / "mine").touch()
    with open_pyramid(path) as stored:
        with pytest.raises(FormatError, match=r"data\.h5: image 2 of data16x16 cannot be read: .*another copy"):
            extract(stored, [0, 1, 2, 3], out)
        assert sorted(one.name for one in tmp_path.iterdir()) == (["data.h5", "deep"] if there else ["data.h5"])
        if there:
            assert [one.name for one in out.iterdir()] == ["mine"]
        assert len(extract(stored, [0, 1, 3], out)) == 3


@pytest.mark.parametrize("error", [DiskFull("full"), KeyboardInterrupt()])
def test_nothing_remains_after_an_interruption(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = outputs.write_atomic

    def interrupted(path: Path, data: bytes, **asked: bool) -> None:
        if path.name == "00002.png":
            raise error
        real(path, data, **asked)

    monkeypatch.setattr(outputs, "write_atomic", interrupted)
    with open_pyramid(store(tmp_path / "data.h5", noise(4, 4))) as stored, pytest.raises(type(error)):
        extract(stored, range(4), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["data.h5"]


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with open_pyramid(store(tmp_path / "data.h5", noise(1, 4))) as stored:
        for out in (tmp_path / "out", tmp_path / "out" / "below"):
            with pytest.raises(FormatError, match=r"cannot be written: (File exists|Not a directory); choose another"):
                extract(stored, [0], out)
    assert (tmp_path / "out").read_text() == "mine"


def test_missing_level(tmp_path: Path) -> None:
    with open_pyramid(store(tmp_path / "data.h5", noise(1, 4))) as stored:
        with pytest.raises(FormatError, match="has no level 8x8; it has 4, 2, 1: ask for one of these"):
            extract(stored, [0], tmp_path / "out", 8)
        assert not (tmp_path / "out").exists()
