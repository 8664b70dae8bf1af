import logging

import pytest

from celebahq_builder import progress
from celebahq_builder.progress import Progress, size


def test_a_line_now_and_then_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO)
    run = Progress("align", total=40, done=10)
    for clock[0] in (110.0, 129.0, 131.0, 140.0, 162.0):
        run.advance(2, rejected=1)
    assert caplog.messages == [
        "align: 16 of 40 photos, 0.19 photos/s, 2 min left, 3 rejected, 0 failed in this command",
        "align: 20 of 40 photos, 0.16 photos/s, 2 min left, 5 rejected, 0 failed in this command",
    ]
    run.advance(20, failed=1)
    run.close()
    assert caplog.messages[-1].startswith("align: 40 of 40 photos")
    assert caplog.messages[-1].endswith("5 rejected, 1 failed in this command")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    run = Progress("align", total=4)
    run.advance(4, rejected=1)
    run.close()
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "photo/s" in shown
    assert "1 rejected, 0 failed" in shown


def test_other_things_than_photos(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be rejected has no count of it."""
    caplog.set_level("INFO")
    run = Progress("export", total=4, done=1, unit="image", judged=False)
    run.advance(3)
    run.close()
    assert caplog.messages[-1].startswith("export: 4 of 4 images, ")
    assert caplog.messages[-1].endswith(" images/s")


def test_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Progress("align", total=4, done=4).close()
    assert caplog.messages == ["align: 4 of 4 photos, 0 rejected, 0 failed in this command"]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_what_takes_a_moment_is_not_mentioned(
    seconds: float,
    terminal: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
    caplog.set_level("INFO")
    run = Progress("extract", total=4, unit="image", judged=False, silent_s=progress.MOMENT_S)
    for _ in range(4):
        clock[0] += seconds / 4
        run.advance(1)
    run.close()
    told = capsys.readouterr().err + "".join(caplog.messages)
    assert bool(told) == (seconds > progress.MOMENT_S)
    assert not told or "extract: " in told


def test_workers_of_a_cluster(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    run = Progress("align", total=40)
    run.workers = 4
    clock[0] = 110.0
    run.advance(20)
    assert run.line() == (
        "align: 20 of 40 photos, 2.00 photos/s, 10 s left, workers: 4 (0.50 photos/s each), 0 rejected, 0 failed"
    )


@pytest.mark.parametrize(
    ("value", "words"), [(12, "12 bytes"), (1200, "1.2 kB"), (25_340_000, "25.3 MB"), (2.5e12, "2,500.0 GB")]
)
def test_sizes_in_words(value: int, words: str) -> None:
    assert size(value) == words
