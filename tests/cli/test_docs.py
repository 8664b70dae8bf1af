"""Commands in the documentation: each command and each option exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from celebahq_builder.cli import celebahq

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each `celebahq` command line on a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(?:torchrun .*-m )?celebahq(?:_builder)? ([a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"`celebahq ([a-z][^`]*)`", text)
    return [shlex.split(line.replace("[", "").replace("]", ""), comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_exists(page: Path) -> None:
    for words in commands(page):
        command: click.Command = celebahq.commands[words[0]]
        if isinstance(command, click.Group) and len(words) > 1:
            command = command.commands[words[1]]
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_the_pages_have_commands() -> None:
    assert len([words for page in PAGES for words in commands(page)]) > 50
