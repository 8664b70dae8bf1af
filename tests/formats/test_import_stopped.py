"""An import that is killed goes on with what it had done, and comes to the same bytes as one that nothing stopped."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats.import_ import import_images
from celebahq_builder.hdf5 import create
from celebahq_builder.hdf5 import writer as writer_module
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import resumed_writer
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.image_set import NamedImage
from celebahq_builder.storage import lock, source_fingerprint
from tests.hdf5.pyramids import described_file, noise, tree

ROOT = Path(__file__).parents[2]

SIDE, COUNT = 256, 90
"""16 images a job; chunks of 2x2 and 1x1 px are of several jobs."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, SIDE))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    import_images(source, path)
    return path.read_bytes()


def kill(source: Path, target: Path, after: int, workers: int = 1) -> Path:
    """Kill an import; returns the folder that it leaves."""
    command = [sys.executable, "-m", "tests.formats.killed_import", source, target, workers, after]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not target.exists()
    return target.with_name(target.name + ".partial")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the images that an import reads."""
    numbers: list[int] = []
    images = LevelImageSet.images

    def counted(self: LevelImageSet, start: int = 0) -> Iterator[NamedImage]:
        for number, image in enumerate(images(self, start), start):
            numbers.append(number)
            yield image

    monkeypatch.setattr(LevelImageSet, "images", counted)
    return numbers


@pytest.mark.parametrize(("after", "workers"), [(16, 1), (40, 1), (60, 2), (COUNT, 1)])
def test_killed_and_begun_again(
    after: int,
    workers: int,
    source: Path,
    whole: bytes,
    read: list[int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    target = tmp_path / "made.h5"
    kill(source, target, after, workers)
    caplog.clear()
    import_images(source, target, workers=2)
    done = min(-(-after // 16) * 16, COUNT)
    assert "was stopped before its end; this one goes on from there" in caplog.messages[0]
    assert f"{done} of {COUNT} images are there already" in caplog.text
    assert read == list(range(done, COUNT))
    assert target.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-labels.npy", "made.h5"]


def test_grey_and_many_to_a_chunk(tmp_path: Path) -> None:
    """Levels of which a job fills no chunk, and a job several chunks."""
    source = described_file(tmp_path / "faces.h5", noise(2500, 16, 1))
    import_images(source, tmp_path / "whole.h5")
    kill(source, tmp_path / "made.h5", 1500)
    import_images(source, tmp_path / "made.h5")
    assert (tmp_path / "made.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_killed_again_and_again(source: Path, whole: bytes, tmp_path: Path) -> None:
    target = tmp_path / "made.h5"
    for after in (16, 32, 64, 80):
        kill(source, target, after)
    import_images(source, target)
    assert target.read_bytes() == whole


def test_interrupted(source: Path, whole: bytes, read: list[int], tmp_path: Path) -> None:
    """By Ctrl-C, after which the file is closed properly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "pack", _interrupted_at(4))
        with pytest.raises(KeyboardInterrupt):
            import_images(source, tmp_path / "made.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["made.h5.partial"]
    read.clear()
    import_images(source, tmp_path / "made.h5")
    assert read[0] == 48
    assert (tmp_path / "made.h5").read_bytes() == whole


def _interrupted_at(call: int) -> object:
    calls: list[int] = []

    def pack(*args: object) -> object:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return writer_module.pack(*args)

    return pack


@pytest.mark.parametrize(
    "torn", ["line cut short", "line altered", "line of nonsense", "chunk altered", "file cut short"]
)
def test_what_is_torn_is_made_again(torn: str, source: Path, whole: bytes, read: list[int], tmp_path: Path) -> None:
    """As a power cut leaves files whose last pages never reached the disk."""
    target = tmp_path / "made.h5"
    left = kill(source, target, 64) / "new"
    journal = (left / "journal").read_bytes()
    lines = journal.splitlines(keepends=True)
    assert len(lines) == 4
    offset, _, _ = json.loads(lines[3].split(b" ", 1)[1])["levels"][0][-1]
    with (left / "images.h5").open("r+b") as file:
        if torn == "line cut short":
            (left / "journal").write_bytes(journal[:-10])
        elif torn == "line altered":
            (left / "journal").write_bytes(b"".join(lines[:3]) + lines[3].replace(b"levels", b"lewels"))
        elif torn == "line of nonsense":
            (left / "journal").write_bytes(b"".join(lines[:3]) + b"\0" * 4096)
        elif torn == "chunk altered":
            file.seek(offset + 100)
            file.write(b"\0" * 100)
        else:
            file.truncate(offset + 100)
    import_images(source, target)
    assert read == list(range(48, COUNT))
    assert target.read_bytes() == whole


@pytest.mark.parametrize("moment", ["taking over", "deleting what was taken over"])
def test_killed_while_it_went_on(
    moment: str, source: Path, whole: bytes, read: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what the first had done is lost, whichever of the two folders has it."""
    target = tmp_path / "made.h5"
    left = kill(source, target, 64)
    with monkeypatch.context() as patch:
        if moment == "taking over":
            patch.setattr(create.ResumedWriter, "write", _stopped_at_the_third(create.ResumedWriter.write))
        else:
            patch.setattr(shutil, "rmtree", _half_deleted)
        with pytest.raises(KeyboardInterrupt):
            import_images(source, target)
    assert (left / "left").exists() == (moment == "taking over")
    read.clear()
    import_images(source, target)
    assert read == list(range(64, COUNT))
    assert target.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-labels.npy", "made.h5"]


def _stopped_at_the_third(write: object) -> object:
    calls: list[int] = []

    def stopped(*args: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*args)

    return stopped


def _half_deleted(folder: Path, **_: object) -> None:
    if folder.exists():
        (folder / "journal").unlink()
        raise KeyboardInterrupt


def test_no_room_for_both(
    source: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    target = tmp_path / "made.h5"
    kill(source, target, 64)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    import_images(source, target)
    assert "begun anew, as 1000 bytes are too few to go on with" in caplog.text
    assert target.read_bytes() == whole


def test_codec_and_shape_of_another_writer_are_never_mixed(source: Path, tmp_path: Path) -> None:
    """What is asked for otherwise does not go on with what is there, nor harm it."""
    target = tmp_path / "made.h5"
    left = kill(source, target, 32)
    before = tree(left / "new")
    for asked in ({"compression": "none"}, {"limit": 80}, {"format": "hdf5", "limit": 70}):
        with pytest.raises(CelebAHQError, match=f"{left} holds an unfinished made.h5 with .*; delete .*, or choose"):
            import_images(source, target, **asked)
    assert tree(left / "new") == before


def test_another_data_set_does_not_go_on(tmp_path: Path) -> None:
    source = described_file(tmp_path / "faces.h5", noise(40, SIDE))
    kill(source, tmp_path / "made.h5", 16)
    source.unlink()
    described_file(source, noise(40, SIDE, seed=1))
    with pytest.raises(CelebAHQError, match=r"holds an unfinished made\.h5 with content = "):
        import_images(source, tmp_path / "made.h5")


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "made.h5.partial", "folder", "--out"), pytest.raises(CelebAHQError, match="is in use by"):
        import_images(source, tmp_path / "made.h5")


def test_stamp(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"1")
    (tmp_path / "a" / "nowhere").symlink_to("gone")
    stamps = [source_fingerprint(tmp_path / "a")]
    assert source_fingerprint(tmp_path / "a") == stamps[0]
    (tmp_path / "a" / "b" / "one").write_bytes(b"12")
    stamps.append(source_fingerprint(tmp_path / "a"))
    os.utime(tmp_path / "a" / "b" / "one", ns=(0, 0))
    stamps.append(source_fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "b" / "one").rename(tmp_path / "a" / "one")
    stamps.append(source_fingerprint(tmp_path / "a"))
    stamps.append(source_fingerprint(tmp_path / "a" / "one"))
    assert len(set(stamps)) == 5


def test_an_empty_folder_is_a_beginning(tmp_path: Path) -> None:
    size = {"count": 1, "resolution": 4, "channels": 3, "codec": Gzip()}
    with resumed_writer(tmp_path / "folder", tmp_path / "made.h5", **size) as writer:
        assert writer.done == 0
        writer.write(writer_module.pack([noise(1, 4)[0]], 4, 3, Gzip()))
        writer.finish({}, {})
    with LevelImageSet(tmp_path / "made.h5") as level:
        assert [image.pixels.tolist() for image in level.images()] == noise(1, 4).tolist()
