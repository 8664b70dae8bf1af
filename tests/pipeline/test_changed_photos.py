"""Photos that were added, removed or changed since the last run: the results are those of a run with all of them."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from celebahq_builder.errors import FingerprintMismatch
from celebahq_builder.pipeline.build import BuildResult, build
from celebahq_builder.pipeline.growth import checked_plan
from celebahq_builder.pipeline.landmark_source import find_source
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import PhotoSource
from tests.conftest import FAST, SAMPLE, SMALL, build_tiny
from tests.pipeline.runs import assert_same, files, photos_computed, write_landmarks, write_table


def test_photo_gets_another_id(tmp_path: Path) -> None:
    """A photo of the same name in another format: the image that has its old name is deleted."""
    photos, photo = tmp_path / "photos", read_celeba(SMALL).photos[0]
    photos.mkdir()
    for names in (["a.jpg"], ["a.jpg", "a.png"]):
        with Image.open(SMALL / "img_celeba" / photo.file) as image:
            image.convert("RGB").save(photos / names[-1])
        table = write_landmarks(tmp_path / "t.csv", dict.fromkeys(names, photo.landmarks))
        build(read_folder(photos, table), tmp_path / "grown", recipe=FAST, workers=1, device="cpu")
    build(read_folder(photos, table), tmp_path / "one", recipe=FAST, workers=1, device="cpu")
    assert_same(tmp_path / "grown", tmp_path / "one")


def test_a_photo_that_was_edited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its landmarks are those of the table, so only its time tells; a photo that was not edited is not named."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(SMALL / "img_celeba", photos)
    source = read_folder(photos, write_table(tmp_path / "t.csv", [2, 3, 5]))
    for edited in (None, source.photos[1].file):
        if edited:
            with Image.open(photos / edited) as image:
                image.point(lambda value: value * 0.9).save(photos / edited)
            later_s = time.time() + 10  # clocks of file systems are coarse
            os.utime(photos / edited, (later_s, later_s))
        caplog.clear()
        build(source, out, recipe=FAST, workers=1, device="cpu")
        warnings_of_run = [one for one in caplog.messages if "newer" in one]
        assert [edited in one and "`redo` crop" in one for one in warnings_of_run] == [True] * bool(edited)


def test_attributes_that_come_later(celeba: Path, tmp_path: Path) -> None:
    """The photos are the same; nothing is computed again."""
    out = tmp_path / "run"
    attributes = celeba / "Anno" / "list_attr_celeba.txt"
    attributes.rename(tmp_path / "away.txt")
    build_tiny(out, celeba, recipe=FAST)
    (tmp_path / "away.txt").rename(attributes)
    build_tiny(out, celeba, recipe=FAST, labels=True)
    build_tiny(tmp_path / "once", celeba, recipe=FAST, labels=True)
    assert_same(out, tmp_path / "once")
    assert photos_computed(out) == 5


def build_own(photos: Path, out: Path, yunet: Path, **options: Any) -> BuildResult:
    """Build photos in which faces are found, as the command does."""
    options = {"recipe": FAST, "workers": 1, "device": "cpu", **options}

    def accept(source: PhotoSource) -> None:
        checked_plan(make_request(source, out, **options))

    return build(find_source(photos, out, model=yunet, workers=1, accept=accept), out, **options)


def test_own_photos_are_removed_and_changed(yunet: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for name in ("000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg"):
        shutil.copy(SAMPLE / "img_celeba" / name, photos)
    build_own(photos, out, yunet)
    (photos / "000001.jpg").unlink()
    with Image.open(SAMPLE / "img_celeba" / "000003.jpg") as image:
        image.point(lambda value: value * 0.9).save(photos / "000003.jpg", quality=95)  # darker, the same faces
    found = {path: path.read_bytes() for path in (out / "landmarks").iterdir() if path.suffix != ".jsonl"}
    before = files(out)
    with pytest.raises(FingerprintMismatch, match=r"1 photo missing from this run \(000001.jpg\) and 1 .*000003.jpg"):
        build_own(photos, out, yunet)
    assert files(out) == before
    assert {path: path.read_bytes() for path in found} == found
    computed = photos_computed(out)
    assert build_own(photos, out, yunet, redo="photos").kept == 3
    assert photos_computed(out) == computed + 1
    build_own(photos, tmp_path / "once", yunet)
    assert_same(out, tmp_path / "once")


def test_own_photos_are_added(yunet: Path, tmp_path: Path) -> None:
    """Before and after the photo of the earlier run, with and without a face; then nothing is added."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    Image.new("RGB", (200, 200), "teal").save(photos / "0.png")
    for names in (["000002.jpg"], ["000001.jpg", "000003.jpg"], []):
        for name in names:
            shutil.copy(SAMPLE / "img_celeba" / name, photos)
        if len(names) == 2:
            Image.new("RGB", (200, 200), "navy").save(photos / "000002a.png")
        result = build(find_source(photos, out, model=yunet, workers=1), out, recipe=FAST, workers=1, device="cpu")
    assert (result.kept, result.reasons) == (3, {"NO_FACE": 2})
    once = tmp_path / "once"
    build(find_source(photos, once, model=yunet, workers=1), once, recipe=FAST, workers=1, device="cpu")
    assert_same(out, once)
    assert photos_computed(out) == 3
