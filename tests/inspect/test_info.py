"""The lines of `inspect` agree with the contents of the file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.inspect.info import BAR_WIDTH, BINS_MAX, histogram_lines, inspect_hdf5
from celebahq_builder.progress import size
from tests.hdf5.files import noise, store
from tests.hdf5.test_create import Arrays


def _stored_bytes(path: Path) -> int:
    with h5py.File(path) as file:
        return sum(file[name].id.get_storage_size() for name in file if name.startswith("data"))


def test_lines(tmp_path: Path) -> None:
    files, splits = [f"{i:06d}.jpg" for i in range(5)], ["train", "", "train", "", ""]
    path = store(tmp_path / "data.h5", noise(5, 4), file=files, score=np.linspace(0, 1, 5), split=splits)
    with h5py.File(path, "r+") as file:
        file.attrs.update({"recipe": '{"resolution": 4}', "seed": 7, "sides": [4, 2]})
    first, *lines = inspect_hdf5(path)
    assert first == f"{path}: 5 images, 4x4 RGB, {size(path.stat().st_size)}"
    for line, r in zip(lines, (4, 2, 1), strict=False):
        assert line.split()[0] == f"data{r}x{r}"
        assert f"uint8 [5, 3, {r}, {r}], chunks [1, 3, {r}, {r}], gzip 4, " in line
    raw, stored = 5 * 3 * (16 + 4 + 1), _stored_bytes(path)
    assert lines[3] == f"all levels: {size(stored)} stored, {size(raw)} raw, {stored / raw:.0%}"
    assert lines[4:7] == [
        "sources: 000000.jpg ... 000004.jpg",
        "scores: 0.0000 to 1.0000, median 0.5000",
        "  best image 4 (000004.jpg), worst image 0 (000000.jpg)",
    ]
    assert lines[-5:] == [
        "splits: none 3, train 2",
        "columns: file, score, split",
        'recipe: {"resolution": 4}',
        "seed: 7",
        "sides: [4, 2]",
    ]


def test_share_of_raw_size(tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", np.zeros((3, 3, 64, 64), np.uint8))
    line = next(line for line in inspect_hdf5(path) if "data64x64" in line)
    with h5py.File(path) as file:
        stored = file["data64x64"].id.get_storage_size()
    assert line.endswith(f"{size(stored)}, {stored / (3 * 3 * 64 * 64):.0%} of raw")


def test_attribute_names(tmp_path: Path) -> None:
    columns = {"attribute_names": ["Bald", "Young"], "attributes": np.array([[1, -1]], np.int8)}
    lines = list(inspect_hdf5(store(tmp_path / "data.h5", noise(1, 4), **columns)))
    assert "attributes: Bald, Young" in lines
    assert "columns: attributes" in lines


def test_label_names(tmp_path: Path) -> None:
    lines = list(
        inspect_hdf5(store(tmp_path / "data.h5", noise(3, 2), file=["a", "b", "c"], label_names=["cat", "dog"]))
    )
    assert lines[-2:] == ["label names: cat, dog", "columns: file"]


def test_file_of_the_progan_authors_tool(tmp_path: Path) -> None:
    """It has only levels."""
    path = tmp_path / "celeba-hq-4x4.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            file.create_dataset(f"data{r}x{r}", data=np.zeros((2, 3, r, r), np.uint8), compression="gzip")
    lines = list(inspect_hdf5(path))
    assert lines[0].startswith(f"{path}: 2 images")
    assert len(lines) == 5


def test_no_images(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            file.create_dataset(f"data{r}x{r}", (0, 3, r, r), np.uint8, maxshape=(None, 3, r, r))
        file["photos/score"] = np.zeros(0)
    first, *lines = inspect_hdf5(path)
    assert first.startswith(f"{path}: 0 images, 4x4 RGB, ")
    assert len(lines) == 5


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        list(inspect_hdf5(tmp_path / "nowhere.h5"))


# --- Histogram ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=60))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    """Each line counts the values between its limits; every value is counted once."""
    lines = list(histogram_lines(np.array(values)))
    assert len(lines) <= BINS_MAX + 1
    total, previous, longest = 0, None, 0
    for line in lines:
        low, _, high, count, *bar = line.split()
        inside = sum(float(low) - 1e-6 <= value <= float(high) + 1e-6 for value in values)
        surely = sum(float(low) + 1e-6 < value < float(high) - 1e-6 for value in values)
        assert surely <= int(count) <= inside
        assert previous in (None, low)
        assert bool(bar) == bool(int(count))
        longest = max(longest, len("".join(bar)))
        total, previous = total + int(count), high
    assert total == len(values)
    assert longest == BAR_WIDTH


def test_histogram_limits() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.7, 0.7])  # 0.3 / 0.1 is 2.9999999999999996
    lines = [line.split()[:4] for line in histogram_lines(np.concatenate([values, [2.0]]))]
    assert lines[:3] == [["0.1", "to", "0.2", "1"], ["0.2", "to", "0.3", "1"], ["0.3", "to", "0.4", "1"]]
    assert lines[6] == ["0.7", "to", "0.8", "2"]
    assert lines[-1] == ["2.0", "to", "2.1", "1"]


def test_histogram_of_scores(tmp_path: Path) -> None:
    scores = np.array([0.2, 0.21, 0.5, np.nan])
    path = store(tmp_path / "data.h5", noise(4, 2), score=scores, id=["a", "b", "c", "d"])
    lines = list(inspect_hdf5(path))
    at = lines.index("scores: 0.2000 to 0.5000, median 0.2100, 1 without")
    assert lines[at + 1] == "  best image 2 (c), worst image 0 (a)"
    assert lines[at + 2 : -1] == list(histogram_lines(scores[:3]))


# --- Unusual files -----------------------------------------------------------------------------------------------


def test_grey(tmp_path: Path) -> None:
    path = store(tmp_path / "mnist.h5", noise(3, 4, channels=1))
    lines = list(inspect_hdf5(path))
    assert lines[0].startswith(f"{path}: 3 images, 4x4 grey, ")
    assert "uint8 [3, 1, 4, 4]" in lines[1]


def test_filters(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r, options in (
            (8, {"compression": "gzip", "compression_opts": 9, "shuffle": True}),
            (4, {}),
            (2, {}),
            (1, {}),
        ):
            file.create_dataset(f"data{r}x{r}", data=noise(2, r), chunks=(1, 3, r, r) if r > 2 else None, **options)
    lines = list(inspect_hdf5(path))
    for line, kind in zip(
        lines[1:], ("shuffle + gzip 9", "uncompressed", "uncompressed", "uncompressed"), strict=False
    ):
        assert f", {kind}, " in line


@pytest.mark.parametrize(("level", "shown"), [(0, "gzip"), (4, "gzip"), (9, "gzip 9")])
def test_gzip_of_this_package(level: int, shown: str, tmp_path: Path) -> None:
    """The file has level 4 if libdeflate compressed it, because the levels of libdeflate are different."""
    path = tmp_path / "data.h5"
    write_images(Arrays(noise(3, 4)), path, codec=codec("gzip", level))
    with h5py.File(path) as file:
        assert file["data4x4"].compression_opts == (level or 4)
    levels = list(inspect_hdf5(path))[1:4]
    assert len(levels) == 3
    assert all(f"], {shown}, " in line for line in levels)


def test_plugin_filter_is_named(tmp_path: Path) -> None:
    """`h5py.Dataset.compression` knows only the filters of HDF5 itself and would be None."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            file.create_dataset(f"data{r}x{r}", data=noise(2, r), chunks=(1, 3, r, r), **hdf5plugin.Blosc2())
    levels = list(inspect_hdf5(path))[1:4]
    assert len(levels) == 3
    assert all(", Blosc2, " in line for line in levels)


def test_levels_with_missing_chunks(tmp_path: Path) -> None:
    """Chunks that a killed writer did not write read as black images."""
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            level = file.create_dataset(f"data{r}x{r}", (5, 3, r, r), np.uint8, chunks=(2, 3, r, r), compression="gzip")
            level[: 5 if r == 4 else 1] = 1
    lines = list(inspect_hdf5(path))
    gap = "  incomplete: 1 of 3 chunks were written; images of the others read as black"
    assert [i for i, line in enumerate(lines) if line == gap] == [3, 5]


def test_labels_beside_the_file(tmp_path: Path) -> None:
    path = store(tmp_path / "cifar10.h5", noise(3, 2))
    beside = tmp_path / "cifar10-labels.npy"
    np.save(beside, np.zeros((3, 10), np.float32))
    assert "labels: cifar10-labels.npy, float32 [3, 10]" in list(inspect_hdf5(path))
    beside.write_text("no array")
    assert "labels: cifar10-labels.npy is not a NumPy file" in list(inspect_hdf5(path))


def test_repeated_sources_and_names_with_line_breaks(tmp_path: Path) -> None:
    path = store(tmp_path / "\x1b[31mdata.h5", noise(3, 2), file=["a\n.jpg", "a\n.jpg", "b\u202e.jpg"])
    lines = list(inspect_hdf5(path))
    assert "sources: a\\n.jpg ... b\\u202e.jpg, 2 different ones" in lines
    assert "".join(lines).isprintable()


def test_columns_of_unexpected_types(tmp_path: Path) -> None:
    """Columns of numbers or text of an unexpected type are shown; anything else is refused."""
    path = store(tmp_path / "data.h5", noise(2, 2), score=["high", "low"], id=[1, 2], file=[3.5, 4.5], split=[0, 1])
    lines = list(inspect_hdf5(path))
    assert "sources: 3.5 ... 4.5" in lines
    assert not any(line.startswith("scores") for line in lines)
    compound = np.zeros(2, [("a", "f4")])
    odd = store(tmp_path / "odd.h5", noise(2, 2), score=compound, file=compound, split=np.zeros((2, 3)))
    with pytest.raises(FormatError, match="photos/(file|score|split) holds"):
        list(inspect_hdf5(odd))
    with h5py.File(tmp_path / "scalar.h5", "w") as file:
        file.update({f"data{r}x{r}": noise(2, r) for r in (2, 1)} | {"photos/attribute_names": 1})
        file["photos/score"] = h5py.Empty("f4")
        file["photos/file"] = h5py.SoftLink("/nowhere")
    with pytest.raises(FormatError, match="photos/attribute_names is a single value"):
        list(inspect_hdf5(tmp_path / "scalar.h5"))
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.update({f"data{r}x{r}": noise(2, r) for r in (2, 1)})
        file.create_dataset("photos/score", (2, 10**10), "f8", chunks=(1, 10**6))  # 160 GB, none of which is stored
    with pytest.raises(FormatError, match="photos/score"):
        list(inspect_hdf5(tmp_path / "wide.h5"))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file.update({"photos": [1, 2]} | {f"data{r}x{r}": noise(2, r) for r in (2, 1)})
    with pytest.raises(FormatError, match="photos is not a group; expected one of columns"):
        list(inspect_hdf5(tmp_path / "flat.h5"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_truncated(share: float, tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", noise(20, 16), score=np.zeros(20))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(FormatError, match="not (a readable|an) HDF5 file"):
        list(inspect_hdf5(path))


def test_no_levels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = noise(1, 2)
    with pytest.raises(FormatError, match="has no datasets data1024x1024, ...; it has images"):
        list(inspect_hdf5(tmp_path / "other.h5"))
