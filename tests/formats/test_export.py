"""Exports, read by the programs that they are for; pixels are equal to the byte."""

import gc
import io
import json
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tfrecord
import webdataset
from PIL import Image

from celebahq_builder.formats import load_formats
from celebahq_builder.formats.conversion import export_file
from celebahq_builder.imaging.pyramid import build_pyramid
from tests.formats.files import FORMATS, out
from tests.hdf5.pyramids import Images, described_file, noise, theano_file, tree

COUNT, SIDE = 37, 16


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, SIDE))


@pytest.fixture(autouse=True)
def quiet_datasets(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.disable_progress_bars()


def made(source: Path, folder: Path, to: str, workers: int = 1, **asked: Any) -> Path:
    export_file(source, out(folder, to), to, **asked, workers=workers)
    return out(folder, to)


def planes(image: Image.Image) -> Images:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def samples(*shards: Path) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        names = [str(shard) for shard in shards]
        found = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False).decode("pil"))
        gc.collect()
    return found


def load(kind: str, folder: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(kind, data_dir=str(folder), cache_dir=str(cache), split="train")


def known(number: int, source: Path) -> dict[str, Any]:
    """Return the metadata of an image, read by h5py alone."""
    import h5py

    with h5py.File(source) as file:
        group = file["photos"]
        record = {
            name: group[name].asstr()[number] if h5py.check_string_dtype(group[name].dtype) else group[name][number]
            for name in group
            if name != "attribute_names"
        }
        names = group["attribute_names"].asstr()[:]
    record = {key: value if isinstance(value, str) else value.tolist() for key, value in record.items()}
    return {**record, "attributes": dict(zip(names, record["attributes"], strict=True))}


# --- Reading with the formats' own programs


@pytest.mark.parametrize("channels", [1, 3])
def test_tfrecord(channels: int, tmp_path: Path) -> None:
    data = noise(COUNT, SIDE, channels)
    folder = made(theano_file(tmp_path / "faces.h5", data), tmp_path, "tfrecord")
    assert sorted(tree(folder)) == ["faces-r02.tfrecords", "faces-r03.tfrecords", "faces-r04.tfrecords"]
    for level, expected in zip((4, 3, 2), build_pyramid(data)[:3], strict=True):
        path = folder / f"faces-r{level:02d}.tfrecords"
        found = list(tfrecord.tfrecord_loader(str(path), None, {"shape": "int", "data": "byte"}))
        assert len(found) == COUNT
        for image, example in zip(expected, found, strict=True):
            assert tuple(example["shape"]) == image.shape
            np.testing.assert_array_equal(np.frombuffer(example["data"], np.uint8).reshape(image.shape), image)


def test_tfrecord_equals_that_of_another_writer(tmp_path: Path) -> None:
    """Frames and CRCs are compared as bytes, Examples as messages, because their fields may be in any order."""
    data = noise(3, 4)
    folder = made(theano_file(tmp_path / "faces.h5", data), tmp_path, "tfrecord")
    writer = tfrecord.TFRecordWriter(str(tmp_path / "other"))
    for image in data:
        writer.write({"shape": (list(image.shape), "int"), "data": (image.tobytes(), "byte")})
    writer.close()
    ours, theirs = (folder / "faces-r02.tfrecords").read_bytes(), (tmp_path / "other").read_bytes()
    assert len(ours) == len(theirs)
    from tests.reference.tfrecord_frames import payloads

    for one, other in zip(payloads(ours), payloads(theirs), strict=True):
        parsed = [tfrecord.example_pb2.Example.FromString(payload) for payload in (one, other)]
        assert parsed[0] == parsed[1]


def test_tfrecord_shuffled_as_by_the_authors_tool(described: Path, tmp_path: Path) -> None:
    folder = made(described, tmp_path, "tfrecord", shuffle=True)
    order = np.arange(COUNT)
    np.random.RandomState(123).shuffle(order)
    found = tfrecord.tfrecord_loader(str(folder / "faces-r04.tfrecords"), None, {"data": "byte"})
    for expected, example in zip(noise(COUNT, SIDE)[order], found, strict=True):
        assert example["data"] == expected.tobytes()
    labels = np.load(folder / "faces-rxx.labels")
    assert labels.dtype == np.float32
    assert labels.tolist() == [[float(v > 0) for v in known(int(i), described)["attributes"].values()] for i in order]


@pytest.mark.parametrize("channels", [1, 3])
def test_stylegan_zip(channels: int, tmp_path: Path) -> None:
    data = noise(COUNT, SIDE, channels)
    path = made(theano_file(tmp_path / "faces.h5", data), tmp_path, "stylegan-zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        unix, readable = 3, 0o644 << 16
        assert {(entry.create_system, entry.external_attr) for entry in archive.infolist()} == {(unix, readable)}
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert names == [f"00000/img{i:08d}.png" for i in range(COUNT)]
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        for name, expected in zip(names, data, strict=True):
            image = Image.open(io.BytesIO(archive.read(name)))
            assert image.mode == ("RGB" if channels == 3 else "L")
            np.testing.assert_array_equal(planes(image), expected)


def labelled(path: Path, labels: np.ndarray) -> Path:
    theano_file(path, noise(len(labels), 8))
    np.save(path.with_name("faces-labels.npy"), labels)
    return path


def test_stylegan_zip_labels_as_classes(tmp_path: Path) -> None:
    source = labelled(tmp_path / "faces.h5", np.eye(3, dtype=np.float32)[[0, 2, 1, 0]])
    with zipfile.ZipFile(made(source, tmp_path, "stylegan-zip")) as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert labels == [[f"00000/img{i:08d}.png", number] for i, number in enumerate([0, 2, 1, 0])]


@pytest.mark.parametrize("rows", [[[0.5, 0.25], [1, 0]], [[1, 0, 0], [0, 1, 0]], [[1, 1], [0, 0]], [[1], [0]]])
def test_stylegan_zip_labels_as_vectors(rows: list[list[float]], tmp_path: Path) -> None:
    """Class numbers do not determine rows that are not one-hot, or last classes without images."""
    source = labelled(tmp_path / "faces.h5", np.array(rows, np.float32))
    with zipfile.ZipFile(made(source, tmp_path, "stylegan-zip")) as archive:
        assert [label for _, label in json.loads(archive.read("dataset.json"))["labels"]] == rows


def test_images_read_by_imagefolder(described: Path, tmp_path: Path) -> None:
    found = load("imagefolder", made(described, tmp_path, "images"), tmp_path / "cache")
    assert len(found) == COUNT
    for number, (row, expected) in enumerate(zip(found, noise(COUNT, SIDE), strict=True)):
        np.testing.assert_array_equal(planes(row.pop("image")), expected)
        assert row == known(number, described)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_images_as_jpeg_and_webp(kind: Any, channels: int, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([np.stack([x + 20 * i, y * 2, 255 - x - y][:channels]) for i in range(3)]).astype(np.uint8)
    source = described_file(tmp_path / "faces.h5", smooth)
    sizes = []
    for quality in (50, 95):
        files = made(source, tmp_path / str(quality), "images", image_format=kind, quality=quality)
        lines = [json.loads(line) for line in (files / "metadata.jsonl").read_text().splitlines()]
        assert [line["file_name"].rpartition(".")[2] for line in lines] == [kind] * 3
        assert not any("sha256" in line for line in lines)
        error = 0
        for line, pixels in zip(lines, smooth, strict=True):
            with Image.open(files / line["file_name"]) as image:
                assert image.format == {"jpg": "JPEG", "webp": "WEBP"}[kind]
                found = planes(image)[:channels].astype(int)  # WebP has no grey images
                error = max(error, int(np.abs(found - pixels).max()))
        assert error < 30
        sizes.append(sum(path.stat().st_size for path in files.glob(f"*.{kind}")))
    assert sizes[0] < sizes[1]
    default = made(source, tmp_path / "default", "images", image_format=kind, workers=2)
    assert tree(default) == tree(files)


def test_images_without_metadata(tmp_path: Path) -> None:
    data = noise(3, 8, channels=1)
    folder = made(theano_file(tmp_path / "faces.h5", data), tmp_path, "images")
    assert sorted(tree(folder)) == [f"img{i:08d}.png" for i in range(3)]
    for i, expected in enumerate(data):
        np.testing.assert_array_equal(planes(Image.open(folder / f"img{i:08d}.png")), expected)


def test_webdataset(described: Path, tmp_path: Path) -> None:
    folder = made(described, tmp_path, "webdataset", shard=10)
    shards = sorted(folder.glob("*.tar"))
    assert [shard.name for shard in shards] == [f"faces-{i:06d}.tar" for i in range(4)]
    found = samples(*shards)
    assert len(found) == COUNT
    for number, (sample, expected) in enumerate(zip(found, noise(COUNT, SIDE), strict=True)):
        np.testing.assert_array_equal(planes(sample["png"]), expected)
        assert sample["__key__"] == f"{7 * number:06d}"
        assert sample["json"] == known(number, described)
    with tarfile.open(shards[0]) as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_webdataset_classes(tmp_path: Path) -> None:
    source = labelled(tmp_path / "faces.h5", np.eye(3, dtype=np.float32)[[0, 2, 1, 0]])
    shard = made(source, tmp_path, "webdataset") / "faces-000000.tar"
    found = samples(shard)
    assert [sample["cls"] for sample in found] == [0, 2, 1, 0]
    assert [sample["json"] for sample in found] == [{"label": label} for label in (0, 2, 1, 0)]


@pytest.mark.parametrize("shard", [10, 1000])
def test_parquet(shard: int, described: Path, tmp_path: Path) -> None:
    folder = made(described, tmp_path, "parquet", shard=shard)
    count = -(-COUNT // shard)
    assert sorted(tree(folder)) == [f"train-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    found = load("parquet", folder, tmp_path / "cache")
    assert isinstance(found.features["image"], datasets.Image)
    for number, (row, expected) in enumerate(zip(found, noise(COUNT, SIDE), strict=True)):
        np.testing.assert_array_equal(planes(row.pop("image")), expected)
        assert row == known(number, described)


def test_parquet_class_names(tmp_path: Path) -> None:
    import h5py

    source = labelled(tmp_path / "faces.h5", np.eye(2, dtype=np.float32)[[1, 0, 1]])
    with h5py.File(source, "r+") as file:
        file.create_dataset("photos/label_names", data=["cat", "dog"], dtype=h5py.string_dtype())
    found = load("parquet", made(source, tmp_path, "parquet"), tmp_path / "cache")
    assert found.features["label"].names == ["cat", "dog"]
    assert found["label"] == [1, 0, 1]
    assert found["label_name"] == ["dog", "cat", "dog"]


def test_parquet_folder_read_by_its_path(described: Path, tmp_path: Path) -> None:
    folder = made(described, tmp_path, "parquet")
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]
    assert len(found["train"]) == COUNT


# --- All formats


@pytest.mark.parametrize("to", FORMATS)
def test_same_bytes_for_any_number_of_workers(to: str, described: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    asked = {"shard": 10} if "shard" in load_formats()[to].options else {}
    one = made(described, tmp_path / "one", to, workers=1, **asked)
    two = made(described, tmp_path / "two", to, workers=2, **asked)
    assert tree(one) == tree(two)
    assert [path.name for path in (tmp_path / "one").iterdir()] == [one.name]


@pytest.mark.parametrize("to", FORMATS)
def test_a_smaller_level(to: str, described: Path, tmp_path: Path) -> None:
    """Pixels are those of the level in the file; the hashes of the largest level are not exported."""
    path = made(described, tmp_path, to, resolution=8)
    expected = build_pyramid(noise(COUNT, SIDE))[1]
    if to == "tfrecord":
        assert sorted(tree(path)) == ["faces-r02.tfrecords", "faces-r03.tfrecords", "faces-rxx.labels"]
        found: Any = tfrecord.tfrecord_loader(str(path / "faces-r03.tfrecords"), None, {"data": "byte"})
        pixels = [np.frombuffer(example["data"], np.uint8).reshape(3, 8, 8) for example in found]
    elif to == "stylegan-zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:-1]
            pixels = [planes(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    elif to == "webdataset":
        found = samples(path / "faces-000000.tar")
        pixels = [planes(sample["png"]) for sample in found]
        assert "sha256" not in found[0]["json"]
    else:
        found = load("parquet" if to == "parquet" else "imagefolder", path, tmp_path / "cache")
        pixels = [planes(row["image"]) for row in found]
        assert "sha256" not in found.features
    np.testing.assert_array_equal(np.stack(pixels), expected)


def test_equal_names_and_dots(tmp_path: Path) -> None:
    """Names that differ only in case, or contain a dot (WebDataset), are replaced by numbers."""
    data = noise(3, 8)
    source = described_file(tmp_path / "faces.h5", data, id=["a", "A", "b"])
    assert sorted(tree(made(source, tmp_path, "images"))) == [
        "img00000000.png",
        "img00000001.png",
        "img00000002.png",
        "metadata.jsonl",
    ]
    (tmp_path / "w").mkdir()
    dotted = described_file(tmp_path / "dotted.h5", data, id=["a.x", "a.y", "b"])
    shard = made(dotted, tmp_path / "w", "webdataset") / "faces-000000.tar"
    found = samples(shard)
    assert [sample["__key__"] for sample in found] == [f"img{i:08d}" for i in range(3)]
    assert [sample["json"]["id"] for sample in found] == ["a.x", "a.y", "b"]


def test_missing_pyarrow(described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celebahq_builder.errors import FormatError

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FormatError, match=r"pip install '.\[parquet\]'"):
        made(described, tmp_path, "parquet")
    assert list(tmp_path.iterdir()) == []
