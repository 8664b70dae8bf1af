"""The report of a build that is running."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.pipeline import build_report, photo_stages
from celebahq_builder.pipeline.build_report import BuildProgress, LiveReport, write_build_report
from celebahq_builder.pipeline.results import PhotoStatus, photo_statuses
from celebahq_builder.progress import Progress
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import build_tiny


def key(one: PhotoStatus) -> tuple[str, str]:
    return one.key


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BuildProgress | None, int]]:
    """Progress and number of photos of each report; all are due. Statuses must be those of the manifests."""
    made: list[tuple[BuildProgress | None, int]] = []

    def write(workspace: Workspace, progress: BuildProgress | None, statuses: Sequence[PhotoStatus]) -> None:
        assert sorted(statuses, key=key) == sorted(photo_statuses(workspace), key=key)
        write_build_report(workspace, progress, statuses)
        made.append((progress, len(statuses)))

    monkeypatch.setattr(build_report, "write_build_report", write)
    monkeypatch.setattr(build_report, "PAUSE_S", 0.0)
    monkeypatch.setattr(build_report, "COST_SHARE", 1e9)
    return made


def test_a_report_before_the_first_batch_and_after_each(
    reports: list[tuple[BuildProgress | None, int]], tmp_path: Path
) -> None:
    build_tiny(tmp_path / "run", workers=2)
    assert [photos for _, photos in reports] in ([0, 4, 5], [0, 1, 5])  # either batch may be the first to end
    assert reports[0][0] == BuildProgress(None, None)
    assert reports[2][0] is not None
    assert reports[2][0].seconds_left == 0
    final = (tmp_path / "run" / "report" / "index.html").read_bytes()
    write_build_report(Workspace(tmp_path / "run"))
    assert (tmp_path / "run" / "report" / "index.html").read_bytes() == final


def test_photos_of_earlier_commands_are_counted(
    reports: list[tuple[BuildProgress | None, int]], tiny_copy: Path
) -> None:
    for stage in ("align", "score"):
        Workspace(tiny_copy).stage(stage).manifest_path(1).unlink()
    for stage in ("pack", "select"):
        Workspace(tiny_copy).stage(stage).discard()
    build_tiny(tiny_copy)
    assert [photos for _, photos in reports] == [4, 5]


def test_a_run_that_grows_has_a_live_page_from_its_start(
    reports: list[tuple[BuildProgress | None, int]], tmp_path: Path
) -> None:
    build_tiny(tmp_path / "run", limit=4)
    before = len(reports)
    build_tiny(tmp_path / "run")
    first, photos = reports[before]
    assert first == BuildProgress(None, None)
    assert photos == 4


def test_an_interrupted_build_says_so(
    reports: list[tuple[BuildProgress | None, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def interrupted(workspace: Workspace, result: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        publish(workspace, result)

    publish = photo_stages.publish_batch
    monkeypatch.setattr(photo_stages, "publish_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_tiny(tmp_path / "run")
    assert reports[-1] == (None, 4)


def test_an_error_in_the_report_does_not_end_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise WorkspaceError("no")

    monkeypatch.setattr(build_report, "write_build_report", failing)
    assert build_tiny(tmp_path / "run", limit=2).complete
    assert "the report of the running build was not written: no" in caplog.text


def test_reports_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch, tiny_copy: Path) -> None:
    clock, written = [0.0], []
    monkeypatch.setattr(build_report.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(build_report.time, "thread_time", lambda: 2.0 * len(written))  # each takes 2 s
    monkeypatch.setattr(build_report, "write_build_report", lambda *_: written.append(clock[0]))
    report = LiveReport(Workspace(tiny_copy), Progress("align", 200_000, 100_000))
    for clock[0] in range(0, 6000, 10):
        report.write_if_due()
    # Reading 100,000 photos takes about 30 s.
    assert written == [3000, *range(3200, 6000, 200)]
