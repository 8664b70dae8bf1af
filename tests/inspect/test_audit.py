"""An audit reports exactly the faults that were put into a file, with and without metadata."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.inspect import duplicates
from celebahq_builder.inspect.audit_report import audit
from celebahq_builder.storage import partial_path
from tests.browser import check_layout, visit
from tests.hdf5.files import damage
from tests.hdf5.pyramids import described_file, noise, theano_file
from tests.inspect.audit_images import recoded, smooth, with_bar


def planted(channels: int = 3) -> np.ndarray:
    """Return forty images of 64x64 px with duplicates, near-duplicates, bars and images of one colour."""
    images = smooth(40, 64, channels) // 2 + 70
    images[30] = images[4]  # duplicates
    images[31] = images[4]
    images[32] = recoded(images[5], 60)  # near-duplicates
    images[33] = recoded(images[6][:, :, ::-1], 80)
    images[34] = np.roll(images[7], 1, axis=1)
    images[35] = recoded(with_bar(images[35], "left", 6), 90)
    images[36] = with_bar(with_bar(images[36], "top", 5), "bottom", 4, 255)
    images[37] = 12
    images[38] = 13
    return images


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return found


def numbers(group: list[dict[str, Any]]) -> set[int]:
    return {one["number"] for one in group}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("described", [True, False])
def test_all_faults_are_found(channels: int, described: bool, tmp_path: Path) -> None:
    make = described_file if described else theano_file
    lines = audit(make(tmp_path / "a.h5", planted(channels)), tmp_path / "out")
    found = read(tmp_path / "out")
    assert [numbers(group) for group in found["same"]] == [{4, 30, 31}]
    assert found["same_by"] == ("recorded SHA-256" if described else "pixels")
    assert {frozenset(numbers(group)) for group in found["near"]} == {frozenset(p) for p in ({5, 32}, {6, 33}, {7, 34})}
    mirrored = {frozenset(numbers(group)) for group in found["near"] if any(one["mirrored"] for one in group)}
    assert mirrored == {frozenset({6, 33})}
    bars = {one["number"]: [(bar["edge"], bar["width"], bar["colour"]) for bar in one["bars"]] for one in found["bars"]}
    assert bars == {35: [("left", 6 / 64, "black")], 36: [("top", 5 / 64, "black"), ("bottom", 4 / 64, "white")]}
    assert numbers(found["one_colour"]) == {37, 38}
    assert (found["images"], found["resolution"], found["channels"]) == (40, 64, channels)
    text = "\n".join(lines)
    assert re.search(r"^duplicates +1 group, 2 images without the first of each", text, re.M)
    assert re.search(r"^near-duplicates +3 groups, 3 images without the first of each, 1 mirrored$", text, re.M)
    assert re.search(r"^one colour +2 images$", text, re.M)
    assert re.search(r"^bars at the edge +2 images, bars: 2 black, 1 white$", text, re.M)
    assert f"  35{' [000245]' if described else ''}: black left 6 px\n" in text
    if described:
        assert found["scores"]["images"] == 40
        assert found["padding"]["exact"] is False
        for group in found["near"]:  # the best image is first
            assert group[0]["score"] == max(one["score"] for one in group)
    else:
        assert found["scores"] is found["padding"] is None
        assert "scores            not known" in text
        assert "padding           not known" in text


def test_duplicates_and_images_of_one_colour_are_no_near_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "DISTANCE", 255)
    monkeypatch.setattr(duplicates, "LIKENESS", -1)
    audit(theano_file(tmp_path / "a.h5", planted()), tmp_path / "out")
    assert [len(group) for group in read(tmp_path / "out")["near"]] == [36]  # of 40 images


@pytest.mark.parametrize(("side", "near", "bars"), [(1, False, False), (8, False, False), (16, True, False)])
def test_small_images(side: int, near: bool, bars: bool, tmp_path: Path) -> None:
    images = noise(6, side)
    images[3] = images[1]
    lines = audit(theano_file(tmp_path / "a.h5", images), tmp_path / "out")
    found = read(tmp_path / "out")
    assert [numbers(group) for group in found["same"]] == [{1, 3}]
    assert found["near"] == ([] if near else None)
    assert found["bars"] is None
    assert any("too small for a perceptual hash" in line for line in lines) == (not near)


def test_a_single_image(tmp_path: Path) -> None:
    audit(theano_file(tmp_path / "a.h5", smooth(1, 32)), tmp_path / "out")
    assert read(tmp_path / "out")["near"] == []


def test_images_that_are_equal_only_at_small_levels(tmp_path: Path) -> None:
    """Two different checkerboards of 64x64 px are the same grey at 32x32 px."""
    images = smooth(3, 64)
    board = np.where(np.indices((64, 64)).sum(0) % 2, 200, 100).astype(np.uint8)
    images[1], images[2] = board, board[::-1]
    audit(theano_file(tmp_path / "a.h5", images), tmp_path / "out")
    found = read(tmp_path / "out")
    assert found["same"] == found["near"] == found["one_colour"] == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = theano_file(tmp_path / "a.h5", smooth(2, 16))
    for name in ("audit.json", "index.html", "notes.txt"):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(FormatError, match="out exists and is not the folder of an audit; choose another `out`"):
            audit(path, out)
        assert (out / name).read_text() == "mine"
        assert len(list(out.iterdir())) == 1
    with pytest.raises(FormatError, match="is a file; give a folder"):
        audit(path, path)


def test_a_second_audit_replaces_the_first(tmp_path: Path) -> None:
    path, out = theano_file(tmp_path / "a.h5", smooth(2, 16)), tmp_path / "out"
    out.mkdir()
    audit(path, out)
    first = (out / "audit.json").read_bytes(), (out / "index.html").read_bytes()
    path.unlink()
    theano_file(path, smooth(3, 16))
    audit(path, out)
    assert read(out)["images"] == 3
    assert first[1] != (out / "index.html").read_bytes()
    assert sorted(one.name for one in out.iterdir()) == ["audit.json", "index.html"]


@pytest.mark.parametrize("left", [(), ("audit.json",)])
def test_a_killed_audit_is_completed(left: tuple[str, ...], tmp_path: Path) -> None:
    path, out = theano_file(tmp_path / "a.h5", smooth(2, 16)), tmp_path / "out"
    audit(path, out)
    whole = {one.name: one.read_bytes() for one in out.iterdir()}
    for name in whole.keys() - set(left):
        (out / name).unlink()
        partial_path(out / name).write_bytes(b"half")
    audit(path, out)
    assert {one.name: one.read_bytes() for one in out.iterdir()} == whole


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        audit(tmp_path / "none.h5", tmp_path / "out")
    path = theano_file(tmp_path / "a.h5", smooth(3, 32))
    damage(path, 32, 1)
    with pytest.raises(FormatError, match="image 1 of data32x32 cannot be read: "):
        audit(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_faces(shared: Path, tmp_path: Path) -> None:
    """Copies of 28 images of CelebA-HQ are found, and no two people are confused."""
    paths = sorted((shared / "data" / "celebahq_1024").glob("*.jpg"))
    whole = [pil_to_array(open_rgb(path.read_bytes(), 1 << 24)[0]) for path in paths]
    faces = np.stack([face.reshape(3, 64, 16, 64, 16).mean(axis=(2, 4)).astype(np.uint8) for face in whole])
    copies = np.stack([recoded(face[:, :, ::-1] if i % 2 else face, 50) for i, face in enumerate(faces)])
    audit(theano_file(tmp_path / "a.h5", np.concatenate([faces, copies])), tmp_path / "out")
    count = len(faces)
    found = {frozenset(numbers(group)) for group in read(tmp_path / "out")["near"]}
    assert found == {frozenset({i, count + i}) for i in range(count)}


def test_in_a_browser(chromium: Any, tmp_path: Path) -> None:
    quads = np.tile(np.array([[-20, 5], [-20, 105], [80, 105], [80, 5]], float), (40, 1, 1))
    names = ["<b>&" if i == 5 else f"face-{i}" for i in range(40)]
    audit(described_file(tmp_path / "a.h5", planted(), id=names, quad=quads), tmp_path / "out")
    check_layout(chromium, tmp_path / "out" / "index.html")
    with visit(chromium, tmp_path / "out" / "index.html", 500) as seen:
        assert seen.complaints == []
        assert len(seen.requests) == 1
        assert seen.page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth == 64)")
        assert seen.page.locator("#count-duplicates").inner_text() == "2"
        assert seen.page.locator("#count-near-duplicates").inner_text() == "3"
        assert seen.page.locator("#near .group").count() == 3
        assert seen.page.locator("#near .group").nth(0).locator("img").count() == 2
        assert "<b>&" in seen.page.locator("#near").inner_text()
        assert seen.page.locator("#padded figcaption").nth(0).inner_text().endswith("at least 20.3%")
        assert seen.page.locator("#histograms svg").count() == 2
