"""Every writer: write, fsync, rename, and only then the note that the file is complete."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import stylegan_zip
from celebahq_builder.formats.conversion import export_file
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.progan.video import write_video
from celebahq_builder.storage import partial_file, publish_new, staging, write_atomic
from celebahq_builder.storage.files import rename_new
from celebahq_builder.training.checkpoint import write_checkpoint
from tests.hdf5.files import noise, store
from tests.storage.recorder import Recorder


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_recorder_notices_a_missing_fsync(tmp_path: Path, recorder: Recorder) -> None:
    with partial_file(tmp_path / "a") as partial:
        partial.write_bytes(b"content")
        publish_new(partial, tmp_path / "a")
    with pytest.raises(AssertionError):
        recorder.named(tmp_path / "a")


@pytest.mark.parametrize("new", [False, True])
def test_atomic_write(new: bool, tmp_path: Path, recorder: Recorder) -> None:
    write_atomic(tmp_path / "a", b"content", new=new)
    recorder.named(tmp_path / "a")


def test_checkpoint_of_a_training(tmp_path: Path, recorder: Recorder) -> None:
    write_checkpoint(tmp_path / "a.pt", {"seed": 0}, {"weight": torch.ones(2)})
    recorder.named(tmp_path / "a.pt")


def test_video(tmp_path: Path, recorder: Recorder) -> None:
    frames = (np.full((16, 16, 3), level, np.uint8) for level in (0, 100, 200))
    write_video(tmp_path / "a.mp4", frames, 16, 16, 4)
    recorder.named(tmp_path / "a.mp4")


def test_hdf5(tmp_path: Path, recorder: Recorder) -> None:
    with LevelImageSet(store(tmp_path / "in.h5", noise(3, 8))) as source:
        write_images(source, tmp_path / "out.h5")
    recorder.named(tmp_path / "out.h5")


def test_zip(tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan_zip, "CHECKPOINT", 2)
    out = tmp_path / "out.zip"
    export_file(store(tmp_path / "in.h5", noise(5, 8)), out, "stylegan-zip", workers=1)
    notes = [i for i, call in enumerate(recorder.calls) if call.target == f"{out}.partial/checkpoint.json"]
    assert len(notes) == 2
    synced = [i for i, call in enumerate(recorder.calls) if call[:2] == ("fsync", f"{out}.partial/data")]
    assert synced[0] < notes[0] < synced[1] < notes[1] < synced[2] < recorder.named(out)


def test_metadata_of_images(tmp_path: Path, recorder: Recorder) -> None:
    out = tmp_path / "out"
    export_file(store(tmp_path / "in.h5", noise(3, 8), score=np.arange(3.0)), out, "images", workers=1)
    digest = hashlib.sha256((out / "metadata.jsonl").read_bytes()).hexdigest()
    renamed = next(i for i, call in enumerate(recorder.calls) if call.target == str(out))
    assert recorder.synced(Path(f"{out}.partial/data/metadata.jsonl.partial"), digest) < renamed


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_shards(to: str, tmp_path: Path, recorder: Recorder) -> None:
    out = tmp_path / "out"
    export_file(store(tmp_path / "in.h5", noise(5, 8)), out, to, shard=2, workers=1)
    assert len([recorder.named(Path(f"{out}.partial/data", path.name)) for path in out.iterdir()]) == 3


def test_tfrecord(tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished part of 32 images is noted after its records are on the disk."""
    out, notes, recorded_fsync = tmp_path / "out", [], os.fsync

    def fsync(descriptor: int) -> None:
        recorded_fsync(descriptor)
        if recorder.calls[-1].source.endswith(".tfrecords"):
            notes.append(Path(f"{out}.partial/done").read_text())

    monkeypatch.setattr(os, "fsync", fsync)
    export_file(store(tmp_path / "in.h5", noise(35, 8)), out, "tfrecord", workers=1)
    files = sorted(out.glob("*.tfrecords"))
    assert len(files) == 2
    assert notes == [""] * 2 + ["0\n"] * 2
    assert [call.source for call in recorder.calls].count(f"{out}.partial/done") == 2
    renamed = next(i for i, call in enumerate(recorder.calls) if call.target == str(out))
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert recorder.synced(Path(f"{out}.partial/data", file.name), digest) < renamed


# --- Names that are taken meanwhile ------------------------------------------------------------------------------


@pytest.mark.parametrize("publish", [publish_new, rename_new])
def test_new_file_replaces_nothing(publish, tmp_path: Path) -> None:
    (tmp_path / "ours").write_bytes(b"ours")
    (tmp_path / "a").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "ours", tmp_path / "a")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "ours").read_bytes()) == (b"theirs", b"ours")


def test_hdf5_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program makes the file after the last check and before the rename."""
    out = tmp_path / "out.h5"
    from celebahq_builder.hdf5 import writer

    def appears(partial: Path, path: Path) -> None:
        path.write_bytes(b"theirs")
        publish_new(partial, path)

    monkeypatch.setattr(writer, "publish_new", appears)
    with LevelImageSet(store(tmp_path / "in.h5", noise(3, 8))) as source:
        source.labels = np.eye(3, dtype=np.float32)
        with pytest.raises(FormatError, match=r"out\.h5 exists already"):
            write_images(source, out)
    assert {path.name for path in tmp_path.iterdir()} == {"in.h5", "out.h5"}
    assert out.read_bytes() == b"theirs"


def test_output_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celebahq_builder.storage import outputs

    def taken(target: Path, *, replace_empty: bool) -> None:
        if stage_data.exists():
            target.write_bytes(b"theirs")

    stage_data = tmp_path / "out.partial" / "data"
    monkeypatch.setattr(outputs, "check_free", taken)
    with pytest.raises(FormatError, match="cannot be written"), staging(tmp_path / "out", {}) as stage:
        stage.data.write_bytes(b"ours")
    assert (tmp_path / "out").read_bytes() == b"theirs"
