"""Exports that are killed or interrupted, and folders of others in their way."""

import errno
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder import progress
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats import images, stylegan_zip
from celebahq_builder.formats.conversion import export_file
from celebahq_builder.storage import lock, partial_path
from tests.disk import failing
from tests.formats.files import FORMATS, out
from tests.formats.killed_conversion import kill_after, small_shards
from tests.hdf5.pyramids import described_file, noise, tree

COUNT = 70


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, 32))


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("webdataset", 2)])
def test_killed_and_resumed(
    to: str, workers: int, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGKILL, the same command makes the same bytes, and does not repeat finished work."""
    caplog.set_level(logging.INFO)
    whole, target = out(tmp_path / "whole", to), out(tmp_path / "killed", to)
    export_file(source, whole, to, **small_shards(to), workers=1)
    kill_after(33, source, target, workers, to)
    left = target.with_name(target.name + ".partial")
    assert (left / "plan.json").exists()
    assert (left / "checkpoint.json").exists() == (to == "stylegan-zip")
    partial_path(left / "plan.json").write_bytes(b"half")
    caplog.clear()
    export_file(source, target, to, **small_shards(to), workers=workers)
    assert "resuming an earlier command that did not finish" in caplog.messages[0]
    assert tree(target) == tree(whole)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_zip_killed_far_after_its_checkpoint(tmp_path: Path) -> None:
    """The entries after the checkpoint are longer than the 64 KB in which a zip's end is looked for."""
    source = described_file(tmp_path / "faces.h5", noise(41, 64))
    whole, target = tmp_path / "whole.zip", tmp_path / "faces.zip"
    export_file(source, whole, "stylegan-zip", workers=1)
    kill_after(30, source, target, 1, "stylegan-zip")
    left = tmp_path / "faces.zip.partial"
    note = json.loads((left / "checkpoint.json").read_text())
    assert note["images"] == 16
    assert (left / "data").stat().st_size > note["bytes"] + 2**16
    export_file(source, target, "stylegan-zip", workers=1)
    assert target.read_bytes() == whole.read_bytes()
    with zipfile.ZipFile(target) as archive:
        assert len(archive.namelist()) == 41 + 1
        assert archive.testzip() is None


@pytest.mark.parametrize("to", ["images", "stylegan-zip"])
def test_target_that_appears_meanwhile(to: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = out(tmp_path, to)

    class Appearing(progress.Progress):
        def close(self) -> None:
            super().close()
            target.mkdir() if to == "images" else target.write_bytes(b"of the user")

    monkeypatch.setattr("celebahq_builder.formats.conversion.Progress", Appearing)
    with pytest.raises(CelebAHQError, match="exists and is not overwritten"):
        export_file(source, target, to, **small_shards(to), workers=1)
    assert list(tmp_path.iterdir()) == [target]
    assert tree(target) == ({} if to == "images" else {"": b"of the user"})


@pytest.mark.parametrize("to", FORMATS)
def test_interrupted_and_resumed(to: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C at several points, only images of an unfinished part are written twice."""
    monkeypatch.setattr(stylegan_zip, "CHECKPOINT", 16)
    target = out(tmp_path, to)
    advanced: list[int] = []
    stop = 0

    class Stopping(progress.Progress):
        def advance(self, photos: int, rejected: int = 0, failed: int = 0) -> None:
            super().advance(photos)
            advanced.append(photos)
            if self.done >= stop:
                raise KeyboardInterrupt

    monkeypatch.setattr("celebahq_builder.formats.conversion.Progress", Stopping)
    for one in (20, 50):
        stop = one
        with pytest.raises(KeyboardInterrupt):
            export_file(source, target, to, **small_shards(to), workers=1)
        assert not target.exists()
    stop = COUNT + 1
    export_file(source, target, to, **small_shards(to), workers=1)
    assert sum(advanced) <= COUNT + 2 * 16
    monkeypatch.undo()
    export_file(source, out(tmp_path / "whole", to), to, **small_shards(to), workers=1)
    assert tree(target) == tree(out(tmp_path / "whole", to))


def test_existing_images_are_not_written_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    encode = images.encode_image

    def counted(*asked: Any, **more: Any) -> bytes:
        made.append(1)
        if len(made) == 40:
            raise KeyboardInterrupt
        return encode(*asked, **more)

    monkeypatch.setattr(images, "encode_image", counted)
    with pytest.raises(KeyboardInterrupt):
        export_file(source, tmp_path / "faces", "images", workers=1)
    export_file(source, tmp_path / "faces", "images", workers=1)
    assert len(made) == COUNT + 1


def test_other_settings_do_not_resume(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_write_metadata", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_file(source, tmp_path / "faces", "images", workers=1)
    before = tree(tmp_path)
    with pytest.raises(CelebAHQError, match=r"holds an unfinished faces with resolution = 32, this one has 16; delete"):
        export_file(source, tmp_path / "faces", "images", resolution=16, workers=1)
    assert {name: data for name, data in tree(tmp_path).items() if not name.endswith("lock")} == {
        name: data for name, data in before.items() if not name.endswith("lock")
    }


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    with (
        lock(tmp_path / "faces.partial", "folder", "--out"),
        pytest.raises(CelebAHQError, match="is in use by process"),
    ):
        export_file(source, tmp_path / "faces", "images", workers=1)


def test_partial_folder_of_something_else(source: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.partial").mkdir()
    (tmp_path / "faces.partial" / "mine").write_text("mine")
    with pytest.raises(CelebAHQError, match="is in the way and was not made by this command"):
        export_file(source, tmp_path / "faces", "images", workers=1)
    assert tree(tmp_path) == {"faces.partial/mine": b"mine"}


def test_killed_before_the_first_file_of_a_partial_folder(source: Path, tmp_path: Path) -> None:
    """The empty folder that such a kill leaves is taken over."""
    (tmp_path / "faces.partial").mkdir()
    export_file(source, tmp_path / "faces", "images", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


# --- Files of others --------------------------------------------------------------------------------------------


def stopped(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave an unfinished export, and return its folder."""
    with monkeypatch.context() as patched:
        patched.setattr(images, "_write_metadata", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_file(source, target, "images", workers=1)
    return target.with_name(f"{target.name}.partial")


@pytest.mark.parametrize("kind", ["run", "moved", "plan", "file", "link", "link inside", "link to data", "damaged"])
def test_folders_of_others_are_not_touched(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that only looks like one of ours stays, and so do the targets of links in it."""
    left, theirs = tmp_path / "faces.partial", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "mine").write_text("mine")
    if kind in ("run", "plan"):
        left.mkdir()
        for name in ("lock", ".celebahq-lock", "mine"):
            (left / name).touch()
        (left / ("plan.json" if kind == "plan" else "run.json")).write_text('{"fingerprint": "a", "ingredients": []}')
    elif kind == "file":
        left.write_text("mine")
    else:
        made = stopped(source, tmp_path / ("other" if kind == "moved" else "faces"), monkeypatch)
        if kind == "moved":
            made.rename(left)
        elif kind == "damaged":
            (left / "plan.json").write_text("{")
        elif kind == "link":
            made.rename(tmp_path / "elsewhere")
            left.symlink_to("elsewhere")
        elif kind == "link inside":
            (left / "data" / "mine").symlink_to(theirs)
        else:
            (left / "data").rename(tmp_path / "elsewhere")
            (left / "data").symlink_to("../elsewhere")
    before = tree(tmp_path)
    message = "is a link, and this command makes none" if kind.startswith("link ") else "was not made by this command"
    with pytest.raises(CelebAHQError, match=message):
        export_file(source, tmp_path / "faces", "images", workers=1)
    assert tree(tmp_path) == before


def test_killed_before_the_plan_was_written(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "faces.partial"
    left.mkdir()
    (left / ".celebahq-lock").touch()
    partial_path(left / "plan.json").write_text("{")
    export_file(source, tmp_path / "faces", "images", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("fails", [True, False])
def test_files_of_others_stay(
    fails: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = stopped(source, tmp_path / "faces", monkeypatch)
    (left / "notes.txt").write_text("mine")
    if fails:
        failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith("metadata.jsonl"))
        with pytest.raises(CelebAHQError, match="no space left"):
            export_file(source, tmp_path / "faces", "images", workers=1)
    else:
        export_file(source, tmp_path / "faces", "images", workers=1)
    assert [path.name for path in left.iterdir()] == ["notes.txt"]
    assert (tmp_path / "faces").exists() != fails
    assert "faces.partial stays, as notes.txt in it was not made by this command" in caplog.text


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("to", FORMATS)
def test_partial_folder_that_vanishes(
    to: str, back: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error; a new folder of that name is not touched; the same command works once that is gone."""
    target = out(tmp_path, to)
    left = target.with_name(f"{target.name}.partial")
    monkeypatch.setattr(stylegan_zip, "CHECKPOINT", 16)

    class Vanishing(progress.Progress):
        def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
            if left.exists() and not (left / "mine").exists():
                shutil.rmtree(left)
                if back:
                    left.mkdir()
                    (left / "mine").write_text("mine")

    with monkeypatch.context() as patched:
        patched.setattr("celebahq_builder.formats.conversion.Progress", Vanishing)
        with pytest.raises(CelebAHQError, match="partial was deleted or replaced while this command wrote"):
            export_file(source, target, to, **small_shards(to), workers=1)
    assert tree(tmp_path) == ({f"{left.name}/mine": b"mine"} if back else {})
    shutil.rmtree(left, ignore_errors=True)
    assert export_file(source, target, to, **small_shards(to), workers=1) == COUNT


@pytest.mark.parametrize("to", ["tfrecord", "images", "webdataset", "parquet"])
def test_files_that_vanish(to: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[Path] = []

    class Vanishing(progress.Progress):
        def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
            if not first:
                first.append(min(path for path in (tmp_path / "faces.partial" / "data").iterdir()))
                first[0].unlink()

    monkeypatch.setattr("celebahq_builder.formats.conversion.Progress", Vanishing)
    with pytest.raises(CelebAHQError, match="No such file|was deleted while this command worked"):
        export_file(source, tmp_path / "faces", to, **small_shards(to), workers=1)
    assert first
    assert list(tmp_path.iterdir()) == []
