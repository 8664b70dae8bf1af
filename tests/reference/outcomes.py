"""Outcomes of all photos of a run, from its manifests, photo by photo, with everything in memory."""

from celebahq_builder import outcome
from celebahq_builder.outcome import Kept, Outcome, PhotoKey
from celebahq_builder.run_directory.workspace import Workspace


def outcomes(workspace: Workspace) -> list[Outcome]:
    run = workspace.run()
    ended: dict[PhotoKey, Outcome] = {}
    for name in ("crop", "denoise", "upscale", "align", "score", "select"):
        folder = workspace.root / "stages" / name / "batches"
        for manifest in sorted(folder.glob("*.jsonl")):
            for one in workspace.stage(name).read_manifest(int(manifest.stem)):
                before = ended.get(one.key)
                if before is None:
                    ended[one.key] = one
                elif isinstance(before, Kept):
                    merged = isinstance(one, Kept)
                    ended[one.key] = Kept(one.photo, before.record | one.record, one.face) if merged else one
    return [*(outcome.from_json(values) for values in run.rejected_by_table), *ended.values()]
