"""Imports that are killed or interrupted: nothing half-written has the final name, and the next import starts again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats.import_ import import_images
from celebahq_builder.hdf5 import create, writer
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.storage import is_partial_of, source_fingerprint
from tests.hdf5.pyramids import described_file, noise

ROOT = Path(__file__).parents[2]

SIDE, COUNT = 256, 90
"""16 images are packed together; chunks of 2x2 and 1x1 px span several such jobs."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, SIDE))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    import_images(source, path)
    return path.read_bytes()


@pytest.mark.parametrize(("after", "workers"), [(16, 1), (60, 2), (COUNT, 1)])
def test_killed_and_started_again(after: int, workers: int, source: Path, whole: bytes, tmp_path: Path) -> None:
    target = tmp_path / "made.h5"
    command = [sys.executable, "-m", "tests.formats.killed_import", source, target, workers, after]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = tmp_path.iterdir()
    assert is_partial_of(left.name, "made.h5")
    import_images(source, target, workers=2)
    assert target.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-labels.npy", "made.h5"]


def test_interrupted(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the fourth job: nothing is left."""
    calls: list[int] = []

    def interrupted_pack(*args: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return writer.pack(*args)

    monkeypatch.setattr(create, "pack", interrupted_pack)
    with pytest.raises(KeyboardInterrupt):
        import_images(source, tmp_path / "made.h5")
    assert len(calls) == 4
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    size = {"count": 1, "resolution": 4, "channels": 3}
    with (
        writer.PyramidWriter(tmp_path / "made.h5", **size, codec=Gzip()),
        pytest.raises(CelebAHQError, match=r"made\.h5 is being written by another process"),
    ):
        import_images(source, tmp_path / "made.h5")


def test_source_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"1")
    (tmp_path / "a" / "nowhere").symlink_to("gone")
    found = [source_fingerprint(tmp_path / "a")]
    assert source_fingerprint(tmp_path / "a") == found[0]
    (tmp_path / "a" / "b" / "one").write_bytes(b"12")
    found.append(source_fingerprint(tmp_path / "a"))
    os.utime(tmp_path / "a" / "b" / "one", ns=(0, 0))
    found.append(source_fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "b" / "one").rename(tmp_path / "a" / "one")
    found.append(source_fingerprint(tmp_path / "a"))
    found.append(source_fingerprint(tmp_path / "a" / "one"))
    assert len(set(found)) == 5
