"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import click

from celebahq_builder.config import parse_overrides
from celebahq_builder.errors import RecipeError

Command = TypeVar("Command", bound=Callable[..., object])


class OptionArguments(TypedDict, total=False):
    """Further arguments of `click.option`."""

    default: object
    show_default: str
    required: bool


class PathType(click.Path):
    """Path of a file or folder; an empty text is refused, because it would mean the working directory."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType(path_type=Path, readable=False)
"""Path of a file or folder; the function that uses it checks whether it exists."""


class FiniteRange(click.FloatRange):
    """A range of numbers; ``nan``, which is neither below nor above any limit, and infinity are refused."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


POSITIVE = FiniteRange(0, min_open=True)


def path_option(*names: str, metavar: str, help: str, **more: Unpack[OptionArguments]) -> Callable[[Command], Command]:
    """Return an option whose value is a path."""
    return click.option(*names, type=PATH, metavar=metavar, help=help, **more)


def out_option(metavar: str, help: str, **more: Unpack[OptionArguments]) -> Callable[[Command], Command]:
    """Return the option --out, which names the result of a command; by default it is required."""
    arguments: OptionArguments = {"required": True, **more}
    return path_option("--out", metavar=metavar, help=help, **arguments)


def count_option(
    *names: str, help: str, metavar: str = "N", least: int = 1, most: int | None = None, **more: Unpack[OptionArguments]
) -> Callable[[Command], Command]:
    """Return an option whose value is a whole number from `least` to `most`."""
    return click.option(*names, type=click.IntRange(least, most), metavar=metavar, help=help, **more)


def workers_option(help: str, least: int = 1, **more: Unpack[OptionArguments]) -> Callable[[Command], Command]:
    """Return the option --workers."""
    return count_option("--workers", help=help, least=least, **more)


def seed_option(help: str, **more: Unpack[OptionArguments]) -> Callable[[Command], Command]:
    """Return the option --seed; its default is 0."""
    arguments: OptionArguments = {"default": 0, **more}
    return count_option("--seed", help=help, metavar="S", least=0, **arguments)


def choice_option(
    *names: str, choices: Sequence[str], help: str, metavar: str | None = None, **more: Unpack[OptionArguments]
) -> Callable[[Command], Command]:
    """Return an option whose value is one of some words; the help lists them in place of a metavar."""
    return click.option(*names, type=click.Choice(choices), metavar=metavar, help=help, **more)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several options, in this order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def _parse_overrides(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, object]:
    try:
        return parse_overrides(texts)
    except RecipeError as error:
        raise click.BadParameter(str(error)) from None


SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parse_overrides,
    help="Change a key of the recipe, such as seed=1; repeatable. Values are written as in TOML files.",
)
"""Changes of a recipe, for all commands that have one."""

DEVICE = click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1.")

THREADS = count_option(
    "--threads",
    default=1,
    help="CPU threads of torch; more are faster for large networks on an idle machine; the number changes the last "
    "bits of the result.",
)

CLUSTER = click.option(
    "--cluster",
    metavar="ADDRESS",
    show_default="none",
    help="Let the workers of a Dask cluster do the work: address of its scheduler, or path of its scheduler.json, see "
    "docs/cluster.md. Never changes the result.",
)
"""A cluster, for the commands that can use one."""


def training_run(recipe: str) -> Callable[[Command], Command]:
    """Return the options of a training that name its folder and its recipe; `recipe` is the default."""
    return together(
        out_option("RUN", "Folder of the run; the same command resumes it."),
        path_option("--recipe", metavar="FILE.toml", help="Training recipe.", default=recipe),
        SET,
    )


def faces_option(default: str | None, help: str) -> Callable[[Command], Command]:
    """Return the option --faces, for the commands that find faces."""
    return choice_option("--faces", choices=["all", "largest", "central"], default=default, help=help)
