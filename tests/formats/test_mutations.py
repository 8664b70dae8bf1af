"""Mutations of valid files: each reader returns a result or raises a CelebAHQError, within a memory limit."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("reader", "times"),
    [
        ("parquet_file", 100),
        ("parquet_footer", 200),
        ("webdataset_shard", 200),
        ("webdataset_gzip", 200),
        ("webdataset_in_gzip", 200),
        ("tfrecord_file", 200),
        ("tfrecord_payload", 200),
        ("lmdb_file", 200),
        ("cifar_pickle", 200),
        ("cifar_archive", 200),
        ("mnist_images", 200),
        ("mnist_labels", 200),
    ],
)
def test_read_or_refused(reader: str, times: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_reader", reader, str(tmp_path), str(times)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    read, refused = map(int, ended.stdout.split())
    assert read + refused >= times * 0.9
    assert refused >= times * 0.3
