"""A build: the run of its stages, its summary and report; and the alignment of one photo."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, Unpack

import numpy as np
from numpy.typing import NDArray

from celebahq_builder import __version__, outcome, parallel
from celebahq_builder.cluster.connection import Cluster
from celebahq_builder.config import to_mapping
from celebahq_builder.errors import SourceError, WorkspaceError
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.outcome import Kept, PhotoCounts, PhotoKey, Rejected
from celebahq_builder.pipeline.build_report import write_build_report
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.growth import checked_plan, grow, warn_of_newer_photos
from celebahq_builder.pipeline.landmark_source import find_source
from celebahq_builder.pipeline.photo_context import deterministic, photo_context
from celebahq_builder.pipeline.photo_stages import run_batches, run_photo_stages
from celebahq_builder.pipeline.plan import BuildPlan, versions
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import BuildOptions, BuildRequest, check_options, make_request, wanted_shard
from celebahq_builder.pipeline.results import TABLE, PhotoStatus, photo_statuses, rejected_csv, summary_fingerprint
from celebahq_builder.pipeline.stage import AnyDatasetStage, DatasetContext, record_types
from celebahq_builder.pipeline.stages.upscale import UpscaleStage
from celebahq_builder.run_directory.shard import Shard, check_shards
from celebahq_builder.run_directory.state import Summary, fingerprint
from celebahq_builder.run_directory.timings import TimingLog
from celebahq_builder.run_directory.workspace import Workspace, count_outcomes
from celebahq_builder.sources.photo import LandmarkOrder, Photo, PhotoSource, in_column_order
from celebahq_builder.storage import delete_folder, read_file, write_atomic, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildResult:
    """Counts and files of a build."""

    source: PhotoCounts
    """Photos of the source, and faces in them."""
    photos: int
    """Faces of these photos, and photos without a usable face: kept + rejected + failed."""
    kept: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    """Rejected photos by name of the reason."""
    complete: bool
    """True if the last stage was reached."""
    hdf5: Path | None
    """The data set; None if the last stage was not reached."""
    images: Path | None
    """Folder of the images of the last stage that keeps images; None if no such stage was run."""
    report: Path
    batches_left: int = 0
    """With `shard`, batches of the whole run that are not done yet; the counts are those of the shard's photos."""


def build(source: PhotoSource | Path | str, out: Path | str, **options: Unpack[BuildOptions]) -> BuildResult:
    """Build a data set from a source of photos, resuming from what the run directory holds.

    The results do not depend on the number of workers, nor on interruptions. The run before may have had fewer photos:
    its results are used, and the files are those of one run with all photos.

    Args:
        source: photos with landmarks; see `sources.celeba.read_celeba` and `sources.folder.read_folder`. Or the path of
            a folder of photos or of one photo, in which the face detector finds the landmarks first.
        out: run directory, created if needed.
        recipe: name of a bundled recipe, path of a TOML file, or the settings themselves.
        overrides: values by dotted key that replace those of the recipe, such as ``{"crop.context_px": 16}``.
        keep: number of photos to keep, best first. For `keep`, `resolution`, `seed` and `labels`, None takes the value
            of the recipe.
        resolution: side length of the result in px, a power of two from 64 to 2048.
        seed: seed of a shuffled order.
        labels: whether to write CelebA's attributes as labels next to the HDF5 file.
        workers: processes; None uses one per core that this process may use, and on GPUs no more than their memory
            holds.
        device: ``auto``, ``cpu``, ``cuda``, or a list such as ``cuda:0,cuda:1``.
        cluster: address of a Dask scheduler, or its scheduler.json; its workers run the photo stages. They must see the
            run directory and the photos under the same paths.
        until: last stage to run.
        start: no stage before this one is run; the results of the stage before must be complete.
        redo: stage whose results, and those of later stages, are deleted first; or ``photos``, which deletes only the
            results of photos that were removed, or whose landmarks changed, since the last run.
        limit: only the first photos, as many as this.
        ids: only these photos: ids or file names, or a file that lists them.
        image_list: file image_list.txt of the official CelebA-HQ; only its photos, in its order.
        deltas: folder of the official deltas, which make the official images.
        shard: ``K/N`` or (K, N): only the K-th of N parts of the batches, without selection and data set. Several
            processes may build parts at once, on machines that share the run directory. A build without `shard` then
            builds what is missing, selects and packs.

    Returns:
        Counts of all photos, and the paths of data set and report.

    Raises:
        RecipeError: settings or arguments that cannot be used.
        ClusterError: no scheduler answers, or its workers cannot be used.
        WorkspaceLocked: another process works in the directory.
        FingerprintMismatch: it holds results of other settings, or of photos that this run does not have.
        DiskFull: no space left; the same command resumes once there is some.
        CelebAHQError: see `errors`.

    Examples:
        >>> from celebahq_builder.sources.celeba import read_celeba
        >>> source = read_celeba(Path("tests/sample/celeba"))
        >>> result = build(source, getfixture("tmp_path"), resolution=64, limit=2, workers=1)
        >>> result.kept, result.hdf5.name
        (2, 'celebahq-64x64.h5')
    """
    if not isinstance(source, PhotoSource):
        check_options(out, **options)
        source = find_source(
            source,
            out,
            workers=options.get("workers"),
            shard=wanted_shard(options.get("shard")),
            accept=lambda found: checked_plan(make_request(found, out, **options)),
        )
    return run(make_request(source, out, **options))


def align(
    photo: Path | str | NDArray[np.uint8],
    landmarks: NDArray[np.floating] | Iterable[float],
    resolution: int = 1024,
    restore: bool = False,
    landmark_order: LandmarkOrder = "viewer",
) -> NDArray[np.uint8]:
    """Return the aligned face of one photo, uint8 [3, resolution, resolution], RGB.

    Args:
        photo: path of an image file, or pixels, uint8 [H, W, 3], RGB.
        landmarks: [5, 2] or 10 numbers: x, y of left eye, right eye, nose, left and right corner of the mouth, in px;
            left and right as the viewer sees them; (0, 0) is the centre of the first pixel.
        resolution: side length of the result in px, a power of two from 64 to 2048.
        restore: whether the photo passes both networks, as in a build, which gives the same bytes.
        landmark_order: order of the landmarks, where it is another; see `sources.photo.LandmarkOrder`.

    Raises:
        Rejection: the photo, or the crop in it, is not good enough.
        SourceError: the file cannot be read.
        ValueError: the landmarks are not ten numbers, or the resolution is not a power of two.

    Examples:
        >>> landmarks = [314, 213, 416, 212, 363, 275, 308, 320, 422, 318]
        >>> align("tests/sample/celeba/img_celeba/000001.jpg", landmarks, resolution=64).shape
        (3, 64, 64)
    """
    recipe = BuildRecipe(resolution=resolution)
    if isinstance(photo, np.ndarray):
        data = encode_png(photo.transpose(2, 0, 1))
    else:
        try:
            data = read_file(Path(photo))
        except OSError as error:
            raise SourceError(f"{photo} cannot be read: {error.strerror}") from None
    row = tuple(float(value) for value in np.ravel(np.asarray(landmarks)))
    if len(row) != 10:
        raise ValueError(f"landmarks: expected ten numbers, x and y of five points, got {len(row)}")
    row = in_column_order(row, landmark_order)
    face = Face.unread(Photo("photo", "photo" if isinstance(photo, np.ndarray) else str(photo), row), index=0)
    context = photo_context(resolution, "cpu", lambda _: data)
    with deterministic():
        for stage in recipe.photo_stages():
            if stage.saves_image and (restore or not stage.restores):
                [face] = stage.run([face], recipe.settings(stage), context)
    aligned: NDArray[np.uint8] = face.pixels.numpy()
    return aligned


# --- One run ----------------------------------------------------------------------------------------------------


def run(request: BuildRequest) -> BuildResult:
    """Run a build; see `build`."""
    if request.shard:
        return _run_shard(request, request.shard)
    workspace = request.workspace
    timings = TimingLog(workspace.timings_path)
    with workspace.lock() as held:
        plan = checked_plan(request)
        if request.cluster:
            Cluster(request.cluster).close()  # answers
        _load_networks(plan.after_redo())
        workspace.sweep()
        if request.redo:
            _discard(plan)
            plan = plan.after_redo()
        if plan.grows:
            plan = grow(plan)
        warn_of_newer_photos(plan)
        _describe(plan)
        if not all(map(plan.is_complete, plan.on_disk)):
            workspace.summary_path.unlink(missing_ok=True)
            plan = replace(plan, state=replace(plan.state, summary=None))
            try:
                if not run_photo_stages(plan, timings, held) and plan.dataset_stages:
                    _end_without_faces(plan)
                for stage in plan.dataset_stages:
                    _run_dataset_stage(plan, stage, timings)
            finally:
                workspace.sweep()  # after workers that were interrupted, and orphans that have ended meanwhile
        elif plan.until == request.until:
            log.info("all stages up to %s are complete", request.until)
        else:
            log.info("all stages up to %s are complete, and so are those up to %s", request.until, plan.until)
        return _conclude(plan, timings)


def _end_without_faces(plan: BuildPlan) -> NoReturn:
    workspace = plan.request.workspace
    _write_rejected(workspace, photo_statuses(workspace), plan.request.source)
    write_build_report(workspace)
    raise WorkspaceError(f"no photo was kept, so there is nothing to pack; {workspace.rejected_path} says why")


def _describe(plan: BuildPlan) -> None:
    """Write run.json, unless it is up to date."""
    description = plan.description()
    if plan.state.run != description:
        write_json(plan.request.workspace.run_path, asdict(description))


def _run_shard(request: BuildRequest, shard: Shard) -> BuildResult:
    """Run the batches of a shard; see `shard`."""
    workspace = request.workspace
    with ExitStack() as work:
        with workspace.lock(shard):
            check_shards(workspace.root, beside=shard)
            plan = checked_plan(request)
            _load_networks(plan)
            if plan.grows:  # it moves manifests and images of all batches
                check_shards(workspace.root)
            held = work.enter_context(shard.lock(workspace.root))
            if plan.grows:
                plan = grow(plan)
            _describe(plan)
            if plan.batches_left:
                workspace.summary_path.unlink(missing_ok=True)
                for stage in plan.stored_photo_stages:
                    workspace.stage(stage.name).begin(plan.ingredients[stage.name])
        timings = TimingLog(shard.folder(workspace.root) / workspace.timings_path.name)
        workspace.sweep()
        try:
            run_batches(plan, timings, held)
        finally:
            workspace.sweep()
        timings.add_memory(parallel.peak_memory_bytes())
        return _conclude_shard(plan, shard)


def _conclude_shard(plan: BuildPlan, shard: Shard) -> BuildResult:
    """Count the outcomes of a shard's photos."""
    workspace, names = plan.request.workspace, [stage.name for stage in plan.stored_photo_stages]
    last: dict[PhotoKey, outcome.Outcome] = {}
    for name in names:
        for batch in shard.batches(plan.batches):
            last |= {one.key: one.without_record() for one in workspace.stage(name).read_manifest(batch)}
    done = frozenset.intersection(*(workspace.stage(name).batches() for name in names))
    return BuildResult(
        source=plan.request.source.counts,
        photos=len(last),
        **count_outcomes(last.values()),
        reasons=dict(Counter(one.reason.value for one in last.values() if isinstance(one, Rejected))),
        complete=False,
        hdf5=None,
        images=_images_folder(plan) if last else None,
        report=workspace.report_path,
        batches_left=len(frozenset(range(plan.batches)) - done),
    )


def _images_folder(plan: BuildPlan) -> Path | None:
    """Return the folder of the images of the last stage that keeps images; None if no such stage is run."""
    names = plan.stages_with_images
    return plan.request.workspace.stage(names[-1]).root / "images" if names else None


def _load_networks(plan: BuildPlan) -> None:
    """Load the networks of the photo stages that are left, so that an error ends the run before anything is written."""
    if all(plan.is_complete(stage.name) for stage in plan.stored_photo_stages):
        return
    stages = plan.request.recipe.photo_stages()
    stages = stages[: plan.photo_stage_names.index(plan.stored_photo_stages[-1].name) + 1]
    done = [i for i, stage in enumerate(stages) if stage.saves_image and plan.is_complete(stage.name)]
    left = stages[done[-1] + 1 if done else 0 :]
    for stage in left:
        stage.load(plan.request.recipe.settings(stage))
    if plan.state.run is None:
        _suggest_bf16(plan.request, [stage.name for stage in left])


def _suggest_bf16(request: BuildRequest, stages: Sequence[str]) -> None:
    """Name the faster setting of the upscaler on this machine's CPU, if the chip has it and nobody chose another.

    The denoiser takes little time, and bf16 changes more there: where its result changes by one level, the upscaler's
    noise is another.
    """
    if request.cluster or parallel.devices(request.device) != ("cpu",) or "upscale" not in stages:
        return
    settings = request.recipe.settings(UpscaleStage())
    is_free = settings.precision == "fp32" and "upscale.precision" not in request.origins
    if is_free and parallel.cpu_has_bf16():
        log.info(
            "hint: with `overrides` upscale.precision=bf16, a build takes a quarter to a half less time on this CPU; "
            "the pixels change by 0.02 grey levels on average"
        )


def _discard(plan: BuildPlan) -> None:
    """Delete the results of the stages to redo, the last first."""
    workspace = plan.request.workspace
    for path in plan.redone_files():
        path.unlink(missing_ok=True)
    if plan.image_stage in [stage.name for stage in plan.redone]:
        delete_folder(workspace.report_path.parent / "examples", r"[^/]+/\w+\.jpg")
    for stage in reversed(plan.redone):
        workspace.stage(stage.name).discard()


# --- Dataset stages, summary ------------------------------------------------------------------------------------


def _run_dataset_stage(plan: BuildPlan, stage: AnyDatasetStage, timings: TimingLog) -> None:
    """Run a stage that works on all photos, unless it is complete."""
    if plan.is_complete(stage.name):
        return
    request, ingredients = plan.request, plan.ingredients[stage.name]
    folder = request.workspace.stage(stage.name)
    context = DatasetContext(
        workspace=request.workspace,
        inputs=request.inputs,
        record_types=record_types(request.recipe.stages()),
        image_stage=plan.image_stage,
        photo_stage=plan.photo_stage_names[-1],
        workers=request.workers or parallel.cores(),
        hdf5_attributes={
            "builder": f"celebahq_builder {__version__}",
            "recipe": to_mapping(request.recipe),
            "versions": versions(),
            "seed": request.recipe.seed,
            "fingerprint": fingerprint(ingredients),
        },
    )
    folder.begin(ingredients)
    began = time.monotonic()
    counts = stage.run(request.recipe.settings(stage), context)
    timings.add(photos=counts.photos, seconds={stage.name: time.monotonic() - began})
    folder.complete(ingredients, counts)


def _conclude(plan: BuildPlan, timings: TimingLog) -> BuildResult:
    """Count the outcomes of all photos, and write summary, table of rejects and report where they are not up to date.

    Raises:
        WorkspaceError: the photos of the source are not those that are accounted for.
    """
    request, workspace = plan.request, plan.request.workspace
    complete = plan.until == plan.stage_names[-1]
    rejected = [outcome.to_json(one) for one in request.source.rejected]
    mark = summary_fingerprint(workspace, plan.ingredients[plan.until], rejected)
    summary = plan.state.summary
    if summary is None or summary.fingerprint != mark or workspace.rejected_path.name not in plan.state.files:
        statuses = photo_statuses(workspace)
        summary = _summarize(plan, mark, statuses)
        timings.add_memory(parallel.peak_memory_bytes())
        write_build_report(workspace, statuses=statuses)
        write_json(workspace.summary_path, asdict(summary))
    elif "report/index.html" not in plan.state.files:
        write_build_report(workspace)
    counts = asdict(summary)
    del counts["fingerprint"]
    return BuildResult(
        source=request.source.counts,
        **counts,
        complete=complete,
        hdf5=workspace.hdf5_path(request.recipe.resolution) if complete else None,
        images=_images_folder(plan),
        report=workspace.report_path,
    )


def _summarize(plan: BuildPlan, mark: str, statuses: Sequence[PhotoStatus]) -> Summary:
    """Count the outcomes of all photos and write the table of those not kept."""
    workspace, source = plan.request.workspace, plan.request.source
    ends = [one.end for one in statuses if one.end is not None]
    counts = count_outcomes([*ends, *(Kept(one.file) for one in statuses if one.end is None)])
    photos = len(source.photos) + len(source.rejected)
    if sum(counts.values()) != photos:
        raise WorkspaceError(
            f"{workspace.root}: the source has {photos} photos, {sum(counts.values())} have an outcome; files were "
            "changed from outside, choose another `out`"
        )
    _write_rejected(workspace, statuses, source)
    reasons = Counter(end.reason.value for end in ends if isinstance(end, Rejected))
    return Summary(mark, photos, **counts, reasons=dict(reasons))


def _write_rejected(workspace: Workspace, statuses: Iterable[PhotoStatus], source: PhotoSource) -> None:
    """Write the table of photos that are not kept."""
    ids = {photo.key: photo.id for photo in source.photos}
    ended = [("" if one.stage == TABLE else ids.get(one.key, ""), one.end) for one in statuses if one.end is not None]
    write_atomic(workspace.rejected_path, rejected_csv(ended))
