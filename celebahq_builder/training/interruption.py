"""Interruption of a training by Ctrl-C or SIGTERM.

The first signal only sets a flag. The training loop reads the flag after each step; it then writes a checkpoint and
returns. Work that may be abandoned, such as a measurement, is aborted at once. A second Ctrl-C ends the process
without a checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPEAT_S = 1.0
"""Ctrl-C counts as a second one only after this time: torchrun forwards the first one to processes that already
received it from the terminal."""


class TrainingInterrupted(KeyboardInterrupt):
    """Work that may be abandoned was aborted by the first signal."""


class StopRequest:
    """The flag that SIGTERM or Ctrl-C sets.

    >>> stop = StopRequest()
    >>> with stop.listening():
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop.requested
    True
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether a signal arrived."""
        self._requested_at_s = 0.0
        self._abandonable = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT inside the context.

        Raises:
            KeyboardInterrupt: a second SIGINT arrived.
        """
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Let the first signal abort the work inside the context.

        Raises:
            TrainingInterrupted: a signal arrived, before the context or inside it.
        """
        self._abandonable = True
        try:
            if self.requested:
                raise TrainingInterrupted
            yield
        finally:
            self._abandonable = False

    def _handle(self, number: int, _: object) -> None:
        now_s = time.monotonic()
        if not self.requested:
            self.requested, self._requested_at_s = True, now_s
        elif number == signal.SIGINT and now_s - self._requested_at_s >= REPEAT_S:
            raise KeyboardInterrupt
        if self._abandonable:
            self._abandonable = False
            raise TrainingInterrupted
