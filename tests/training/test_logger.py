"""Every position of a run has one line and one set of TensorBoard scalars, also after a kill."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from celebahq_builder.errors import DiskFull, TrainingError
from celebahq_builder.training.logger import TrainingLogger, read_lines
from tests.disk import small_disk


def events(folder: Path) -> list[list[Event]]:
    """Read TensorBoard's files: each record has its length, a checksum, its bytes and a checksum."""
    files = []
    for path in sorted((folder / "tensorboard").iterdir()):
        raw, at, found = path.read_bytes(), 0, []
        while at < len(raw):
            (length,) = struct.unpack_from("<Q", raw, at)
            found.append(Event.FromString(raw[at + 12 : at + 12 + length]))
            at += length + 16
        files.append(found)
    return files


def test_lines_scalars_and_images(tmp_path: Path) -> None:
    image = np.full((6, 8, 3), (200, 10, 60), np.uint8)
    with TrainingLogger(tmp_path / "log.jsonl", "step", 0) as logger:
        logger.write({"step": 10, "loss": 0.5, "psnr": 30}, image)
        logger.write({"step": 20, "loss": 0.25, "psnr": 31})
    assert read_lines(tmp_path / "log.jsonl")[1] == {"step": 20, "loss": 0.25, "psnr": 31}
    (found,) = events(tmp_path)
    values = [(event.step, value) for event in found for value in event.summary.value]
    assert [(step, v.tag, v.simple_value) for step, v in values if v.tag != "samples"] == [
        *((10, "loss", 0.5), (10, "psnr", 30.0)),
        *((20, "loss", 0.25), (20, "psnr", 31.0)),
    ]
    assert [(v.image.height, v.image.width) for _, v in values if v.tag == "samples"] == [(6, 8)]


@pytest.mark.parametrize(("position", "left"), [(0, []), (10, [10]), (15, [10]), (30, [10, 20, 30])])
def test_lines_beyond_the_checkpoint_are_deleted(position: int, left: list[int], tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with TrainingLogger(path, "step", 0) as logger:
        for step in (10, 20, 30):
            logger.write({"step": step, "loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]
    with TrainingLogger(path, "step", position):
        pass
    assert [line["step"] for line in read_lines(path)] == left


DAMAGED = [
    "{",
    "[1]",
    "3",
    *(f'{{"step": {value}}}' for value in ('"x"', "null", "[1]", 10**19)),
    "[" * 100_000,
    "\udcff",
    "{}",
]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_lines_are_left_out(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others are kept, also when a run is resumed."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(f'{{"step": 10}}\n{text}\n{{"step": 20}}\n'.encode(errors="surrogateescape"))
    assert [line["step"] for line in read_lines(path) if line] == [10, 20]
    assert ("line 2 of" in caplog.text) is (text != "{}")
    with TrainingLogger(path, "step", 20) as logger:
        logger.write({"step": 30})
    assert path.read_text().splitlines() == ['{"step": 10}', '{"step": 20}', '{"step": 30}']


def test_a_log_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be read: a named pipe, not a regular file"):
        TrainingLogger(tmp_path / "log.jsonl", "step", 0)


@pytest.mark.parametrize("position", [0, 32])
def test_tensorboard_has_every_tick_once(position: int, tmp_path: Path) -> None:
    """The events of the last tick before a kill may be missing, so they are written again."""
    for session, ticks in enumerate(((16, 32, 48), (48,) if position else (16, 32, 48))):
        for path in tmp_path.glob("tensorboard/*"):  # TensorBoard's file names differ by the second
            path.rename(path.with_name("events.out.tfevents.1"))
        with TrainingLogger(tmp_path / "stats.jsonl", "images", position * session) as logger:
            for images in ticks:
                logger.write({"images": images, "loss": 1.0})
    first, second = (
        [
            (event.step, "purge" if event.HasField("session_log") else event.summary.value[0].tag)
            for event in file
            if event.HasField("session_log") or event.summary.value
        ]
        for file in events(tmp_path)
    )
    assert first == [(16, "loss"), (32, "loss"), (48, "loss")]
    steps = [32, 48] if position else [16, 32, 48]
    assert second == [(position or 1, "purge"), *((step, "loss") for step in steps)]


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4k") as disk:
        logger = TrainingLogger(tmp_path / "run" / "log.jsonl", "images", 0)
        logger.path = disk / "log.jsonl"
        with pytest.raises(DiskFull, match=r"no space left to write .*log\.jsonl; free some"), logger:
            logger.write({"images": 8} | {f"loss {n}": 0.5 for n in range(1000)})  # more than the disk has


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text('{"images": 8}\n')
    with TrainingLogger(tmp_path / "log.jsonl", "images", 0) as logger:
        (tmp_path / "log.jsonl").symlink_to("theirs")
        with pytest.raises(OSError, match=r"log\.jsonl"):
            logger.write({"images": 16})
    assert (tmp_path / "theirs").read_text() == '{"images": 8}\n'
