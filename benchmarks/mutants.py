"""Put small faults into a file, one at a time, and print those that its tests do not notice.

    python benchmarks/mutants.py celebahq_builder/x.py [--sample 20] [--seed 0] [--tests tests/x]...

Faults: flipped comparisons, `and` for `or`, negated conditions, integers and defaults that are off by one, dropped
calls and `raise` statements, `+` for `-`, exchanged arguments. The tests of the file's folder and those that import the
file run on a copy of the checkout, so the working tree stays as it is. The first failed test decides. A survivor is a
hole in the tests, or an equal program; only a reader can tell. cosmic-ray and mutmut drop no statements and draw no
seeded sample; cosmic-ray changes the working tree.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}
QUIET = ("print", "log", "logger", "logging", "warnings", "click")
"""Calls of these only inform; they are not dropped."""


@dataclass(frozen=True)
class Mutant:
    """A small fault."""

    kind: str
    line: int
    start: int
    end: int
    """Range of the source that is replaced, in bytes."""
    text: str

    def applied(self, source: bytes) -> bytes:
        """Return the source with the fault."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants(source: bytes) -> list[Mutant]:
    """Return all faults that can be put into a source file, in the order of the file.

    >>> [(one.kind, one.applied(b"if a < 1: f(a, b)")) for one in mutants(b"if a < 1: f(a, b)")]  # doctest: +ELLIPSIS
    [('condition', b'if (not a < 1): f(a, b)'), ('comparison', b'if (a <= 1): f(a, b)'), ('dropped', ...
    """
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = []
    for node, kind, new in _changes(ast.parse(source)):
        start = lines[node.lineno - 1] + node.col_offset
        end = lines[node.end_lineno - 1] + node.end_col_offset
        text = new if isinstance(new, str) else f"({ast.unparse(new)})" if isinstance(new, ast.expr) else "pass"
        found.append(Mutant(kind, node.lineno, start, end, text))
    return sorted(found, key=lambda one: (one.start, -one.end))


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, ast.expr | str | None]]:
    """Yield a node, the kind of the change, and what replaces it."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        for name in ("annotation", "returns", "decorator_list", "format_spec"):
            for part in _listed(getattr(node, name, None)):
                skipped.update(id(below) for below in ast.walk(part))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            skipped.update(id(below) for below in ast.walk(node))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            operator = COMPARISONS[type(node.ops[0])]()
            yield node, "comparison", ast.Compare(node.left, [operator], node.comparators)
        elif isinstance(node, ast.BoolOp):
            yield node, "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield node, "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        elif _is_call(node) or isinstance(node, ast.Raise):
            yield node, "dropped", None
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "constant", repr(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield node, "constant", repr(node.value + 1)
            if node.value > 1:
                yield node, "constant", repr(node.value - 1)
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node, "constant", repr(node.value * 1.5 + 0.1)
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.test, "condition", ast.UnaryOp(ast.Not(), node.test)
        if isinstance(node, ast.Call) and len(node.args) >= 2 and not _informs(node):
            one, other = node.args[:2]
            if (
                ast.dump(one) != ast.dump(other)
                and not isinstance(other, ast.Starred)
                and not isinstance(one, ast.Starred)
            ):
                yield node, "arguments", ast.Call(node.func, [other, one, *node.args[2:]], node.keywords)


def _listed(value: object) -> list[ast.AST]:
    return value if isinstance(value, list) else [value] if isinstance(value, ast.AST) else []


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _informs(node.value)


def _informs(call: ast.Call) -> bool:
    return ast.unparse(call.func).partition(".")[0].lower().lstrip("_") in QUIET


def tests_of(file: Path, root: Path) -> list[str]:
    """Return the tests of a file: its doctests, those that import it, and those of the same folder."""
    inside = file.relative_to("celebahq_builder").with_suffix("")
    module = ".".join(("celebahq_builder", *inside.parts)).removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    chosen = [str(file)]
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text()
        if module in text or (f"from {package} import" in text and name in text):
            chosen.append(path.relative_to(root).as_posix())
    folder = Path("tests") / inside.parent
    while not (root / folder).is_dir():
        folder = folder.parent
    return chosen + ([folder.as_posix()] if len(folder.parts) > 1 else [])


class Checkout:
    """A copy of the checkout in which a file is changed and its tests run."""

    def __init__(self, folder: Path, file: Path, tests: list[str]) -> None:
        self.folder, self.file, self.tests = folder, file, tests
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.source = (folder / file).read_bytes()

    def passes(self, source: bytes, limit_s: float) -> bool:
        """Return whether all tests pass with another text of the file; a hang counts as a failure."""
        (self.folder / self.file).write_bytes(source)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *self.tests]
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ended = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        self.said = ended.stdout
        return ended.returncode == 0


def main() -> None:
    """Try a sample of faults, and print the survivors and the share that was noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="such as celebahq_builder/storage/files.py")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="faults to try; default 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", action="append", help="tests to run; default those that concern the file")
    asked = parser.parse_args()
    file = asked.file.resolve().relative_to(ROOT)
    with tempfile.TemporaryDirectory(prefix="mutants-") as work:
        checkout = Checkout(Path(work), file, asked.tests or tests_of(file, ROOT))
        print("tests:", *checkout.tests, flush=True)
        began = time.monotonic()
        if not checkout.passes(checkout.source, 3600):
            sys.exit(f"the tests fail without a fault:\n{checkout.said[-2000:]}")
        limit_s = 60 + 4 * (time.monotonic() - began)
        every = mutants(checkout.source)
        chosen = Random(asked.seed).sample(every, min(asked.sample, len(every)))
        survivors = 0
        for mutant in sorted(chosen, key=lambda one: one.start):
            changed = mutant.applied(checkout.source)
            ast.parse(changed)
            if checkout.passes(changed, limit_s):
                survivors += 1
                print(f"survived: {file}:{mutant.line}: {mutant.kind}")
                print(*_difference(checkout.source, changed), sep="\n", flush=True)
        noticed = len(chosen) - survivors
        print(f"{file}: {noticed} of {len(chosen)} noticed ({noticed / len(chosen):.0%}), of {len(every)} possible")
        sys.exit(bool(survivors))


def _difference(before: bytes, after: bytes) -> list[str]:
    texts = before.decode().splitlines(), after.decode().splitlines()
    return [f"    {line}" for line in list(difflib.unified_diff(*texts, lineterm="", n=0))[3:]]


if __name__ == "__main__":
    main()
