"""The help of every command: it is the manual, so it is complete and its examples work."""

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from celebahq_builder.cli import celebahq
from celebahq_builder.cli.main import SECTIONS, Documented
from celebahq_builder.pipeline.recipe import bundled_recipe
from tests.conftest import SAMPLE


def commands(command: click.Command = celebahq, name: str = "celebahq") -> Iterator[tuple[str, Documented]]:
    assert isinstance(command, Documented)
    yield name, command
    if isinstance(command, click.Group):
        for sub, one in command.commands.items():
            yield from commands(one, f"{name} {sub}")


COMMANDS = dict(commands())


def help_of(name: str) -> str:
    done = CliRunner().invoke(celebahq, [*name.split()[1:], "--help"], terminal_width=80)
    assert done.exit_code == 0
    return done.output


def examples(name: str) -> list[list[str]]:
    """Return the words of each example in the help of a command, from the word after `celebahq` on."""
    lines = help_of(name).partition("\nExamples:\n")[2].replace("\\\n", "").splitlines()
    words = [shlex.split(line) for line in lines if line.strip() and not line.startswith("  # ")]
    return [one[one.index("celebahq") + 1 :] for one in words]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_is_longer_than_the_terminal(name: str) -> None:
    assert [line for line in help_of(name).splitlines() if len(line) > 80] == []


def test_the_overview_lists_every_command_once() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(celebahq.commands)


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if isinstance(one, click.Group)])
def test_summaries_are_complete(name: str) -> None:
    text, group = " ".join(help_of(name).split()), COMMANDS[name]
    assert isinstance(group, click.Group)
    for one in group.commands.values():
        assert one.help
        sentence = " ".join(one.help.partition("\n\n")[0].split()).removesuffix(".")
        assert f"{one.name} {sentence}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    assert len(examples(name)) >= 2
    assert name.split()[1:] == examples(name)[0][: name.count(" ")]
    for words in examples(name):
        command: click.Command = celebahq
        context = click.Context(celebahq, info_name="celebahq")
        while isinstance(command, click.Group) and words[0] != "--help":
            command, words = command.commands[words[0]], words[1:]
        if words != ["--help"]:
            parameters = command.make_context(command.name, list(words), parent=context).params
            recipe = parameters.get("recipe")
            assert recipe is None or bundled_recipe(recipe, "" if command.name == "build" else "train").exists()


RUN = {
    *("celebahq status", "celebahq verify", "celebahq inspect", "celebahq view", "celebahq extract"),
    *("celebahq export", "celebahq import", "celebahq filter", "celebahq audit", "celebahq compare"),
    *("celebahq build", "celebahq weights list", "celebahq weights verify"),
}
"""Commands whose examples take little time on small data; a build is only planned."""

NEED_MORE = ("--crop", "weights/mine", "weights")
"""Words of examples whose input is not made here."""


@pytest.mark.parametrize("name", sorted(RUN))
def test_examples_run(name: str, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data have 64x64 px instead of 1024x1024, so that 16x16 px stand for 256x256."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tiny_copy.rename("work")
    for copy in ("faces.h5", "other.h5"):
        shutil.copy("work/celebahq-64x64.h5", copy)
    Path("photos").mkdir()
    for number in (1, 2, 3):
        shutil.copy(SAMPLE / f"img_celeba/00000{number}.jpg", "photos")
    ran = 0
    for words in examples(name):
        words = ["16" if word == "256" else word.replace("/data/celeba", str(SAMPLE)) for word in words]
        if not set(NEED_MORE) & set(words[name.count(" ") :]):
            if name == "celebahq build":
                words = ["new" if word == "work" else word for word in [*words, "--dry-run"]]
            elif any("--workers" in one.opts for one in COMMANDS[name].params):
                words = [*words, "--workers", "1"]
            done = CliRunner().invoke(celebahq, words)
            assert done.exit_code == 0, (words, done.output, done.exception)
            ran += 1
    assert ran


ONE_OF_THEM = {"celeba_root", "photos"}
"""Options of build that are its input."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_default_is_shown(name: str) -> None:
    command, text = COMMANDS[name], help_of(name)
    context = click.Context(command, parent=celebahq.make_context("celebahq", ["status"]))
    for one in command.params:
        if isinstance(one, click.Option) and not one.required and not one.is_flag and not one.multiple:
            record = one.get_help_record(context)
            assert record
            assert "default" in record[1].lower() or one.name in ONE_OF_THEM, one.name
            assert record[1].split()[-1] in text


def test_a_command_without_a_section_is_listed() -> None:
    group = click.group(cls=type(celebahq), sections={"A": ("one",)})(lambda: None)
    group.command("one")(lambda: None)
    group.command("two")(lambda: None)
    listed = CliRunner().invoke(group, ["--help"]).output
    assert listed.partition("A:")[2].split() == ["one", "Other:", "two"]
