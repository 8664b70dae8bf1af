"""A process that locks folders as its standard input says, as if it ran on another machine.

``locking_process.py MACHINE FLOCK STALE_S``: FLOCK is ``works``, ``missing`` (the file system has none), or ``local``
(it does not reach other machines). ``lock FOLDER SECOND`` locks a folder at a second of the monotonic clock, ``unlock``
ends that.
"""

import contextlib
import errno
import fcntl
import logging
import os
import sys
import time
from pathlib import Path

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.storage import folder_lock


def no_flock(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def report(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(machine: str, flock: str, stale_s: str) -> None:
    if machine:
        folder_lock.MACHINE = machine
        folder_lock.HOST = f"host_{machine}"
    if flock != "works":
        fcntl.flock = no_flock if flock == "missing" else lambda *_: None
    folder_lock.STALE_S = float(stale_s)
    folder_lock.BEAT_S = 0.2
    folder_lock.RETRY_S = 0.02
    logging.basicConfig(level=logging.INFO)
    stack = contextlib.ExitStack()
    for line in sys.stdin:
        command, *arguments = line.split()
        try:
            if command == "lock":
                time.sleep(max(float(arguments[1]) - time.monotonic(), 0))
                stack.enter_context(folder_lock.lock(Path(arguments[0]), "folder", "out"))
                report("locked")
            else:
                stack.close()
                report("unlocked")
        except WorkspaceError as error:
            report(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
