"""The report of a build that is running: written at its start, and again every few minutes."""

from __future__ import annotations

import logging
import time

from celebahq_builder.pipeline.batch_job import BatchResult
from celebahq_builder.pipeline.build_report import BuildProgress, write_build_report
from celebahq_builder.pipeline.results import PhotoStatuses, read_statuses
from celebahq_builder.pipeline.workspace import Workspace
from celebahq_builder.progress import Progress

log = logging.getLogger(__name__)

COST_SHARE = 0.01
"""Largest share of a run's time that is spent on its reports."""

PAUSE_S = 5.0
"""Shortest time between two reports."""

READ_S = 3e-4
"""Estimated time that the status of a photo of an earlier run takes to be read."""

MOMENT_S = 2.0
"""Longest processor time that the report of an interrupted run, or the first one of a resumed run, may take."""


class LiveReport:
    """Writes the report of a build while the build runs.

    The statuses of photos come from the results of the workers. Manifests are read once, where a run resumes. Nothing
    depends on the report, so an error in writing it is a warning.

    Args:
        workspace: the run directory.
        progress: of the photo stages.
        silent: write nothing; for one of several shards.
    """

    def __init__(self, workspace: Workspace, progress: Progress, *, silent: bool = False) -> None:
        self.workspace, self.progress, self.silent = workspace, progress, silent
        self.statuses: PhotoStatuses | None = None
        self.cost_s = READ_S * progress.done
        """Processor time that the last report took, or the first one will take."""
        self.due_s = time.monotonic() + (self.cost_s / COST_SHARE if self.cost_s > MOMENT_S else 0)

    def add(self, result: BatchResult) -> None:
        """Take note of the outcomes of a batch."""
        if self.statuses is not None:
            for stage, outcomes in result.outcomes.items():
                for one in outcomes:
                    self.statuses.add(stage, result.number, one)

    def write_if_due(self) -> None:
        """Write the report, unless that would take too large a share of the time."""
        if time.monotonic() >= self.due_s:
            self._write(BuildProgress(self.progress.items_per_s, self.progress.seconds_left))

    def close(self) -> None:
        """Write the report of a build that is interrupted, if this takes a moment only."""
        if self.cost_s <= MOMENT_S:
            self._write(None)

    def _write(self, progress: BuildProgress | None) -> None:
        if self.silent:
            return
        began, is_first = time.thread_time(), self.statuses is None and not self.progress.done
        try:
            if self.statuses is None:
                self.statuses = read_statuses(self.workspace)
                log.info("report of the running build: %s", self.workspace.report_path.absolute())
            write_build_report(self.workspace, progress, self.statuses.all())
        except Exception as error:
            log.warning("warning: the report of the running build was not written: %s", error)
        self.cost_s = time.thread_time() - began
        # The first page of a new run has no images, so the next one need not wait for long.
        self.due_s = time.monotonic() + (PAUSE_S if is_first else max(self.cost_s / COST_SHARE, PAUSE_S))
