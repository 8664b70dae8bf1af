"""A run directory whose JSON files are damaged: every reader gives a result or an error of one line."""

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.errors import CelebAHQError, WorkspaceError
from celebahq_builder.pipeline.dry_run import describe_plan
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SMALL, TINY

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
