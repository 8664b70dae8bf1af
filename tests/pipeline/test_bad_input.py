"""Bad input: each kind has its reason, is counted, and never ends the run."""

import csv
import io
import os
import shutil
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline import results
from celebahq_builder.pipeline.build import BuildResult
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE, TINY, build_tiny

GOOD = "000003.jpg"
"""A photo of the sample without defects, from which the bad ones are made."""


def good_row() -> str:
    table = SAMPLE / "Anno" / "list_landmarks_celeba.txt"
    return next(line for line in table.read_text().splitlines() if line.startswith(GOOD)).split(maxsplit=1)[1]


def jpeg(mode: str, **save: object) -> bytes:
    buffer = io.BytesIO()
    Image.open(SAMPLE / "img_celeba" / GOOD).convert(mode).save(buffer, "JPEG", **save)
    return buffer.getvalue()


def png(mode: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(SAMPLE / "img_celeba" / GOOD)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def huge_png() -> bytes:
    """A PNG that claims 100000 x 100000 px in its header and has almost no data."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def rotated_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg("RGB", exif=exif)


def damaged() -> bytes:
    data = bytearray(jpeg("RGB", quality=90))
    return bytes(data[: len(data) // 2])


BAD_FILES: dict[str, tuple[bytes | None, Reason]] = {
    "missing": (None, Reason.FILE_MISSING),
    "truncated": (damaged(), Reason.CORRUPT_IMAGE),
    "text": (b"this is a text\n", Reason.NOT_AN_IMAGE),
    "empty": (b"", Reason.EMPTY_FILE),
    "huge": (huge_png(), Reason.TOO_LARGE),
}
"""Contents of a listed file, and why it is rejected."""

ODD_FILES = {
    "cmyk": (jpeg("CMYK"), "cmyk"),
    "sixteen": (png("I;16"), "16-bit"),
    "rgba": (png("RGBA"), "alpha"),
    "grey": (jpeg("L"), "grey"),
    "exif": (rotated_exif(), "exif-orientation"),
}
"""Contents of a listed file that is used, and the note of the decoder."""

BAD_ROWS = {
    "few": ("10 20 30", Reason.BAD_ROW),
    "words": ("a b c d e f g h i j", Reason.BAD_ROW),
    "nan": ("nan 1 2 3 4 5 6 7 8 9", Reason.BAD_ROW),
    "outside": ("9000 9000 9050 9000 9025 9020 9000 9050 9050 9050", Reason.LANDMARKS_OUTSIDE),
    "eyes": ("50 50 50 50 50 60 40 70 60 70", Reason.DEGENERATE_LANDMARKS),
    "small": ("50 50 58 50 54 54 51 58 57 58", Reason.CROP_TOO_SMALL),
    "corner": ("1 1 80 1 40 2 1 3 80 3", Reason.CROP_OUTSIDE),
}
"""Landmarks of a good file, and why it is rejected."""


class Tree:
    """A folder in CelebA's layout, written piece by piece."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows = root, [f"{GOOD} {good_row()}"]
        (root / "img_celeba").mkdir(parents=True)
        (root / "Anno").mkdir()
        self.put(GOOD, (SAMPLE / "img_celeba" / GOOD).read_bytes())

    def put(self, name: str, data: bytes) -> None:
        (self.root / "img_celeba" / name).write_bytes(data)

    def add(self, kind: str) -> Reason | None:
        """Add one bad or odd photo; return why it should be rejected, or None."""
        name = f"{kind}.jpg"
        if kind == "unlisted":
            self.put(name, jpeg("RGB"))
            return Reason.NOT_LISTED
        row, reason = good_row(), None
        data: bytes | None = jpeg("RGB")
        if kind in BAD_FILES:
            data, reason = BAD_FILES[kind]
        elif kind in ODD_FILES:
            data = ODD_FILES[kind][0]
        else:
            row, reason = BAD_ROWS[kind]
        if data is not None:
            self.put(name, data)
        self.rows.append(f"{name} {row}")
        return reason

    def build(self, out: Path, count: int | None = None) -> BuildResult:
        lines = [
            str(len(self.rows) if count is None else count),
            "lefteye_x lefteye_y righteye_x righteye_y",
            *self.rows,
        ]
        (self.root / "Anno" / "list_landmarks_celeba.txt").write_text("\n".join(lines) + "\n")
        recipe = replace(TINY, crop=CropSettings(context_px=16, crop_min_px=40))
        return build_tiny(out, self.root, recipe=recipe, limit=None)


def ended(out: Path) -> dict[str, Rejected | Failed | None]:
    return {one.file: one.end for one in results.photo_statuses(Workspace(out))}


def test_each_bad_input_has_its_reason(tmp_path: Path) -> None:
    tree, out = Tree(tmp_path / "celeba"), tmp_path / "run"
    kinds = [*BAD_FILES, *ODD_FILES, *BAD_ROWS, "unlisted"]
    expected = {kind: tree.add(kind) for kind in kinds}
    tree.rows += [f"twice.jpg {good_row()}", f"twice.jpg {good_row()}"]
    tree.put("twice.jpg", jpeg("RGB"))
    (tree.root / "img_celeba" / "folder.jpg").mkdir()
    tree.rows.append(f"folder.jpg {good_row()}")
    summary = tree.build(out, count=999)
    assert summary.kept + summary.rejected + summary.failed == summary.photos == len(kinds) + 1 + 2 + 1
    outcomes = ended(out)
    found = {kind: getattr(outcomes[f"{kind}.jpg"], "reason", None) for kind in BAD_FILES | BAD_ROWS}
    assert found == {kind: expected[kind] for kind in BAD_FILES | BAD_ROWS}
    assert isinstance(outcomes["unlisted.jpg"], Rejected)
    what = "folder.jpg: a folder, not a regular file"
    assert outcomes["folder.jpg"] == Rejected("folder.jpg", Reason.UNREADABLE, what)
    assert summary.reasons["DUPLICATE_ROW"] == 1
    table = list(csv.DictReader(Workspace(out).rejected_path.read_text().splitlines()))
    assert len(table) == summary.rejected + summary.failed
    assert all(row["detail"] for row in table)
    assert any("999" in warning for warning in read_celeba(tree.root).warnings)
    align = {one.photo: one for _, one in Workspace(out).stage("score").outcomes()}
    for kind, (_, note) in ODD_FILES.items():
        one = align[f"{kind}.jpg"]
        assert isinstance(one, Kept)
        assert note in one.record["crop"]["notes"]


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*BAD_FILES, *BAD_ROWS, "grey", "unlisted"]), max_size=5, unique=True))
def test_kept_rejected_and_failed_photos_sum_to_all(tmp_path: Path, kinds: list[str]) -> None:
    shutil.rmtree(tmp_path / "celeba", ignore_errors=True)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    tree = Tree(tmp_path / "celeba")
    reasons = Counter(reason.value for kind in kinds if (reason := tree.add(kind)) is not None)
    summary = tree.build(tmp_path / "run")
    assert summary.photos == len(kinds) + 1
    assert summary.kept + summary.rejected + summary.failed == summary.photos
    assert summary.reasons == reasons
    assert len(ended(tmp_path / "run")) == summary.photos


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "celeba")
    name = os.fsencode(tree.root / "img_celeba") + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).write_bytes(jpeg("RGB"))
    summary = tree.build(tmp_path / "run")
    assert (summary.kept, summary.reasons) == (1, {"NOT_LISTED": 1})
    assert r"caf\xe9.jpg" in Workspace(tmp_path / "run").rejected_path.read_text()


def test_sample_has_two_rejected_photos(tmp_path: Path) -> None:
    recipe = replace(TINY, upscale=replace(TINY.upscale, when="needed"), select=replace(TINY.select, keep=100))
    summary = build_tiny(tmp_path / "run", recipe=recipe, limit=None)
    assert (summary.kept, summary.failed) == (13, 0)
    assert summary.reasons == {"CORRUPT_IMAGE": 1, "CROP_OUTSIDE": 1}


def test_nothing_left_to_pack(tmp_path: Path) -> None:
    from celebahq_builder.errors import WorkspaceError

    tree = Tree(tmp_path / "celeba")
    tree.rows = []
    tree.add("empty")
    with pytest.raises(WorkspaceError, match="no photo was kept"):
        tree.build(tmp_path / "run")
    assert "EMPTY_FILE" in Workspace(tmp_path / "run").rejected_path.read_text()
