"""Verification of a run directory: no table of it can be changed, damaged or exchanged unnoticed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.hdf5.integrity import Checked
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import read_json
from tests.conftest import build_tiny

ALIGN, SCORE = "stages/align/batches/00000.jsonl", "stages/score/batches/00000.jsonl"
SELECT = "stages/select/batches/00000.jsonl"

Edit = Callable[[Any], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with photos of all outcomes, of which two are rejected by their scores; not to be changed."""
    out = tmp_path_factory.mktemp("verify") / "run"
    build_tiny(out, limit=10)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed at will."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path: Path, change: Edit) -> None:
    """Change the values of a JSON file, or the list of those of a manifest's lines."""
    text = path.read_text()
    values = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    change(values)
    lines = values if path.suffix == ".jsonl" else [values]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def exchange(lines: list[Any], name: str) -> None:
    lines[0][name], lines[1][name] = lines[1][name], lines[0][name]


def rejected(lines: list[Any]) -> dict[str, Any]:
    return next(line for line in lines if line["outcome"] == "rejected")


def test_a_sound_run(finished: Path) -> None:
    """Photos that a stage or the selection rejects are counted once."""
    checked = Checked()
    assert list(find_problems(finished, checked)) == []
    assert checked == Checked("10 photos", manifests=7, files=9, images=3, levels=7, hashes=3)
    assert {"CORRUPT_IMAGE", "LOW_SCORE"} == read_json(finished / "summary.json")["reasons"].keys()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            ALIGN,
            lambda lines: lines[0].pop("image"),
            r"align: .*00000\.jsonl .* 000001\.jpg that lacks the table 'image'",
        ),
        (ALIGN, lambda lines: lines[0].pop("crop"), "align: .* that lacks the table 'crop'; delete it and run again"),
        (ALIGN, lambda lines: lines[0].pop("identity"), "align: .* has a damaged record .*the table 'identity'"),
        (
            ALIGN,
            lambda lines: lines[0]["align"].update(padded=1),
            "align: .* has a damaged record .*padded = '1' is not bool",
        ),
        (ALIGN, lambda lines: lines[0].update(score=0), "align: .* has a damaged record .*the table 'score'"),
        (ALIGN, lambda lines: exchange(lines, "image"), "align: .*000001.jpg that names the image of another photo"),
        (ALIGN, lambda lines: lines[0]["image"].update(path="/dev/zero"), "align: .* names the image of another photo"),
        (
            ALIGN,
            lambda lines: lines[0]["image"].update(bytes=7),
            r"align: .* says 7 bytes of 000001\.png, which has \d+;",
        ),
        (ALIGN, lambda lines: lines.pop(), "align: .* is of 3 photos, expected 4; delete it"),
        (ALIGN, lambda lines: lines.append(lines[0]), "align: .* has 2 lines of 000001.jpg"),
        (ALIGN, lambda lines: lines[0]["identity"].update(index=5), "align: .* with the identity of another photo"),
        (
            "stages/align/batches/00002.jsonl",
            lambda lines: rejected(lines).update(outcome="failed", error="?"),
            "align: stage.json counts 1 rejected, expected 0",
        ),
        (
            "stages/align/batches/00002.jsonl",
            lambda lines: rejected(lines).update(reason="TOO_LARGE"),
            "summary.json counts the reasons .*CORRUPT_IMAGE",
        ),
        (
            "stages/align/batches/00002.jsonl",
            lambda lines: rejected(lines).update(detail="?"),
            "rejected.csv differs from the manifests; delete it",
        ),
        (SCORE, lambda lines: lines[0].pop("score"), "score: .* lacks the table 'score'"),
        (
            SCORE,
            lambda lines: lines[0]["crop"].update(zoom=2.5),
            "score: .*000001.jpg whose table 'crop' differs from that of align",
        ),
        (SCORE, lambda lines: lines.pop(0), "score: .* has no line of 000001.jpg, which align kept"),
        (SCORE, lambda lines: lines[0].update(photo="x.jpg"), "score: .* keeps x.jpg, which align did not keep"),
        (SCORE, lambda lines: lines[0].update(outcome="lost"), "score: .* is damaged"),
        (SELECT, lambda lines: lines[0].pop("select"), "select: .* is missing or damaged .*SelectRecord"),
        (
            SELECT,
            lambda lines: lines[0]["select"].update(rank=2),
            "select: .* is not the selection by the scores; `redo` select",
        ),
        (
            SELECT,
            lambda lines: lines[0]["crop"].update(zoom=2.5),
            "select: .* has other tables of .* than the stages before",
        ),
        (SELECT, lambda lines: lines.insert(0, lines.pop(1)), "select: .* is not the selection by the scores"),
        (
            SELECT,
            lambda lines: rejected(lines).update(detail="score 0.9"),
            "select: .* is not the selection by the scores",
        ),
        (
            "stages/align/stage.json",
            lambda mark: mark.update(kept=8),
            "align: stage.json counts 8 kept, expected 9; `redo` align",
        ),
        (
            "stages/select/stage.json",
            lambda mark: mark.update(rejected=7),
            "select: stage.json counts 7 rejected, expected 6",
        ),
        ("stages/pack/stage.json", lambda mark: mark.update(kept=4), "pack: stage.json counts 4 kept, expected 3"),
        (
            "stages/align/stage.json",
            lambda mark: mark.update(fingerprint="0"),
            "align: .* have fingerprints of other settings",
        ),
        (
            "stages/score/plan.json",
            lambda plan: plan["ingredients"][0].update(limit=9),
            "score: .* fingerprints of other settings",
        ),
        (
            "run.json",
            lambda run: run["recipe"]["align"].update(supersampling=2),
            "align: plan.json has other settings than run.json",
        ),
        (
            "run.json",
            lambda run: run.update(until="score", stages=["align", "score"]),
            "select: run.json lacks this stage",
        ),
        (
            "run.json",
            lambda run: run["recipe"]["crop"].update(context_px=8),
            "align: plan.json has other settings than",
        ),
        ("run.json", lambda run: run.update(photos=4 * 10**12, batches=10**12), "align: 3 of 1000000000000 manifests"),
        ("summary.json", lambda counts: counts.update(photos=9), "summary.json counts 9 photos, the manifests 10"),
        ("summary.json", lambda counts: counts.update(kept=2), "summary.json counts 2 kept, the manifests 3"),
        ("summary.json", lambda counts: counts.update(fingerprint="0"), "summary.json is of another run"),
    ],
)
def test_no_change_is_unnoticed(name: str, change: Edit, says: str, copy: Path) -> None:
    edit(copy / name, change)
    problems = list(find_problems(copy))
    assert any(re.match(says, line) for line in problems), problems
    assert "\n" not in "".join(problems)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stages/align/plan.json", "align: plan.json is missing; `redo` align makes it again"),
        (SELECT, "select: .* is missing or damaged"),
        ("selection.csv", "selection.csv cannot be read: No such file or directory; run the same command again"),
        ("rejected.csv", "rejected.csv cannot be read: No such file"),
        ("summary.json", "summary.json is missing; run the same command again"),
        (SCORE, "score: 2 of 3 manifests are there; run the same command again"),
        ("celebahq-64x64.h5", "celebahq-64x64.h5 is missing"),
        ("stages/align/images/00000/000001.png", "align: .*000001.png: No such file or directory; `redo` align"),
    ],
)
def test_missing_files(name: str, says: str, copy: Path) -> None:
    (copy / name).unlink()
    [problem] = find_problems(copy)
    assert re.match(says, problem)


@pytest.mark.parametrize("name", ["selection.csv", "rejected.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"file\n\0", b'"' * 200_000])
def test_changed_tables(name: str, content: bytes, copy: Path) -> None:
    path = copy / name
    sound = path.read_bytes()
    path.write_bytes(content)
    assert list(find_problems(copy)) == [f"{name} differs from the manifests; delete it and run the same command again"]
    path.write_bytes(sound + sound.splitlines(keepends=True)[-1])
    assert len(list(find_problems(copy))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batches", 2),
        ("batch_photos", 0),
        ("photo_stages", ["align", "score"]),
        ("image_stage", "crop"),
        ("until", "no stage"),
        ("stages", ["score", "align", "select", "pack"]),
        ("recipe", {"resolution": 63}),
    ],
)
def test_a_run_that_contradicts_itself(name: str, value: object, copy: Path) -> None:
    edit(copy / "run.json", lambda run: run.update({name: value}))
    with pytest.raises((WorkspaceError, RecipeError), match=r"run\.json") as caught:
        list(find_problems(copy))
    assert "\n" not in str(caught.value)


def test_files_that_the_remedy_makes_again(copy: Path) -> None:
    lost = [copy / name for name in ("run.json", "selection.csv", "rejected.csv", "summary.json", ALIGN)]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    build_tiny(copy, limit=10)
    assert [path.read_bytes() for path in lost] == before
    assert list(find_problems(copy)) == []


def test_manifests_of_no_batch(copy: Path) -> None:
    path = copy / ALIGN
    shutil.copy(path, path.with_name("00003.jsonl"))
    assert list(find_problems(copy)) == ["align: 1 manifest of batches that the run does not have; delete them"]


def test_tables_of_unequal_lengths(copy: Path) -> None:
    """A change of all tables of a photo in the same way; it is not a traceback."""

    def shorten(lines: list[Any]) -> None:
        for line in lines:
            if line["photo"] == best:
                line["crop"]["quad"].pop()

    best = json.loads((copy / SELECT).read_text().partition("\n")[0])["photo"]
    for path in copy.glob("stages/*/batches/*.jsonl"):
        edit(path, shorten)
    assert "select: its manifest has tables of unequal lengths; `redo` select makes it again" in list(
        find_problems(copy)
    )


def test_batches_of_a_run_that_is_not_complete(copy: Path) -> None:
    for name in ("align", "score", "select", "pack"):
        Workspace(copy).stage(name).mark_path.unlink()
    (copy / "summary.json").unlink()
    (copy / "stages/score/batches/00001.jsonl").unlink()
    unfinished = [f"{name}: not complete" for name in ("align", "score", "select", "pack")]
    assert list(find_problems(copy)) == unfinished
    edit(copy / SCORE, lambda lines: lines[0].pop("score"))
    (copy / "stages/align/images/00001/000005.png").write_bytes(b"")
    *lines, record, image = find_problems(copy)
    assert lines == unfinished
    assert "score/batches/00000.jsonl has a line of 000001.jpg that lacks the table 'score'" in record
    assert "000005.png was changed since it was made" in image


def test_a_file_that_is_not_that_of_the_selection(copy: Path, tmp_path: Path) -> None:
    path = Workspace(copy).hdf5_path(64)
    with h5py.File(path, "r+") as file:
        file["photos/zoom"][0] += 1
        del file["photos/landmarks"], file["photos/attributes"], file["photos/attribute_names"]
    names = ("landmarks", "zoom", "attributes", "attribute_names")
    differ = [f"{path.name}: photos/{name} differs from the selection; `redo` pack makes it again" for name in names]
    assert list(find_problems(copy)) == differ
    build_tiny(tmp_path / "other", limit=5)
    shutil.copy(Workspace(tmp_path / "other").hdf5_path(64), path)
    assert f"{path.name} is of another run, or of other settings; `redo` pack makes it again" in list(
        find_problems(copy)
    )


def test_a_damaged_record_is_one_problem(copy: Path) -> None:
    """Counts that lack the photo are not reported, too."""
    edit(copy / SCORE, lambda lines: lines[0].pop("score"))
    assert len(list(find_problems(copy))) == 1
