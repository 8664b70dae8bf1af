"""Readers on mutations of good files: each file is read or refused, in limited memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["images", "stylegan-zip"])
def test_mutations_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_inputs", kind]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = re.fullmatch(r"(\d+) tried, (\d+) refused\n", ended.stdout)
    assert found
    tried, refused = map(int, found.groups())
    assert tried >= 250
    assert refused > tried / 4
    assert refused < tried


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
def test_mutations_in_containers_are_read_or_refused(reader: str, times: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_reader", reader, str(tmp_path), str(times)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    read, refused = map(int, ended.stdout.split())
    assert read + refused >= times * 0.9
    assert refused >= times * 0.3
