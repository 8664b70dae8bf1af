"""Imports that are refused: paths, tables, HDF5 files, targets; one line names the file, and nothing is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats.conversion import import_images
from tests.formats.files import cut, refused, rgb, save
from tests.hdf5.files import damage
from tests.hdf5.pyramids import described_file, noise, theano_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one valid image."""
    save(tmp_path / "in" / "a.png", rgb())
    return tmp_path / "in"


# --- Paths and tables


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "in holds no images; expected files ending in .jpg" in refused(tmp_path / "in", format="images")


def test_empty_paths(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    assert "in is empty; give a folder of images, or its `format`" in refused(tmp_path / "in")
    (tmp_path / "in.bin").write_bytes(b"")
    assert "in.bin is empty; give a folder of images, or its `format`" in refused(tmp_path / "in.bin")


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    assert "in is of no known format" in refused(tmp_path / "in")


def test_missing_path(tmp_path: Path) -> None:
    assert "in does not exist" in refused(tmp_path / "in")
    assert "in is not a folder" in refused(tmp_path / "in", format="images")


@pytest.mark.parametrize(
    ("lines", "expected_text"),
    [
        ('{"file_name": "a.png"', "metadata.jsonl:1 is not a JSON object with a file_name"),
        ('["a.png"]', "metadata.jsonl:1 is not a JSON object with a file_name"),
        ('{"file_name": 7}', "metadata.jsonl:1: the file_name is 7, expected a string"),
        ('{"file_name": "a.png"}\n\n[]', "metadata.jsonl:3 is not a JSON object with a file_name"),
        ('{"file_name": "a.png"}\n{"file_name": "b.png"}', "names b.png, which does not exist"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png"}', "names a.png twice"),
        ('{"file_name": "../in/a.png"}', "the image name '../in/a.png' is not a relative path within a folder"),
        ("", "does not name a.png (1 such)"),
        ('{"file_name": "a.png", "a/b": 1}', "'a/b' cannot be the name of a column"),
        ('{"file_name": "a.png", "\\u0000": 1}', "'\\x00' cannot be the name of a column"),
        ('{"file_name": "a.png", "a\\u202e": 1}', "'a\\u202e' cannot be the name of a column"),
        ('{"file_name": "a.png", "score": "high"}', "the values of 'score' are not numbers of one shape"),
        ('{"file_name": "a.png", "label": -1}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "label": 1e99}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "labels": "cat"}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "file": "a", "sha256": "00"}', "is not that of its metadata"),
        ('{"file_name": "a.png", "attributes": {"Bald": 500}}', "the values of 'attributes' are not numbers"),
    ],
)
def test_metadata_of_other_files(lines: str, expected_text: str, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(lines)
    assert expected_text in refused(folder)


# --- HDF5 files


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_hdf5(share: float, tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(9, 16))
    cut(path, share)
    assert f"in.h5 is not {'a readable' if share else 'an'} HDF5 file" in refused(path)


def alter(path: Path, change: Callable[[h5py.File], Any]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        (lambda file: file.pop("data4x4"), "has data16x16 but lacks data4x4"),
        (lambda file: [file[key].resize(0, axis=0) for key in file], "holds no images"),
    ],
    ids=["missing", "empty"],
)
def test_hdf5_of_wrong_levels(change: Callable[[h5py.File], Any], expected_text: str, tmp_path: Path) -> None:
    assert expected_text in refused(alter(theano_file(tmp_path / "in.h5", noise(9, 16)), change))


def test_hdf5_of_other_pixels_than_were_written(tmp_path: Path) -> None:
    path = alter(
        described_file(tmp_path / "in.h5", noise(3, 8)), lambda file: file["data8x8"].write_direct(noise(3, 8, seed=1))
    )
    assert "image 0 is not the one that was written" in refused(path)


def test_hdf5_with_a_damaged_chunk(tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(3, 32))
    damage(path, 32, 1)
    assert "image 1 of data32x32 cannot be read" in refused(path)


@pytest.mark.parametrize("labels", [np.zeros((2, 3)), np.zeros(3), np.array([["a"]] * 3), b"no array"], ids=repr)
def test_labels_of_other_images(labels: Any, tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(3, 8))
    beside = tmp_path / "in-labels.npy"
    beside.write_bytes(labels) if isinstance(labels, bytes) else np.save(beside, labels)
    with pytest.raises(CelebAHQError, match=r"in-labels\.npy"):
        import_images(path, tmp_path / "out.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in-labels.npy", "in.h5"]


# --- Targets


@pytest.mark.parametrize("taken", ["out.h5", "out-labels.npy"])
def test_target_exists(taken: str, folder: Path) -> None:
    (folder.parent / taken).write_text("mine")
    with pytest.raises(CelebAHQError, match=f"{taken} exists and is not overwritten"):
        import_images(folder, folder.parent / "out.h5")
    assert (folder.parent / taken).read_text() == "mine"
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted(["in", taken])


def test_no_folder_for_the_target(folder: Path) -> None:
    with pytest.raises(CelebAHQError, match=r"nowhere"):
        import_images(folder, folder.parent / "nowhere" / "out.h5")


def test_resize_where_images_have_one_size(tmp_path: Path) -> None:
    (tmp_path / "in.tfrecords").touch()
    with pytest.raises(CelebAHQError, match="`resize` has no effect on tfrecord; leave it out"):
        import_images(tmp_path / "in.tfrecords", tmp_path / "out.h5", resize=8)


def test_as_a_command(folder: Path, tmp_path: Path) -> None:
    save(folder / "b.png", rgb(16, 16))
    out = tmp_path / "out.h5"
    ended = CliRunner().invoke(celebahq, ["import", str(folder), "--out", str(out), "--workers", "1"])
    assert isinstance(ended.exception, CelebAHQError)
    ended = CliRunner().invoke(celebahq, ["import", str(folder), "--out", str(out), "--workers", "1", "--resize", "8"])
    assert (ended.exit_code, ended.output) == (0, f"2 images\ndata set: {out}\n")
    assert json.loads(h5py.File(out).attrs["imported_from"]) == ["images", "in"]
