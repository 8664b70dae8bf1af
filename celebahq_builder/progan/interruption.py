"""A training that is told to end: by Ctrl-C, or by a cluster that wants its machine back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(stop: Callable[[], bool]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`, which returns whether it was called before; a second SIGINT ends at once."""

    def told(number: int, _: object) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
