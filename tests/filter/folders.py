"""Folders of images small enough to be scored often, and a filtering that kills itself."""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from celebahq_builder.filter import catalogue, command, delivery, page
from celebahq_builder.filter.delivery import Mode
from celebahq_builder.filter.selection import Cut
from celebahq_builder.filter.summary import Summary


def image(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """An image of soft noise, softer the higher the seed."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    for _ in range(seed % 6):
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return Image.fromarray(np.clip(noise / noise.std() * 50 + 128, 0, 255).astype(np.uint8))


def make(root: Path, count: int = 9) -> Path:
    """Make a folder of that many good images, some of them in folders below."""
    for number in range(count):
        folder = root / ("", "sub", "sub/ü 漢")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image(number).save(folder / f"{number:03}.png")
    return root


def add_odd(root: Path) -> dict[str, str]:
    """Add images of all kinds of pixels, and return the notes that each should get, by name."""
    good = image(2, 50, 44)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.random.default_rng(5).integers(0, 65536, (44, 44), dtype=np.uint16)
    frames = [image(seed) for seed in (3, 4)]
    good.convert("L").save(root / "grey.png")
    good.convert("CMYK").save(root / "cmyk.jpg")
    good.convert("P").save(root / "palette.png")
    seen_through = good.convert("RGBA")
    seen_through.putalpha(128)
    seen_through.save(root / "alpha.webp", lossless=True)
    good.save(root / "turned.jpg", exif=exif)
    Image.fromarray(deep).save(root / "deep.tif")
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    notes = {"grey.png": "grey", "cmyk.jpg": "cmyk", "palette.png": "palette", "turned.jpg": "exif-orientation"}
    return {**notes, "alpha.webp": "alpha", "deep.tif": "16-bit grey", "moving.gif": "palette", "moving.webp": ""}


def add_bad(root: Path) -> dict[str, str]:
    """Add files that have no score, and return the reason that each should get, by name."""
    buffer = io.BytesIO()
    image(1, 80, 80).save(buffer, "JPEG")
    (root / "cut short.jpg").write_bytes(buffer.getvalue()[:-900])
    (root / "empty.png").touch()
    (root / "<b>text.jpg").write_text("no image")
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "twice.png").symlink_to("000.png")
    Image.new("1", (4100, 4100)).save(root / "bomb.png")
    os.mkfifo(root / "pipe.jpg")
    (root / b"\xff\xe4.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    (root / "notes.txt").write_text("passed over")
    (root / ".hidden.png").write_text("passed over")
    return {
        "cut short.jpg": "CORRUPT_IMAGE",
        "empty.png": "EMPTY_FILE",
        "<b>text.jpg": "NOT_AN_IMAGE",
        "gone.jpg": "UNREADABLE",
        "twice.png": "SAME_FILE",
        "bomb.png": "TOO_LARGE",
        "pipe.jpg": "UNREADABLE",
        "\\xff\\xe4.jpg": "NOT_AN_IMAGE",
    }


BOMB_PIXELS = 4000 * 4000
"""A limit that `bomb.png` is above."""


def run(
    folder: Path, *, agree: Callable[[str], bool] = lambda _: False, cut: Cut | None = None, **asked: Any
) -> Summary:
    """Filter a folder, in this process unless asked otherwise."""
    return command.run(command.Request(folder, cut or Cut(), **{"pixels_max": BOMB_PIXELS, **asked}), agree)


POINTS: dict[str, tuple[Any, str]] = {
    "about": (catalogue, "write_json"),
    "score": (catalogue.Journal, "add"),
    "table": (command, "write_atomic"),
    "page": (page, "write"),
    "plan": (delivery, "write_plan"),
    "publish": (delivery, "publish"),
    "link": (delivery.os, "link"),
    "unlink": (Path, "unlink"),
}
"""Where a filtering can be killed: just before the COUNT-th call of a function."""


def killing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that does as another one does until its `count`-th call, which kills the process."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if __name__ == "__main__":
    root, out, mode, point, count = sys.argv[1:]
    owner, name = POINTS[point]
    setattr(owner, name, killing(getattr(owner, name), int(count)))
    run(Path(root), cut=Cut(keep=4), out=Path(out), mode=Mode(mode), agree=lambda _: True)
