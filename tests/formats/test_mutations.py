"""Mutations of valid files: each reader returns a result or raises a CelebAHQError, within a memory limit."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


READERS = (
    "parquet_file",
    "parquet_footer",
    "webdataset_shard",
    "webdataset_gzip",
    "webdataset_in_gzip",
    "tfrecord_file",
    "tfrecord_payload",
    "lmdb_file",
    "cifar_pickle",
    "cifar_archive",
    "mnist_images",
    "mnist_labels",
)


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_read_or_refused(reader: str, times: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_reader", reader, str(tmp_path), str(times)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    read, refused = map(int, ended.stdout.split())
    assert read + refused >= times * 0.9
    assert refused >= times * 0.3
