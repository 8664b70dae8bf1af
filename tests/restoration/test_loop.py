"""Batches come in order whoever draws them."""

import threading
import time

import pytest

from celebahq_builder.restoration.loop import drawn_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_steps_come_in_order(workers: int) -> None:
    def draw(step: int) -> int:
        time.sleep(0.002 * (step % 3))  # later ones are often ready first
        return step * step

    assert list(drawn_ahead(draw, range(4, 24), workers)) == [(step, step * step) for step in range(4, 24)]
    assert list(drawn_ahead(draw, range(0), workers)) == []


def test_no_more_is_drawn_than_needed_soon() -> None:
    seen: list[int] = []
    batches = drawn_ahead(lambda step: seen.append(step), range(1000), 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(seen) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_an_error_in_a_thread_comes_out() -> None:
    def draw(step: int) -> int:
        return 1 // (3 - step)

    with pytest.raises(ZeroDivisionError):
        list(drawn_ahead(draw, range(10), 2))
