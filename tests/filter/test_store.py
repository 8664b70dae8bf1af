"""Scores folder: scores are used again as long as they are valid, and no other file is touched.

Score records survive JSON, fit into CSV, and agree with the modules that they must not import.
"""

import csv
import dataclasses
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.filter import scoring, store
from celebahq_builder.filter.store import UnscoredImage, from_json, kept_csv, table_csv, to_json
from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.outcome import Reason
from celebahq_builder.pipeline.stages import score
from celebahq_builder.storage import partial_path
from tests.filter.folders import add_bad, image_score, rows, run

# --- Records -------------------------------------------------------------------------------------------------------


def test_the_repeated_constants_are_those_of_the_score() -> None:
    assert store.SCORE_VERSION == score.VERSION
    assert tuple(field.name for field in dataclasses.fields(QualityScore)) == store.SCORE_PARTS


@given(st.text(), st.sampled_from([*Reason, None]), st.text())
def test_records_survive_json(path: str, reason: Reason | None, detail: str) -> None:
    for record in (image_score(path, 0.123456), UnscoredImage(path, reason, detail, 5, 6)):
        assert from_json(to_json(record)) == record


def test_names_that_would_break_a_line_or_a_table() -> None:
    safe = ["a\rb.png", "a\nb.png", "a\x1b]0;x\x07.png", "a\u202f1.png", 'a",b.png']
    formulas = ["=1.png", "+1.png", "-1.png", "@1.png"]
    images = [image_score(name, 0.5) for name in (*safe, *formulas)]
    kept = csv.DictReader(io.StringIO(kept_csv(images).decode(), newline=""))
    assert [row["path"] for row in kept] == [*safe, *(f"./{name}" for name in formulas)]
    table = table_csv(images, 2, [UnscoredImage("=x", None, "a\nb")])
    listed = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    assert [row["kept"] for row in listed] == ["yes"] * 2 + ["no"] * 8
    assert (listed[-1]["path"], listed[-1]["detail"], listed[-1]["reason"]) == ("./=x", "a\nb", "failed")


# --- The folder ----------------------------------------------------------------------------------------------------


def test_only_changed_files_are_scored_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_bad(folder)
    first = run(folder)
    asked: list[str] = []
    real = scoring.score_file

    def noting(place: Path, path: str, pixels_max: int) -> Any:
        asked.append(path)
        return real(place, path, pixels_max)

    monkeypatch.setattr(scoring, "score_file", noting)
    before = first.table_path.read_bytes()
    again = run(folder)
    assert asked == ["bomb.png"]  # which another limit may let pass
    assert again.table_path.read_bytes() == before
    asked.clear()
    shutil.copy(folder / "003.png", folder / "006.png")
    os.utime(folder / "000.png", ns=(1, 2))
    (folder / "empty.png").write_bytes((folder / "003.png").read_bytes())
    (folder / "sub" / "001.png").unlink()
    changed = {row["path"]: row["score"] for row in rows(run(folder).table_path)}
    assert sorted(asked) == ["000.png", "006.png", "bomb.png", "empty.png"]
    assert changed["003.png"] == changed["006.png"] == changed["empty.png"]
    assert "sub/001.png" not in changed


def test_other_scoring_rules_score_all_images_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder)
    monkeypatch.setattr(store, "SCORING_RULES", {**store.SCORING_RULES, "score": -1})
    scored: list[str] = []
    real = scoring.score_files

    def noting(place: str, paths: Sequence[str], pixels_max: int) -> Any:
        scored.extend(paths)
        return real(place, paths, pixels_max)

    monkeypatch.setattr(scoring, "score_files", noting)
    run(folder)
    assert len(scored) == 9


def test_a_cut_off_list_of_scores_loses_only_its_last_line(scored: Path, folder: Path) -> None:
    shutil.copytree(f"{scored}-scores", f"{folder}-scores")
    about = Path(f"{folder}-scores") / "filter.json"
    about.write_text(about.read_text().replace(str(scored), str(folder)))
    journal = Path(f"{folder}-scores") / "scored.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b'{"path": 7}\n\xff\xfe\n[3]\n' + b"[" * 9999 + b'\n{"path": "a", "bytes": Infinity, "mtime_ns": 1}\n'
    journal.write_bytes(b"".join(lines[:4]) + damaged + lines[4][:30])
    for _ in range(2):
        result = run(folder)
        assert result.table_path.read_bytes() == (Path(f"{scored}-scores") / "scores.csv").read_bytes()
        found = journal.read_bytes().splitlines(keepends=True)
        assert found[:4] == lines[:4]
        assert sorted(found[-len(lines) + 4 :]) == sorted(lines[4:])  # scored once
        assert b"\n" not in found


@pytest.mark.parametrize("kind", ["pipe", "sparse", "link"])
def test_a_list_of_scores_that_cannot_be_read(kind: str, scored: Path, folder: Path) -> None:
    shutil.copytree(f"{scored}-scores", f"{folder}-scores")
    about, journal = (Path(f"{folder}-scores") / name for name in ("filter.json", "scored.jsonl"))
    about.write_text(about.read_text().replace(str(scored), str(folder)))
    journal.unlink()
    if kind == "sparse":
        with journal.open("wb") as file:
            file.truncate(1 << 40)
        assert store.ScoreStore(journal.parent).valid_records({}) == {}
        return
    os.mkfifo(journal) if kind == "pipe" else journal.symlink_to(journal.name)
    with pytest.raises(WorkspaceError, match=r"scored\.jsonl"):
        run(folder)


@pytest.mark.parametrize(
    "text",
    ["3", "{}", '{"folder": 3, "rules": {}, "delivered_to": []}', '{"folder": "a", "rules": {}, "delivered_to": "a"}']
    + ['{"folder": "a", "rules": {}, "delivered_to": [3]}', '{"folder": "a", "delivered_to": []}'],
)
def test_a_changed_description_of_the_scores(text: str, folder: Path) -> None:
    (folder.parent / "scores").mkdir()
    (folder.parent / "scores" / "filter.json").write_text(text)
    with pytest.raises(WorkspaceError, match=r"filter\.json was changed from outside; restore it, or choose another"):
        run(folder, scores=folder.parent / "scores")


def test_scores_of_another_folder_are_refused(scored: Path, folder: Path) -> None:
    with pytest.raises(
        WorkspaceError, match=r"holds the scores of .*, this command scores .*; choose another `scores`"
    ):
        run(folder, scores=Path(f"{scored}-scores"))


def test_only_own_unfinished_files_are_removed(folder: Path) -> None:
    scores = folder.parent / "scores"
    scores.mkdir()
    (scores / "thesis.partial").write_text("mine")
    with pytest.raises(
        WorkspaceError, match=r"holds no scores, but thesis\.partial; choose an empty or new folder as `scores`"
    ):
        run(folder, scores=scores)
    assert [path.name for path in scores.iterdir()] == ["thesis.partial"]
    (scores / "thesis.partial").unlink()
    partial_path(scores / "filter.json").write_text("as a kill leaves it")
    run(folder, scores=scores)
    (scores / "thesis.partial").write_text("mine")
    run(folder, scores=scores)
    names = [".celebahq-lock", "filter.json", "index.html", "scored.jsonl", "scores.csv", "thesis.partial"]
    assert sorted(path.name for path in scores.iterdir()) == names
