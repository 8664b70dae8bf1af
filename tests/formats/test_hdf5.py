"""The file holds what went in, is read by those who know the Theano tool's, and tells when something is wrong."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5 import (
    BATCH,
    PyramidFile,
    PyramidWriter,
    compress_batch,
    level_name,
    pictures_per_chunk,
)
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from tests.reference import theano_reader
from tests.reference.pyramid import level as reference_level

Pictures = NDArray[np.uint8]


def pictures(count: int, resolution: int, seed: int = 0) -> Pictures:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, resolution, resolution), dtype=np.uint8)


def sha256(picture: Pictures) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def write(path: Path, data: Pictures, gzip_level: int = 4) -> Path:
    """Write pictures with a few columns and attributes."""
    count, _, resolution, _ = data.shape
    hashes: list[str] = []
    with PyramidWriter(path, resolution, count, gzip_level) as writer:
        for start in range(0, count, BATCH):
            chunks, batch_hashes = compress_batch(list(data[start : start + BATCH]), resolution, gzip_level)
            writer.write_batch(start, chunks)
            hashes += batch_hashes
        columns = {
            "file": [f"{i:06d}.jpg" for i in range(count)],
            "score": np.linspace(0, 1, count),
            "split": ["train" if i % 2 else "" for i in range(count)],
            "sha256": hashes,
        }
        writer.finish(
            columns, {"recipe": {"resolution": resolution}, "names": ["é", "b"], "seed": 7, "made_by": "test"}
        )
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write(tmp_path / "sound.h5", pictures(5, 8))


def problems(path: Path) -> list[str]:
    with PyramidFile(path) as file:
        return list(file.problems())


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 70), st.sampled_from([4, 8, 16, 32, 64]), st.integers(1, 9))
def test_round_trip(tmp_path: Path, count: int, resolution: int, gzip_level: int) -> None:
    data = pictures(count, resolution, seed=count)
    path = write(tmp_path / "data.h5", data, gzip_level)
    pyramid = build_pyramid(data)
    with PyramidFile(path) as file:
        assert (file.count, file.resolution, file.resolutions) == (count, resolution, levels(resolution))
        for r, expected in zip(levels(resolution), pyramid, strict=True):
            np.testing.assert_array_equal(file.level(r)[:], expected)
        assert file.column("sha256") == [sha256(picture) for picture in data]
        assert list(file.problems()) == []
    for expected, found in zip(pyramid, theano_reader.read(path), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_levels_equal_the_slow_reference(tmp_path: Path) -> None:
    data = pictures(2, 16)
    with h5py.File(write(tmp_path / "data.h5", data)) as file:
        for r in (8, 4, 2, 1):
            for i in range(2):
                np.testing.assert_array_equal(file[f"data{r}x{r}"][i], reference_level(data[i], r))


def test_what_other_readers_rely_on(tmp_path: Path) -> None:
    """Dataset names, shapes, growth along N, type and compression are those of the Theano tool's files."""
    with h5py.File(write(tmp_path / "data.h5", pictures(3, 64))) as file:
        levels_found = [key for key in file if key.startswith("data")]
        assert sorted(levels_found) == sorted(f"data{r}x{r}" for r in (64, 32, 16, 8, 4, 2, 1))
        for r in (64, 32, 16, 8, 4, 2, 1):
            data = file[f"data{r}x{r}"]
            assert (data.shape, data.maxshape, data.dtype) == ((3, 3, r, r), (None, 3, r, r), np.uint8)
            assert (data.compression, data.compression_opts, data.chunks[1:]) == ("gzip", 4, (3, r, r))
        assert set(file) - set(levels_found) == {"photos"}


def test_columns_and_attributes(tmp_path: Path) -> None:
    with PyramidFile(write(tmp_path / "data.h5", pictures(4, 4))) as file:
        assert file.column("file") == ["000000.jpg", "000001.jpg", "000002.jpg", "000003.jpg"]
        assert file.column("split") == ["", "train", "", "train"]
        np.testing.assert_array_equal(file.column("score"), np.linspace(0, 1, 4))
        assert file.column("rank") is None
        attributes = dict(file.file.attrs)
    assert attributes["recipe"] == '{"resolution": 4}'
    assert (attributes["format_version"], attributes["seed"], attributes["made_by"]) == (1, 7, "test")


def test_no_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", pictures(0, 8))
    assert problems(path) == []
    assert [level.shape for level in theano_reader.read(path)] == [(0, 3, r, r) for r in (8, 4, 2, 1)]


@pytest.mark.parametrize("resolution", [2**k for k in range(12)])
def test_chunks_divide_a_batch(resolution: int) -> None:
    count = pictures_per_chunk(resolution)
    assert BATCH % count == 0
    assert count == 1 or count * 3 * resolution**2 <= 65536
    assert count == (1 if resolution >= 128 else min(32, 2 ** int(np.log2(65536 / 3 / resolution**2))))


def test_compressed_on_their_own_or_together_alike() -> None:
    data = pictures(7, 16)
    together, hashes = compress_batch(list(data), 16, 4)
    again, _ = compress_batch(iter(data), 16, 4)
    assert together == again
    assert hashes == [sha256(picture) for picture in data]
    turned = np.ascontiguousarray(data.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert compress_batch(list(turned), 16, 4) == (together, hashes)


def test_same_bytes_when_written_twice(tmp_path: Path) -> None:
    data = pictures(40, 16)
    first, second = write(tmp_path / "first.h5", data), write(tmp_path / "second.h5", data)
    assert first.read_bytes() == second.read_bytes()
    assert write(tmp_path / "third.h5", pictures(40, 16, seed=1)).read_bytes() != first.read_bytes()


# --- Files that are not finished --------------------------------------------------------------------------------


def test_nothing_bears_the_name_before_the_end(tmp_path: Path) -> None:
    path, data = tmp_path / "data.h5", pictures(2, 8)
    with PyramidWriter(path, 8, 2, 4) as writer:
        writer.write_batch(0, compress_batch(list(data), 8, 4)[0])
        assert [p.name for p in tmp_path.iterdir()] == ["data.h5.partial"]
        writer.finish({}, {})
        assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_remains_after_an_error(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with PyramidWriter(tmp_path / "data.h5", 8, 2, 4) as writer:
            writer.write_batch(0, compress_batch(list(pictures(2, 8)), 8, 4)[0])
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data.h5.partial").write_bytes(b"half a file")
    path = write(tmp_path / "data.h5", pictures(2, 8))
    assert problems(path) == []
    assert list(tmp_path.iterdir()) == [path]


def test_finished_file_is_replaced_only_at_the_end(sound: Path) -> None:
    before = sound.read_bytes()
    with pytest.raises(ValueError, match="stop"), PyramidWriter(sound, 8, 2, 4):
        raise ValueError("stop")
    assert sound.read_bytes() == before


# --- Files that are wrong ---------------------------------------------------------------------------------------


def alter(path: Path, change: Callable[[h5py.File], None]) -> list[str]:
    with h5py.File(path, "r+") as file:
        change(file)
    return problems(path)


def replace(file: h5py.File, name: str, data: Pictures) -> None:
    del file[name]
    file.create_dataset(name, data=data)


def test_sound_file_has_no_problems(sound: Path) -> None:
    assert problems(sound) == []


def test_flipped_pixel(sound: Path) -> None:
    def flip(file: h5py.File) -> None:
        file["data8x8"][3, 1, 2, 5] ^= 1

    assert "picture 3: its SHA-256 is not the one recorded" in alter(sound, flip)


def test_flipped_pixel_without_hashes(sound: Path) -> None:
    """The level below tells, if the change is large enough to be seen there."""

    def flip(file: h5py.File) -> None:
        del file["photos"]["sha256"]
        file["data8x8"][3, 1, 2, 5] ^= 128

    assert alter(sound, flip)[0] == "picture 3: level 4x4 is not the mean of the level above"


@pytest.mark.parametrize("side", [4, 2, 1])
def test_wrong_level(side: int, sound: Path) -> None:
    def change(file: h5py.File) -> None:
        file[level_name(side)][4, 2, 0, 0] += np.uint8(1)

    assert alter(sound, change) == [f"picture 4: level {side}x{side} is not the mean of the level above"]


@pytest.mark.parametrize("side", [4, 2, 1])
def test_missing_level(side: int, sound: Path) -> None:
    def remove(file: h5py.File) -> None:
        del file[level_name(side)]

    assert alter(sound, remove) == [f"level {side}x{side} is missing"]


def test_missing_top_level(sound: Path) -> None:
    """What is left looks like a file of half the resolution, but for the hashes."""

    def remove(file: h5py.File) -> None:
        del file["data8x8"]

    assert {f"picture {i}: its SHA-256 is not the one recorded" for i in range(5)} <= set(alter(sound, remove))


@pytest.mark.parametrize("count", [4, 6])
def test_levels_of_different_lengths(count: int, sound: Path) -> None:
    def resize(file: h5py.File) -> None:
        file["data2x2"].resize(count, axis=0)

    assert alter(sound, resize) == [f"level 2x2 has shape ({count}, 3, 2, 2), expected (5, 3, 2, 2)"]


@pytest.mark.parametrize("count", [4, 6])
def test_hashes_of_another_number(count: int, sound: Path) -> None:
    def change(file: h5py.File) -> None:
        hashes = [*file["photos/sha256"].asstr()[:], "0"][:count]
        del file["photos/sha256"]
        file["photos"].create_dataset("sha256", data=hashes, dtype=h5py.string_dtype())

    found = alter(sound, change)
    assert len(found) == 1
    assert f"{count}" in found[0]
    assert "sha256" in found[0].lower()


def test_other_type(sound: Path) -> None:
    found = alter(sound, lambda file: replace(file, "data2x2", file["data2x2"][:].astype(np.float32)))
    assert found == ["level 2x2 holds float32, expected uint8"]


def test_grey_file(tmp_path: Path) -> None:
    path = tmp_path / "grey.h5"
    with h5py.File(path, "w") as file:
        for r in (2, 1):
            file[level_name(r)] = np.zeros((3, 1, r, r), np.uint8)
    assert problems(path) == [f"level {r}x{r} has shape (3, 1, {r}, {r}), expected (3, 3, {r}, {r})" for r in (2, 1)]


def test_damaged_chunk(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", pictures(40, 64))
    with h5py.File(path) as file:
        place = file["data64x64"].id.get_chunk_info(7).byte_offset
    raw = bytearray(path.read_bytes())
    raw[place + 10 : place + 40] = bytes(30)
    path.write_bytes(raw)
    found = problems(path)
    assert len(found) == 1
    assert found[0].startswith("pictures 0 to 31 cannot be read: ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", pictures(40, 32))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(FormatError, match=r"data\.h5 is not a readable HDF5 file"):
        PyramidFile(path)


def test_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere\.h5 does not exist"):
        PyramidFile(tmp_path / "nowhere.h5")
    with pytest.raises(FormatError, match="does not exist"):
        PyramidFile(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(FormatError, match="not a readable HDF5 file"):
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
    ],
    ids=["other name", "nothing", "flat", "scalar", "group", "no power of two", "one level too many"],
)
def test_hdf5_file_of_another_kind(shapes: dict[str, tuple[int, ...] | None], tmp_path: Path) -> None:
    """It is refused as such, or its problems are told; it is no reason for a traceback."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            if shape is None:
                file.create_group(name)
            else:
                file[name] = np.zeros(shape, np.uint8)
    try:
        found = problems(path)
    except FormatError as error:
        assert "other.h5" in str(error)  # noqa: PT017 (either is right)
        return
    assert found
