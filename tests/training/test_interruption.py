"""The first signal sets a flag or aborts abandonable work; the second Ctrl-C ends the process."""

import signal

import pytest

from celebahq_builder.training import interruption
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted


def test_the_first_signal_sets_the_flag() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopRequest()
    with stop.listening():
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_within_a_second_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun forwards the Ctrl-C that the terminal sent to all processes."""
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        monkeypatch.setattr(interruption, "REPEAT_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_abandonable_work_is_aborted() -> None:
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(TrainingInterrupted), stop.abandonable():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(TrainingInterrupted), stop.abandonable():
            raise AssertionError("the work began after the signal")
