"""`celebahq filter` as a whole: killed, repeated, and with bad files."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from celebahq_builder import cli
from celebahq_builder.errors import CelebAHQError, DeliveryError, RecipeError, SourceError, WorkspaceError
from celebahq_builder.filter.deliver import RECORD_NAME, DeliveryMode, DeliveryRecord
from celebahq_builder.filter.run import filter_folder
from celebahq_builder.filter.scoring import score_file, score_image
from celebahq_builder.filter.store import UnscoredImage
from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Reason
from celebahq_builder.storage import partial_path
from tests.cli.test_cli import ROOT, celebahq, one_line_error
from tests.filter.folders import add_bad, add_odd, make, make_image, rows, run

PARTS = [field.name for field in dataclasses.fields(QualityScore)]
DEAD = "0f"  # token of an earlier run


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD_NAME)
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def best(scored: Path, count: int) -> list[str]:
    return [row["path"] for row in rows(Path(f"{scored}-scores") / "scores.csv")][:count]


def test_the_table_has_the_scores_best_first(scored: Path) -> None:
    table = rows(Path(f"{scored}-scores") / "scores.csv")
    assert list(table[0]) == ["rank", "path", *PARTS, "width_px", "height_px", "kept", "notes", "reason", "detail"]
    assert [row["rank"] for row in table] == [str(rank) for rank in range(1, 10)]
    assert sorted(row["path"] for row in table) == sorted(tree(scored))
    assert [row["path"] for row in table] == [
        row["path"] for row in sorted(table, key=lambda row: (-float(row["score"]), row["path"]))
    ]
    for row in table:
        with Image.open(scored / row["path"]) as image:
            true = score_image(np.asarray(image))
        assert [row[name] for name in PARTS] == [f"{value:.6f}" for value in dataclasses.astuple(true)]
        assert (row["width_px"], row["height_px"], row["kept"]) == ("40", "40", "yes")


def test_same_bytes_for_any_number_of_workers(folder: Path) -> None:
    add_odd(folder), add_bad(folder)
    first = run(folder, keep=7, scores=folder.parent / "one" / "x")
    second = run(folder, keep=7, scores=folder.parent / "two" / "x", workers=3)
    assert second.table_path.read_bytes() == first.table_path.read_bytes()
    assert second.page_path.read_bytes() == first.page_path.read_bytes()


def test_every_file_is_in_the_table(folder: Path) -> None:
    odd, bad = add_odd(folder), add_bad(folder)
    before = sorted(folder.iterdir())
    result = run(folder, top_percent=50)
    found = {row["path"]: row for row in rows(result.table_path)}
    assert {name: found[name]["notes"] for name in odd} == odd
    assert all(
        0 <= float(found[name]["score"]) <= 1 for name in odd
    )  # 0: below 64 px nothing reaches the band that is scored
    assert {name: found[name]["reason"] for name in bad} == bad
    assert all(found[name]["detail"] and not found[name]["rank"] and found[name]["kept"] == "no" for name in bad)
    assert len(found) == 9 + len(odd) + len(bad)
    assert sum(row["kept"] == "yes" for row in found.values()) == (9 + len(odd)) // 2
    assert sorted(folder.iterdir()) == before
    said = "\n".join(result.lines())
    assert re.search(r"worst; the last one kept has \d\.\d{4} \(best 50 %\)\n", said)
    assert "25 images: 8 kept + 9 below the cut + 8 without a score" in said
    assert "  TOO_LARGE: 1: the photo has more pixels" in said
    assert "    bomb.png: 4100 x 4100 px; pixels_max allows 16000000" in said
    assert "skipped: 1 other file (1 .txt), 1 hidden" in said


def test_special_and_huge_files_are_named(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    result = run(folder)
    found = {one.path: (one.code, one.detail) for one in result.unscored}
    assert found == {
        "pipe.png": ("UNREADABLE", "not a regular file"),
        "device.png": ("UNREADABLE", "not a regular file"),
        "sparse.png": ("TOO_LARGE", f"{1 << 40} bytes; at most {MAX_IMAGE_FILE_BYTES} are read"),
    }
    assert len(result.ranked) == 9
    with pytest.raises(SourceError, match=r"pipe\.png cannot be read: a named pipe, not a regular file"):
        score_image(folder / "pipe.png")


def test_pillows_own_limit_of_pixels_does_not_apply(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(1, 60, 40).save(folder / "wide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(run(folder).ranked) == 10


def test_a_file_that_becomes_a_pipe_after_it_was_listed(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    found = score_file(folder, "pipe.png", MAX_IMAGE_PIXELS)
    assert found == UnscoredImage("pipe.png", Reason.UNREADABLE, "a named pipe, not a regular file")


def test_names_cannot_change_a_line(folder: Path) -> None:
    (folder / "000.png").rename(folder / "a\nerror: b\u202e.png")
    (folder / "x\n\x1b[31m.png").write_text("not an image")
    result = run(folder, keep=9, out=folder.parent / "be\nst", scores=folder.parent / "sc\nores")
    lines = list(result.lines())
    assert any("a\\nerror: b\\u202e.png" in line for line in lines)
    assert any("x\\n\\x1b[31m.png" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_an_animation_counts_as_its_first_frame(folder: Path) -> None:
    add_odd(folder)
    found = {row["path"]: row["score"] for row in rows(run(folder).table_path)}
    assert found["moving.webp"] == found["003.png"]


def kill_at(folder: Path, mode: DeliveryMode, point: str, count: int, keep: int = 4) -> None:
    where = [str(folder), str(folder.parent / "best"), mode.value, str(keep), point, str(count)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.filter.folders", *where], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, f"not killed at {point}: {ended.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "point", "count"),
    [
        (DeliveryMode.COPY, "about", 1),
        (DeliveryMode.COPY, "score", 2),
        (DeliveryMode.COPY, "table", 1),
        (DeliveryMode.COPY, "page", 1),
        (DeliveryMode.COPY, "record", 1),
        (DeliveryMode.COPY, "record", 3),
        (DeliveryMode.COPY, "publish", 3),
        (DeliveryMode.COPY, "link", 3),
        (DeliveryMode.COPY, "unlink", 3),
        (DeliveryMode.LINK, "record", 3),
        (DeliveryMode.LINK, "link", 3),
    ],
)
def test_a_killed_command_resumes(scored: Path, folder: Path, mode: DeliveryMode, point: str, count: int) -> None:
    before, wanted = tree(folder), best(scored, 4)
    kill_at(folder, mode, point, count)
    out = folder.parent / "best"
    assert {name for name in tree(out) if not name.endswith(".partial")} <= set(wanted)
    result = run(folder, keep=4, out=out, mode=mode)
    assert tree(out) == {name: before[name] for name in wanted}
    assert set(DeliveryRecord(out).files) == set(wanted)
    assert tree(folder) == before
    assert [row["path"] for row in rows(result.table_path) if row["kept"] == "yes"] == wanted
    assert not [path for path in folder.parent.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize(("point", "count"), [("record", 2), ("unlink", 1), ("unlink", 4)])
def test_killed_while_it_prunes(scored: Path, folder: Path, point: str, count: int) -> None:
    before, out = tree(folder), folder.parent / "best"
    run(folder, keep=8, out=out, mode="link")
    (out / "mine.png").write_text("mine")
    kill_at(folder, DeliveryMode.LINK, point, count, keep=3)
    assert (out / "mine.png").exists()
    result = run(folder, keep=3, out=out, mode=DeliveryMode.LINK, prune=True)
    assert tree(out).keys() == {*best(scored, 3), "mine.png"}
    assert set(DeliveryRecord(out).files) == set(best(scored, 3))
    assert result.delivery
    assert len(result.delivery.stale) <= 5
    assert tree(folder) == before


def test_a_smaller_selection_needs_prune(scored: Path, folder: Path) -> None:
    out = folder.parent / "best"
    common = ("filter", folder, "--out", out, "--workers", "1", "--scores", f"{folder}-scores", "--keep")
    assert celebahq(*common, "5").returncode == 0
    said = one_line_error(celebahq(*common, "3"))
    assert "holds 2 files of an earlier celebahq filter" in said
    assert "--prune" in said
    assert set(tree(out)) == set(best(scored, 5))
    ended = celebahq(*common, "3", "--prune")
    assert ended.returncode == 0, ended.stderr
    assert "removed: 2 of an earlier command" in ended.stdout
    assert set(tree(out)) == set(best(scored, 3))
    (out / best(scored, 3)[2]).write_text("changed")
    ended = celebahq(*common, "2")
    assert ended.returncode == 0, ended.stderr
    assert f"left there: 1 of an earlier command, changed since ({best(scored, 3)[2]})" in ended.stdout


def test_an_empty_selection_prunes_all(folder: Path) -> None:
    out = folder.parent / "best"
    run(folder, keep=2, out=out)
    with pytest.raises(DeliveryError, match=r"holds 2 files .* add `prune`"):
        run(folder, min_score=1, out=out)
    run(folder, min_score=1, out=out, prune=True)
    assert tree(out) == {}


def test_there_is_no_move(folder: Path) -> None:
    ended = celebahq("filter", folder, "--keep", "5", "--out", folder.parent / "best", "--move")
    assert ended.returncode == 2
    assert re.search("No such option:? '?--move", ended.stderr)
    assert len(tree(folder)) == 9


@pytest.mark.slow
def test_killed_while_its_workers_score(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 40)
    journal = tmp_path / "in-scores" / "scored.jsonl"
    common = ("filter", str(folder), "--workers", "2", "--scores", f"{folder}-scores")
    arguments = [sys.executable, "-m", "celebahq_builder", *common]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        until = time.monotonic() + 300
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 8):
            assert time.monotonic() < until
            time.sleep(0.01)
        running.kill()
    done = journal.read_bytes()
    assert 8 <= done.count(b"\n") < 40
    assert not (tmp_path / "in-scores" / "scores.csv").exists()
    ended = celebahq(*common, "--keep", "5")
    assert ended.returncode == 0, ended.stderr
    assert journal.read_bytes().startswith(done)
    assert journal.read_bytes().count(b"\n") == 40
    other = run(folder, keep=5, scores=tmp_path / "other")
    assert (tmp_path / "in-scores" / "scores.csv").read_bytes() == other.table_path.read_bytes()


def test_the_list_of_kept_images(scored: Path, folder: Path) -> None:
    path = folder.parent / "lists" / "best.csv"
    result = run(folder, keep=3, list_path=path)
    assert [row["path"] for row in rows(path)] == best(scored, 3)
    assert list(rows(path)[0]) == ["rank", "path", *PARTS, "width_px", "height_px"]
    assert result.list_path == path
    written = path.stat().st_mtime_ns
    partial_path(path, DEAD).touch()  # as a kill leaves it
    run(folder, keep=3, list_path=path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mtime_ns == written
    with pytest.raises(DeliveryError, match="holds another list and is not overwritten"):
        run(folder, keep=4, list_path=path)
    assert len(rows(path)) == 3
    mine = folder.parent / "mine.csv"
    mine.write_text("a,b\n")
    with pytest.raises(DeliveryError, match="exists and is not a list of this command"):
        run(folder, scores=folder.parent / "new", list_path=mine)
    assert not (folder.parent / "new").exists()


def test_scores_go_to_the_current_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the folder of images or beside it without being asked for."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    done = CliRunner().invoke(cli.celebahq, ["filter", str(folder), "--workers", "1"])
    assert done.exit_code == 0
    made = here / "in-scores"
    assert done.output.splitlines()[-2:] == [f"table: {made / 'scores.csv'}", f"page: {made / 'index.html'}"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["here", "in"]
    monkeypatch.chdir(folder)
    with pytest.raises(RecipeError, match="^the current folder is in .*, the folder of images; give a folder for the"):
        filter_folder(".", workers=1)
    assert len(tree(folder)) == 9


def test_a_name_conflict_keeps_the_scores(folder: Path) -> None:
    out = folder.parent / "best"
    make(out, 1)
    (out / "000.png").write_text("mine")
    with pytest.raises(DeliveryError, match=r"1 of 9 names are taken in .*best, first 000.png"):
        run(folder, out=out)
    assert tree(out)["000.png"][0] == b"mine"
    assert len(tree(out)) == 1
    assert len((folder.parent / "in-scores" / "scored.jsonl").read_text().splitlines()) == 9


def test_delivered_images_are_not_input(folder: Path) -> None:
    run(folder, keep=2, out=folder / "best", scores=folder / "scores")
    assert len(tree(folder / "best")) == 2
    result = run(folder, keep=3, out=folder / "best3", mode=DeliveryMode.LINK, scores=folder / "scores")
    assert (len(result.ranked), result.kept) == (9, 3)
    result = run(folder, scores=folder / "scores")
    assert len(result.ranked) == 9
    assert not result.unscored
    assert "3 output folders (best, best3, scores)" in "\n".join(result.lines())
    with pytest.raises(DeliveryError, match="is in the folder of images and not empty: its images would not be"):
        run(folder, out=folder / "sub", scores=folder / "scores")


def test_a_selection_of_all_and_of_none(folder: Path) -> None:
    assert run(folder, out=folder.parent / "all").kept == 9
    assert {name: data for name, (data, _) in tree(folder.parent / "all").items()} == {
        name: data for name, (data, _) in tree(folder).items()
    }
    result = run(folder, min_score=1, out=folder.parent / "none")
    assert result.kept == 0
    assert not (folder.parent / "none").exists()


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"folder": "nowhere"}, SourceError, "nowhere does not exist; give a folder of images"),
        ({"folder": "in/000.png"}, SourceError, "is not a folder"),
        ({"folder": "texts"}, SourceError, r"holds no images: looked for .jpg, .* it has .txt"),
        ({"folder": "in", "out": "in"}, RecipeError, "must be three different folders"),
        ({"folder": "in", "scores": "in"}, RecipeError, "must be three different folders"),
        ({"folder": "in", "scores": "texts"}, WorkspaceError, "holds no scores, but a.txt"),
        ({"folder": "in", "scores": "texts/a.txt"}, WorkspaceError, "choose another `scores`"),
        ({"folder": "in", "out": "b", "list_path": "c.csv"}, RecipeError, "not both"),
        ({"folder": "in", "mode": DeliveryMode.LINK}, RecipeError, "to link images needs a destination: add `out`"),
        ({"folder": "in", "out": "b", "mode": "move"}, RecipeError, "`mode` move is unknown; expected copy or link"),
        ({"folder": "in", "prune": True}, RecipeError, "`prune` needs a destination: add `out`"),
        (
            {"folder": "in", "out": "texts/a.txt"},
            DeliveryError,
            "`out` texts/a.txt: .*a.txt is a file; expected a folder",
        ),
        ({"folder": "in", "out": "texts/a.txt/b"}, DeliveryError, "`out` texts/a.txt/b: .*a.txt is a file; expected a"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    asked: dict[str, Any], error: type[CelebAHQError], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "texts").mkdir()
    (folder.parent / "texts" / "a.txt").write_text("x")
    before = tree(folder)
    monkeypatch.chdir(folder.parent)
    paths = {name: Path(value) if isinstance(value, str) and name != "mode" else value for name, value in asked.items()}
    with pytest.raises(error, match=says) as caught:
        run(**paths)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before
    assert tree(folder.parent / "texts").keys() == {"a.txt"}


def test_the_help_states_the_default_limit() -> None:
    assert f"default: {MAX_IMAGE_PIXELS}" in celebahq("filter", "--help").stdout.replace("\n", " ")


def test_a_wrong_folder_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom celebahq_builder.filter.run import filter_folder\n"
        "try: filter_folder('WRONG')\nexcept Exception as error: print(error)\nprint('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.stdout == "WRONG does not exist; give a folder of images\nFalse\n", ended
