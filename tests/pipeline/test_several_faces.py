"""Several faces of one photo: each is kept, rejected or failed exactly once, under its own id."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from PIL import Image

from celebahq_builder.hdf5.integrity import Checked
from celebahq_builder.imaging.image_io import decode_png
from celebahq_builder.outcome import Reason
from celebahq_builder.pipeline import batch
from celebahq_builder.pipeline.build import BuildResult, align, build
from celebahq_builder.pipeline.dry_run import dry_run
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import COLUMNS, PhotoSource, in_column_order
from tests.conftest import SAMPLE, TINY

RECIPE = replace(TINY, select=SelectSettings(keep=2))
FOLDER = SAMPLE / "img_celeba"
LANDMARKS = {photo.id: photo.landmarks for photo in read_celeba(SAMPLE).photos}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PhotoSource:
    """A photo of three good faces and two bad ones, a broken photo of two faces, and a photo of one face."""
    folder = tmp_path_factory.mktemp("photos")
    group, left, rows = Image.new("RGB", (800, 320)), 0, []
    for name in ("000002", "000003", "000004"):
        with Image.open(FOLDER / f"{name}.jpg") as image:
            group.paste(image, (left, 0))
            rows.append(("group.png", [value + left * (i % 2 == 0) for i, value in enumerate(LANDMARKS[name])]))
            left += image.width
    group.save(folder / "group.png")
    rows += [
        ("group.png", in_column_order(tuple(value + 10 for value in rows[0][1]), "subject")),
        ("group.png", [value + 5000 for value in rows[0][1]]),
        ("broken.jpg", LANDMARKS["000002"]),
        ("broken.jpg", LANDMARKS["000003"]),
        ("single.jpg", LANDMARKS["000012"]),
        ("group.png", rows[2][1]),
    ]
    (folder / "broken.jpg").write_bytes((FOLDER / "000002.jpg").read_bytes()[:2000])
    (folder / "single.jpg").write_bytes((FOLDER / "000012.jpg").read_bytes())
    lines = [("file", *COLUMNS), *((name, *numbers) for name, numbers in rows)]
    (folder / "t.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return read_folder(folder, folder / "t.csv")


def run(source: PhotoSource, out: Path, **arguments: object) -> BuildResult:
    return build(source, out, **{"recipe": RECIPE, "workers": 1, "device": "cpu", **arguments})


@pytest.fixture(scope="module")
def finished(source: PhotoSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faces") / "run"
    run(source, out)
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_face_ends_once(source: PhotoSource, finished: Path) -> None:
    workspace = Workspace(finished)
    statuses = photo_statuses(workspace)
    assert len(statuses) == len(source.photos) + len(source.rejected) == 9
    ends = {one.key: getattr(one.end, "reason", None) for one in statuses[1:]}
    low = [key for key, reason in ends.items() if reason is Reason.LOW_SCORE]
    assert len(low) == 2
    assert {key: reason for key, reason in ends.items() if reason not in (None, Reason.LOW_SCORE)} == {
        ("group.png", "group_1"): Reason.MIRRORED_LANDMARKS,
        ("group.png", "group_4"): Reason.LANDMARKS_OUTSIDE,
        ("broken.jpg", "broken_0"): Reason.CORRUPT_IMAGE,
        ("broken.jpg", "broken_1"): Reason.CORRUPT_IMAGE,
    }
    assert (statuses[0].key, statuses[0].end) == (("group.png", ""), source.rejected[0])
    selected, rejected = table(workspace.selection_path), table(workspace.rejected_path)
    assert (rejected[0]["file"], rejected[0]["id"], rejected[0]["reason"]) == ("group.png", "", "DUPLICATE_ROW")
    named = [(row["file"], row["id"]) for row in (*selected, *rejected[1:])]
    assert Counter(named) == Counter((photo.file, photo.id) for photo in source.photos)
    assert list(find_problems(finished)) == []


def test_each_face_is_its_own_image(source: PhotoSource, finished: Path) -> None:
    photos = {photo.id: photo for photo in source.photos}
    with h5py.File(finished / "celebahq-64x64.h5") as file:
        ids, files = (file[f"photos/{name}"].asstr()[:].tolist() for name in ("id", "file"))
        assert files == [photos[name].file for name in ids]
        assert file["photos/landmarks"][0].ravel().tolist() == list(photos[ids[0]].landmarks)
    images = {path.stem: decode_png(path.read_bytes()) for path in finished.glob("stages/align/images/*/*.png")}
    assert images.keys() == {"group_0", "group_2", "group_3", "single"}
    alone = {name: align(source.folder / photos[name].file, photos[name].landmarks, 64) for name in images}
    for name, pixels in images.items():
        distances = {other: abs(pixels.astype(int) - face).mean() for other, face in alone.items()}
        assert min(distances, key=distances.__getitem__) == name
        assert distances[name] < 8


def test_photos_and_faces_are_counted(source: PhotoSource, finished: Path) -> None:
    """Three photos have eight faces; one more row of the table repeats a face."""
    words = "3 photos, 8 faces, 1 without a usable face"
    result = run(source, finished)
    assert str(result.source) == words
    assert result.kept + result.rejected + result.failed == result.photos == result.source.items == 9
    assert f"photos: {words} in " in "\n".join(dry_run(source, finished, recipe=RECIPE))
    assert next(status_lines(Workspace(finished))).startswith(f"{words} from ")
    checked = Checked()
    assert list(find_problems(finished, checked)) == []
    assert str(checked).startswith(f"{words}; ")
    page = Workspace(finished).report_path.read_text()
    assert '<dd id="count-photos">3</dd>' in page
    assert '<dd id="count-faces">8</dd>' in page
    assert "<h1>2 of 8 faces kept</h1>" in page


def test_the_progress_counts_faces(source: PhotoSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(source, tmp_path / "run", until="crop")
    assert [line.partition(", ")[0] for line in caplog.messages if "crop: " in line] == ["crop: 8 of 8 faces"]


def test_a_run_of_an_earlier_version_has_no_number_of_files(tmp_path: Path, finished: Path) -> None:
    values = json.loads((finished / "run.json").read_text())
    del values["files"]
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert str(Workspace(tmp_path).run().counts) == "9 photos"


def test_the_report_names_the_face(finished: Path) -> None:
    page = Workspace(finished).report_path.read_text()
    assert "group.png (group_1)" in page
    assert "broken.jpg (broken_0)" in page
    assert "single.jpg" in page
    assert "(single)" not in page


def test_manifests_name_the_face_only_where_there_are_several(finished: Path) -> None:
    text = "".join(path.read_text() for path in sorted(finished.glob("stages/align/batches/*.jsonl")))
    assert '{"photo": "group.png", "face": "group_0", "outcome": "kept", "identity": ' in text
    assert '{"photo": "single.jpg", "outcome": "kept", "identity": ' in text


def test_a_resumed_build_gives_the_same(source: PhotoSource, finished: Path, tmp_path: Path) -> None:
    """The second run starts from the crops and the manifests of the first one."""
    run(source, tmp_path / "run", until="crop")
    manifests = sorted((tmp_path / "run").glob("stages/crop/batches/*.jsonl"))
    assert len(manifests) == 2
    manifests[1].unlink()
    run(source, tmp_path / "run")
    for name in ("celebahq-64x64.h5", "selection.csv", "rejected.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_faces_in_one_group_as_on_a_gpu(
    source: PhotoSource, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batch.GROUP_PHOTOS, "cpu", 3)
    run(source, tmp_path / "run")
    for name in ("selection.csv", "rejected.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_part_of_the_faces(source: PhotoSource, tmp_path: Path) -> None:
    result = run(source, tmp_path / "run", ids=["group_0", "single.jpg"])
    assert (result.photos, result.kept, result.rejected) == (2, 2, 0)
    assert [row["id"] for row in table(tmp_path / "run" / "selection.csv")] != []
    assert {row["id"] for row in table(tmp_path / "run" / "selection.csv")} == {"group_0", "single"}
