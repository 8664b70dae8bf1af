"""A disk that fails while a file is written, at a place that is chosen; a disk of a few kilobytes."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def failing(monkeypatch: pytest.MonkeyPatch, number: int, when: Callable[[str], bool]) -> None:
    """Let writing end with an error of the system, when the name of a file, as it is being written, is such a one."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if when(Path(f"/proc/self/fd/{descriptor}").readlink().name):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a few kilobytes; skips the test where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
