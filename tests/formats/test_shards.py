"""Names of the files of one set: numbers, hashes, splits, and files that are missing."""

import logging
import os
from pathlib import Path

import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.shards import shard_files


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def found(folder: Path, split: str | None = None) -> list[str]:
    return [path.name for path in shard_files(folder, (".parquet",), split)]


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002-bae07ad6d4d89a77.parquet", "train-00001-of-00002-a8a0bf9ac1dac2b9.parquet"],
        ["train-00000-of-00002-1234567890123456.parquet", "train-00001-of-00002-0a1b2c.parquet"],
        ["train-00000-of-00001.parquet"],
        ["0000.parquet", "0001.parquet"],
        ["a7.parquet"],
        ["b.parquet", "c.parquet"],
        ["x-9.parquet", "x-10.parquet", "x-11.parquet"],
    ],
)
def test_whole_sets(names: list[str], tmp_path: Path) -> None:
    assert found(files(tmp_path / "in", *reversed(names))) == names


@pytest.mark.parametrize(
    ("names", "expected_text"),
    [
        (["train-00000-of-00006-0a1b2c.parquet"], "lacks number 00001 of 6 of the set of train-00000-of-00006-0a1b2c"),
        (["train-00001-of-00002-0a1b2c.parquet"], "lacks number 00000 of 2"),
        (["a-0-of-3-aa.parquet", "a-2-of-3-bb.parquet"], "lacks number 1 of 3"),
        (["a-0-of-2-aa.parquet", "a-0-of-2-bb.parquet"], "two files of number 0; remove"),
        (["a-0-of-2.parquet"], "lacks number 1 of 2"),
        (["a-0-of-9999999999999.parquet"], "lacks number 1 of 9999999999999"),
        (["a-1.parquet", "a-3.parquet"], "lacks number 2 of the set of a-1.parquet"),
        (["a-00.parquet", "a-02.parquet"], "lacks number 01 of the set of a-00.parquet; get or make it again"),
        (["a-0.parquet", "a-00.parquet"], "holds a-0.parquet and a-00.parquet, two files of number 0"),
        (["a-0-of-1.parquet", "a-1-of-1.parquet"], "holds a-1-of-1.parquet, whose number is not one of 1"),
        (["a-0-of-2.parquet", "a-1-of-3.parquet"], "holds several sets, of"),
        (["a-00.parquet", "other.parquet"], "holds several sets, of a-00.parquet (a), other.parquet"),
        (["a-00.parquet", "b-00.parquet"], "of a-00.parquet (a), b-00.parquet (b); choose one of them by `split` a or"),
        (["train.parquet", "test.parquet"], "choose one of them by `split` test or train"),
        (["train-0-of-1.parquet", "val-0-of-1.parquet"], "choose one of them by `split` train or val"),
    ],
)
def test_incomplete_sets(names: list[str], expected_text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as raised:
        found(files(tmp_path / "in", *names))
    assert expected_text in str(raised.value)
    assert str(tmp_path / "in") in str(raised.value)


def test_split(tmp_path: Path) -> None:
    names = ["train-00000-of-00002-ab.parquet", "train-00001-of-00002-cd.parquet", "test-00000-of-00001-ef.parquet"]
    folder = files(tmp_path / "in", *names)
    assert found(folder, "train") == names[:2]
    assert found(folder, "test") == names[2:]
    with pytest.raises(FormatError, match="has 0 sets named valid"):
        found(folder, "valid")
    (folder / names[1]).unlink()
    with pytest.raises(FormatError, match="lacks number 00001 of 2"):
        found(folder, "train")
    with pytest.raises(FormatError, match="is a single file, and `split`"):
        shard_files(folder / names[0], (".parquet",), "train")


def test_special_files(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a-0.parquet")
    os.mkfifo(folder / "a-1.parquet")
    with pytest.raises(FormatError, match="a-1.parquet is not a regular file; remove it"):
        found(folder)
    with pytest.raises(FormatError, match="a-1.parquet is not a file or folder"):
        found(folder / "a-1.parquet")


def test_files_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found(files(tmp_path / "in", "0.parquet", "metadata.csv", "a.json", "b.json", ".hidden"))
    assert caplog.messages == [
        f"warning: {tmp_path / 'in' / 'metadata.csv'} is not read; labels must be in the shards themselves",
        f"{tmp_path / 'in'}: ignored 2 other files: 2 .json",
    ]
