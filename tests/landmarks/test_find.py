import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import RecipeError, SourceError, WeightsError, WorkspaceError
from celebahq_builder.imaging.geometry import normalized_mean_error
from celebahq_builder.landmarks.choice import FaceRules
from celebahq_builder.landmarks.detector import DetectedFace
from celebahq_builder.landmarks.find import find_landmarks
from celebahq_builder.landmarks.page import CROP_MIN_PX, INSIDE_MIN, write_pages
from celebahq_builder.landmarks.refiner import Refiner
from celebahq_builder.landmarks.search import SearchedPhoto
from celebahq_builder.outcome import Reason
from celebahq_builder.pipeline.recipe import resolve
from celebahq_builder.pipeline.stages.crop import CropStage
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.storage import RecordLog
from tests.browser import check_layout, visit, wait_for_image
from tests.conftest import SAMPLE

FILES = ("000001.jpg", "000003.jpg", "000006.jpg", "000008.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for file in FILES[:3]:
        shutil.copy(SAMPLE / "img_celeba" / file, folder)
    shutil.copy(SAMPLE / "img_celeba" / FILES[3], folder / "sub")
    Image.new("RGB", (200, 200), "teal").save(folder / "nobody.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_page_and_counts(photos, yunet, tmp_path):
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    assert (result.photos, result.faces) == (6, 4)
    assert {one.photo: one.reason for one in result.rejected} == {
        "nobody.png": Reason.NO_FACE,
        "broken.jpg": Reason.NOT_AN_IMAGE,
    }
    assert [row["file"] for row in rows(result.table)] == [*FILES[:3], f"sub/{FILES[3]}"]
    source = read_folder(photos, result.table)
    expected = {photo.id: photo.points for photo in read_celeba(SAMPLE).photos}
    assert len(source.photos) == 4
    for photo in source.photos:
        assert normalized_mean_error(photo.points, expected[photo.id]) < 0.12
    lines = list(result.lines())
    assert lines[0] == "6 photos, 4 faces; no face used in 2 photos"
    assert "  NO_FACE: 1; first: nobody.png: the detector found none" in lines


@pytest.mark.parametrize("workers", [1, 2])
def test_equal_for_any_number_of_workers_and_in_pieces(workers, photos, yunet, tmp_path):
    """Also where a part of the folder was searched before, and where a file was changed since."""
    whole = find_landmarks(photos, tmp_path / "whole.csv", model=yunet, workers=1)
    late = photos / FILES[0]
    content = late.read_bytes()
    late.unlink()
    shutil.copy(photos / FILES[1], photos / "000006.jpg")
    find_landmarks(photos, tmp_path / "parts.csv", model=yunet, workers=workers)
    late.write_bytes(content)
    shutil.copy(SAMPLE / "img_celeba" / "000006.jpg", photos)
    parts = find_landmarks(photos, tmp_path / "parts.csv", model=yunet, workers=workers)
    assert parts.table.read_bytes() == whole.table.read_bytes()
    assert parts.page.read_bytes().replace(b"parts.csv", b"whole.csv") == whole.page.read_bytes()


def test_other_limits_need_no_search(photos, yunet, tmp_path, monkeypatch):
    find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    monkeypatch.setattr("celebahq_builder.landmarks.detector.FaceDetector.detect", None)
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1, min_face_px=300)
    assert result.faces < 4
    assert Reason.FACE_TOO_SMALL in {one.reason for one in result.rejected}


def test_exif_orientation_is_applied_and_positions_are_those_of_the_stored_image(yunet, tmp_path):
    """A viewer shows the stored pixels turned; the landmarks turn the face upright from the pixels as stored."""
    upright = Image.open(SAMPLE / "img_celeba" / FILES[0]).convert("RGB")
    expected = read_celeba(SAMPLE).photos[0].points
    width, height = upright.size
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # a viewer turns it by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "side.png", exif=exif)
    exif[274] = 2
    upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirror.png", exif=exif)
    find_landmarks(folder, tmp_path / "t.csv", model=yunet, workers=1)
    source = {photo.id: photo.points for photo in read_folder(folder, tmp_path / "t.csv").photos}
    x, y = expected.T
    assert normalized_mean_error(source["side"], np.stack([y, width - 1 - x], axis=1)) < 0.12
    mirrored = np.stack([width - 1 - x, y], axis=1)[[1, 0, 2, 4, 3]]
    assert normalized_mean_error(source["mirror"], mirrored) < 0.12
    assert height > width


def face(left: float, side: float, confidence: float = 0.95, views: int = 6, spread: float = 0.04) -> DetectedFace:
    eyes = side / 4
    points = [left, 100, left + eyes, 100, left + eyes / 2, 100 + eyes / 2, left, 100 + eyes, left + eyes, 100 + eyes]
    return DetectedFace(np.reshape(points, (5, 2)), confidence, spread, views)


def test_choice_of_faces():
    small, large, middle, unsure = face(10, 60), face(700, 300), face(480, 100), face(300, 200, confidence=0.7)
    photo = SearchedPhoto("a.jpg", (1000, 400), 1, (small, unsure, middle, large))
    assert FaceRules().chosen(photo) == [small, middle, large]
    assert FaceRules("largest").chosen(photo) == [large]
    assert FaceRules("central").chosen(photo) == [middle]
    assert FaceRules(min_face_px=80).chosen(photo) == [middle, large]
    assert FaceRules(min_confidence=0.7).chosen(photo) == [small, unsure, middle, large]


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        ((), Reason.NO_FACE, "the detector found none"),
        ((face(10, 30),), Reason.FACE_TOO_SMALL, "the crop is 30 px wide, less than 48"),
        ((face(10, 300, 0.61), face(10, 30, 0.61)), Reason.NO_FACE, "confidence 0.61 is below 0.8"),
        ((face(10, 300, views=2),), Reason.NO_FACE, "found again in 2 of 6 views"),
        ((face(10, 300, spread=0.3),), Reason.NO_FACE, "spread 0.30 is above 0.25"),
    ],
)
def test_reasons(found, reason, words):
    rejection = FaceRules().rejection(SearchedPhoto("a.jpg", (1000, 400), 1, found))
    assert rejection is not None
    assert rejection.reason is reason
    assert words in rejection.detail


@pytest.mark.parametrize(
    ("arguments", "error_type", "words"),
    [
        ({"faces": "first"}, RecipeError, "`faces` must be all, largest or central"),
        ({"min_face_px": 0}, RecipeError, "`min_face_px` must be at least 1"),
        ({"min_confidence": 0.1}, RecipeError, "`min_confidence` must be from 0.5 to 1"),
        ({"max_spread": float("nan")}, RecipeError, "`max_spread` must be above 0"),
        ({"out": "table.txt"}, RecipeError, "must end in .csv"),
        ({"out": "missing/table.csv"}, RecipeError, "is not a folder; create it first"),
        ({"photos": "missing"}, SourceError, "neither a folder of photos nor a photo"),
        ({"photos": "empty"}, SourceError, "holds no image files"),
        ({"model": "missing.onnx"}, WeightsError, "cannot be read"),
    ],
)
def test_wrong_arguments(arguments, error_type, words, photos, yunet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    arguments = {"photos": photos, "out": "t.csv", "model": yunet, **arguments}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error_type, match=words):
        find_landmarks(arguments.pop("photos"), arguments.pop("out"), **arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_corrected_by_hand_is_kept(photos, yunet, tmp_path):
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    result.table.write_text("my corrections")
    with pytest.raises(WorkspaceError, match=r"t.csv exists, and was not written by .* or was changed since"):
        find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    assert result.table.read_text() == "my corrections"


@pytest.mark.parametrize(
    "change", [("faces", []), ("size", 5), ("faces", [[1, 2]]), ("orientation", 77), ("problem", ["X", 1])]
)
def test_a_changed_log_is_refused_or_read(change, photos, yunet, tmp_path):
    find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    log = tmp_path / "t.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[2]["record"][change[0]] = change[1]
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    if change[0] in ("orientation",) or change[1] == []:
        find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    else:
        with pytest.raises(WorkspaceError, match=r"t.jsonl: the record of .* was changed"):
            find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)


def test_names_that_a_table_cannot_hold(yunet, tmp_path):
    """A leading space is kept; bytes that are not UTF-8 are a reason."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (" lead.jpg", "=1+1.jpg", "a\udcff.jpg", "b,\n.jpg"):
        shutil.copy(SAMPLE / "img_celeba" / "000002.jpg", folder / name)
    result = find_landmarks(folder, tmp_path / "t.csv", model=yunet, workers=1)
    assert [file for file, _ in result.rows] == [" lead.jpg", "=1+1.jpg", "b,\n.jpg"]
    [rejected] = result.rejected
    assert (rejected.reason, rejected.detail) == (Reason.UNREADABLE, "the file name is not UTF-8; rename the file")


def test_a_file_in_the_way_is_noticed_before_the_search(photos, yunet, tmp_path):
    (tmp_path / "t.html").write_text("mine")
    with pytest.raises(WorkspaceError, match="t.html exists"):
        find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    assert not (tmp_path / "t.csv").exists()
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_killed_command_resumes(yunet, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        shutil.copy(SAMPLE / "img_celeba" / "000002.jpg", folder / f"{number:02}.jpg")
    command = [
        sys.executable,
        "-m",
        "celebahq_builder",
        "landmarks",
        folder,
        "--model",
        yunet.resolve(),
        "--workers",
        "2",
    ]
    root = Path(__file__).parents[2]
    log = tmp_path / "killed.jsonl"
    with subprocess.Popen(
        [*map(str, command), "--out", str(tmp_path / "killed.csv")],
        cwd=root,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if log.exists() and len(log.read_bytes().splitlines()) > 5:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    done = [json.loads(line)["file"] for line in log.read_text().splitlines()[1:-1]]
    assert done
    assert not (tmp_path / "killed.csv").exists()
    for name in ("killed", "whole"):
        subprocess.run(
            [*map(str, command), "--out", str(tmp_path / f"{name}.csv")], cwd=root, check=True, capture_output=True
        )
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    again = [json.loads(line).get("file") for line in log.read_text().splitlines()[1:]]
    assert all(again.count(file) == 1 for file in done)  # nothing is searched twice


def test_refiner(photos, yunet, whole_run, tmp_path, monkeypatch):
    """Its landmarks are written, in the stored image; the log of a search without it is not used."""
    plain = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    before = [list(row.values())[1:11] for row in rows(plain.table)]
    monkeypatch.setattr(Refiner, "refine", lambda self, image, points: (points + [1, 2], 1.0))
    refined = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1, refiner=whole_run)
    after = [list(row.values())[1:11] for row in rows(refined.table)]
    moved = np.array(after, float) - np.array(before, float)
    assert np.abs(moved.reshape(4, 5, 2) - [1, 2]).max() < 0.02
    assert refined.faces == plain.faces == 4


def test_weights_that_are_no_refiner(photos, yunet, tmp_path):
    with pytest.raises(WeightsError):
        find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1, refiner=photos)


def test_page_in_a_browser(photos, yunet, chromium, tmp_path):
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    check_layout(chromium, result.page)
    with visit(chromium, result.page, 800) as page:
        assert page.page.title() == "photos: landmarks of 4 faces in 6 photos"
        assert page.page.locator(".found > li:visible").count() == 6
        assert page.page.locator("g.used circle").count() == 20
        page.page.locator('input[value="none"]').check()
        assert page.page.locator(".found > li:visible").count() == 2
        names = page.page.locator(".found > li:visible figcaption").all_inner_texts()
        assert ["broken.jpg" in names[0], "nobody.png" in names[1]] == [True, True]
        page.page.get_by_label("Search").fill("NOBODY")
        assert page.page.locator(".found > li:visible").count() == 1


def test_enlarged_photo(photos, yunet, chromium, tmp_path):
    """The photo itself replaces the thumbnail, turned as the landmarks are; without it, the thumbnail stays."""
    with Image.open(photos / FILES[0]) as image:
        size, exif = image.size, Image.Exif()
        exif[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(photos / FILES[0], exif=exif, quality=95)
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    with visit(chromium, result.page, 1400) as seen:
        dialog = seen.page.locator("dialog")
        seen.page.locator(f'[data-name="{FILES[0]}"] a.enlarge').click()
        wait_for_image(seen.page)
        assert dialog.locator("image").get_attribute("href").endswith("photos/000001.jpg")
        assert dialog.locator("h2").inner_text().startswith(FILES[0])
        assert dialog.locator("text").inner_html() == '<tspan class="stem">000001</tspan>'
        dialog.get_by_role("button", name="Photo").click()
        wait_for_image(seen.page)
        assert dialog.locator("img").evaluate("one => [one.naturalWidth, one.naturalHeight]") == list(size)
        seen.page.keyboard.press("Escape")
        (photos / FILES[1]).unlink()
        seen.page.locator(f'[data-name="{FILES[1]}"] a.enlarge').click()
        assert "The file is not there" in dialog.locator(".stage p").inner_text()
        assert dialog.locator("image").get_attribute("href").startswith("data:image/jpeg")


def test_a_face_that_a_build_rejects_is_marked(yunet, chromium, tmp_path):
    """One of two faces lies at the edge of the photo, so that the detector places landmarks outside of it."""
    path = tmp_path / "pair.jpg"
    Image.new("RGB", (300, 200)).save(path)
    photo = SearchedPhoto(path.name, (300, 200), 1, (face(20, 80), face(270, 160)))
    with RecordLog(tmp_path / "t.jsonl", "test", {}) as log:
        log.add(path.name, path.stat(), {})
        write_pages(tmp_path / "t.html", [photo], FaceRules(), log, folder=tmp_path, table="t.csv")
    with visit(chromium, tmp_path / "t.html", 1400) as seen:
        page = seen.page
        assert page.locator("#count-faces").inner_text() == "2"
        assert page.locator("#count-later").inner_text() == "1"
        assert page.locator("g.used text").inner_html() == '<tspan class="stem">pair_</tspan>0'
        assert (
            page.locator("g.rejected title").inner_html().startswith("pair_1 rejected by a build (LANDMARKS_OUTSIDE): ")
        )
        assert "pair_1 rejected by a build (LANDMARKS_OUTSIDE)" in page.locator("figcaption .problem").inner_text()
        page.locator('input[value="rejected"]').check()
        assert page.locator(".found > li:visible").count() == 1


def test_limits_of_a_build_are_those_of_the_recipe_for_own_photos():
    settings = resolve("own-photos", {})[0].settings(CropStage())
    limits = (settings.crop_min_px, settings.inside_min, settings.landmarks_outside_max)
    assert limits == (CROP_MIN_PX, INSIDE_MIN, 0.0)


def test_many_photos_get_several_pages(photos, yunet, tmp_path, monkeypatch):
    monkeypatch.setattr("celebahq_builder.landmarks.page.PAGE_PHOTOS", 4)
    result = find_landmarks(photos, tmp_path / "t.csv", model=yunet, workers=1)
    pages = [result.page.read_text(), (tmp_path / "t-2.html").read_text()]
    assert [page.count("<figure>") for page in pages] == [4, 2]
    assert '<a href="t-2.html">page 2</a>' in pages[0]
    assert '<a href="t.html">page 1</a>' in pages[1]
