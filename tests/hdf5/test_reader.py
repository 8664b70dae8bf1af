"""Files written and read again; damaged files."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5 import level_name
from celebahq_builder.hdf5.codecs import GZIP, Codec, codec
from celebahq_builder.hdf5.reader import PyramidFile, open_pyramid
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from tests.hdf5.files import Images, damage, hashes, noise, ours, store
from tests.reference import theano_reader
from tests.reference.pyramid import level as reference_level


def write(path: Path, data: Images, codec: Codec = GZIP) -> Path:
    """Write images with a few columns and attributes."""
    count, _, resolution, _ = data.shape
    columns = {
        "file": [f"{i:06d}.jpg" for i in range(count)],
        "score": np.linspace(0, 1, count),
        "split": ["train" if i % 2 else "" for i in range(count)],
    }
    attributes = {"recipe": {"resolution": resolution}, "names": ["é", "b"], "seed": 7, "made_by": "test"}
    return ours(path, data, codec, attributes, **columns)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write(tmp_path / "sound.h5", noise(5, 8))


def problems(path: Path) -> list[str]:
    with PyramidFile(path) as file:
        return list(file.problems())


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 70),
    st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    st.sampled_from([1, 3]),
    st.sampled_from([("gzip", 0), ("gzip", 9), ("none", 0), ("blosc2", 0)]),
)
def test_round_trip(tmp_path: Path, count: int, resolution: int, channels: int, how: tuple[str, int]) -> None:
    data = noise(count, resolution, channels, seed=count)
    path = write(tmp_path / "data.h5", data, codec(*how))
    pyramid = build_pyramid(data)
    with PyramidFile(path) as file:
        assert (file.count, file.channels) == (count, channels)
        assert (file.resolution, file.resolutions) == (resolution, levels(resolution))
        for r, expected in zip(levels(resolution), pyramid, strict=True):
            np.testing.assert_array_equal(file.level(r)[:], expected)
        assert file.photos.get("sha256") == hashes(data)
        assert list(file.problems()) == []
    for expected, found in zip(pyramid, theano_reader.read(path), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_levels_equal_the_slow_reference(tmp_path: Path) -> None:
    data = noise(2, 16)
    with h5py.File(write(tmp_path / "data.h5", data)) as file:
        for r in (8, 4, 2, 1):
            for i in range(2):
                np.testing.assert_array_equal(file[f"data{r}x{r}"][i], reference_level(data[i], r))


def test_columns_and_attributes(tmp_path: Path) -> None:
    with PyramidFile(write(tmp_path / "data.h5", noise(4, 4))) as file:
        assert file.photos.get("file") == ["000000.jpg", "000001.jpg", "000002.jpg", "000003.jpg"]
        assert file.photos.get("split") == ["", "train", "", "train"]
        np.testing.assert_array_equal(file.photos.get("score"), np.linspace(0, 1, 4))
        assert file.photos.get("rank") is None
        attributes = dict(file.file.attrs)
    assert attributes["recipe"] == '{"resolution": 4}'
    assert (attributes["format_version"], attributes["seed"], attributes["made_by"]) == (1, 7, "test")


def test_open_pyramid(tmp_path: Path) -> None:
    data = noise(5, 8)
    path = write(tmp_path / "data.h5", data)
    with open_pyramid(str(path)) as faces:
        level = faces.images(4)
        np.testing.assert_array_equal(faces.images()[1:3], data[1:3])
        np.testing.assert_array_equal(faces.photos["score"], np.linspace(0, 1, 5))
        assert sorted(faces.photos) == ["file", "score", "sha256", "split"]
        assert (len(faces.photos), faces.photos.get("rank")) == (4, None)
        with pytest.raises(KeyError, match="has no column 'rank' in photos; it has file, score, sha256, split"):
            faces.photos["rank"]
        with pytest.raises(FormatError, match="has no level 16x16"):
            faces.images(16)
    np.testing.assert_array_equal(level[4], reference_level(data[4], 4))  # a level is independent of its file


def test_a_file_with_levels_alone_has_no_columns(tmp_path: Path) -> None:
    with open_pyramid(store(tmp_path / "data.h5", noise(2, 4))) as faces:
        assert dict(faces.photos) == {}


@pytest.mark.parametrize("module", ["hdf5.reader", "inspect.info"])
def test_reading_needs_no_torch(module: str) -> None:
    code = f"import sys, celebahq_builder.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_images(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", noise(0, 8))
    assert problems(path) == []
    assert [level.shape for level in theano_reader.read(path)] == [(0, 3, r, r) for r in (8, 4, 2, 1)]


# --- Damaged files ---------------------------------------------------------------------------------------------


def change_file(path: Path, change: Callable[[h5py.File], None]) -> list[str]:
    with h5py.File(path, "r+") as file:
        change(file)
    return problems(path)


def replace(file: h5py.File, name: str, data: Images) -> None:
    del file[name]
    file.create_dataset(name, data=data)


def test_sound_file_has_no_problems(sound: Path) -> None:
    assert problems(sound) == []


def test_flipped_pixel(sound: Path) -> None:
    def flip(file: h5py.File) -> None:
        file["data8x8"][3, 1, 2, 5] ^= 1

    assert "image 3: its SHA-256 is not the one recorded" in change_file(sound, flip)


def test_flipped_pixel_without_hashes(sound: Path) -> None:
    """A large change shows in the level below."""

    def flip(file: h5py.File) -> None:
        del file["photos"]["sha256"]
        file["data8x8"][3, 1, 2, 5] ^= 128

    assert change_file(sound, flip)[0] == "image 3: level 4x4 is not the mean of the level above"


@pytest.mark.parametrize("side", [4, 2, 1])
def test_wrong_level(side: int, sound: Path) -> None:
    def change(file: h5py.File) -> None:
        file[level_name(side)][4, 2, 0, 0] += np.uint8(1)

    assert change_file(sound, change) == [f"image 4: level {side}x{side} is not the mean of the level above"]


def refused(path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FormatError, match=message) as caught:
        PyramidFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [4, 2, 1])
def test_missing_level(side: int, sound: Path) -> None:
    def remove(file: h5py.File) -> None:
        del file[level_name(side)]

    refused(sound, remove, f"has data8x8 but lacks data{side}x{side}; expected all levels down to 1x1")


def test_missing_top_level(sound: Path) -> None:
    """The rest looks like a file of half the resolution, except for the hashes."""

    def remove(file: h5py.File) -> None:
        del file["data8x8"]

    assert {f"image {i}: its SHA-256 is not the one recorded" for i in range(5)} <= set(change_file(sound, remove))


@pytest.mark.parametrize("count", [0, 4, 6])
def test_levels_of_different_lengths(count: int, sound: Path) -> None:
    """The Theano tool, killed before it closed the file, leaves its small levels empty."""

    def resize(file: h5py.File) -> None:
        file["data2x2"].resize(count, axis=0)

    refused(sound, resize, rf"data2x2 is uint8 \[{count}, 3, 2, 2\], expected uint8 \[5, 3, 2, 2\]")


@pytest.mark.parametrize("count", [4, 6])
def test_hashes_of_another_number(count: int, sound: Path) -> None:
    def change(file: h5py.File) -> None:
        hashes = [*file["photos/sha256"].asstr()[:], "0"][:count]
        del file["photos/sha256"]
        file["photos"].create_dataset("sha256", data=hashes, dtype=h5py.string_dtype())

    found = change_file(sound, change)
    assert len(found) == 1
    assert f"{count}" in found[0]
    assert "sha256" in found[0].lower()


def test_chunks_that_were_never_written(sound: Path) -> None:
    def grow(file: h5py.File) -> None:
        del file["photos"]
        for side in (8, 4, 2, 1):
            file[level_name(side)].resize(2000, axis=0)

    found = change_file(sound, grow)
    assert [line.split(";")[0] for line in found] == [
        "data8x8 lacks 31 of its 32 chunks",
        "data4x4 lacks 7 of its 8 chunks",
        "data2x2 lacks 1 of its 2 chunks",
        "data1x1 lacks 1 of its 2 chunks",
    ]


def test_other_type(sound: Path) -> None:
    def to_float(file: h5py.File) -> None:
        replace(file, "data2x2", file["data2x2"][:].astype(np.float32))

    refused(sound, to_float, r"data2x2 is float32 \[5, 3, 2, 2\], expected uint8 ")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4, 2, 2), r"data2x2 is uint8 \[5, 4, 2, 2\], expected uint8 \[5, 3, 2, 2\]"),
        ((5, 2, 2, 3), r"data2x2 is uint8 \[5, 2, 2, 3\], expected uint8"),
        ((5, 12), r"data2x2 is uint8 \[5, 12\], expected uint8"),
    ],
)
def test_level_of_another_shape(shape: tuple[int, ...], message: str, sound: Path) -> None:
    refused(sound, lambda file: replace(file, "data2x2", np.zeros(shape, np.uint8)), message)


def test_five_channels(tmp_path: Path) -> None:
    def five_channels(file: h5py.File) -> None:
        for r in (8, 4, 2, 1):
            replace(file, level_name(r), np.zeros((2, 5, r, r), np.uint8))

    refused(
        write(tmp_path / "data.h5", noise(2, 8)),
        five_channels,
        r"data8x8 has shape \[2, 5, 8, 8\], expected \[N, 3 or 1, 8, 8\]",
    )


def test_damaged_chunk(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", noise(40, 64))
    damage(path, 64, 7)
    found = problems(path)
    assert len(found) == 1
    assert found[0].startswith("image 7 of data64x64 cannot be read: ")
    with PyramidFile(path) as file, pytest.raises(FormatError, match="image 7 of data64x64 cannot be read"):
        file.images(64).read(range(40))


def test_damaged_chunk_of_several_images(tmp_path: Path) -> None:
    """All images of the chunk are named together, and the others are still checked."""
    path = write(tmp_path / "data.h5", noise(40, 32))
    with h5py.File(path, "r+") as file:
        assert file["data16x16"].chunks[0] == 16
        file["data32x32"][20, 0, 0, 0] ^= 1
    damage(path, 16, 1)
    unread, altered = problems(path)
    assert unread.startswith("images 16 to 31 of data16x16 cannot be read: ")
    assert altered == "image 20: its SHA-256 is not the one recorded"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", noise(40, 32))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(FormatError, match=r"data\.h5 is not (a readable|an) HDF5 file"):
        PyramidFile(path)


def test_not_an_hdf5_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere\.h5 does not exist"):
        PyramidFile(tmp_path / "nowhere.h5")
    with pytest.raises(FormatError, match="is a folder; expected an HDF5 file"):
        PyramidFile(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(FormatError, match="not an HDF5 file: it has no signature"):
        PyramidFile(tmp_path / "text.h5")


@pytest.mark.parametrize(
    "shapes",
    [
        {"images": (5, 3, 8, 8)},
        {},
        {"data": (5, 192)},
        {"data": ()},
        {"data": None},
        {"data100x100": (1, 3, 100, 100)},
        {"data8x8": (2, 3, 8, 8), "database": (2, 3, 4, 4)},
        {"data2x2": (), "data1x1": (2, 3, 1, 1)},
        {"data2x2": (0,), "data1x1": (2, 3, 1, 1)},
    ],
    ids=[
        "other name",
        "nothing",
        "flat",
        "scalar",
        "group",
        "no power of two",
        "one level too many",
        "scalar level",
        "flat level",
    ],
)
def test_hdf5_file_of_another_kind(shapes: dict[str, tuple[int, ...] | None], tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            if shape is None:
                file.create_group(name)
            else:
                file[name] = np.zeros(shape, np.uint8)
    with pytest.raises(FormatError, match=r"^[^\n]*other\.h5") as caught:
        PyramidFile(path)
    assert "expected" in str(caught.value) or "has no datasets data1024x1024" in str(caught.value)
