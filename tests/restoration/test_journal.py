"""A line, TensorBoard's scalars and an image for each validation; later lines go when a run goes back."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from celebahq_builder.restoration.journal import TrainingLog, grid


def events(folder: Path) -> list[Event]:
    """Read TensorBoard's files: records of length, checksum, bytes, checksum."""
    found = []
    for path in sorted(folder.glob("tensorboard/*")):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            (length,) = struct.unpack_from("<Q", raw, at)
            found.append(Event.FromString(raw[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_what_is_written(tmp_path: Path) -> None:
    pixels = np.full((6, 8, 3), (200, 10, 60), np.uint8)
    with TrainingLog(tmp_path, 0, 20) as journal:
        journal.write({"step": 10, "loss": 0.5, "psnr_y_db": 28.25}, [[pixels, pixels]])
        journal.write({"step": 20, "loss": 0.25, "psnr_y_db": 29.5}, [])
    assert lines(tmp_path)[1] == {"step": 20, "loss": 0.25, "psnr_y_db": 29.5}
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value if v.tag != "samples"]
    assert scalars == [(10, "loss", 0.5), (10, "psnr_y_db", 28.25), (20, "loss", 0.25), (20, "psnr_y_db", 29.5)]
    images = [v.image for e in events(tmp_path) for v in e.summary.value if v.tag == "samples"]
    assert [(image.height, image.width) for image in images] == [(6, 20)]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["0000010.png"]
    with Image.open(tmp_path / "samples" / "0000010.png") as page:
        assert page.size == (20, 6)
        assert page.getpixel((0, 0)) == (200, 10, 60)
        assert page.getpixel((9, 3)) == (255, 255, 255)


@pytest.mark.parametrize(("step", "left"), [(0, []), (10, [10]), (15, [10]), (30, [10, 20, 30])])
def test_lines_beyond_the_checkpoint_go(step: int, left: list[int], tmp_path: Path) -> None:
    with TrainingLog(tmp_path, 0, 40) as journal:
        for at in (10, 20, 30):
            journal.write({"step": at, "loss": 1.0}, [])
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 40, "lo')
    with TrainingLog(tmp_path, step, 40):
        pass
    assert [line["step"] for line in lines(tmp_path)] == left


def test_grid() -> None:
    images = [[np.full((2, 3, 3), 10 * i + j, np.uint8) for j in range(2 - i)] for i in range(2)]
    page = grid(images)
    assert page.shape == (2 + 4 + 2, 3 + 4 + 3, 3)
    assert [int(page[top, left, 0]) for top in (0, 6) for left in (0, 7)] == [0, 1, 10, 255]
    assert (page[2:6] == 255).all()
