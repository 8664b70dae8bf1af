"""`celebahq filter` as its users meet it: killed, repeated, with bad files, and as a page in a browser."""

import csv
import dataclasses
import io
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import CelebAHQError, DeliveryError, RecipeError, SourceError, WorkspaceError
from celebahq_builder.filter import catalogue, command, delivery, page, worker
from celebahq_builder.filter.delivery import Mode
from celebahq_builder.filter.scoring import score_image
from celebahq_builder.filter.selection import Cut
from celebahq_builder.imaging.quality_score import QualityScore
from tests.browser import browser, visit
from tests.cli.test_cli import ROOT, celebahq, one_line_error
from tests.filter.folders import add_bad, add_odd, make, run

PARTS = [field.name for field in dataclasses.fields(QualityScore)]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good images and its scores folder beside it; not to be changed: copy its parent."""
    folder = make(tmp_path_factory.mktemp("good") / "in")
    run(folder)
    return folder


@pytest.fixture
def folder(scored: Path, tmp_path: Path) -> Path:
    """A copy of the images alone."""
    return Path(shutil.copytree(scored, tmp_path / "in"))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def best(scored: Path, count: int) -> list[str]:
    return [row["path"] for row in rows(Path(f"{scored}-scores") / "scores.csv")][:count]


def test_scores_are_those_of_the_images_best_first(scored: Path) -> None:
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
    first = run(folder, cut=Cut(keep=7), scores=folder.parent / "one" / "x")
    second = run(folder, cut=Cut(keep=7), scores=folder.parent / "two" / "x", workers=3)
    for name in ("scores.csv", "index.html"):
        assert (
            Path(str(second.table)).with_name(name).read_bytes() == Path(str(first.table)).with_name(name).read_bytes()
        )


def test_every_file_is_accounted_for(folder: Path) -> None:
    odd, bad = add_odd(folder), add_bad(folder)
    before = sorted(folder.iterdir())
    summary = run(folder, cut=Cut(top_percent=50))
    assert summary.table
    found = {row["path"]: row for row in rows(summary.table)}
    assert {name: found[name]["notes"] for name in odd} == odd
    assert all(
        0 <= float(found[name]["score"]) <= 1 for name in odd
    )  # 0: below 64 px nothing reaches the band that is scored
    assert {name: found[name]["reason"] for name in bad} == bad
    assert all(found[name]["detail"] and not found[name]["rank"] and found[name]["kept"] == "no" for name in bad)
    assert len(found) == 9 + len(odd) + len(bad)
    assert sum(row["kept"] == "yes" for row in found.values()) == (9 + len(odd)) // 2
    assert sorted(folder.iterdir()) == before
    said = "\n".join(summary.lines())
    assert "25 images: 8 kept + 9 below the cut + 8 without a score" in said
    assert "  TOO_LARGE: 1: the photo has more pixels" in said
    assert "    bomb.png: 4100 x 4100 px; --pixels-max allows 16000000" in said
    assert "passed over: 1 other file (1 .txt), 1 hidden" in said


def test_moving_images_count_as_their_first(folder: Path) -> None:
    add_odd(folder)
    found = {row["path"]: row["score"] for row in rows(Path(str(run(folder).table)))}
    assert found["moving.webp"] == found["003.png"]


def test_what_is_scored_is_not_scored_again_unless_it_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_bad(folder)
    first = run(folder)
    asked: list[str] = []
    real = worker.score_file

    def noting(place: Path, path: str, pixels_max: int) -> Any:
        asked.append(path)
        return real(place, path, pixels_max)

    monkeypatch.setattr(worker, "score_file", noting)
    before = Path(str(first.table)).read_bytes()
    again = run(folder)
    assert asked == ["bomb.png"]  # which another limit may let pass
    assert Path(str(again.table)).read_bytes() == before
    asked.clear()
    shutil.copy(folder / "003.png", folder / "006.png")
    os.utime(folder / "000.png", ns=(1, 2))
    (folder / "empty.png").write_bytes((folder / "003.png").read_bytes())
    (folder / "sub" / "001.png").unlink()
    changed = {row["path"]: row["score"] for row in rows(Path(str(run(folder).table)))}
    assert sorted(asked) == ["000.png", "006.png", "bomb.png", "empty.png"]
    assert changed["003.png"] == changed["006.png"] == changed["empty.png"]
    assert "sub/001.png" not in changed


def test_other_rules_score_everything_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder)
    rules = catalogue.rules()
    monkeypatch.setattr(catalogue, "rules", lambda: {**rules, "score": -1})
    jobs: list[worker.Job] = []
    real = worker.run
    monkeypatch.setattr(worker, "run", lambda job: [jobs.append(job), real(job)][1])
    run(folder)
    assert sum(len(job.paths) for job in jobs) == 9


def test_a_torn_list_of_scores_costs_only_what_is_torn(scored: Path, folder: Path) -> None:
    shutil.copytree(f"{scored}-scores", f"{folder}-scores")
    about = Path(f"{folder}-scores") / "filter.json"
    about.write_text(about.read_text().replace(str(scored), str(folder)))
    journal = Path(f"{folder}-scores") / "scored.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + b'{"path": 7}\n\xff\xfe\n' + lines[4][:30])
    summary = run(folder)
    assert Path(str(summary.table)).read_bytes() == (Path(f"{scored}-scores") / "scores.csv").read_bytes()
    assert journal.read_bytes().splitlines(keepends=True)[:4] == lines[:4]


def kill_at(folder: Path, mode: Mode, point: str, count: int) -> None:
    where = [str(folder), str(folder.parent / "best"), mode.value, point, str(count)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.filter.folders", *where], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, f"not killed at {point}: {ended.stderr}"


@pytest.mark.parametrize(
    ("mode", "point", "count"),
    [
        (Mode.COPY, "about", 1),
        (Mode.COPY, "score", 2),
        (Mode.COPY, "table", 1),
        (Mode.COPY, "page", 1),
        (Mode.COPY, "publish", 3),
        (Mode.LINK, "link", 3),
        (Mode.MOVE, "plan", 1),
        (Mode.MOVE, "link", 3),
        (Mode.MOVE, "unlink", 3),
    ],
)
def test_killed_anywhere_it_goes_on(scored: Path, folder: Path, mode: Mode, point: str, count: int) -> None:
    before, wanted = tree(folder), best(scored, 4)
    kill_at(folder, mode, point, count)
    out = folder.parent / "best"
    if (out / ".celebahq-partial").exists():
        assert set(tree(out)) - {".celebahq-partial/copy"} <= set(wanted)
    summary = run(folder, cut=Cut(keep=4), out=out, mode=mode, agree=lambda _: True)
    assert tree(out) == {name: before[name] for name in wanted}
    left = set(before) - set(wanted) if mode is Mode.MOVE else set(before)
    assert tree(folder) == {name: before[name] for name in left}
    assert [row["path"] for row in rows(Path(str(summary.table))) if row["kept"] == "yes"] == wanted
    assert not [path for path in folder.parent.rglob("*") if "partial" in path.name]


def test_killed_while_its_workers_score(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 40)
    journal = tmp_path / "in-scores" / "scored.jsonl"
    arguments = [sys.executable, "-m", "celebahq_builder", "filter", str(folder), "--workers", "2"]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        until = time.monotonic() + 300
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 8):
            assert time.monotonic() < until
            time.sleep(0.01)
        running.kill()
    done = journal.read_bytes()
    assert 8 <= done.count(b"\n") < 40
    assert not (tmp_path / "in-scores" / "scores.csv").exists()
    ended = celebahq("filter", folder, "--workers", "2", "--keep", "5")
    assert ended.returncode == 0, ended.stderr
    assert journal.read_bytes().startswith(done)
    assert journal.read_bytes().count(b"\n") == 40
    other = run(folder, cut=Cut(keep=5), scores=tmp_path / "other")
    assert (tmp_path / "in-scores" / "scores.csv").read_bytes() == Path(str(other.table)).read_bytes()


def test_an_interrupted_move_is_finished_before_anything_else(scored: Path, folder: Path) -> None:
    kill_at(folder, Mode.MOVE, "link", 3)
    out = folder.parent / "best"
    for asked in ({"cut": Cut(keep=5), "out": out, "mode": Mode.MOVE}, {"cut": Cut(keep=4), "out": out}, {}):
        with pytest.raises(
            DeliveryError, match=r"a move of 4 images to .*best was interrupted; finish it first: .*keep 4"
        ):
            run(folder, **asked)
    summary = run(folder, cut=Cut(keep=4), out=out, mode=Mode.MOVE)  # which nobody is asked about again
    assert summary.went_on
    assert set(tree(out)) == set(best(scored, 4))
    assert len(tree(folder)) == 5
    assert "moved: 4 to" in "\n".join(summary.lines())
    assert "1 were there already" not in "\n".join(run(folder).lines())


def answered(folder: Path, out: Path, answer: str) -> tuple[int, str]:
    """Run a move on a terminal, and give it an answer."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "celebahq_builder", "filter", str(folder), "--keep", "3", "--out", str(out)]
    with subprocess.Popen(
        [*arguments, "--move", "--workers", "1"], cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, text=True
    ) as running:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said, _ = running.communicate(timeout=300)
    os.close(ours)
    return running.returncode, said


def test_a_move_asks_first(scored: Path, folder: Path) -> None:
    out, before = folder.parent / "best", tree(folder)
    code, said = answered(folder, out, "n")
    assert code == 1
    assert f"from {folder} to {out}? [y/N]" in said
    assert "Move 3 of 9 images" in said
    assert "nothing was moved" in said
    assert not out.exists()
    assert tree(folder) == before
    code, said = answered(folder, out, "y")
    assert code == 0, said
    assert set(tree(out)) == set(best(scored, 3))
    assert len(tree(folder)) == 6


def test_a_move_without_a_terminal_needs_yes(folder: Path) -> None:
    common = ("filter", folder, "--keep", "3", "--out", folder.parent / "best", "--move", "--workers", "1")
    assert "there is no terminal to answer on; add --yes" in one_line_error(celebahq(*common))
    assert not Path(f"{folder}-scores").exists()
    ended = celebahq(*common, "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "moved: 3 to" in ended.stdout
    assert len(tree(folder)) == 6


def test_a_list_of_those_kept(scored: Path, folder: Path) -> None:
    path = folder.parent / "lists" / "best.csv"
    summary = run(folder, cut=Cut(keep=3), list_path=path)
    assert [row["path"] for row in rows(path)] == best(scored, 3)
    assert list(rows(path)[0]) == ["rank", "path", *PARTS, "width_px", "height_px"]
    assert f"list:  {path}" in list(summary.lines())
    written = path.stat().st_mtime_ns
    run(folder, cut=Cut(keep=3), list_path=path)
    assert path.stat().st_mtime_ns == written
    with pytest.raises(DeliveryError, match="holds another list; nothing is overwritten"):
        run(folder, cut=Cut(keep=4), list_path=path)
    assert len(rows(path)) == 3
    mine = folder.parent / "mine.csv"
    mine.write_text("a,b\n")
    with pytest.raises(DeliveryError, match="exists and is no list of this command"):
        run(folder, scores=folder.parent / "new", list_path=mine)
    assert not (folder.parent / "new").exists()


def test_a_clash_stops_it_and_the_scores_stay(folder: Path) -> None:
    out = folder.parent / "best"
    make(out, 1)
    (out / "000.png").write_text("mine")
    with pytest.raises(DeliveryError, match=r"1 of 9 names are taken in .*best, first 000.png"):
        run(folder, out=out)
    assert tree(out)["000.png"][0] == b"mine"
    assert len(tree(out)) == 1
    assert len((folder.parent / "in-scores" / "scored.jsonl").read_text().splitlines()) == 9


def test_what_was_delivered_into_the_folder_is_no_input(folder: Path) -> None:
    run(folder, cut=Cut(keep=2), out=folder / "best", scores=folder / "scores")
    assert len(tree(folder / "best")) == 2
    summary = run(folder, cut=Cut(keep=3), out=folder / "best3", mode=Mode.LINK, scores=folder / "scores")
    assert (len(summary.ranked), summary.kept) == (9, 3)
    summary = run(folder, scores=folder / "scores")
    assert len(summary.ranked) == 9
    assert not summary.unscored
    assert "3 folders written into (best, best3, scores)" in "\n".join(summary.lines())
    with pytest.raises(DeliveryError, match="is in the folder of images and not empty: what is in it would not be"):
        run(folder, out=folder / "sub", scores=folder / "scores")


def test_no_cut_and_a_cut_that_leaves_none(folder: Path) -> None:
    assert run(folder, out=folder.parent / "all").kept == 9
    assert {name: data for name, (data, _) in tree(folder.parent / "all").items()} == {
        name: data for name, (data, _) in tree(folder).items()
    }
    summary = run(folder, cut=Cut(min_score=1), out=folder.parent / "none")
    assert (summary.kept, summary.delivered) == (0, None)
    assert not (folder.parent / "none").exists()


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"folder": "nowhere"}, SourceError, "nowhere does not exist; give a folder of images"),
        ({"folder": "in/000.png"}, SourceError, "is not a folder"),
        ({"folder": "texts"}, SourceError, r"holds no images: looked for .jpg, .* it has .txt"),
        ({"folder": "in", "out": "in"}, RecipeError, "must be three different folders"),
        ({"folder": "in", "scores": "in"}, RecipeError, "must be three different folders"),
        ({"folder": "in", "scores": "texts"}, WorkspaceError, "holds no scores but a.txt"),
        ({"folder": "in", "scores": "texts/a.txt"}, WorkspaceError, "choose another --scores"),
        ({"folder": "in", "out": "b", "list_path": "c.csv"}, RecipeError, "not both"),
        ({"folder": "in", "mode": Mode.LINK}, RecipeError, "--link needs to know where to: add --out DIR2"),
        ({"folder": "in", "out": "texts/a.txt"}, DeliveryError, "9 of 9 names are taken"),
    ],
)
def test_what_a_user_gets_wrong(
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


def test_scores_of_another_folder_are_not_mixed_in(scored: Path, folder: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"holds the scores of .*, this command scores .*; give another --scores"):
        run(folder, scores=Path(f"{scored}-scores"))


def test_the_default_limit_is_the_one_that_help_states() -> None:
    assert f"default: {command.PIXELS_MAX}" in celebahq("filter", "--help").stdout.replace("\n", " ")


# --- The page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a folder with all kinds of files."""
    folder = make(tmp_path_factory.mktemp("page") / "in & <i>out", 12)
    add_odd(folder), add_bad(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "SHEET", 4)
        return Path(str(run(folder, cut=Cut(keep=10)).page))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_shows_it_all(shown: Path, chromium: Any, width: int, scheme: str) -> None:
    with visit(chromium, shown, width, scheme) as seen:
        view = seen.page
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        counts = {name: view.locator(f"#count-{name}").inner_text() for name in ("images", "kept", "without-a-score")}
        assert counts == {"images": "28", "kept": "10", "without-a-score": "8"}
        assert view.locator("svg").count() == len(PARTS)
        assert view.locator("svg .cut").count() == 1
        titles = view.locator("#sheets h3").all_inner_texts()
        assert titles == ["Best", "Last of those kept", "First of those below the cut", "Worst"]
        images = view.evaluate("[...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight])")
        assert len(images) == 16
        assert all(complete and wide == high > 0 for complete, wide, high in images)
        assert view.locator("#without tbody th.name").count() == 8
        assert view.get_by_text("<b>text.jpg", exact=True).is_visible()
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [shown.resolve().as_uri()]
        for link in view.locator("#sheets a").all():
            assert (shown.parent / unquote(link.get_attribute("href"))).resolve().is_file()


def test_links_of_a_page_lead_to_where_images_were_moved(folder: Path) -> None:
    summary = run(folder, cut=Cut(keep=3), out=folder.parent / "best", mode=Mode.MOVE, agree=lambda _: True)
    html = Path(str(summary.page)).read_text()
    linked = [unquote(part.split('"')[0]) for part in html.split('<a href="../')[1:]]
    assert len(linked) == 9
    assert all((folder.parent / name).is_file() for name in linked)
    assert sum(name.startswith("best/") for name in linked) == 3


def test_scores_folders_of_others(tmp_path: Path) -> None:
    """Whatever lies in a folder that holds no scores stays, files named as temporary or as locks among it."""
    folder = make(tmp_path / "in", 2)
    for number, name in enumerate(("movie.mkv.partial", "lock", "filter.json")):
        scores = tmp_path / f"scores{number}"
        scores.mkdir()
        (scores / name).write_text("[]")
        (tmp_path / "precious").write_text("precious")
        (scores / ".celebahq-lock").symlink_to("../precious")
        with pytest.raises(WorkspaceError):
            run(folder, scores=scores)
        (scores / ".celebahq-lock").unlink()
        with pytest.raises(WorkspaceError):
            run(folder, scores=scores)
        assert [(path.name, path.read_text()) for path in scores.iterdir()] == [(name, "[]")]
        assert (tmp_path / "precious").read_text() == "precious"


def test_what_others_put_among_the_scores(tmp_path: Path) -> None:
    folder, scores = make(tmp_path / "in", 2), tmp_path / "scores"
    run(folder, scores=scores)
    for name in ("movie.partial", "lock", "scores.csv.12.partial"):
        (scores / name).write_text("mine")
    run(folder, scores=scores)
    assert {"movie.partial", "lock"} <= tree(scores).keys()
    assert "scores.csv.12.partial" not in tree(scores)


@pytest.mark.parametrize("what", ["scores", "out"])
def test_folders_that_vanish(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "in", 3)
    links = delivery.deliver

    def vanishing(planned: delivery.Delivery) -> Iterator[tuple[str, str]]:
        for number, one in enumerate(links(planned)):
            yield one
            if number == 1:
                shutil.rmtree(tmp_path / what)

    with monkeypatch.context() as patched:
        patched.setattr(delivery, "deliver", vanishing)
        with pytest.raises((WorkspaceError, DeliveryError), match="is gone again, 2 of 3|was deleted or replaced"):
            run(folder, scores=tmp_path / "scores", out=tmp_path / "out")
    shutil.rmtree(tmp_path / "scores", ignore_errors=True)
    assert run(folder, scores=tmp_path / "scores", out=tmp_path / "out").delivered
    assert len(tree(tmp_path / "out")) == 3
