"""Output of the commands: safe for a terminal, with each message on one line; errors where it cannot be written."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from celebahq_builder.errors import printable

MESSAGE_LENGTH_MAX = 2000
"""Longest error message, in characters; the middle of a longer one is left out."""


# --- Messages -----------------------------------------------------------------------------------------------------


def one_line(message: str) -> str:
    """Return a message as one printable line; a very long one, with a name of a damaged file, loses its middle.

    Example:
        >>> len(one_line("x" * 1_000_000))
        2005
    """
    text = printable(message)
    if len(text) <= MESSAGE_LENGTH_MAX:
        return text
    return f"{text[: MESSAGE_LENGTH_MAX // 2]} ... {text[-MESSAGE_LENGTH_MAX // 2 :]}"


def name_options(message: str, context: click.Context) -> str:
    """Replace the names of Python arguments in a message by the options of a command.

    Functions of the package name their arguments in backquotes: "choose another `device`" becomes "choose another
    --device". A name that the command does not have stays as it is.

    Args:
        message: text of an error.
        context: of the command that was run.
    """
    options = {
        one.name: max(one.opts, key=len) if isinstance(one, click.Option) else one.make_metavar(context)
        for one in context.command.params
    }
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)


def print_path(kind: str, path: Path) -> None:
    """Print what a command has made and its absolute path, as the last line of its output."""
    click.echo(f"{kind}: {printable(str(path.absolute()))}")


# --- Streams ------------------------------------------------------------------------------------------------------


class _Output(io.TextIOWrapper):
    """Standard output or standard error: text that no terminal takes for a command, in any encoding.

    A write error of standard output ends the command, because its result is lost; quietly where the reader of a pipe
    has ended, such as ``head``. Standard error only shows progress and messages, so the work continues without it.

    Args:
        stream: stream to replace.
        kept: control characters that are not escaped, see `errors.printable`.
        required: whether a write error is raised.
    """

    def __init__(self, stream: io.TextIOWrapper, kept: str, *, required: bool) -> None:
        super().__init__(stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)
        self.kept, self.required = kept, required

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        with self._errors():
            super().write(printable(text, self.kept))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._errors():
            super().flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still buffered
            if not self.required:
                return
            if isinstance(error, BrokenPipeError):
                raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
            raise OSError(error.errno, error.strerror, "standard output") from None


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Replace standard output and standard error by streams that escape control characters."""
    # The caller may have closed the descriptors 0 to 2; no file of ours may take their places.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    stdout, stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    try:
        if isinstance(stdout, io.TextIOWrapper):
            sys.stdout = _Output(stdout, "\n\t", required=True)
        if isinstance(stderr, io.TextIOWrapper):
            sys.stderr = _Output(stderr, "\n\t\r", required=False)  # a progress bar needs the carriage return
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Output):
                stream.detach()
        sys.stdout, sys.stderr = before


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a name of `logging`
        context = click.get_current_context(silent=True)
        return one_line(name_options(record.message, context) if context else record.message)


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write log lines to standard error, unless the caller has set up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
