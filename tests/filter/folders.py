"""Folders of images that are small enough to be scored often, and a filter run that kills itself."""

import csv
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from celebahq_builder.filter import deliver, store
from celebahq_builder.filter import run as filter_run
from celebahq_builder.filter.deliver import DeliveryMode, DeliveryRecord, plan_delivery
from celebahq_builder.filter.report import FilterResult
from celebahq_builder.filter.run import filter_folder
from celebahq_builder.filter.store import SCORE_PARTS, ImageScore


def make_image(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """Return an image of noise, which is blurred seed % 6 times."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    for _ in range(seed % 6):
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return Image.fromarray(np.clip(noise / noise.std() * 50 + 128, 0, 255).astype(np.uint8))


def image_score(path: str, score: float) -> ImageScore:
    """Return the record of an image of this score."""
    return ImageScore(path, 1, 2, (score, *[0.5] * (len(SCORE_PARTS) - 1)), 30, 20, ("grey",))


def make(root: Path, count: int = 9) -> Path:
    """Make a folder of `count` valid images, some of them in subfolders."""
    for number in range(count):
        folder = root / ("", "sub", "sub/ü 漢")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        make_image(number).save(folder / f"{number:03}.png")
    return root


def add_odd(root: Path) -> dict[str, str]:
    """Add images of all pixel formats, and return the expected notes of each, by name."""
    good = make_image(2, 50, 44)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.random.default_rng(5).integers(0, 65536, (44, 44), dtype=np.uint16)
    frames = [make_image(seed) for seed in (3, 4)]
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
    """Add files that have no score, and return the expected reason of each, by name."""
    buffer = io.BytesIO()
    make_image(1, 80, 80).save(buffer, "JPEG")
    (root / "truncated.jpg").write_bytes(buffer.getvalue()[:-900])
    (root / "empty.png").touch()
    (root / "<b>text.jpg").write_text("not an image")
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "twice.png").symlink_to("000.png")
    Image.new("1", (4100, 4100)).save(root / "bomb.png")
    os.mkfifo(root / "pipe.jpg")
    (root / b"\xff\xe4.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    (root / "notes.txt").write_text("skipped")
    (root / ".hidden.png").write_text("skipped")
    return {
        "truncated.jpg": "CORRUPT_IMAGE",
        "empty.png": "EMPTY_FILE",
        "<b>text.jpg": "NOT_AN_IMAGE",
        "gone.jpg": "UNREADABLE",
        "twice.png": "SAME_FILE",
        "bomb.png": "TOO_LARGE",
        "pipe.jpg": "UNREADABLE",
        "\\xff\\xe4.jpg": "NOT_AN_IMAGE",
    }


NAMES = ("a.jpg", "sub/a.jpg", "sub/ü 漢.png", "sub/deep/b.jpg")
"""Files of `make_files`."""


def make_files(folder: Path) -> Path:
    """Make a folder of the files `NAMES`, which are not images, and one more."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
        os.utime(path, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    (folder / "sub" / "not asked for.jpg").write_text("x")
    return folder


def carry_out(
    folder: Path, out: Path, mode: DeliveryMode, names: tuple[str, ...] = NAMES, **asked: Any
) -> list[tuple[str, str]]:
    """Deliver and prune, and return the path and error of each file."""
    planned = plan_delivery(folder, out, mode, names, **asked)
    return [*deliver.deliver_images(planned), *deliver.prune_files(planned)]


BOMB_PIXELS = 4000 * 4000
"""A limit that `bomb.png` exceeds."""


def run(folder: Path, **arguments: Any) -> FilterResult:
    """Filter a folder, by default in this process, with the scores beside the folder."""
    default = {"scores": f"{folder}-scores", "pixels_max": BOMB_PIXELS, "workers": 1}
    return filter_folder(folder, **{**default, **arguments})


def rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table of images."""
    return list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))


POINTS: dict[str, tuple[Any, str]] = {
    "about": (store, "write_json"),
    "score": (store, "_line"),
    "table": (filter_run, "write_atomic"),
    "page": (filter_run, "write_page"),
    "record": (DeliveryRecord, "_append"),
    "publish": (deliver, "publish_new"),
    "link": (deliver.os, "link"),
    "unlink": (Path, "unlink"),
}
"""Functions before whose COUNT-th call a filter run can be killed."""


def killing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that calls another one, and kills the process at its `count`-th call."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if __name__ == "__main__":
    root, out, mode, keep, point, count = sys.argv[1:]
    owner, name = POINTS[point]
    setattr(owner, name, killing(getattr(owner, name), int(count)))
    run(Path(root), keep=int(keep), out=Path(out), mode=DeliveryMode(mode), prune=True)
