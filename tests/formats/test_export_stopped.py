"""Exports that are killed, interrupted, or fail."""

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from celebahq_builder import progress
from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats import images, stylegan_zip
from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.inspect.extract import extract
from celebahq_builder.storage import lock, partial_path
from tests.disk import failing
from tests.formats.killed_export import small_shards
from tests.hdf5.files import damage
from tests.hdf5.pyramids import described_file, noise, tree

ROOT = Path(__file__).parents[2]

FORMATS = ("tfrecord", "stylegan-zip", "images", "webdataset", "parquet")

COUNT = 70


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, 32))


def out(folder: Path, to: str) -> Path:
    return folder / ("faces.zip" if to == "stylegan-zip" else "faces")


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("webdataset", 2)])
def test_killed_and_resumed(
    to: str, workers: int, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGKILL, the same command makes the same bytes, and does not repeat finished work."""
    caplog.set_level(logging.INFO)
    whole, target = out(tmp_path / "whole", to), out(tmp_path / "killed", to)
    export_file(source, whole, to, **small_shards(to), workers=1)
    command = [sys.executable, "-m", "tests.formats.killed_export", source, target, to, workers, 33]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not target.exists()
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
    command = [sys.executable, "-m", "tests.formats.killed_export", source, target, "stylegan-zip", 1, 30]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
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


# --- Failures


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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("images", 2)])
def test_full_disk(to: str, workers: int, tmp_path: Path, small_disk: Path) -> None:
    large = described_file(tmp_path / "large.h5", noise(70, 64))
    with pytest.raises(CelebAHQError, match="no space left to write .*; its parts are deleted; free some"):
        export_file(large, out(small_disk / "made", to), to, workers=workers)
    assert list(small_disk.iterdir()) == []


def test_full_disk_elsewhere(tmp_path: Path, small_disk: Path) -> None:
    """Import and extract leave nothing."""
    large = described_file(tmp_path / "large.h5", noise(70, 64))
    full = "no space left to write .*; free some and run the same command again$"
    with pytest.raises(CelebAHQError, match=full):
        import_images(large, small_disk / "again.h5")
    assert list(small_disk.iterdir()) == []
    with PyramidFile(large) as file, pytest.raises(CelebAHQError, match=full):
        extract(file, range(70), small_disk / "out")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("to", FORMATS)
def test_damaged_chunk(to: str, tmp_path: Path) -> None:
    """The error names the image within the block that is read."""
    path = described_file(tmp_path / "faces.h5", noise(COUNT, 16))
    damage(path, 16, 60)
    with pytest.raises(CelebAHQError, match=r"faces\.h5: image 60 of data16x16 cannot be read"):
        export_file(path, out(tmp_path / "made", to), to, workers=1)
    assert [one.name for one in tmp_path.iterdir()] == ["faces.h5"]


@pytest.mark.parametrize("to", FORMATS)
def test_target_exists(to: str, source: Path, tmp_path: Path) -> None:
    target = out(tmp_path, to)
    target.write_text("mine")
    with pytest.raises(CelebAHQError, match="exists and is not overwritten; delete it, or choose another `out`"):
        export_file(source, target, to, workers=1)
    assert tree(tmp_path) == {target.name: b"mine"}


@pytest.mark.parametrize(("to", "workers"), [*((to, 1) for to in FORMATS), ("stylegan-zip", 2)])
def test_damaged_image(to: str, workers: int, tmp_path: Path) -> None:
    """An image that is not the one that was written is not exported."""
    path = described_file(tmp_path / "faces.h5", noise(COUNT, 16))
    with h5py.File(path, "r+") as file:
        file["data16x16"][60, 1, 2, 3] ^= 1
    with pytest.raises(CelebAHQError, match=r"faces\.h5: image 60 is not the one that was written"):
        export_file(path, out(tmp_path / "made", to), to, workers=workers)
    assert [one.name for one in tmp_path.iterdir()] == ["faces.h5"]


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
            "`resolution` 2 is too small: TFRecord files have levels from 4x4 on",
        ),
        ({"format": "stylegan-zip"}, "does not end in .zip"),
        (
            {"format": "images", "shuffle": True},
            "`shuffle` has no effect on images; leave it out",
        ),
        (
            {"format": "images", "shard": 1000},
            "`shard` has no effect on images; leave it out",
        ),
        ({"format": "tfrecord", "shard": 5}, "`shard` has no effect on tfrecord"),
        ({"format": "stylegan-zip", "shard": 5}, "`shard` has no effect on stylegan-zip"),
        (
            {"format": "tfrecord", "png_level": 0},
            "`png_level` has no effect on tfrecord; leave",
        ),
        ({"format": "gif"}, "`to` gif does not exist; expected one of images, stylegan-zip,"),
    ],
)
def test_refused_settings(asked: dict[str, Any], expected_text: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(CelebAHQError) as raised:
        export_file(source, tmp_path / "made" / "faces", **asked, workers=1)
    assert expected_text in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_file(share: float, source: Path, tmp_path: Path) -> None:
    raw = source.read_bytes()
    (tmp_path / "cut.h5").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CelebAHQError, match=r"cut\.h5 is not (a readable|an) HDF5 file"):
        export_file(tmp_path / "cut.h5", tmp_path / "faces", "images", workers=1)
    assert [one.name for one in tmp_path.iterdir()] == ["cut.h5"]


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
