"""Full disks, read-only file systems, and folders that are deleted during a build."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.errors import DiskFull, SourceError, WorkspaceError
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.writer import PyramidWriter
from celebahq_builder.hdf5.writer import pack as pack_images
from celebahq_builder.pipeline.build import build
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.storage import as_storage_error, write_atomic
from tests.conftest import TINY, build_tiny
from tests.disk import failing, small_disk
from tests.pipeline.runs import assert_same


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_then_more_space(workers: int, tmp_path: Path, tiny_run: Path) -> None:
    with small_disk(tmp_path / "disk", "220k") as disk:
        with pytest.raises(DiskFull, match="free some and run the same command again"):
            build_tiny(disk / "run", workers=workers)
        for path in (disk / "run").rglob("*"):
            assert not path.name.endswith(".h5")
            if path.suffix == ".jsonl" and path.parent.name == "batches":
                assert [json.loads(line) for line in path.read_text().splitlines()]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build_tiny(disk / "run")
        assert_same(disk / "run", tiny_run)


def test_full_disk_while_packing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 3, 64, 64), dtype=np.uint8)
    packed = pack_images(noise, 64, 3, Gzip())
    with small_disk(tmp_path / "disk", "300k") as disk:
        path = disk / "data.h5"

        def write() -> None:
            with PyramidWriter(path, count=32, resolution=64, channels=3, codec=Gzip()) as writer:
                writer.write(packed)
                writer.finish({}, {})

        with pytest.raises(DiskFull, match="no space left"):
            write()
        assert list(disk.iterdir()) == []


def test_full_device_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith(".file."))
    with pytest.raises(DiskFull, match="no space left"):
        write_atomic(path, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, WorkspaceError),
        (errno.EROFS, WorkspaceError),
        (errno.ENOTCONN, WorkspaceError),
        (errno.ESTALE, WorkspaceError),
        (errno.ENAMETOOLONG, OSError),
        (errno.EACCES, PermissionError),
    ],
)
def test_errors_of_writing(number: int, expected: type[Exception]) -> None:
    error = OSError(number, os.strerror(number), "file")
    found = as_storage_error(error, Path("out/file"))
    assert type(found) is expected
    assert (found is error) == isinstance(found, OSError)
    assert "file" in str(found)


def test_read_only_file_system_ends_the_run(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(WorkspaceError, match="file cannot be written: Read-only file system; check the disk"):
            write_atomic(disk / "file", b"x")


def test_deleted_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(*_: object) -> None:
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr("celebahq_builder.pipeline.build.run_photo_stages", vanishing)
    with pytest.raises(WorkspaceError):
        build_tiny(tmp_path / "run", until="score")


def test_deleted_folder_of_photos(celeba: Path, tmp_path: Path) -> None:
    source = read_celeba(celeba)
    shutil.rmtree(celeba)
    with pytest.raises(SourceError, match="is gone"):
        build(source, tmp_path / "run", recipe=TINY, device="cpu", limit=3, workers=1)
    assert not list((tmp_path / "run" / "stages").rglob("*.jsonl"))
