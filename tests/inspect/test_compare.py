"""A comparison of two files agrees with a slow comparison of all values."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.inspect import compare as compare_module
from celebahq_builder.inspect.compare import Comparison, compare, comparison_lines
from tests.hdf5.files import Images, damage, hashes, levels_of, noise, store


def compared(a: Path, b: Path, **how: object) -> Comparison:
    with open_pyramid(a) as one, open_pyramid(b) as other:
        return compare(one, other, **how)


def report(a: Path, b: Path, **how: object) -> list[str]:
    with open_pyramid(a) as one, open_pyramid(b) as other:
        return list(comparison_lines(one, other, compare(one, other, **how)))


def slow(a: Images, b: Images) -> tuple[int, float, float]:
    """Return the largest and the mean absolute difference, and the PSNR, value by value."""
    values = [abs(int(x) - int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    squares = sum(value * value for value in values) / len(values)
    return max(values), sum(values) / len(values), 10 * math.log10(255**2 / squares) if squares else math.inf


def changed(images: Images, number: int, by: int) -> Images:
    other = images.copy()
    other[number] = np.clip(other[number].astype(int) + np.random.default_rng(by).integers(-by, by + 1), 0, 255)
    other[number, 0, 0, 0] = 255 - other[number, 0, 0, 0]
    return other


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.sampled_from([1, 2, 16, 64]), st.integers(0, 99), st.integers(0, 255))
def test_difference_of_two_images(channels: int, side: int, seed: int, spread: int) -> None:
    a = noise(1, side, channels, seed)[0]
    b = np.clip(a.astype(int) + np.random.default_rng(seed).integers(-spread, spread + 1, a.shape), 0, 255)
    found = compare_module.difference(a, b.astype(np.uint8))
    assert (found.largest, found.mean, found.psnr_db) == pytest.approx(slow(a, b), rel=1e-12)
    assert found.values == a.size


def test_difference_of_large_images_is_exact() -> None:
    """The sums of 3 x 1024 x 1024 differences and their squares do not fit into 32 bits."""
    a, b = np.full((3, 1024, 1024), 255, np.uint8), np.zeros((3, 1024, 1024), np.uint8)
    b[1, 5, 7] = 254
    found = compare_module.difference(a, b)
    assert (found.largest, found.total, found.squares) == (255, 255 * a.size - 254, 255**2 * a.size - 255**2 + 1)


@pytest.mark.parametrize("channels", [3, 1])
def test_levels_and_worst_pairs(channels: int, tmp_path: Path) -> None:
    images = noise(6, 16, channels)
    other = changed(changed(images, 1, 40), 4, 5)
    result = compared(store(tmp_path / "a.h5", images), store(tmp_path / "b.h5", other))
    assert (result.match.by, result.different, result.unread, result.equal) == ("position", 2, 0, False)
    for level, (r, one), two in zip(result.levels, levels_of(images).items(), levels_of(other).values(), strict=True):
        assert (level.resolution, level.compared) == (r, 6)
        assert level.different == sum((x != y).any() for x, y in zip(one, two, strict=True))
        got = (level.difference.largest, level.difference.mean, level.difference.psnr_db)
        assert got == pytest.approx(slow(one, two), rel=1e-12)
    assert [(one.a, one.b, one.resolution, one.name) for one in result.worst] == [(1, 1, 16, ""), (4, 4, 16, "")]
    for one in result.worst:
        got = (one.difference.largest, one.difference.mean, one.difference.psnr_db)
        assert got == pytest.approx(slow(images[one.a], other[one.b]), rel=1e-12)


def test_difference_at_small_levels_only(tmp_path: Path) -> None:
    """A pair is reported at the largest level where it differs, also below an equal level."""
    images = noise(3, 8)
    a, b = store(tmp_path / "a.h5", images), store(tmp_path / "b.h5", images)
    with h5py.File(b, "r+") as file:
        file["data4x4"][2, 1, 3, 3] ^= 16
        file["data1x1"][2] ^= 255
        file["data1x1"][0] ^= 1
    result = compared(a, b)
    assert [level.different for level in result.levels] == [0, 1, 0, 2]
    assert [(one.a, one.resolution) for one in result.worst] == [(2, 4), (0, 1)]
    assert result.different == 2
    assert not result.equal
    assert compared(a, b, resolution=8).equal
    assert [level.resolution for level in compared(a, b, resolution=4).levels] == [4]


@pytest.mark.parametrize("block", [1, 700, 5000, 1 << 24])
def test_block_size_does_not_change_the_result(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(9, 16)
    a, b = store(tmp_path / "a.h5", images), store(tmp_path / "b.h5", changed(changed(images, 8, 3), 0, 9))
    expected = report(a, b)
    monkeypatch.setattr(compare_module, "BLOCK_BYTES", block)
    assert report(a, b) == expected
    monkeypatch.setattr(compare_module, "BLOCK_IMAGES", 2)
    assert report(a, b) == expected


def test_worst_pairs_have_the_largest_errors(tmp_path: Path) -> None:
    images = noise(12, 4)
    other = images.copy()
    for number in range(1, 12):
        other[number, 0, 0, 0] ^= np.uint8([0, 1, 128, 2, 64, 2, 32, 4, 16, 8, 128, 1][number])
    a, b = store(tmp_path / "a.h5", images), store(tmp_path / "b.h5", other)
    errors = {n: ((images[n].astype(int) - other[n]) ** 2).sum() for n in range(1, 12)}
    order = sorted(errors, key=lambda n: (-errors[n], n))
    for worst in (0, 1, 4, 11, 99):
        assert [one.a for one in compared(a, b, worst=worst).worst] == order[:worst]


# --- Pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["id", "file"])
def test_pairs_by_name(column: str, tmp_path: Path) -> None:
    """Another order is not a difference, another set of images is."""
    images, names = noise(7, 8), [f"{i:03d}" for i in range(7)]
    order = [3, 0, 6, 5, 1, 2, 4]
    a = store(tmp_path / "a.h5", images, **{column: names})
    b = store(tmp_path / "b.h5", images[order], **{column: [names[i] for i in order]})
    result = compared(a, b)
    assert (result.match.by, result.equal, result.match.moved) == (column, True, 7)
    assert not compared(a, b, by="position").equal
    fewer = store(tmp_path / "c.h5", images[order[:5]], **{column: [*(names[i] for i in order[:4]), "new"]})
    result = compared(a, fewer)
    assert (result.match.only_a, result.match.only_b) == (("001", "002", "004"), ("new",))
    assert (result.different, result.equal, len(result.match.a)) == (0, False, 4)
    text = report(a, fewer)
    assert "only in A: 3 (001, 002, 004)" in text
    assert "only in B: 1 (new)" in text
    assert text[-1] == "different: 0 of 4 pairs differ, 4 images have no partner"


def test_names_in_only_one_file(tmp_path: Path) -> None:
    """A file of the ProGAN authors' tool has no names."""
    images = noise(3, 4)
    a, b = store(tmp_path / "a.h5", images, id=["a", "b", "c"]), store(tmp_path / "b.h5", images)
    assert compared(a, b).match.by == "position"
    assert compared(a, b).equal
    with pytest.raises(FormatError, match=r"cannot be matched by id: in .*b\.h5 not every image has its own"):
        compared(a, b, by="id")


def test_repeated_names(tmp_path: Path) -> None:
    images = noise(3, 4)
    a = store(tmp_path / "a.h5", images, id=["a", "a", "c"], file=["1", "2", "3"])
    b = store(tmp_path / "b.h5", images[::-1], id=["c", "a", "a"], file=["3", "2", "1"])
    assert compared(a, b).match.by == "file"
    assert compared(a, b).equal


def test_no_name_in_common(tmp_path: Path) -> None:
    """After a round trip through a format without names, images are paired by position."""
    a = store(tmp_path / "a.h5", noise(2, 4), id=["a", "b"])
    b = store(tmp_path / "b.h5", noise(2, 4), id=["c", "d"])
    assert compared(a, b).match.by == "position"
    assert compared(a, b).equal
    assert report(a, b, by="id")[-1] == "different: 0 of 0 pairs differ, 4 images have no partner"


def test_different_counts(tmp_path: Path) -> None:
    images = noise(5, 4)
    a, b = store(tmp_path / "a.h5", images), store(tmp_path / "b.h5", images[:3])
    for result, only in ((compared(a, b), (("3", "4"), ())), (compared(b, a), ((), ("3", "4")))):
        assert (result.match.only_a, result.match.only_b, result.different, result.equal) == (*only, 0, False)


def test_different_resolutions(tmp_path: Path) -> None:
    """Common levels are compared; a level that only one file has is a difference."""
    images = noise(3, 16)
    a = store(tmp_path / "a.h5", images)
    b = store(tmp_path / "b.h5", images)
    with h5py.File(b, "r+") as file:
        del file["data16x16"]
    result = compared(a, b)
    assert [level.resolution for level in result.levels] == [8, 4, 2, 1]
    assert (result.different, result.only_levels, result.equal) == (0, ((16,), ()), False)
    assert "levels that only A has: 16" in report(a, b)
    assert report(a, b)[-1] == "different: 0 of 3 pairs differ, not the same levels"
    assert compared(a, b, resolution=8).equal
    for path in (a, b):
        with h5py.File(path, "r+") as file:
            file.create_dataset("photos/sha256", data=hashes(images), dtype=h5py.string_dtype())
    assert compared(a, b).unread == 0  # the hashes belong to the deleted level
    with pytest.raises(FormatError, match=r"b\.h5 has no level 16x16; it has 8, 4, 2, 1"):
        compared(a, b, resolution=16)


# --- Recorded hashes ---------------------------------------------------------------------------------------------


def test_images_with_equal_hashes_are_not_read(tmp_path: Path) -> None:
    images = noise(4, 8)
    a = store(tmp_path / "a.h5", images, sha256=hashes(images))
    other = changed(images, 2, 9)
    b = store(tmp_path / "b.h5", other, sha256=hashes(other))
    result = compared(a, b)
    assert (result.unread, result.different, result.levels[0].compared) == (3, 1, 1)
    assert "3 pairs not read: their recorded SHA-256 are equal (`full` reads them, too)" in report(a, b)
    assert compared(a, b, full=True).unread == 0
    assert compared(a, b).worst == compared(a, b, full=True).worst
    wrong_hashes = store(tmp_path / "c.h5", other, sha256=hashes(images))
    assert compared(a, wrong_hashes).equal
    assert compared(a, wrong_hashes, full=True).different == 1
    assert report(a, wrong_hashes)[-1] == "equal: 4 images, 4 of them by their recorded SHA-256 (`full` reads them)"


def test_equal_images_with_different_hashes(tmp_path: Path) -> None:
    """The images are read and found equal."""
    images = noise(2, 4)
    a = store(tmp_path / "a.h5", images, sha256=hashes(images))
    b = store(tmp_path / "b.h5", images, sha256=["0", "1"])
    assert compared(a, b).equal
    assert compared(a, b).unread == 0


# --- Files that cannot be compared -------------------------------------------------------------------------------


def test_grey_and_colour(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a.h5", noise(2, 4)), store(tmp_path / "b.h5", noise(2, 4, channels=1))
    with pytest.raises(FormatError, match=r"a\.h5 has 3 channels, .*b\.h5 has 1: they cannot be compared"):
        compared(a, b)


def test_damaged_image(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a.h5", noise(4, 16)), store(tmp_path / "b.h5", noise(4, 16))
    damage(b, 16, 3)
    with pytest.raises(FormatError, match=r"b\.h5: image 3 of data16x16 cannot be read"):
        compared(a, b)


def test_report(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 2, 2), np.uint8)
    other = images.copy()
    other[1, :, 0, 0] = 4
    a = store(tmp_path / "a.h5", images, id=["x", "long\nname"])
    b = store(tmp_path / "b.h5", other, id=["x", "long\nname"])
    assert report(a, b) == [
        f"A: {a}: 2 images of 2x2, RGB",
        f"B: {b}: 2 images of 2x2, RGB",
        "paired by id: 2",
        "  level  compared  different  largest    mean      PSNR",
        "    2x2         2          1        4  0.5000  45.12 dB",
        "    1x1         2          1        1  0.5000  51.14 dB",
        "worst 1, each at its largest level that differs:",
        "  A  B  level  largest    mean      PSNR  id",
        "  1  1    2x2        4  1.0000  42.11 dB  long\\nname",
        "different: 1 of 2 pairs differ",
    ]
