"""A build from its beginning, or from where the last one stopped, to its end."""

from __future__ import annotations

import logging
import shutil

from celebahq_builder import parallel
from celebahq_builder.formats.labels import labels_path
from celebahq_builder.runner.dataset_stages import run_pack, run_select
from celebahq_builder.runner.photo_stages import run_photo_stages
from celebahq_builder.runner.plan import Plan
from celebahq_builder.runner.request import Request
from celebahq_builder.runner.summary import Summary, conclude
from celebahq_builder.runner.timings import Timings
from celebahq_builder.source.photo import Source
from celebahq_builder.stages import example
from celebahq_builder.stages.recipe import STAGES

log = logging.getLogger(__name__)


def build(request: Request, source: Source) -> Summary:
    """Build a data set from a source, going on from what the run directory holds.

    Raises:
        WorkspaceLocked: another process is at work in the directory.
        FingerprintMismatch: it holds results of other settings or photos.
        DiskFull: no space left.
        CelebAHQError: see `errors`.
    """
    plan = Plan(request, source)
    timings = Timings(plan.workspace.timings_path)
    with plan.workspace.lock():
        plan.workspace.sweep()
        plan.check()
        parallel.devices(request.device)
        if request.redo:
            plan.check_start()  # before anything is deleted
            _discard_from(plan, request.redo)
        plan.describe()
        if plan.is_finished():
            log.info("all stages up to %s are complete", request.until)
        else:
            plan.check_start()
            run_photo_stages(plan, timings)
            if "select" in plan.stages:
                run_select(plan)
            if "pack" in plan.stages:
                run_pack(plan, timings)
        return conclude(plan, timings)


def _discard_from(plan: Plan, redo: str) -> None:
    """Delete the results of a stage and of all that follow from it; the last first."""
    workspace = plan.workspace
    workspace.summary_path.unlink(missing_ok=True)
    if redo in example.STAGES:
        shutil.rmtree(workspace.report_path.parent / "examples", ignore_errors=True)
    for name in reversed(STAGES[STAGES.index(redo) :]):
        if name == "pack":
            path = workspace.hdf5_path(plan.recipe.resolution)
            path.unlink(missing_ok=True)
            labels_path(path).unlink(missing_ok=True)
        workspace.stage(name).discard()
