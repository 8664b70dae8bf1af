"""Labels and metadata beside image files, in folders and zips."""

import io
import json
import logging
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import image_tables
from celebahq_builder.formats.images import read as read_folder
from celebahq_builder.formats.stylegan_zip import read as read_zip
from celebahq_builder.image_set import DataSet


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), level).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {"cat/0.png": png(0), "cat/1.png": png(1), "dog/0.png": png(2)}

CLASSES = [["dog/0.png", 1], ["cat/0.png", 0], ["cat/1.png", 0]]

ONE_HOT = [[1, 0], [1, 0], [0, 1]]


def opened(kind: str, root: Path, files: dict[str, bytes | str]) -> DataSet:
    """Write files as a folder or a zip, and open it."""
    if kind == "zip":
        root.mkdir(exist_ok=True)
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return read_zip(root / "set.zip")
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_folder(root)


KINDS = pytest.mark.parametrize("kind", ["folder", "zip"])


@KINDS
@pytest.mark.parametrize("inside", ["", "set/", "deep/set/"])
@pytest.mark.parametrize("prefix", ["", "./", "set/"])
def test_dataset_json(kind: str, inside: str, prefix: str, tmp_path: Path) -> None:
    """Names are relative to the folder of the table, or to the whole set."""
    if prefix == "set/" != inside:
        pytest.skip("names of the whole set begin with its folder")
    files: dict[str, bytes | str] = {inside + name: data for name, data in IMAGES.items()}
    files[inside + "dataset.json"] = json.dumps({"labels": [[prefix + name, label] for name, label in CLASSES]})
    images = opened(kind, tmp_path / "in", files)
    assert images.labels is not None
    assert images.labels.tolist() == ONE_HOT


@KINDS
def test_dataset_json_without_labels(kind: str, tmp_path: Path) -> None:
    assert opened(kind, tmp_path / "in", {**IMAGES, "dataset.json": '{"labels": null}'}).labels is None


@KINDS
def test_table_of_some_images_is_named(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images = opened(kind, tmp_path / "in", {**IMAGES, "cat/dataset.json": '{"labels": [["0.png", 0], ["1.png", 1]]}'})
    assert images.labels is None
    assert "the table cat/dataset.json is not read: import its folder alone to use it" in caplog.text


@KINDS
def test_metadata_jsonl_of_other_programs(kind: str, tmp_path: Path) -> None:
    """A byte order mark, blank lines, and `./` before a name are no faults."""
    lines = [json.dumps({"file_name": f"./{name}", "label": label}) for name, label in CLASSES]
    text = "\ufeff" + "\n\n".join(lines) + "\n \n\n"
    images = opened(kind, tmp_path / "in", {**IMAGES, "metadata.jsonl": text})
    assert [one.name for one in images.images()] == ["dog/0.png", "cat/0.png", "cat/1.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [[0, 1], [1, 0], [1, 0]]


@KINDS
def test_names_of_classes(kind: str, tmp_path: Path) -> None:
    """Labels that are lists have no names of classes."""
    found = []
    for values in ((1, 0, 0), ([0, 1], [1, 0], [1, 0])):
        lines = [
            json.dumps({"file_name": name, "label": value, "label_name": "ab"[number]})
            for (name, number), value in zip(CLASSES, values, strict=True)
        ]
        found.append(opened(kind, tmp_path / str(len(found)), {**IMAGES, "metadata.jsonl": "\n".join(lines)}))
    assert [images.labels.tolist() for images in found] == [[[0, 1], [1, 0], [1, 0]]] * 2
    assert [images.label_names for images in found] == [("a", "b"), ()]


@KINDS
def test_metadata_csv(kind: str, tmp_path: Path) -> None:
    rows = ["file_name,id,age,score,text,label", 'cat/1.png,007,3,0.5,"a,b",1', "cat/0.png,008,,1e3,,0", ""]
    rows += ["dog/0.png,009,5,-2,c,1"]
    images = opened(kind, tmp_path / "in", {**IMAGES, "metadata.csv": "\r\n".join(rows)})
    assert [one.name for one in images.images()] == ["cat/1.png", "cat/0.png", "dog/0.png"]
    columns = images.metadata.columns
    assert columns["id"] == ["007", "008", "009"]
    assert repr(columns["age"]) == "array([ 3., nan,  5.])"
    np.testing.assert_array_equal(columns["score"], [0.5, 1000, -2])
    assert columns["text"] == ["a,b", "", "c"]
    assert images.labels is not None
    assert images.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("table", "expected_text"),
    [
        ("name\na.png", "is not a CSV table with a column file_name"),
        ("file_name,x\ncat/0.png", "is not a CSV table with a column file_name"),
        ("file_name\ncat/0.png,1", "is not a CSV table with a column file_name"),
        ('file_name\n"cat/0.png', "is not a CSV table with a column file_name"),
        ("file_name\ncat/0.png\ncat/1.png", "does not name dog/0.png (1 such)"),
        ("file_name\n../a.png", "is not a relative path within a folder"),
        ("file_name\ncat/9.png", "names cat/9.png, which does not exist"),
        ("file_name,x,x\ncat/0.png,1,2", "two columns have the same name; correct or delete the file"),
        (f"file_name,{','.join(map(str, range(10_000)))}\n", "it has 10001 columns, expected at most 10000; correct"),
    ],
)
def test_broken_metadata_csv(table: str, expected_text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as raised:
        opened("folder", tmp_path / "in", {**IMAGES, "metadata.csv": table})
    assert expected_text in str(raised.value)


def test_one_metadata_table_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = "\n".join(json.dumps({"file_name": name, "x": 1}) for name in IMAGES)
    images = opened("folder", tmp_path / "in", {**IMAGES, "metadata.jsonl": lines, "metadata.csv": "file_name\n"})
    assert [*images.metadata.columns] == ["x"]
    assert "the table metadata.csv is not read: metadata.jsonl is used" in caplog.text


@KINDS
def test_names_in_another_unicode_form(kind: str, tmp_path: Path) -> None:
    """macOS writes names in NFD, a table has them in NFC."""
    name = "josé.png"
    files: dict[str, bytes | str] = {unicodedata.normalize("NFD", name): png(0)}
    files["dataset.json"] = json.dumps({"labels": [[unicodedata.normalize("NFC", name), 0]]})
    files["metadata.jsonl"] = json.dumps({"file_name": unicodedata.normalize("NFC", name), "x": 1})
    images = opened(kind, tmp_path / "in", files)
    assert [one.name for one in images.images()] == [unicodedata.normalize("NFD", name)]
    assert images.labels is not None


@KINDS
@pytest.mark.parametrize(
    ("table", "data", "expected_text"),
    [
        ("metadata.jsonl", b"{" * 2**21, "metadata.jsonl:1 has more than 1048576 bytes"),
        ("metadata.jsonl", b"[" * 10_000, "metadata.jsonl:1 is not a JSON object"),
        ("metadata.jsonl", b"\n" * 100_000, "metadata.jsonl has more than 65536 blank lines"),
        (
            "metadata.jsonl",
            json.dumps({"file_name": "cat/0.png", **{f"k{i}": 1 for i in range(10_001)}}).encode(),
            "metadata.jsonl: images 0 to 0 have 10001 different keys, expected at most 10000",
        ),
        ("metadata.csv", b"file_name\n" + b"," * 2**21, "metadata.csv:2 has more than 1048576 bytes"),
        ("dataset.json", b'{"labels": [' + b"[]," * 2**20 + b"[]]}", "dataset.json has 1048579 lists for 3 images"),
        ("dataset.json", b'{"labels": [' * 90_000, "dataset.json has 180000 lists"),
    ],
    ids=["long line", "deep", "blank lines", "many keys", "long row", "lists", "deep lists"],
)
def test_hostile_tables(kind: str, table: str, data: bytes, expected_text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as raised:
        opened(kind, tmp_path / "in", {**IMAGES, table: data})
    assert expected_text in str(raised.value)


@KINDS
def test_size_of_the_table_of_labels(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_tables, "MAX_JSON_BYTES", 1000)
    with pytest.raises(FormatError, match=r"dataset\.json has more than 1000 bytes"):
        opened(kind, tmp_path / "in", {**IMAGES, "dataset.json": bytes(1001)})


@KINDS
@pytest.mark.parametrize("name", ["labels.csv", "metadata.parquet", "METADATA.CSV", "list_attr_celeba.txt", "a.cls"])
def test_tables_of_other_names(kind: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says where labels are looked for."""
    caplog.set_level(logging.INFO)
    opened(kind, tmp_path / "other", {**IMAGES, "README.txt": ""})
    assert "holds labels" not in caplog.text
    opened(kind, tmp_path / "in", {**IMAGES, name: ""})
    assert f": if {name} holds labels, write them to one of metadata.jsonl, metadata.csv, dataset.json" in caplog.text
