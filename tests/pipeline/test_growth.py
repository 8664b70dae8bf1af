"""A run that grows ends with the files of a run that had all photos from the beginning."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.errors import FingerprintMismatch, FormatError, WorkspaceError
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.pipeline.dry_run import dry_run
from celebahq_builder.pipeline.growth import checked_plan, grow
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.run_images import RunImages, find_hdf5, find_images
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from tests.conftest import FAST, SMALL, TINY, build_tiny
from tests.pipeline.killed_build import run_killed
from tests.pipeline.runs import PHOTOS, assert_same, build_table, files, photos_computed, write_table

EARLIER = (2, 3, 5, 6, 7, 9, 13)
"""Places in the sample of the photos of an earlier run."""


def test_larger_limits(tmp_path: Path, fast_run: Path) -> None:
    out = tmp_path / "run"
    for limit in (5, 12, None):
        build_tiny(out, limit=limit, recipe=FAST)
        assert list(find_problems(out)) == []
        if limit == 5:
            foreign = next(out.glob("stages/align/images/*")) / "mine.png"
            foreign.touch()
    foreign.unlink()  # it is of the user, and was not deleted
    assert_same(out, fast_run)
    assert photos_computed(out) == PHOTOS


def test_example_photos_are_spread_over_the_run(fast_run: Path) -> None:
    """Every second photo, at most eight; a photo that is rejected has no images."""
    ids = [photo.id for photo in read_celeba(SMALL).photos]
    found = {path.name for path in (fast_run / "report" / "examples").iterdir()}
    table = csv.DictReader((fast_run / "rejected.csv").read_text().splitlines())
    rejected = {row["id"] for row in table if row["reason"] != "LOW_SCORE"}
    assert found == set(ids[::2]) - rejected


def test_counts_of_the_earlier_run_are_deleted_first(tiny_copy: Path) -> None:
    """A command that is killed while the run grows leaves no counts of fewer photos."""
    grow(checked_plan(make_request(read_celeba(SMALL), tiny_copy, recipe=TINY, limit=10)))
    lines = list(status_lines(Workspace(tiny_copy)))
    assert "align    1 of 3 batches done" in lines
    assert not [line for line in lines if line.startswith("in all")]


def test_limit_of_more_photos_than_there_are(tmp_path: Path, fast_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same command without it has nothing to do; both make the same files."""
    out = tmp_path / "run"
    build_tiny(out, limit=20, recipe=FAST)
    assert_same(out, fast_run)
    caplog.set_level("INFO")
    caplog.clear()
    build_tiny(out, limit=None, recipe=FAST)
    assert [one.message for one in caplog.records] == ["all stages up to pack are complete"]


@pytest.mark.parametrize(("keep", "message"), [(14, "only 13 of 15 photos were good enough"), (16, "")])
def test_fewer_good_photos_than_asked_for(
    keep: int, message: str, tmp_path: Path, fast_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line says so, unless the source has fewer photos anyway."""
    shutil.copytree(fast_run, tmp_path / "run")
    build_tiny(tmp_path / "run", limit=None, recipe=FAST, keep=keep, redo="select", until="select")
    assert [one for one in caplog.messages if "good enough" in one] == [
        f"select: {message}, fewer than keep = {keep}; all are kept"
    ] * bool(message)


def test_files_of_the_earlier_run(tmp_path: Path, fast_run: Path) -> None:
    """They stay until there are new ones, but no command takes them for those of the run."""
    out = tmp_path / "run"
    build_tiny(out, limit=5, recipe=replace(FAST, pack=replace(FAST.pack, labels=True)))
    hdf5 = Workspace(out).hdf5_path(64)
    assert find_images(out) == find_hdf5(out) == hdf5
    build_tiny(out, limit=None, recipe=FAST, until="score")
    found = find_images(out)
    assert isinstance(found, RunImages)
    assert found.count > 5
    assert hdf5.exists()
    assert labels_path(hdf5).exists()
    with pytest.raises(FormatError, match="has no celebahq-64x64.h5 of all its photos yet: finish its build"):
        find_hdf5(out)
    assert "of an earlier run with other photos or settings" in "".join(status_lines(Workspace(out)))
    build_tiny(out, limit=None, recipe=FAST)
    assert_same(out, fast_run)  # without labels


def test_another_size_of_batches(tmp_path: Path, fast_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from 12 photos to 202,599: the earlier run had smaller batches."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("celebahq_builder.pipeline.plan.BATCH_PHOTOS", (3, 16))
        build_tiny(out, limit=11, recipe=FAST)
    build_tiny(out, limit=None, recipe=FAST)
    assert_same(out, fast_run)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tables of some photos of the sample, and of all."""
    folder = tmp_path_factory.mktemp("tables")
    return write_table(folder / "some.csv", [*EARLIER]), write_table(folder / "all.csv", [*range(PHOTOS)])


@pytest.fixture(scope="session")
def some_run(tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of some photos; not to be changed."""
    build_table(tables[0], out := tmp_path_factory.mktemp("some") / "run")
    return out


@pytest.fixture(scope="session")
def all_run(tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all photos of the table; not to be changed."""
    build_table(tables[1], out := tmp_path_factory.mktemp("all") / "run")
    return out


@pytest.fixture
def out(some_run: Path, tmp_path: Path) -> Path:
    """A copy of the run of some photos."""
    return Path(shutil.copytree(some_run, tmp_path / "run"))


def test_photos_in_the_middle(out: Path, tables: tuple[Path, Path], all_run: Path) -> None:
    build_table(tables[1], out)
    assert_same(out, all_run)
    rejected_before = 1  # tried again
    assert photos_computed(out) == PHOTOS + rejected_before


def test_more_ids(tmp_path: Path) -> None:
    """Ids of photos before and after those of the earlier run."""
    out = tmp_path / "run"
    for names in (["000004", "000007"], ["000002", "000004.jpg", "000007", "000009"]):
        build_tiny(out, limit=None, ids=names, recipe=FAST)
    build_tiny(tmp_path / "once", limit=None, ids=names, recipe=FAST)
    assert_same(out, tmp_path / "once")


def test_from_aligned_images_to_a_data_set(tables: tuple[Path, Path], all_run: Path, tmp_path: Path) -> None:
    """Images of the earlier run are scored only."""
    out = tmp_path / "run"
    build_table(tables[0], out, until="align")
    aligned = {path.name: path.stat().st_ino for path in (out / "stages" / "align").rglob("*.png")}
    build_table(tables[1], out)
    assert_same(out, all_run)
    now = {path.name: path.stat().st_ino for path in (out / "stages" / "align").rglob("*.png")}
    assert aligned.items() <= now.items()


def test_kept_stages(tables: tuple[Path, Path], tmp_path: Path) -> None:
    """The earlier run kept images of two stages."""
    recipe = replace(FAST, keep_stages=("denoise",))
    build_table(tables[0], tmp_path / "run", recipe=recipe)
    build_table(tables[1], tmp_path / "run", recipe=recipe)
    build_table(tables[1], tmp_path / "once", recipe=recipe)
    assert_same(tmp_path / "run", tmp_path / "once")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 9, 12, 20, 30])
def test_killed_while_it_grows(count: int, out: Path, tables: tuple[Path, Path], all_run: Path) -> None:
    """Killed twice at a rename: of a manifest, the plan, an image or the data set."""
    assert run_killed(lambda: build_table(tables[1], out), count)
    run_killed(lambda: build_table(tables[1], out), count + 1)
    build_table(tables[1], out)
    assert_same(out, all_run)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_killed_while_it_grows_then_the_earlier_run(
    count: int, out: Path, tables: tuple[Path, Path], some_run: Path
) -> None:
    """Until the new plan is written, the earlier command may resume, too."""
    assert run_killed(lambda: build_table(tables[1], out), count)
    build_table(tables[0], out)
    assert_same(out, some_run)


def test_selection_and_data_set_may_have_other_settings(out: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """They are made again in any case."""
    keeping = replace(FAST, select=SelectSettings(keep=6))
    with pytest.raises(FingerprintMismatch, match=r"\[select\] keep = 3, this run asks 6"):
        build_table(tables[0], out, recipe=keeping)
    build_table(tables[1], out, recipe=keeping)
    build_table(tables[1], tmp_path / "once", recipe=keeping)
    assert_same(out, tmp_path / "once")


def test_start_is_refused(out: Path, tables: tuple[Path, Path]) -> None:
    with pytest.raises(WorkspaceError, match=r"needs the results of score for all 15 photos; .* leave out `start`"):
        build_table(tables[1], out, start="select")


def test_another_method_is_named(out: Path, tables: tuple[Path, Path]) -> None:
    with pytest.raises(FingerprintMismatch, match="built with method = paper, this run asks exact"):
        build_table(tables[1], out, recipe=BuildRecipe(method="exact", resolution=64))


def test_other_settings_are_named(out: Path, tables: tuple[Path, Path]) -> None:
    other = replace(FAST, align=replace(FAST.align, supersampling=2))
    with pytest.raises(FingerprintMismatch, match=r"\[align\] supersampling = 1, this run asks 2"):
        build_table(tables[1], out, recipe=other)


@pytest.mark.parametrize(
    ("places", "shift_px", "says"),
    [
        ([2, 3, 5], 0, r"3 photos missing from this run \(000007\.jpg, 000008\.jpg, 000010\.jpg\); `redo` photos"),
        ([*range(1, PHOTOS)], 1, r"6 photos with other faces or landmarks now \(000003.jpg, .*, 000008.jpg, \.\.\.\);"),
    ],
)
def test_nothing_is_lost(places: list[int], shift_px: float, says: str, out: Path, tmp_path: Path) -> None:
    before = files(out)
    with pytest.raises(FingerprintMismatch, match=says):
        build_table(write_table(tmp_path / "other.csv", places, shift_px), out)
    assert files(out) == before


def test_fewer_photos_of_a_run_that_was_killed(tables: tuple[Path, Path], some_run: Path, tmp_path: Path) -> None:
    """No result is lost: those that are there belong to both runs."""
    assert run_killed(lambda: build_table(tables[1], tmp_path / "run"), 12)
    assert list((tmp_path / "run").rglob("*.png"))
    build_table(write_table(tmp_path / "first.csv", [*range(8)]), tmp_path / "run")
    build_table(tmp_path / "first.csv", tmp_path / "once")
    assert_same(tmp_path / "run", tmp_path / "once")


def test_another_face_of_a_photo(out: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """The ids of both faces of the file are others than that of the only face before."""
    more = tmp_path / "more.csv"
    name, *row = tables[0].read_text().splitlines()[-1].split(",")
    moved = [f"{float(number) - 40 * (i % 2 == 0)}" for i, number in enumerate(row)]
    more.write_text(tables[0].read_text() + ",".join((name, *moved)) + "\n")
    build_table(more, out)
    build_table(more, tmp_path / "once")
    assert_same(out, tmp_path / "once")


def test_the_data_set_stays_until_it_is_replaced(out: Path, tables: tuple[Path, Path]) -> None:
    result, table = Workspace(out).hdf5_path(64), Workspace(out).selection_path
    before = result.read_bytes(), table.read_bytes()
    build_table(tables[1], out, until="score")
    assert (result.read_bytes(), table.read_bytes()) == before
    build_table(tables[1], out)
    assert result.read_bytes() != before[0]


def test_the_plan_says_what_is_used(out: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    before = files(out)
    lines = "\n".join(dry_run(read_folder(SMALL / "img_celeba", tables[1]), out, recipe=FAST))
    assert f"growth: the results of about {len(EARLIER)} photos are in" in lines
    with pytest.raises(FingerprintMismatch, match="missing from this run"):
        dry_run(read_folder(SMALL / "img_celeba", write_table(tmp_path / "t.csv", [1])), out, recipe=FAST)
    assert files(out) == before


def test_photos_that_were_removed_or_changed(out: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the changed ones are computed, one of which a kill interrupts."""
    names, *rows = tables[1].read_text().splitlines()
    name, left_eye_x, *more = rows[5].split(",")
    assert name == "000006.jpg"
    rows[5] = ",".join((name, str(float(left_eye_x) + 1), *more))
    table = tmp_path / "other.csv"
    table.write_text("\n".join([names, *rows[4:8], rows[9], rows[13]]) + "\n")
    with pytest.raises(
        FingerprintMismatch, match=r"2 photos .*\(000003.jpg, 000004.jpg\) and 1 photo .* \(000006.jpg\)"
    ):
        build_table(table, out)
    lines = dry_run(read_folder(SMALL / "img_celeba", table), out, recipe=FAST, redo="photos")
    assert lines[-1].startswith("deleted: results of 2 photos missing")
    assert run_killed(lambda: build_table(table, out, redo="photos"), 9)
    build_table(table, out)
    build_table(table, tmp_path / "once")
    assert_same(out, tmp_path / "once")
    examples = {path.name for path in (out / "report" / "examples").iterdir()}
    assert not examples & {"000003", "000004"}
