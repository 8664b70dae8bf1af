"""A run directory whose JSON files are damaged: every reader gives a result or an error of one line."""

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError, FormatError, WorkspaceError
from celebahq_builder.outcome import Failed, Kept
from celebahq_builder.pipeline.dry_run import describe_plan
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.stages import select
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import StageFolder, Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.storage import read_json
from tests.conftest import SMALL, TINY, build_tiny

VALUES: tuple[object, ...] = (None, [], ["x"], "", "x/..", -1, 10**18, 0.5, True, {}, {"x": None}, "missing")
FILES = ("run.json", "summary.json", "stages/align/plan.json", "stages/select/stage.json")


@pytest.fixture(scope="module")
def damaged(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run; the tests of this file change one file at a time."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("damaged") / "run"))


def changed(table: object) -> Iterator[tuple[str, object]]:
    """Yield copies of JSON values in which one value, at any depth, is replaced or missing; the first 3 of a list."""

    def places(value: object, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        keys = value if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list) else ()
        for key in keys:
            yield (*at, key)
            yield from places(value[key], (*at, key))  # type: ignore[index]

    for at in places(table, ()):
        for new in VALUES:
            whole = copy.deepcopy(table)
            inner: object = whole
            for key in at[:-1]:
                inner = inner[key]  # type: ignore[index]
            if new == "missing":
                del inner[at[-1]]  # type: ignore[attr-defined]
            else:
                inner[at[-1]] = new  # type: ignore[index]
            yield f"{'.'.join(map(str, at))} = {new!r}", whole


def plan(out: Path) -> list[str]:
    """Plan more, fewer and the same photos, and the same with another setting."""
    state = Workspace(out).read_state()
    other = replace(TINY, select=SelectSettings(keep=2))
    lines: list[str] = []
    for limit, recipe in ((5, TINY), (4, TINY), (6, TINY), (5, other)):
        request = make_request(read_celeba(SMALL), out, recipe=recipe, limit=limit)
        with contextlib.suppress(CelebAHQError):
            one = BuildPlan(request, state)
            one.check()
            lines += [*describe_plan(one), one.after_growth().description().source]
    return lines


def refusals(path: Path, read: Callable[[], object]) -> Iterator[str]:
    """Yield the messages with which a reader refuses a file whose values, or those of its first line, are changed."""
    before = path.read_text()
    first, end, rest = before.partition("\n") if path.suffix == ".jsonl" else (before, "", "")
    try:
        for what, table in changed(json.loads(first)):
            path.write_text(json.dumps(table) + end + rest)
            try:
                read()
            except CelebAHQError as error:
                yield str(error)
            except Exception as error:
                pytest.fail(f"{path.name}, {what}: {error!r}")
    finally:
        path.write_text(before)


def status(out: Path) -> list[str]:
    return list(status_lines(Workspace(out)))


def verify(out: Path) -> None:
    problems = list(find_problems(out))
    if problems:
        raise WorkspaceError(problems[0])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("read", [status, pytest.param(plan, marks=pytest.mark.slow)])
def test_values_of_other_types(name: str, read: Callable[[Path], object], damaged: Path) -> None:
    messages = list(refusals(damaged / name, lambda: read(damaged)))
    assert len(messages) > 20
    assert all(len(message.splitlines()) == 1 for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "stages/score/batches/00000.jsonl", "stages/select/batches/00000.jsonl"])
def test_verify_of_values_of_other_types(name: str, damaged: Path) -> None:
    messages = list(refusals(damaged / name, lambda: verify(damaged)))
    assert len(messages) > 20
    assert all(len(message.splitlines()) == 1 for message in messages)


def test_changed_image_is_not_packed(tiny_copy: Path) -> None:
    image = sorted((tiny_copy / "stages" / "align" / "images").rglob("*.png"))[0]
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(WorkspaceError, match=r"was changed since it was made; `redo` align"):
        build_tiny(tiny_copy, recipe=replace(TINY, select=select.SelectSettings(keep=5)), redo="select")


@pytest.mark.parametrize("name", ["run.json", "summary.json", "stages/align/plan.json", "stages/align/stage.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"batch_photos": 4}'])
def test_damaged_files_of_a_run_are_named(name: str, content: bytes, tiny_copy: Path) -> None:
    (tiny_copy / name).write_bytes(content)
    for read in (status_lines, lambda workspace: find_problems(workspace.root)):
        with pytest.raises(WorkspaceError, match=Path(name).name if b"batch" not in content else "version") as caught:
            list(read(Workspace(tiny_copy)))
        assert len(str(caught.value)) < 1000


def test_paths_that_are_too_long() -> None:
    long = Path("x" * 5000)
    with pytest.raises(WorkspaceError, match="File name too long; choose another `out`"):
        build_tiny(long)
    with pytest.raises(WorkspaceError, match="cannot be read: File name too long"):
        list(status_lines(Workspace(long)))
    with pytest.raises(FormatError, match="cannot be read: File name too long"):
        list(find_problems(long))


def test_a_damaged_manifest_is_named(tiny_copy: Path) -> None:
    path = StageFolder(tiny_copy / "stages" / "align", "align").manifest_path(0)
    path.write_text("{")
    with pytest.raises(WorkspaceError, match=r"00000\.jsonl is damaged"):
        list(StageFolder(tiny_copy / "stages" / "align", "align").outcomes())


def test_names_with_separators_of_lines_survive_a_manifest(tmp_path: Path) -> None:
    outcomes = [Kept("a\u2028b.jpg", {"id": "c\x85"}), Failed("d\x1ee.jpg", "f\x0bg\nh")]
    stage = Workspace(tmp_path).stage("align")
    stage.write_manifest(0, outcomes)
    assert stage.read_manifest(0) == outcomes
    stage.write_manifest(1, [])
    assert stage.read_manifest(1) == []


@pytest.mark.parametrize("name", ["run.json", "landmarks/landmarks.jsonl"])
def test_a_file_of_a_run_that_would_fill_the_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises((WorkspaceError, OSError), match=f"{1 << 40} bytes; at most"):
        list(status_lines(Workspace(tmp_path)))
    if name == "run.json":
        with pytest.raises(WorkspaceError, match="is not a run directory of this package"):
            build_tiny(tmp_path)


def test_a_record_without_a_table(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("score").manifest_path(0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("crop", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WorkspaceError, match=r"^0000\d\d.jpg: its line in a manifest lacks the CropRecord; .*`redo`"):
        build_tiny(tiny_copy, redo="select")


def test_a_run_of_an_earlier_version(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).run_path
    old = {key: value for key, value in read_json(path).items() if key not in ("photo_stages", "image_stage")}
    path.write_text(json.dumps(old))
    before = {file: file.read_bytes() for file in tiny_copy.rglob("*") if file.is_file()}
    for redo in (None, "crop"):
        with pytest.raises(WorkspaceError, match="was built by an earlier version, .* build again with another `out`"):
            build_tiny(tiny_copy, redo=redo)
    with pytest.raises(WorkspaceError, match="was built by an earlier version"):
        list(status_lines(Workspace(tiny_copy)))
    changed = [file for file in before if file.read_bytes() != before[file]]
    assert [file.name for file in changed] in ([], [".celebahq-lock"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"split": "train"', '"split": 7', "the table 'identity' is changed, .*split = '7' is not str"),
        ('"padded": ', '"faded": ', "the table 'align' is changed, corrupt, .*expected the keys padded"),
        ('"score": {', '"sore": {', "the table 'score' is changed, corrupt, .*expected the keys score"),
        ('"size": [', '"size": [1, ', "the table 'crop' is changed, corrupt, .*size = "),
        ('"crop": {', '"corp": {', "the table 'corp' is changed, corrupt, .*no stage writes it"),
        ('"identity"', '"identical"', "the table 'identity' is changed, corrupt, .*expected the keys id, index"),
    ],
)
def test_records_are_read_strictly(old: str, new: str, says: str, tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("score").manifest_path(0)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(WorkspaceError, match=says) as caught:
        build_tiny(tiny_copy, redo="select")
    assert "\n" not in str(caught.value)


def test_a_very_long_name_in_a_manifest(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("score").manifest_path(0)
    path.write_text(path.read_text().replace('"align": {', f'"{"x" * 1_000_000}": {{', 1))
    done = CliRunner().invoke(celebahq, ["verify", str(tiny_copy)])
    assert done.exit_code == 1
    assert max(map(len, done.output.splitlines())) < 2100
