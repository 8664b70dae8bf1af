"""Reading in a child process by libraries that a damaged file can crash: pyarrow and LMDB.

A damaged file can make these libraries end their process or fill the memory. So `parquet_rows` and `lmdb_entries` run
in a child process with a limit on its memory and on the time that it works for one value. The children are forked by a
server, a process that has imported the libraries, because a start takes 0.2 s and a fork 0.01 s.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import itertools
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import REMEDY

Value = TypeVar("Value")

MEMORY_BYTES = 1 << 29
"""Memory of a child process, 512 MB, of which Python and a library take 120."""

VALUE_S = 60
"""Processor time in seconds that one value may take; reading a page of 1 GB takes about two."""

DIED = ("died", -signal.SIGKILL)
"""Stands for the last answer of a child that ended without an answer, because its server was killed."""


# --- The child processes

LIBRARIES = ("numpy", "pyarrow.parquet", "pyarrow.compute", "lmdb")
"""Libraries that the server imports if they are installed, so that its children need not."""


def run_isolated(
    path: Path, function: Callable[..., Iterator[Value]], *arguments: object, memory_bytes: int = MEMORY_BYTES
) -> Iterator[Value]:
    """Yield what a generator function yields in a child process, which ends with this generator.

    Args:
        path: file or folder for error messages.
        function: importable by name.
        arguments: of the function, picklable.
        memory_bytes: limit on the memory of the child.

    Raises:
        FormatError: the child was ended by its library or by a limit.
        Exception: any exception of `function`.
    """
    job = (memory_bytes, path, function, arguments)
    answers = _answers(job)
    first = next(answers)
    if first == DIED:  # perhaps the server was killed; start another
        _server.cache_clear()
        answers = _answers(job)
        first = next(answers)
    for kind, value in itertools.chain((first,), answers):
        if kind == "end":
            return
        if kind == "error":
            raise value
        if kind == "died" and value == -signal.SIGPROF:
            raise FormatError(f"{path} takes too long to be read; it is damaged; {REMEDY}")
        if kind == "died":
            what = signal.Signals(-value).name if value < 0 else f"exit status {value}"
            raise FormatError(f"{path} is damaged: the library that reads it ended with {what}; {REMEDY}")
        yield value


def _answers(job: object) -> Iterator[tuple[str, Any]]:
    """Start a child process for a job, and yield what it sends until it ends, then `DIED`."""
    server = _server(os.getpid())
    ours, theirs = Pipe()
    with ours, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the server or the child was killed
        with theirs:
            socket.send_fds(server, [b"x"], [theirs.fileno()])
        ours.send(job)
        while True:
            yield ours.recv()
    yield DIED


@functools.cache
def _server(owner: int) -> socket.socket:
    """Start the process that forks children for the process `owner`; it ends with it."""
    ours, theirs = socket.socketpair()
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={**os.environ, **threads, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        process_group=0,  # Ctrl-C in a terminal reaches the main process only
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        if os.getpid() == owner:
            process.kill()  # its children end when they write to the closed pipe
            process.wait()

    atexit.register(stop)
    return ours


def serve(descriptor: int) -> None:
    """Fork a child for each connection that arrives through a socket, until it is closed."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
            if not message:
                return
            if os.fork() == 0:
                requests.close()
                _supervise(Connection(descriptors[0]))
            os.close(descriptors[0])


def _supervise(parent: Connection) -> NoReturn:
    """Fork the process that does the work; report its exit status if it fails."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):  # the reader has closed the connection
            _work(parent)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        with contextlib.suppress(OSError):
            parent.send(("died", status))
    os._exit(0)


def _work(parent: Connection) -> None:
    memory_bytes, path, function, arguments = parent.recv()
    for limit, value in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force
            resource.setrlimit(limit, (value, value))
    try:
        signal.setitimer(signal.ITIMER_PROF, VALUE_S)
        for value in function(*arguments):
            parent.send(("value", value))
            signal.setitimer(signal.ITIMER_PROF, VALUE_S)
        answer: tuple[str, object] = ("end", None)
    except OSError:
        raise
    except MemoryError:
        bound = f"more than {memory_bytes >> 20} MB of memory"
        bomb = f"{path} needs {bound} to be read; it looks like a decompression bomb, delete it"
        answer = ("error", FormatError(bomb))
    except Exception as error:
        answer = ("error", error)
    parent.send(answer)
