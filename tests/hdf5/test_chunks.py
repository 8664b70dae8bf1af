"""Images read by chunk offset: the same as h5py reads, in every layout, process and thread."""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.chunks import LevelReader, UnreadableImagesError
from celebahq_builder.hdf5.codecs import codec
from tests.hdf5.files import Images, damage, noise, ours, trust_if_sound
from tests.hdf5.pyramids import theano_file

LAYOUTS: dict[str, Callable[[Path, Images], Path]] = {"ours": ours, "theano": theano_file}


@pytest.fixture(params=LAYOUTS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return LAYOUTS[request.param](tmp_path / "data.h5", noise(37, 64))


@pytest.mark.parametrize("resolution", [64, 32, 16, 8, 4, 2, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_level_equals_h5py(file: Path, resolution: int, threads: int) -> None:
    level = LevelReader(file, resolution, threads)
    with h5py.File(file) as plain:
        expected = plain[f"data{resolution}x{resolution}"][:]
    assert (len(level), level.shape, level.nbytes) == (37, expected.shape, expected.nbytes)
    np.testing.assert_array_equal(level.read(range(37)), expected)
    random = np.random.default_rng(1).integers(0, 37, 100)  # with repeats, out of order
    np.testing.assert_array_equal(level.read(random), expected[random])
    assert level.read([]).shape == (0, 3, resolution, resolution)


def test_real_faces_equal_h5py(shared: Path, tmp_path: Path) -> None:
    """Chunks of natural images use other parts of the decoder than those of noise."""
    from PIL import Image

    names = sorted((shared / "data" / "faces" / "img_celeba").glob("*.jpg"))[:6]
    faces = np.stack([np.asarray(Image.open(name).resize((256, 256))).transpose(2, 0, 1) for name in names])
    path = ours(tmp_path / "faces.h5", np.ascontiguousarray(faces))
    with h5py.File(path) as plain:
        for r in (256, 128, 32):
            np.testing.assert_array_equal(LevelReader(path, r).read(range(6)), plain[f"data{r}x{r}"][:])


def test_largest_level_by_default(file: Path) -> None:
    assert LevelReader(file).resolution == 64


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the shapes of a dataset and of its chunks, which need not divide it."""
    count, channels, side = draw(st.integers(1, 9)), draw(st.integers(1, 3)), 2 ** draw(st.integers(0, 4))
    shape = (count, channels, side, side)
    return shape, tuple(draw(st.integers(1, length)) for length in shape)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layouts(), st.booleans(), st.data())
def test_any_chunks(tmp_path_factory: pytest.TempPathFactory, layout, packed: bool, data: st.DataObject) -> None:
    """Without a chunk shape, h5py chooses one: parts of images, with chunks that extend beyond the last image."""
    shape, chunks = layout
    path = tmp_path_factory.mktemp("any") / "data.h5"
    expected = np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)
    with h5py.File(path, "w") as file:
        name = f"data{shape[-1]}x{shape[-1]}"
        file.create_dataset(name, data=expected, chunks=chunks, compression="gzip" if packed else None)
    trust_if_sound(path)
    numbers = data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=12))
    np.testing.assert_array_equal(LevelReader(path).read(numbers), expected[numbers])


@pytest.mark.parametrize("name", ["none", "gzip", "blosc2"])
def test_every_codec(tmp_path: Path, name: str) -> None:
    data = noise(9, 16)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("data16x16", data=data, chunks=(2, 3, 16, 16), **codec(name).keywords)
    trust_if_sound(tmp_path / "data.h5")
    level = LevelReader(tmp_path / "data.h5", threads=2)
    np.testing.assert_array_equal(level.read([8, 1, 0, 5]), data[[8, 1, 0, 5]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(level)).read([3]), data[[3]])


def test_contiguous(tmp_path: Path) -> None:
    data = noise(5, 8)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data8x8"] = data
    trust_if_sound(tmp_path / "data.h5")
    np.testing.assert_array_equal(LevelReader(tmp_path / "data.h5").read([4, 0, 2]), data[[4, 0, 2]])


def test_user_block(tmp_path: Path) -> None:
    """Offsets are relative to the start of the file, not to the end of the user block."""
    data = noise(5, 8)
    with h5py.File(tmp_path / "data.h5", "w", userblock_size=1024) as file:
        file.create_dataset("data8x8", data=data, chunks=(2, 3, 8, 8), compression="gzip")
    np.testing.assert_array_equal(LevelReader(tmp_path / "data.h5").read(range(5)), data)


def test_chunk_without_filter(tmp_path: Path) -> None:
    data = noise(3, 8)
    path = theano_file(tmp_path / "data.h5", data)
    with h5py.File(path, "r+") as file:
        file["data8x8"].id.write_direct_chunk((1, 0, 0, 0), data[2].tobytes(), filter_mask=1)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["data8x8"][1], data[2])
    np.testing.assert_array_equal(LevelReader(path).read([0, 1, 2]), data[[0, 2, 2]])


def test_chunk_is_read_once_for_all_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = LevelReader(theano_file(tmp_path / "data.h5", noise(70, 16)), 4, threads=1)
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: reads.append(args) or pread(*args))
    level.read([40, 2, 69, 42, 2, 0])
    assert len(reads) == 3  # of the 18 chunks, each of 4 images


def test_indexed_like_an_array(file: Path) -> None:
    level = LevelReader(file, 16)
    with h5py.File(file) as plain:
        expected = plain["data16x16"][:]
    for index in (
        0,
        -1,
        np.int64(5),
        slice(8),
        slice(None, None, -3),
        slice(50, 60),
        [3, -2],
        [],
        expected[:, 0, 0, 0] > 99,
    ):
        found = level[index]
        assert (found.shape, found.dtype) == (expected[index].shape, np.uint8)
        np.testing.assert_array_equal(found, expected[index])
    np.testing.assert_array_equal(np.stack(list(level)), expected)
    for index in (37, -38, [0, 37]):
        with pytest.raises(IndexError):
            level[index]


def test_index_out_of_range(file: Path) -> None:
    for number in (-1, 37):
        with pytest.raises(IndexError, match="has images 0 to 36"):
            LevelReader(file).read([0, number])


# --- Processes and threads --------------------------------------------------------------------------------------


def test_pickle_holds_no_images(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = LevelReader(file, 32)
    expected = level.read(range(37))  # opens the file, and starts threads
    data = pickle.dumps(level)
    assert len(data) < 10_000
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(data).read(range(37)), expected)


def test_pickle_of_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    level = LevelReader(Path(file.name))
    data = pickle.dumps(level)
    monkeypatch.chdir("/")
    assert pickle.loads(data).read([3]).shape == (1, 3, 64, 64)


def _sum(level: LevelReader, queue) -> None:
    queue.put(int(level.read(range(37)).astype(np.int64).sum()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on
@pytest.mark.parametrize("opened", [False, True], ids=["before first read", "after"])
def test_fork(file: Path, opened: bool) -> None:
    """Threads do not survive a fork; a child that waited for them would wait forever."""
    level = LevelReader(file, 64, threads=2)
    if opened:
        level.read(range(37))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_sum, args=(level, queue)) for _ in range(2)]
    for child in children:
        child.start()
    mine = int(level.read(range(37)).astype(np.int64).sum())
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert [queue.get(), queue.get()] == [mine, mine]


def test_reader_shared_by_threads(file: Path) -> None:
    level = LevelReader(file, 64, threads=2)
    expected = level.read(range(37))
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: level.read(range(37)), range(24)):
            np.testing.assert_array_equal(found, expected)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_file_is_closed_with_the_reader(file: Path) -> None:
    before = descriptors()
    level = LevelReader(file, 64)
    level.read(range(37))
    assert descriptors() == before + 1
    del level
    assert descriptors() == before


# --- Files that are wrong ---------------------------------------------------------------------------------------


def error_line(path: Path, resolution: int | None = None, numbers=range(37)) -> str:
    """Return the error of reading, which must be one line that names the file."""
    with pytest.raises(FormatError) as error:
        LevelReader(path, resolution).read(numbers)
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def change_file(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_missing_resolution(file: Path) -> None:
    assert error_line(file, 128).endswith("has no level 128x128; it has those of 64, 32, 16, 8, 4, 2, 1 px")
    assert "no level 0x0" in error_line(file, 0)
    change_file(file, lambda f: f.pop("data16x16"))
    assert error_line(file, 16).endswith("it has those of 64, 32, 8, 4, 2, 1 px")


def test_no_file(tmp_path: Path) -> None:
    assert error_line(tmp_path / "nowhere.h5").endswith("does not exist; check the path")
    assert error_line(tmp_path).endswith("is a folder; expected an HDF5 file")


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_truncated(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert ("is not a readable HDF5 file" if share else "is not an HDF5 file: it is empty") in error_line(file)


def test_level_of_a_writer_that_was_killed(file: Path) -> None:
    """The Theano tool leaves its small levels empty."""
    change_file(file, lambda f: f["data4x4"].resize(0, axis=0))
    assert "data4x4 has 0 images, data64x64 has 37; the file is damaged, or its writer was killed" in error_line(
        file, 4
    )


def test_no_images(tmp_path: Path) -> None:
    assert error_line(theano_file(tmp_path / "data.h5", noise(0, 8))).endswith("data8x8 has no images")


def test_chunks_that_were_never_written(file: Path) -> None:
    def grow(f: h5py.File) -> None:
        for name in ("data64x64", "data8x8"):
            f[name].resize(80, axis=0)

    change_file(file, grow)
    assert "data64x64 lacks " in error_line(file)
    assert "data8x8 lacks " in error_line(file, 8)


@pytest.mark.parametrize("keywords", [{"compression": "lzf"}, {"compression": "gzip", "shuffle": True}])
def test_other_filters_are_read_by_hdf5(tmp_path: Path, keywords: dict[str, object]) -> None:
    data = noise(4, 8)
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f.create_dataset("data8x8", data=data, chunks=(3, 3, 8, 8), **keywords)
    trust_if_sound(tmp_path / "data.h5")
    read_by_hdf5(tmp_path / "data.h5", data)


def read_by_hdf5(path: Path, data: Images) -> None:
    level = LevelReader(path)
    np.testing.assert_array_equal(level.read([3, 0, 3, 1]), data[[3, 0, 3, 1]])
    assert level.read([]).shape == (0, 3, 8, 8)
    again = pickle.loads(pickle.dumps(level))
    np.testing.assert_array_equal(again.read([2]), data[[2]])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: level.read(range(4)), range(8)):
            np.testing.assert_array_equal(found, data)


def test_damage_found_by_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as f:
        f.create_dataset("data8x8", data=noise(4, 8), chunks=(1, 3, 8, 8), compression="gzip", fletcher32=True)
    damage(path, 8, 2)
    assert "image 2 of data8x8 cannot be read: " in error_line(path, numbers=range(4))


def test_unknown_filter(tmp_path: Path) -> None:
    """h5py cannot write such a file, so the filter's number is changed in the file."""
    path = theano_file(tmp_path / "data.h5", noise(4, 8))
    raw = path.read_bytes()
    message = bytes([1, 1]) + bytes(6) + (1).to_bytes(2, "little")  # filter pipeline, version 1, one filter: deflate
    assert raw.count(message) == 4
    path.write_bytes(raw.replace(message, message[:8] + (39999).to_bytes(2, "little")))
    with h5py.File(path) as file, pytest.raises(OSError):  # noqa: PT011 (the text is that of HDF5)
        file["data8x8"][:]
    assert "neither HDF5 nor hdf5plugin has that filter" in error_line(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), r"holds float32 \[2, 3, 8, 8\], expected uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"holds uint8 \[2, 8, 8, 3\], expected uint8 \[N, C, 8, 8\]"),
        (np.zeros((2, 192), np.uint8), r"holds uint8 \[2, 192\], expected uint8"),
        (np.uint8(1), r"holds uint8 \[\], expected uint8"),
        (h5py.Empty(np.uint8), "data8x8 has no shape, expected an array"),
    ],
    ids=["type", "channels last", "flat", "scalar", "empty"],
)
def test_datasets_of_another_kind(tmp_path: Path, data: np.ndarray, says: str) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["data8x8"] = data
    with pytest.raises(FormatError, match=says):
        LevelReader(tmp_path / "data.h5")


def test_hdf5_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    for name, says in (("images", "has no datasets data1024x1024, ...; it has images"), ("data8x8", "holds no array")):
        with h5py.File(path, "w") as f:
            f.create_group(name)
        assert says in error_line(path)


def test_other_datasets_are_ignored(tmp_path: Path) -> None:
    """Files of other programs often end at 4x4, and hold further datasets."""
    data = noise(5, 8)
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["data8x8"], f["data4x4"], f["database"], f["data_of_mine"] = data, data[:, :, ::2, ::2], 1, [1, 2]
    np.testing.assert_array_equal(LevelReader(tmp_path / "data.h5").read(range(5)), data)
    np.testing.assert_array_equal(LevelReader(tmp_path / "data.h5", 4).read(range(5)), data[:, :, ::2, ::2])


def test_damaged_chunk(file: Path) -> None:
    damage(file, 64, 7)
    damage(file, 2, 0)
    with h5py.File(file) as plain:
        last = min(plain["data2x2"].chunks[0], 37) - 1
    assert "image 7 of data64x64 cannot be read: " in error_line(file)
    assert f"images 0 to {last} of data2x2 cannot be read: " in error_line(file, 2)
    LevelReader(file).read([0])  # the other images can be read


def test_errors_pass_between_processes(file: Path) -> None:
    damage(file, 64, 0)
    with pytest.raises(UnreadableImagesError) as caught:
        LevelReader(file).read([0])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problem, again.last) == (str(caught.value), caught.value.problem, caught.value.last)


# --- Files that change while in use -----------------------------------------------------------------------------


def test_file_replaced_while_open(file: Path) -> None:
    """A reader that has opened the file still reads the old one; others refuse the new one."""
    level, late = LevelReader(file), LevelReader(file)
    expected = level.read([5])
    shutil.copy(file, file.with_name("new"))
    file.with_name("new").replace(file)
    np.testing.assert_array_equal(level.read([5]), expected)
    for other in (late, pickle.loads(pickle.dumps(level))):
        with pytest.raises(FormatError, match=r"data\.h5 was replaced or changed while it was in use"):
            other.read([5])


def test_file_changed_while_open(file: Path) -> None:
    level = LevelReader(file)
    level.read([5])
    change_file(file, lambda f: f["data64x64"].write_direct(np.zeros((37, 3, 64, 64), np.uint8)))
    with pytest.raises(FormatError, match="was replaced or changed"):
        level.read([5])


def test_file_cut_short_while_open(file: Path) -> None:
    level = LevelReader(file)
    level.read([5])
    os.truncate(file, 5000)
    with pytest.raises(FormatError, match="was replaced or changed"):
        level.read([5])


def test_file_deleted_while_open(file: Path) -> None:
    level, late = LevelReader(file), LevelReader(file)
    expected = level.read([5])
    file.unlink()
    np.testing.assert_array_equal(level.read([5]), expected)
    with pytest.raises(FormatError, match="cannot be opened any more: No such file"):
        late.read([5])
