"""A disk that fails while a file is written, at a place that is chosen."""

import os
from collections.abc import Callable
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
