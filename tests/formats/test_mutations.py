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
    "zip_file",
    "zip_directory",
    *(f"zip:{name}" for name in ("c.webp", "metadata.jsonl", "dataset.json")),
    *(f"folder:{name}" for name in ("a.png", "b.jpg", "c.webp", "d.tif", "e.bmp", "f.avif", "g/g.png")),
    *(f"folder:{name}" for name in ("metadata.jsonl", "metadata.csv", "dataset.json")),
)


@pytest.mark.parametrize(
    ("readers", "times"),
    [(READERS, 20), *(pytest.param(READERS[i::3], 200, marks=pytest.mark.slow) for i in range(3))],
)
def test_read_or_refused(readers: tuple[str, ...], times: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_reader", ",".join(readers), str(tmp_path), str(times)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert tuple(name for name, _, _ in lines) == readers
    for name, read, refused in lines:
        assert int(read) + int(refused) >= times * 0.9, name
        assert int(refused) >= times * 0.3, name
