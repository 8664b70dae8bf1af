"""Jobs of worker processes. This module imports no torch: eight workers would need 2 s each to import it, too."""

import os
import signal
import time
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import SourceError


def square(number: int) -> int:
    return number * number


def slow_first(number: int) -> int:
    """The first jobs end last."""
    time.sleep(0.3 if number < 2 else 0)
    return number


def worker(_: int) -> int:
    return os.getpid()


def threads(_: int) -> int:
    import torch

    return torch.get_num_threads()


def fails_at_three(number: int) -> int:
    if number == 3:
        raise SourceError("the third")
    return number


def dies_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def device_of_worker(job: tuple[Path, str]) -> tuple[int, str]:
    """Return this worker and its device, once there are eight workers."""
    folder, token = job
    device = parallel.worker_device([f"cuda:{number}" for number in range(4)], token)
    (folder / str(os.getpid())).touch()
    wait_for_files(folder, 8)
    return os.getpid(), device


def wait_for_files(folder: Path, count: int) -> None:
    until = time.monotonic() + 120
    while len(list(folder.iterdir())) < count and time.monotonic() < until:
        time.sleep(0.05)


def pid_into(folder: Path) -> None:
    """Say who works here, for as long as a test takes to look."""
    (folder / str(os.getpid())).touch()
    time.sleep(60)


GROWTH_BYTES = 320 << 20
"""More than the growth of a worker after which joblib replaces it, if psutil is installed."""

held: list[bytes] = []


def grows(number: int) -> int:
    held.append(b"1" * GROWTH_BYTES)
    time.sleep(1.1)  # joblib looks at the memory once a second
    return number
