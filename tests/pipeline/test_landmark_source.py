import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.pipeline.landmark_source import find_source, landmark_section, prepare_source
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.browser import visit
from tests.conftest import SAMPLE
from tests.pipeline.runs import write_landmarks

FILES = ("000001.jpg", "000002.jpg", "000003.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in FILES:
        shutil.copy(SAMPLE / "img_celeba" / file, folder)
    return folder


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    """Landmarks of the photos; those of the second one are 60 px beside its face."""
    given = {photo.file: photo.landmarks for photo in read_celeba(SAMPLE).photos}
    moved = {name: [value - 60 * (name == FILES[1]) for value in given[name]] for name in FILES}
    return write_landmarks(tmp_path / "table.csv", moved)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(celebahq, ["build", *map(str, arguments), "--resolution", "64", "--workers", "1"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_photos_without_landmarks(photos, yunet, chromium, tmp_path):
    """The second run finds nothing to do; the report links to the page of what was found."""
    out = tmp_path / "work"
    command = ("--photos", photos, "--out", out, "--landmark-model", yunet)
    assert "landmarks: " in run(*command, "--dry-run")
    assert not out.exists()
    assert "3 photos: 3 kept + 0 rejected + 0 failed" in run(*command)
    with open_pyramid(out / "celebahq-64x64.h5") as faces:
        assert faces.count == 3
    status = "\n".join(status_lines(Workspace(out)))
    assert "3 photos from" in status
    assert "landmarks.html" in status
    before = {path: path.read_bytes() for path in out.rglob("*.h5")}
    assert "3 photos: 3 kept" in run(*command)
    assert {path: path.read_bytes() for path in out.rglob("*.h5")} == before
    with visit(chromium, out / "report" / "index.html", 1400) as page:
        link = page.page.locator("#landmarks a").get_attribute("href")
        assert (out / "report" / link).resolve() == (out / "landmarks" / "landmarks.html").resolve()
        assert page.complaints == []
    assert "photos" in run(*command, "--dry-run")


def test_status_while_faces_are_searched(photos, yunet, tmp_path):
    find_source(photos, tmp_path / "work", model=yunet, workers=1)
    assert list(status_lines(Workspace(tmp_path / "work"))) == [
        "landmarks: 3 photos searched; the same command resumes"
    ]


def test_one_photo(photos, yunet, tmp_path):
    """The other photos of its folder are not touched."""
    out = tmp_path / "work"
    assert "1 photo: 1 kept + 0 rejected" in run("--photos", photos / FILES[0], "--out", out, "--landmark-model", yunet)


def test_every_face_of_a_group(photos, yunet, tmp_path):
    """Two portraits beside each other: two faces of one file, from left to right; or only the larger one."""
    from PIL import Image

    one, two = (Image.open(photos / file).convert("RGB") for file in (FILES[0], FILES[1]))
    group = Image.new("RGB", (one.width + two.width, one.height), "grey")
    group.paste(two, (0, 0))
    group.paste(one, (two.width, 0))
    folder = tmp_path / "group"
    folder.mkdir()
    group.save(folder / "both.png")
    command = ("--photos", folder, "--landmark-model", yunet)
    assert "1 photo, 2 faces: 2 kept + 0 rejected" in run(*command, "--out", tmp_path / "all")
    with open_pyramid(tmp_path / "all" / "celebahq-64x64.h5") as faces:
        assert sorted(faces.photos["id"]) == ["both_0", "both_1"]
    assert "1 photo: 1 kept" in run(*command, "--faces", "largest", "--out", tmp_path / "largest")


def test_names_of_photos_reach_the_result(photos, yunet, tmp_path):
    for number, name in enumerate((" lead.jpg", "b,\n.jpg")):
        (photos / FILES[number]).rename(photos / name)
    said = run("--photos", photos, "--out", tmp_path / "work", "--landmark-model", yunet)
    assert "3 photos: 3 kept + 0 rejected + 0 failed" in said


def test_the_folder_of_photos_is_no_run_directory(photos, yunet):
    with pytest.raises(RecipeError, match="is the folder of photos"):
        find_source(photos, photos, model=yunet)


def test_one_photo_of_a_table(photos, table, yunet, tmp_path):
    command = ("--photos", photos / FILES[0], "--landmarks", table, "--out", tmp_path / "work", "--no-check-landmarks")
    assert "1 photo: 1 kept + 0 rejected" in run(*command)


def test_no_face_in_any_photo(photos, yunet, tmp_path):
    from PIL import Image

    for file in FILES:
        Image.new("RGB", (200, 200), "teal").save(photos / file)
    result = CliRunner().invoke(
        celebahq, ["build", "--photos", str(photos), "--out", str(tmp_path / "work"), "--landmark-model", str(yunet)]
    )
    assert result.exit_code == 1
    assert "no photo was kept" in str(result.exception)
    assert (tmp_path / "work" / "rejected.csv").read_text().count("NO_FACE") == 3


def test_own_tables_are_checked_and_doubtful_photos_are_shown(photos, table, yunet, chromium, tmp_path):
    out = tmp_path / "work"
    said = run("--photos", photos, "--landmarks", table, "--out", out, "--landmark-model", yunet)
    assert "3 photos: 3 kept + 0 rejected" in said
    with visit(chromium, out / "report" / "index.html", 1400) as page:
        assert page.page.locator("#count-doubtful").inner_text() == "1"
        assert page.page.locator("#landmarks .found li").count() == 1
        assert "000002.jpg" in page.page.locator("#landmarks .found").inner_text()
        assert page.complaints == []


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"photos": 3, "doubtful": [{"id": 1}]}', '{"photos": 3, "doubtful": 5}']
)
def test_a_changed_list_of_doubtful_photos(content, tiny_copy):
    workspace = Workspace(tiny_copy)
    workspace.landmarks_path.mkdir()
    workspace.doubtful_path.write_text(content)
    with pytest.raises(WorkspaceError, match=r"doubtful.json: the table .* is changed, corrupt"):
        landmark_section(workspace, SAMPLE)


def test_doubtful_photos_are_rejected_on_request(photos, table, yunet, tmp_path):
    out = tmp_path / "work"
    said = run("--photos", photos, "--landmarks", table, "--out", out, "--landmark-model", yunet, "--reject-doubtful")
    assert "3 photos: 2 kept + 1 rejected" in said
    assert "000002.jpg,,rejected,DOUBTFUL_LANDMARKS" in (out / "rejected.csv").read_text()


def test_a_missing_model_is_a_warning_only_by_default(photos, table, tmp_path, monkeypatch, caplog):
    from celebahq_builder.errors import WeightsError
    from celebahq_builder.sources.folder import read_folder

    def missing(*_: object) -> Path:
        raise WeightsError("no network")

    monkeypatch.setattr("celebahq_builder.pipeline.landmark_source.locate_model", missing)
    source = read_folder(photos, table)
    assert prepare_source(source, tmp_path / "work") is source
    assert "the landmarks are not checked: no network" in caplog.text
    with pytest.raises(WeightsError):
        prepare_source(source, tmp_path / "work", reject_doubtful=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"faces": "largest"}, "`faces` chooses among the faces that are found"),
        ({"check_landmarks": False, "reject_doubtful": True}, "`reject_doubtful` needs the check"),
    ],
)
def test_contradicting_arguments(arguments, words, photos, table, tmp_path):
    from celebahq_builder.sources.folder import read_folder

    with pytest.raises(RecipeError, match=words):
        prepare_source(read_folder(photos, table), tmp_path / "work", **arguments)


def test_checks_need_a_table(photos, tmp_path):
    with pytest.raises(RecipeError, match="give `landmarks` too"):
        prepare_source(photos, tmp_path / "work", reject_doubtful=True)
