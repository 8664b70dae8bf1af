"""The celebahq command group, exit codes and error messages."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click

from celebahq_builder import __version__
from celebahq_builder.cli.output import logging_to_stderr, name_options, one_line, safe_output
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.storage import delete_interrupted_files
from celebahq_builder.training.interruption import REPEAT_S, TrainingInterrupted

NOTICE_S = 0.5
"""Time after which an interrupted command that still runs says so."""


class Interrupted(click.Abort):
    """A command was interrupted by a signal.

    Args:
        text: says what became of the work of the command; may be empty.
        number: of the signal.
    """

    def __init__(self, text: str, number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.number = number


class Documented(click.Command):
    r"""A command whose help ends with examples.

    Paragraphs of the help that begin with a line ``\b`` are not wrapped.

    Args:
        examples: command lines by what they do; several are separated by line feeds.
    """

    def __init__(self, *args: Any, examples: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help = self.help and self.help.replace("\\b", "\b")
        self.examples = examples or {}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            formatter.write(
                "\n".join(
                    f"  # {purpose}\n"
                    + "".join(f"  {_wrapped(line, formatter.width - 2)}\n" for line in lines.split("\n"))
                    for purpose, lines in self.examples.items()
                )
            )


def _wrapped(line: str, width: int) -> str:
    """Return a command line of at most `width` characters, continued by backslashes; options keep their values."""
    words = re.findall(r"(?:--[\w-]+ )?(?:'[^']*'|\S)+", line)
    rows = [words[0]]
    for word in words[1:]:
        if len(f"{rows[-1]} {word} \\") > width:
            rows.append(f"    {word}")
        else:
            rows[-1] += f" {word}"
    return " \\\n  ".join(rows)


class Command(Documented):
    """A command with a message for Ctrl-C, and with option names in its messages.

    Args:
        interrupted: text that follows "interrupted; "; empty for none.
        once: names of parameters that must be left out to resume; where one was given, the text names it.
    """

    def __init__(self, *args: Any, interrupted: str = "", once: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.interrupted, self.once = interrupted, once

    def invoke(self, ctx: click.Context) -> object:
        """Run the command.

        Raises:
            Interrupted: Ctrl-C or SIGTERM.
        """
        try:
            return super().invoke(ctx)
        except CelebAHQError as error:
            error.args = (name_options(str(error), ctx),)
            raise
        except TrainingInterrupted as error:
            raise Interrupted(str(error), error.number) from error
        except (KeyboardInterrupt, click.Abort) as error:
            given = "".join(f", without `{name}`" for name in self.once if ctx.params[name])
            said = name_options(self.interrupted + given, ctx)
            raise Interrupted(said, getattr(error, "number", signal.SIGINT)) from error


class Group(Documented, click.Group):
    """A group of commands of the class `Command`.

    Args:
        sections: names of its commands by the headings under which its help lists them.
    """

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command's help, however long."""
        listed = {name for names in self.sections.values() for name in names}
        others = [name for name in self.commands if name not in listed]
        for heading, names in (*self.sections.items(), ("Other" if listed else "Commands", others)):
            if names:
                with formatter.section(heading):
                    formatter.write_dl([(name, self.commands[name].get_short_help_str(10_000)) for name in names])


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""

    number = signal.SIGTERM


class _Interruption:
    """The handler of Ctrl-C and SIGTERM of all commands, apart from trainings, which set their own.

    The first signal interrupts the command by a KeyboardInterrupt. Where its clean-up takes more than a moment, a line
    says so. A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self.arrived_s: float | None = None
        """Time of the first signal."""

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals inside the context, unless they are ignored; only the main thread of a process can."""
        is_main = threading.current_thread() is threading.main_thread()
        both = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        numbers = [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def repeat(self, number: int) -> None:
        """Raise the KeyboardInterrupt again a moment later, if Python has ignored it."""
        self.arrived_s = None
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        threading.Timer(0.01, signal.pthread_kill, (main_thread, number)).start()

    def _handle(self, number: int, _: object) -> None:
        now_s = time.monotonic()
        if self.arrived_s is None:
            self.arrived_s = now_s
            timer = threading.Timer(NOTICE_S, self._say_what_happens)
            timer.daemon = True
            timer.start()
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if now_s - self.arrived_s >= REPEAT_S:
            _leave(Interrupted("ended at once; unfinished files may be left", number))

    @staticmethod
    def _say_what_happens() -> None:
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # the stream is in use, or closed
            click.echo("interrupted; work in progress is being stopped; Ctrl-C again ends it at once", err=True)


_interruption = _Interruption()


def run_command(command: click.Command) -> None:
    """Run a command; an error that the user can correct becomes one line on stderr and exit code 1."""
    sys.unraisablehook = _repeat_interruption
    with safe_output(), logging_to_stderr(), _interruption.handled():
        try:
            _end(command.main(standalone_mode=False) or 0)
        except CelebAHQError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno is None:
                raise
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            _leave(error)
        except (MemoryError, RuntimeError) as error:
            # The allocators of torch raise a RuntimeError.
            if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
                raise
            _fail("out of memory; close other programs, or give the command less work")


def _repeat_interruption(ignored: sys.UnraisableHookArgs) -> None:
    """Interrupt the command a moment later if Python has ignored Ctrl-C, as it does in callbacks of weak references."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        _interruption.repeat(getattr(ignored.exc_type, "number", signal.SIGINT))
    else:
        sys.__unraisablehook__(ignored)


def _fail(message: str) -> NoReturn:
    """Report an error on one line, and end the process."""
    click.echo(f"error: {one_line(message)}", err=True)
    sys.exit(1)


def _end(status: int) -> NoReturn:
    """End the process; immediately, if it is one of several training processes (see `training.distributed`)."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _leave(error: BaseException) -> NoReturn:
    """Report that the command was interrupted, and end the process without waiting for its workers."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    said = f"; {error}" if isinstance(error, Interrupted) and str(error) else ""
    what = "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"
    ended = "\n" if sys.stderr.isatty() else ""  # after the ^C that the terminal prints
    with contextlib.suppress(KeyboardInterrupt, RuntimeError):  # pressed again, also while stderr was written
        delete_interrupted_files()
        if os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ:  # one line for all of torchrun
            click.echo(f"{ended}{what}{said}", err=True)
        sys.stderr.flush()
    os._exit(128 + number)  # the workers were asked to stop; waiting for them would look like a hang


SECTIONS = {
    "Build": ("build", "landmarks", "status", "verify"),
    "Look": ("inspect", "view", "extract"),
    "Convert": ("export", "import"),
    "Score": ("filter",),
    "Train": (
        *("train", "generate", "interpolate", "training-video"),
        *("train-denoiser", "train-upscaler", "train-landmarks", "weights"),
    ),
    "Measure": ("evaluate", "audit", "compare"),
}
"""All commands, as ``celebahq --help`` lists them."""


@click.group(
    cls=Group,
    sections=SECTIONS,
    examples={
        "Build the first 12 photos of CelebA, look at the faces, then build all.": (
            "celebahq build --celeba-root /data/celeba --out work --limit 12\n"
            "celebahq view work\n"
            "celebahq build --celeba-root /data/celeba --out work"
        ),
        "Print the manual of a command.": "celebahq build --help",
    },
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__)
def celebahq() -> None:
    """Build CelebA-HQ from in-the-wild photos, train networks on it, and evaluate the results."""
