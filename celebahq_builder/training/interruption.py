"""Interruption of a training by Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPEAT_S = 1.0
"""A second Ctrl-C counts as one after so long: torchrun passes the terminal's on to processes that had it already."""


class Stopped(KeyboardInterrupt):
    """Work that may be left undone was interrupted by a wish to end."""


class StopRequest:
    """Whether a training was told to end, with a checkpoint, by SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        """Whether it was."""
        self._since_s = 0.0
        self._lightly = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take these signals as a wish to end; a second SIGINT, a second later, ends at once."""
        before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a wish to end interrupt what is done here.

        Raises:
            Stopped: it came.
        """
        self._lightly = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._lightly = False

    def _told(self, number: int, _: object) -> None:
        now_s = time.monotonic()
        again = self.asked and number == signal.SIGINT and now_s - self._since_s >= REPEAT_S
        if not self.asked:
            self.asked, self._since_s = True, now_s
        if again:
            raise KeyboardInterrupt
        if self._lightly:
            self._lightly = False
            raise Stopped
