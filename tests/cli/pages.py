"""The blocks of code of the documentation's pages."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "tests/sample/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "pretrained").glob("*.md")),
]

REASON = re.compile(r"^<!-- not run: (.+) -->$", re.MULTILINE)
"""Comment above a block that is not run."""


@dataclass(frozen=True)
class Block:
    """A block of code: indented lines, or a fence."""

    line: int
    """Number of its first line."""
    language: str
    """The word after the opening fence, ``none`` without a word; empty for indented lines."""
    text: str
    reason: str
    """Why it is not run; empty if it is."""

    def lines(self) -> list[str]:
        """Return the lines that are not empty, without indentation; a continued line is one."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip()]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at, reason = 0, ""
    while at < len(lines):
        begin, opening = at, re.fullmatch(r" *(```+|~~~+)(.*)", lines[at])
        at += 1
        if found := REASON.fullmatch(lines[begin]):
            reason = found[1]
        elif opening:
            while at < len(lines) and lines[at].strip() != opening[1]:
                at += 1
            yield Block(begin + 2, opening[2].strip() or "none", "\n".join(lines[begin + 1 : at]), reason)
            at, reason = at + 1, ""
        elif re.match(r" {4,}\S", lines[begin]) and (reason or not begin or not lines[begin - 1].strip()):
            while at < len(lines) and re.match(r" {4}|\s*$", lines[at]):
                at += 1
            yield Block(begin + 1, "", "\n".join(lines[begin:at]), reason)
            reason = ""
        elif lines[begin].strip():
            reason = ""


def commands(page: Path) -> list[list[str]]:
    """Return the words of each indented line that is not left out."""
    run = [block for block in blocks(page) if not block.language and not block.reason]
    found = []
    for line in (line for block in run for line in block.lines()):
        with contextlib.suppress(ValueError):  # an apostrophe: no command
            found.append(shlex.split(line, comments=True))
    return [words for words in found if words]
