"""Recorder of the calls that make a file durable and give it its name."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import pytest


class Call(NamedTuple):
    """A call of ``os.fsync``, ``os.rename``, ``os.replace`` or ``os.link``."""

    name: str
    source: str
    target: str
    digest: str
    """SHA-256 of the file's content at that moment; empty for a folder."""


class Recorder:
    """Records the calls of this process in their order, and lets them happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        fsync = os.fsync

        def recorded_fsync(descriptor: int) -> None:
            fsync(descriptor)
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            self.calls.append(Call("fsync", path, "", _digest(path)))

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, self._recorded(name))

    def _recorded(self, name: str):
        function = getattr(os, name)

        def call(source: str, target: str, **keywords: object) -> None:
            digest = _digest(source)
            function(source, target, **keywords)
            self.calls.append(Call(name, str(Path(source).absolute()), str(Path(target).absolute()), digest))

        return call

    def named(self, path: Path) -> int:
        """Return the position of the call that gave a file its name, after its whole content was on the disk."""
        places = [i for i, call in enumerate(self.calls) if call.target == str(path)]
        assert len(places) == 1, self.calls
        call = self.calls[places[0]]
        assert self.synced(Path(call.source), call.digest) < places[0]
        return places[0]

    def synced(self, path: Path, digest: str) -> int:
        """Return the position of the first call that put this content of a file on the disk."""
        wanted = ("fsync", str(path), "", digest)
        assert wanted in self.calls, self.calls
        return self.calls.index(Call(*wanted))


def _digest(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
