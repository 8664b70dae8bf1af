"""The stages that see all photos at once: the best are selected, and packed into the HDF5 file."""

from __future__ import annotations

import logging
import time

from celebahq_builder import __version__, ledger
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.files import write_atomic
from celebahq_builder.outcome import Kept
from celebahq_builder.progress import Progress
from celebahq_builder.recipe import to_mapping
from celebahq_builder.runner.plan import Plan
from celebahq_builder.runner.timings import Timings
from celebahq_builder.runner.versions import versions
from celebahq_builder.stages import pack, select
from celebahq_builder.workspace import fingerprint

log = logging.getLogger(__name__)


def run_select(plan: Plan) -> None:
    """Rank the photos by their scores and keep as many as the recipe wants, unless that is done already."""
    stage, wanted = plan.workspace.stage("select"), plan.recipe.select.keep
    if stage.is_complete(plan.ingredients["select"]):
        return
    stage.begin(plan.ingredients["select"])
    stood = ledger.standings(plan.workspace)
    candidates = [Kept(one.file, {"id": one.id, "score": one.score}) for one in stood if one.end is None]
    selected, low = select.best(candidates, wanted)
    records = ledger.records(plan.workspace, plan.kept, {kept.photo for kept in selected})
    ranked = [Kept(k.photo, {**records[k.photo].record, "rank": rank}) for rank, k in enumerate(selected, start=1)]
    write_atomic(plan.workspace.selection_path, select.selection_csv(ranked))
    stage.write_manifest(0, [*ranked, *low])
    if len(ranked) < wanted:
        log.warning("select: %d photos were good enough, %d were asked for", len(ranked), wanted)
    counts = {"kept": len(ranked), "rejected": len(low), "failed": 0}
    stage.complete(plan.ingredients["select"], {"photos": len(candidates), "batches": 1, **counts})


def run_pack(plan: Plan, timings: Timings) -> None:
    """Write the selected pictures to the HDF5 file, unless that is done already.

    Raises:
        WorkspaceError: there is none, or one was altered or deleted.
        DiskFull: no space left.
    """
    workspace, recipe = plan.workspace, plan.recipe
    stage, path = workspace.stage("pack"), workspace.hdf5_path(recipe.resolution)
    if stage.is_complete(plan.ingredients["pack"]) and plan.is_packed():
        return
    stage.begin(plan.ingredients["pack"])
    selected = [one for one in workspace.stage("select").read_manifest(0) if isinstance(one, Kept)]
    if not selected:
        raise WorkspaceError(f"no photo was kept, so there is nothing to pack; {workspace.rejected_path} says why")
    progress = Progress("pack", len(selected))
    began = time.monotonic()
    try:
        pack.write(
            path,
            pack.in_order(selected, recipe.pack.order, recipe.seed),
            workspace.stage("align").root,
            recipe.pack,
            resolution=recipe.resolution,
            attribute_names=plan.source.attribute_names,
            attributes={
                "builder": f"celebahq_builder {__version__}",
                "recipe": to_mapping(recipe),
                "versions": versions(),
                "seed": recipe.seed,
                "fingerprint": fingerprint(plan.ingredients["pack"]),
            },
            workers=plan.request.workers,
            advance=progress.advance,
        )
    finally:
        progress.close()
    timings.note(photos=len(selected), seconds={"pack": time.monotonic() - began})
    counts = {"photos": len(selected), "kept": len(selected), "rejected": 0, "failed": 0}
    stage.complete(plan.ingredients["pack"], {**counts, "bytes": path.stat().st_size, "file": path.name})
