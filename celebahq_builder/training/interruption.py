"""Interruption of a training by Ctrl-C or SIGTERM.

The first signal only sets a flag. The training loop reads the flag after each step; it then writes a checkpoint and
raises `TrainingInterrupted`. Work that may be abandoned, such as a validation or the reading of photos, is aborted at
once. A second Ctrl-C ends the process without a checkpoint. Every `TrainingInterrupted` says which checkpoint exists.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPEAT_S = 1.0
"""Ctrl-C counts as a second one only after this time: torchrun forwards the first one to processes that already
received it from the terminal."""


class TrainingInterrupted(KeyboardInterrupt):
    """A signal interrupted a training; the text says which checkpoint exists and how to resume.

    Args:
        text: for the user.
        number: of the signal.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


class StopRequest:
    """The flag that SIGTERM or Ctrl-C sets.

    >>> stop = StopRequest()
    >>> with stop.listening():
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop.requested
    True
    >>> stop.interruption()
    TrainingInterrupted('run the same command again')
    """

    def __init__(self) -> None:
        self.requested = False
        """True after a signal arrived."""
        self.advice = "run the same command again"
        """Sentence for messages: the saved checkpoint, and how to resume. The training loop updates it."""
        self._number = signal.SIGINT
        self._requested_at_s = 0.0
        self._abandonable = False

    def saved(self, position: str) -> None:
        """Set the advice after a checkpoint was written or read, such as ``step 500``; empty if there is none."""
        self.advice = "no checkpoint was saved; run the same command again to start from the beginning"
        if position:
            self.advice = f"the checkpoint of {position} is saved; run the same command again to resume"

    def interruption(self, more: str = "") -> TrainingInterrupted:
        """Return the exception with which a training ends after a signal; `more` follows its text."""
        return TrainingInterrupted(self.advice + more, self._number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT inside the context; only the main thread of a process can.

        Raises:
            TrainingInterrupted: a second SIGINT arrived.
        """
        numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._handle) for number in numbers}
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
                raise self.interruption()
            yield
        finally:
            self._abandonable = False

    def _handle(self, number: int, _: object) -> None:
        now_s = time.monotonic()
        if not self.requested:
            self.requested, self._requested_at_s, self._number = True, now_s, signal.Signals(number)
        elif number == signal.SIGINT and now_s - self._requested_at_s >= REPEAT_S:
            raise TrainingInterrupted(f"ended at once; {self.advice}", number)
        if self._abandonable:
            self._abandonable = False
            raise self.interruption()
