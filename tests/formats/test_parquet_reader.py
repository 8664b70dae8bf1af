"""Reading of Parquet: tables of Hugging Face datasets, types of columns, damage, memory."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import recognize
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.formats.parquet import read
from celebahq_builder.formats.parquet_rows import BATCH_IMAGES
from tests.formats.files import coded, cut, pixels, refused, run
from tests.hdf5.pyramids import Images, noise

ROOT = Path(__file__).parents[2]

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def images(several: Images, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": coded(one), "path": f"{number:04d}.png"} for number, one in enumerate(several, first)]


def table(path: Path, several: Images, columns: dict[str, Any] | None = None, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images(several), IMAGE), **(columns or {})}), path, **how)
    return path


# --- Tables of other programs


def test_of_datasets(tmp_path: Path) -> None:
    import datasets  # takes seconds

    """The last of the named classes has no image."""
    datasets.disable_progress_bars()
    data = noise(5, 16)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "bird", "fish"]),
            "caption": datasets.Value("string"),
            "age": datasets.Value("int16"),
            "box": datasets.Sequence(datasets.Value("float32"), length=4),
        }
    )
    boxes = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    rows = {
        "image": [Image.fromarray(one.transpose(1, 2, 0)) for one in data],
        "label": [1, 0, 2, 1, 0],
        "caption": ["a", "é", None, "", "e"],
        "age": [3, 1, 4, 1, 5],
        "box": boxes.tolist(),
    }
    (tmp_path / "in").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "in" / "0000.parquet"))
    assert recognize(tmp_path / "in") == recognize(tmp_path / "in" / "0000.parquet") == "parquet"
    import_images(tmp_path / "in", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data)
    labels = np.load(tmp_path / "out-labels.npy")
    np.testing.assert_array_equal(labels, np.eye(4)[[1, 0, 2, 1, 0]])
    assert labels.dtype == np.float32
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["photos/label_names"].asstr()[:].tolist() == ["cat", "dog", "bird", "fish"]
        assert file["photos/caption"].asstr()[:].tolist() == ["a", "é", "", "", "e"]
        assert (file["photos/age"].dtype, file["photos/age"][:].tolist()) == (np.int16, [3, 1, 4, 1, 5])
        assert file["photos/box"].dtype == np.float32
        np.testing.assert_array_equal(file["photos/box"][:], boxes)


@pytest.mark.parametrize(
    "how",
    [{}, {"row_group_size": 1}, {"row_group_size": 7}, {"compression": "zstd", "use_dictionary": True}],
    ids=["one group", "a row each", "groups of 7", "compressed"],
)
def test_rows_in_any_groups(how: dict[str, Any], tmp_path: Path) -> None:
    data = noise(2 * BATCH_IMAGES + 3, 8)
    for shard in (0, 1):
        table(tmp_path / "in" / f"train-{shard:05d}-of-00002.parquet", data[shard * 20 :][:20], **how)
    found = read(tmp_path / "in")
    assert (found.count, found.resolution, found.channels) == (len(data), 8, 3)
    np.testing.assert_array_equal([one.pixels for one in found.images()], data)


def test_types_of_columns(tmp_path: Path) -> None:
    """Numbers keep their types; missing values are NaN or empty, and other values become text."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "half": rng.random(5).astype(np.float16),
        "single": rng.random(5).astype(np.float32),
        "byte": np.arange(5, dtype=np.uint8),
        "long": np.array([0, 1, -1, 2**63 - 1, -(2**63)], np.int64),
        "unsigned": np.array([0, 1, 2, 3, 2**64 - 1], np.uint64),
        "yes": np.array([True, False, True, True, False]),
        "matrix": rng.random((5, 3, 2)),
        "longs": np.array([[2**62 + 1, 2]] * 5),
    }
    columns: dict[str, Any] = {
        name: pa.array(array.tolist() if array.ndim > 1 else array) for name, array in arrays.items()
    }
    columns |= {
        "some": pa.array([1.5, None, 2.5, float("nan"), 3], pa.float32()),
        "few": pa.array([1, None, 3, None, 5], pa.int32()),
        "tags": pa.array([{"a": 1}, {"a": 2}, None, {"a": None}, {"a": 5}]),
        "day": pa.array([0, 1, 2, 3, 4], pa.date32()),
    }
    import_images(table(tmp_path / "in.parquet", noise(5, 4), columns), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        for name, array in arrays.items():
            found = file[f"photos/{name}"][:]
            assert found.dtype == array.dtype, name
            np.testing.assert_array_equal(found, array)
        assert repr(file["photos/some"][:].tolist()) == "[1.5, nan, 2.5, nan, 3.0]"
        assert repr(file["photos/few"][:].tolist()) == "[1.0, nan, 3.0, nan, 5.0]"
        assert file["photos/tags"].asstr()[:].tolist() == ['{"a": 1}', '{"a": 2}', "", '{"a": null}', '{"a": 5}']
        assert file["photos/day"].asstr()[1] == '"1970-01-02"'


@pytest.mark.parametrize(
    "paths", [["a.png", "a.png"], ["a.png", None], [None, None], ["", "b"], [["a"], ["b"]], [1, 2]]
)
def test_paths_that_are_not_unique_names(paths: list[Any], tmp_path: Path) -> None:
    rows = [{**row, "path": path} for row, path in zip(images(noise(2, 4)), paths, strict=True)]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "in.parquet")
    assert [one.name for one in read(tmp_path / "in.parquet").images()] == ["00000000", "00000001"]


def test_image_column_of_another_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its name has no effect if it is the only one; other columns of bytes are named in the log."""
    caplog.set_level(logging.INFO)
    columns = {
        "face": pa.array([{"bytes": one["bytes"]} for one in images(noise(2, 4))]),
        "embedding": pa.array([b"\0\1", b"\2\3"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    np.testing.assert_array_equal([one.pixels for one in read(tmp_path / "in.parquet").images()], noise(2, 4))
    assert "ignored columns of bytes: embedding" in caplog.text


def test_table_beside_images(tmp_path: Path) -> None:
    table(tmp_path / "in" / "metadata.parquet", noise(1, 4))
    (tmp_path / "in" / "a.png").write_bytes(coded(noise(1, 4)[0]))
    assert recognize(tmp_path / "in") == "images"


# --- Faults


def written(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def bad_image(data: bytes | None) -> pa.Array:
    return pa.array([{"bytes": coded(noise(1, 4)[0]), "path": "a"}, {"bytes": data, "path": "b"}], IMAGE)


@pytest.mark.parametrize(
    ("columns", "expected_text"),
    [
        (
            {"a": [1], "text": ["b"]},
            "has the columns a (int64), text (string); expected one image column, image: struct",
        ),
        ({"a": bad_image(b""), "b": bad_image(b"")}, "has several image columns, a, b; expected one"),
        ({"image": bad_image(None)}, "in.parquet: row 1 has no bytes in its column image; embed the images"),
        ({"image": pa.array([None], IMAGE)}, "in.parquet: row 0 has no bytes in its column image"),
        ({"image": pa.array([], IMAGE)}, "in.parquet has no rows"),
        ({"image": bad_image(b"no image")}, "in.parquet: row 1 is not an image that can be read"),
        ({"image": bad_image(coded(noise(1, 8)[0]))}, "in.parquet: row 1 is 8 x 8 px"),
        ({"image": bad_image(coded(noise(1, 4)[0]) + bytes(2**21))}, "in.parquet: row 1 has 2097"),
        ({"image": bad_image(coded(noise(1, 4)[0])[:60])}, "in.parquet: row 1 "),
        ({"image": bad_image(coded(noise(1, 4)[0])), "a/b": [1, 2]}, "'a/b' cannot be the name of a column"),
        (
            {"image": bad_image(coded(noise(1, 4)[0])), "box": [[1], [2, 3]]},
            "the values of 'box' are not numbers of one",
        ),
        ({"image": bad_image(coded(noise(1, 4)[0])), "label": [0, -1]}, "the labels are neither one class number"),
        ({"image": bad_image(coded(noise(1, 4)[0])), "label": ["a", None]}, "neither one class number (0, 1, ...)"),
        ({"image": bad_image(coded(noise(1, 4)[0])), "note": ["a", "b" * 70_000]}, "a text of 70000 bytes, expected"),
        ({"image": bad_image(coded(noise(1, 4)[0])), "label": [0, None]}, "the labels are neither one class number"),
        (
            {"image": bad_image(coded(noise(1, 4)[0])), "file": ["a", "b"], "sha256": ["0", "0"]},
            "is not that of its metadata",
        ),
    ],
)
def test_bad_tables(columns: dict[str, Any], expected_text: str, tmp_path: Path) -> None:
    assert expected_text in refused(written(tmp_path / "in.parquet", columns))


def test_long_text_in_a_dictionary(tmp_path: Path) -> None:
    """Few kilobytes hold the same long text many times."""
    image = pa.array([{"bytes": coded(noise(1, 4)[0]), "path": None}] * 300, IMAGE)
    notes = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), ["a" * 2**20])
    path = written(tmp_path / "in.parquet", {"image": image, "note": notes})
    assert path.stat().st_size < 2**17
    assert "the column note has in row 0 or one of the next a text of 1048576 bytes" in refused(path)


def test_more_images_than_bytes(tmp_path: Path) -> None:
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array([b""]))
    image = pa.StructArray.from_arrays([rows.dictionary_decode(), pa.nulls(200_000, pa.string())], ["bytes", "path"])
    path = written(tmp_path / "in.parquet", {"image": image})
    assert "in.parquet announces 200000 images in " in refused(path)


def test_words_and_booleans_as_labels(tmp_path: Path) -> None:
    data = noise(3, 4)
    found = read(table(tmp_path / "a.parquet", data, {"label": ["male", "female", "male"]}))
    assert found.label_names == ("female", "male")
    np.testing.assert_array_equal(found.labels, [[0, 1], [1, 0], [0, 1]])
    columns = {"Smiling": [True, False, True], "age": [1, 2, 3], "Bald": [False, False, True]}
    found = read(table(tmp_path / "b.parquet", data, columns))
    assert found.label_names == ("Smiling", "Bald")
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 0], [1, 1]])
    assert found.metadata.columns["Smiling"].dtype == bool


def test_hash_of_another_program(tmp_path: Path) -> None:
    found = read(table(tmp_path / "a.parquet", noise(2, 4), {"sha256": ["a", "b"], "n": [1, 2]}))
    assert found.metadata.columns["file_sha256"] == ["a", "b"]
    assert "sha256" not in found.metadata.columns


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_short(share: float, tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", noise(9, 16))
    cut(path, share)
    assert "is not readable Parquet, or damaged" in refused(path)


@pytest.mark.parametrize("step", [111, pytest.param(37, marks=pytest.mark.slow)])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_damaged_anywhere(compression: str, step: int, tmp_path: Path) -> None:
    """If pages have checksums, a flipped bit is reported, or has no effect on the results."""
    data = noise(4, 8)
    how: dict[str, Any] = {"compression": compression, "write_page_checksum": True, "use_dictionary": False}
    path = table(tmp_path / "in.parquet", data, {"n": [1, 2, 3, 4]}, **how)
    whole = path.read_bytes()
    ending = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    reported = 0
    for at in range(4, ending, step):
        raw = bytearray(whole)
        raw[at] ^= 0x10
        path.write_bytes(raw)
        try:
            found = read(path)
            several = [one.pixels for one in found.images()]
        except FormatError as error:
            reported += str(error).startswith(f"{path}") and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(several, data)
            np.testing.assert_array_equal(found.metadata.columns["n"], [1, 2, 3, 4])
    assert reported > 740 / step


def test_decompression_bomb(tmp_path: Path) -> None:
    """Some kilobytes unpack to megabytes of zeros."""
    rows = pa.array([{"bytes": bytes(2**24), "path": "a"}] * 5, IMAGE)
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"image": rows}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**14
    assert "in.parquet: the images of a row group would unpack from" in refused(path)


def test_two_splits_in_a_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table(tmp_path / "in" / f"{split}-00000-of-00001.parquet", noise(1, 4))
    sets = "test-00000-of-00001.parquet (test), train-00000-of-00001.parquet (train)"
    assert f"in holds several sets, of {sets}; choose one of them by `split` test or train" in refused(tmp_path / "in")


def test_files_with_different_columns(tmp_path: Path) -> None:
    table(tmp_path / "in" / "0.parquet", noise(1, 4), {"a": [1]})
    table(tmp_path / "in" / "1.parquet", noise(1, 4), {"a": [1.5]})
    line = refused(tmp_path / "in")
    assert "1.parquet has the columns image" in line
    assert "a (double), 0.parquet" in line


def test_without_pyarrow(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", noise(1, 4))
    remedy = "pip install '.[parquet]' in the folder of the project"
    message = f"error: Parquet needs pyarrow, which is not installed: {remedy}\n"
    assert run("import", path, "--out", tmp_path / "x.h5", without="pyarrow") == (1, "", message)


MEASURED = r"""
import re, sys
from pathlib import Path
from celebahq_builder.formats.parquet import read
table = read(Path(sys.argv[1]))
print(sum(image.pixels.shape[0] for image in table.images()))
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # getrusage includes its parent's
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("how", [{"row_group_size": 16}, {"write_batch_size": 4, "data_page_size": 2**18}], ids=repr)
def test_memory_does_not_grow_with_the_file(how: dict[str, int], tmp_path: Path) -> None:
    """It depends neither on the number of row groups, nor on the number of pages of a group."""
    image = coded(noise(1, 256)[0])
    used = []
    for count in (20, 220):
        rows = pa.array([{"bytes": image, "path": None}] * count, IMAGE)
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table({"image": rows}), path, compression="none", use_dictionary=False, **how)
        ended = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        channels, kib = map(int, ended.stdout.split())
        assert channels == 3 * count
        used.append(kib)
    assert path.stat().st_size > 40 * 2**20
    assert used[1] - used[0] < 20 * 2**10


def test_class_names_in_the_schema(tmp_path: Path) -> None:
    """Class names are those of the schema if there are enough."""
    schema = pa.schema(
        [pa.field("image", IMAGE), pa.field("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}})},
    )
    pq.write_table(pa.table({"image": images(noise(2, 4)), "label": [0, 0]}, schema), tmp_path / "in.parquet")
    found = read(tmp_path / "in.parquet")
    assert found.label_names == ("a", "b")
    np.testing.assert_array_equal(found.labels, [[1, 0], [1, 0]])
    pq.write_table(
        pa.table({"image": images(noise(2, 4)), "label": [0, 2]}, schema), tmp_path / "in.parquet"
    )  # more classes than names
    assert read(tmp_path / "in.parquet").label_names == ()
