"""Generators in a child process: values, errors, and children that are killed or take too much."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import isolated

FILE = Path("set.bin")


def count(limit: int) -> Iterator[int]:
    yield from range(limit)


def fail(_: int) -> Iterator[int]:
    yield 1
    raise FormatError("a fault")


def die(number: int) -> Iterator[int]:
    yield os.getpid()
    os.kill(os.getpid(), number)


def take(size: int) -> Iterator[int]:
    yield len(bytearray(size))


def run_forever(seconds: float) -> Iterator[int]:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    while True:
        pass
    yield 0


def test_values_and_errors() -> None:
    assert list(isolated.run_isolated(FILE, count, 1000)) == list(range(1000))
    values = isolated.run_isolated(FILE, fail, 0)
    assert next(values) == 1
    with pytest.raises(FormatError, match="^a fault$"):
        next(values)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL])
def test_killed_child(number: int) -> None:
    values = isolated.run_isolated(FILE, die, number)
    assert next(values) != os.getpid()
    name = signal.Signals(number).name
    with pytest.raises(FormatError, match=f"^set.bin is damaged: the library that reads it ended with {name}; "):
        next(values)


def test_memory_and_time() -> None:
    assert list(isolated.run_isolated(FILE, take, 1 << 20)) == [1 << 20]
    with pytest.raises(FormatError, match="^set.bin needs more than 512 MB of memory"):
        list(isolated.run_isolated(FILE, take, 1 << 30))
    with pytest.raises(FormatError, match="^set.bin takes too long to be read"):
        list(isolated.run_isolated(FILE, run_forever, 0.05))


def test_server_that_was_killed() -> None:
    """The next call starts another one; readers that stop early do not end it."""
    values = isolated.run_isolated(FILE, count, 10**6)
    assert next(values) == 0
    values.close()
    (parent,) = isolated.run_isolated(FILE, grandparent, 0)
    os.kill(parent, signal.SIGKILL)
    while "Z" not in Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2][:3]:
        time.sleep(0.01)
    assert list(isolated.run_isolated(FILE, count, 3)) == [0, 1, 2]


def grandparent(_: int) -> Iterator[int]:
    status = Path(f"/proc/{os.getppid()}/stat").read_text()
    yield int(status.rpartition(")")[2].split()[1])
