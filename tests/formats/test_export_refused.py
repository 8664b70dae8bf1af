"""Exports that are refused or fail: full disks, damaged files, unsuitable settings and names; nothing is left."""

import contextlib
import json
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.inspect.extract import extract
from tests.disk import small_disk
from tests.formats.files import FORMATS, cut, out
from tests.hdf5.files import damage
from tests.hdf5.pyramids import described_file, noise, tree

ROOT = Path(__file__).parents[2]

COUNT = 70


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, 32))


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 8 kB, which is similar to a full disk.

    The limit is short-lived, because pytest may write to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("to", ["tfrecord", "stylegan-zip", "webdataset", "parquet"])
def test_files_that_cannot_grow(to: str, source: Path, tmp_path: Path) -> None:
    target = out(tmp_path / "made", to)
    with full_disk(), pytest.raises(CelebAHQError) as raised:
        export_file(source, target, to, workers=1)
    assert str(target) in str(raised.value)
    assert "File too large" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "256k") as disk:
        yield disk


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("images", 2)])
def test_full_disk(to: str, workers: int, tmp_path: Path, disk: Path) -> None:
    large = described_file(tmp_path / "large.h5", noise(70, 64))
    with pytest.raises(CelebAHQError, match="no space left to write .*; its parts are deleted; free some"):
        export_file(large, out(disk / "made", to), to, workers=workers)
    assert list(disk.iterdir()) == []


def test_full_disk_elsewhere(tmp_path: Path, disk: Path) -> None:
    """Import and extract leave nothing."""
    large = described_file(tmp_path / "large.h5", noise(70, 64))
    full = "no space left to write .*; free some and run the same command again$"
    with pytest.raises(CelebAHQError, match=full):
        import_images(large, disk / "again.h5")
    assert list(disk.iterdir()) == []
    with PyramidFile(large) as file, pytest.raises(CelebAHQError, match=full):
        extract(file, range(70), disk / "out")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("stylegan-zip", 2)])
@pytest.mark.parametrize("fault", ["chunk", "pixel"])
def test_damaged_image(fault: str, to: str, workers: int, tmp_path: Path) -> None:
    """The error names the image within the block that is read."""
    path = described_file(tmp_path / "faces.h5", noise(COUNT, 16))
    if fault == "chunk":
        damage(path, 16, 60)
    else:
        with h5py.File(path, "r+") as file:
            file["data16x16"][60, 1, 2, 3] ^= 1
    message = "image 60 of data16x16 cannot be read" if fault == "chunk" else "image 60 is not the one that was written"
    with pytest.raises(CelebAHQError, match=rf"faces\.h5: {message}"):
        export_file(path, out(tmp_path / "made", to), to, workers=workers)
    assert [one.name for one in tmp_path.iterdir()] == ["faces.h5"]


@pytest.mark.parametrize("share", [0, 0.5])
def test_truncated_file(share: float, source: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(source.read_bytes())
    cut(tmp_path / "cut.h5", share)
    with pytest.raises(CelebAHQError, match=r"cut\.h5 is not (a readable|an) HDF5 file"):
        export_file(tmp_path / "cut.h5", tmp_path / "faces", "images", workers=1)
    assert [one.name for one in tmp_path.iterdir()] == ["cut.h5"]


@pytest.mark.parametrize("to", FORMATS)
def test_target_exists(to: str, source: Path, tmp_path: Path) -> None:
    target = out(tmp_path, to)
    target.write_text("mine")
    with pytest.raises(CelebAHQError, match="exists and is not overwritten; delete it, or choose another `out`"):
        export_file(source, target, to, workers=1)
    assert tree(tmp_path) == {target.name: b"mine"}


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "", "x" * 300, "a\nb", "a\\b", "a:b"])
@pytest.mark.parametrize("to", ["images", "webdataset", "parquet"])
def test_ids_that_are_not_file_names(to: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images are numbered, the log says why, and the metadata keeps the ids."""
    caplog.set_level(logging.INFO)
    path = described_file(tmp_path / "faces.h5", noise(2, 8), id=[name, "b"])
    export_file(path, tmp_path / "made" / "faces", to, workers=1)
    assert f"{name[:80]!r} cannot be the name of a file in a folder; images are numbered instead" in caplog.text
    assert sorted(one.name for one in tmp_path.iterdir()) == ["faces.h5", "made"]
    assert [one.name for one in (tmp_path / "made").iterdir()] == ["faces"]
    if to == "images":
        text = (tmp_path / "made" / "faces" / "metadata.jsonl").read_text("utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        reported = [(line["file_name"], line["id"]) for line in lines]
        assert reported == [("img00000000.png", name), ("img00000001.png", "b")]


def test_file_names_with_a_line_feed(tmp_path: Path) -> None:
    """Such names can be imported, and are replaced on export."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, image in enumerate(noise(2, 8)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"a\n{number}.png")
    import_images(folder, tmp_path / "faces.h5")
    export_file(tmp_path / "faces.h5", tmp_path / "out", "images", workers=1)
    assert sorted(tree(tmp_path / "out")) == ["img00000000.png", "img00000001.png", "metadata.jsonl"]
    import_images(tmp_path / "out", tmp_path / "back.h5")
    with PyramidFile(tmp_path / "back.h5") as file:
        assert file.photos.get("file") == ["a\n0.png", "a\n1.png"]
        np.testing.assert_array_equal(file.level(8)[:], noise(2, 8))


@pytest.mark.parametrize(
    ("asked", "expected_text"),
    [
        ({"format": "images", "resolution": 64}, "has no level 64x64; it has 32, 16, 8, 4, 2, 1"),
        ({"format": "images", "resolution": 100}, "has no level 100x100"),
        (
            {"format": "tfrecord", "resolution": 2},
            "`resolution` 2 is too small: TFRecord files have levels from 4x4",
        ),
        ({"format": "stylegan-zip"}, "does not end in .zip"),
        ({"format": "images", "shuffle": True}, "`shuffle` has no effect on images; leave it out"),
        ({"format": "images", "shard": 1000}, "`shard` has no effect on images; leave it out"),
        ({"format": "tfrecord", "shard": 5}, "`shard` has no effect on tfrecord"),
        ({"format": "stylegan-zip", "shard": 5}, "`shard` has no effect on stylegan-zip"),
        ({"format": "tfrecord", "png_level": 0}, "`png_level` has no effect on tfrecord; leave"),
        ({"format": "webdataset", "image_format": "jpg"}, "`image_format` has no effect on webdataset; leave it out"),
        ({"format": "images", "quality": 90}, "`quality` has no effect on png files; leave it out, or set `image_for"),
        (
            {"format": "images", "png_level": 3, "image_format": "jpg"},
            "`png_level` has no effect on jpg files; leave it out",
        ),
        ({"format": "gif"}, "`to` gif does not exist; expected one of images, stylegan-zip,"),
    ],
)
def test_refused_settings(asked: dict[str, Any], expected_text: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(CelebAHQError) as raised:
        export_file(source, tmp_path / "made" / "faces", **asked, workers=1)
    assert expected_text in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_as_a_command(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "faces.zip"
    asked = ["export", str(source), "--to", "stylegan-zip", "--out", str(target), "--workers", "1"]
    ended = CliRunner().invoke(celebahq, asked)
    assert (ended.exit_code, ended.output) == (0, f"{COUNT} images\nexport: {target}\n")
    again = subprocess.run(
        [sys.executable, "-m", "celebahq_builder", *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stdout) == (1, "")
    refused = CliRunner().invoke(celebahq, [*asked[:-2], "--shard", "1000"])
    assert str(refused.exception).startswith("--shard has no effect on stylegan-zip")
    assert again.stderr == f"error: {target} exists and is not overwritten; delete it, or choose another --out\n"
