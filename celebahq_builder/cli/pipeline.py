"""Commands of the pipeline: ``build``, ``landmarks``, ``status``, ``verify``."""

from __future__ import annotations

import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import (
    CLUSTER,
    PATH,
    POSITIVE,
    SET,
    FiniteRange,
    choice_option,
    count_option,
    faces_option,
    out_option,
    path_option,
    seed_option,
    workers_option,
)
from celebahq_builder.cli.output import name_options, one_line, print_path
from celebahq_builder.errors import RecipeError, SourceError
from celebahq_builder.outcome import counted, most_frequent_first
from celebahq_builder.pipeline.stages import stage_names

if TYPE_CHECKING:
    from celebahq_builder.pipeline.build import BuildResult
    from celebahq_builder.sources.photo import LandmarkOrder, PhotoSource

STAGES = stage_names()


@celebahq.command(
    interrupted="the same command resumes",
    once=["redo"],
    examples={
        "Build the first 12 photos of CelebA.": "celebahq build --celeba-root /data/celeba --out work --limit 12",
        "Build 512x512 faces from your own photos.": "celebahq build --photos photos --resolution 512 --out mine",
    },
)
@path_option("--celeba-root", metavar="DIR", help="CelebA as its authors ship it: img_celeba/, Anno/, Eval/.")
@path_option(
    "--photos",
    metavar="DIR|PHOTO",
    help="Your own photos instead: a folder, or one photo. Without --landmarks, the faces are found first.",
)
@path_option(
    "--landmarks",
    metavar="TABLE",
    show_default="found by the face detector",
    help="Landmarks of --photos: CSV of file, lefteye_x, ... rightmouth_y, or a table that another program writes, see "
    "docs/landmarks.md.",
)
@faces_option(
    None,
    "Faces of a photo that are used where faces are found: all (the default), the largest one, or the one nearest "
    "to the centre.",
)
@click.option(
    "--check-landmarks/--no-check-landmarks",
    default=None,
    help="Compare the landmarks with those of the face detector; the report shows where they differ. Default: for "
    "--landmarks, not for CelebA.",
)
@click.option("--reject-doubtful", is_flag=True, help="Reject the faces whose landmarks differ from the detector's.")
@path_option(
    "--landmark-model",
    metavar="FILE",
    help="Model file of the face detector YuNet; by default it is downloaded once (0.2 MB).",
)
@choice_option(
    "--landmark-order",
    choices=["viewer", "subject", "yx"],
    default="viewer",
    help="Order of the ten numbers: left and right as the viewer sees them; as the photographed person "
    "sees them; or as the viewer sees them, but y before x.",
)
@out_option("WORK", "Run directory; an interrupted run resumes in it.")
@path_option(
    "--recipe",
    metavar="FILE.toml",
    help="Settings: a file, or the name of a recipe in pipelines/. Default: celebahq-1024; with --photos, own-photos.",
)
@SET
@count_option("--keep", show_default="as in the recipe", help="Faces to keep, best first.")
@click.option(
    "--resolution",
    type=int,
    metavar="PX",
    show_default="as in the recipe",
    help="Side length of the result: a power of two, 64 to 2048.",
)
@workers_option(
    "Processes; default one per core, and on GPUs no more than their memory holds. Never changes the result."
)
@click.option("--device", default="auto", metavar="NAMES", help="auto, cpu, cuda, or cuda:0,cuda:1.")
@CLUSTER
@choice_option("--until", choices=STAGES, default=STAGES[-1], help="Stop after this stage.")
@choice_option(
    *("--from", "start"),
    choices=STAGES,
    show_default="the first stage",
    help="Run no stage before this one; its input must be on disk.",
)
@choice_option(
    "--redo",
    choices=[*STAGES, "photos"],
    show_default="none",
    help="Delete the results of this stage and of later ones first; leave it out to resume. photos: delete only the "
    "results of photos that were removed or changed since.",
)
@count_option("--limit", show_default="all", help="Only the first N faces; CelebA has one in each photo.")
@path_option(
    "--ids",
    metavar="FILE",
    show_default="all",
    help="Only the photos named in this file, one id or file name per line.",
)
@path_option(
    "--image-list",
    metavar="FILE",
    show_default="none",
    help="image_list.txt of the official CelebA-HQ, with --recipe official-deltas: only its photos, in its order. "
    "Without --deltas, the images that the deltas belong to, each checked by its MD5.",
)
@path_option(
    "--deltas",
    metavar="DIR",
    show_default="none",
    help="Folder of deltas00000.zip, ..., all or some, with --image-list: makes the official CelebA-HQ, bit for bit.",
)
@seed_option('Seed of a shuffled order, [pack] order = "shuffled".', default=None, show_default="as in the recipe")
@click.option(
    "--labels",
    is_flag=True,
    default=None,
    help="Also write CelebA's attributes as labels for training: celebahq-*-labels.npy.",
)
@click.option(
    "--shard",
    metavar="K/N",
    show_default="the whole run",
    help="Only the K-th of N parts of the photos, without selection and data set; several commands may build parts at "
    "once, see docs/cluster.md. The same command without --shard then finishes the run.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print settings, what is done, what is left, and the disk space it needs."
)
def build(
    celeba_root: Path | None,
    photos: Path | None,
    landmarks: Path | None,
    landmark_order: LandmarkOrder,
    out: Path,
    recipe: Path | None,
    dry_run: bool,
    **arguments: Any,
) -> None:
    """Build a data set of aligned faces from photos.

    You can kill the command at any time: the same command, without --redo, resumes. With a larger --limit, or without
    --limit, it keeps what is done and builds the other photos.
    """
    from celebahq_builder.pipeline.dry_run import dry_run as plan_lines
    from celebahq_builder.pipeline.landmark_source import planned_source, prepare_source
    from celebahq_builder.pipeline.request import check_options, make_request, wanted_shard

    names = ("faces", "check_landmarks", "reject_doubtful", "landmark_model")
    landmark_options = {name: arguments.pop(name) for name in names}
    arguments["recipe"] = recipe or ("own-photos" if photos else "celebahq-1024")
    given = _source(celeba_root, photos, landmarks, landmark_order)
    if dry_run:
        source = planned_source(given, out)
        if source is None:
            click.echo(f"landmarks: {photos} is searched for faces first; the plan of the build depends on them")
            return
        context = click.get_current_context()
        for line in plan_lines(source, out, **arguments):
            click.echo(name_options(line, context))
        return
    check_options(out, **arguments)

    def accept(source: PhotoSource) -> None:
        from celebahq_builder.pipeline.growth import checked_plan  # imports torch

        checked_plan(make_request(source, out, **arguments))

    shard = wanted_shard(arguments["shard"])
    source = prepare_source(given, out, workers=arguments["workers"], accept=accept, shard=shard, **landmark_options)
    request = make_request(source, out, **arguments)
    for warning in source.warnings:
        logging.getLogger(__name__).warning("warning: %s", warning)
    from celebahq_builder.pipeline.build import run  # imports torch, which takes seconds: after checks of arguments

    _print_result(run(request), arguments["shard"])


def _source(
    celeba_root: Path | None, photos: Path | None, landmarks: Path | None, landmark_order: LandmarkOrder
) -> PhotoSource | Path:
    """Return photos with landmarks, or the path of photos whose faces are to be found."""
    from celebahq_builder.sources.celeba import AlignedImagesOnly, read_celeba
    from celebahq_builder.sources.folder import read_folder

    if celeba_root and (photos or landmarks):
        raise RecipeError("give either --celeba-root, or --photos with or without --landmarks, not both")
    if celeba_root:
        try:
            return read_celeba(celeba_root, landmark_order)
        except AlignedImagesOnly as error:
            command = f"celebahq import {shlex.quote(str(error.aligned))} --out celeba-128.h5 --crop celeba"
            raise SourceError(f"{error}: {command}") from None
    if photos and landmarks:
        return read_folder(photos, landmarks, landmark_order)
    if photos and landmark_order != "viewer":
        raise RecipeError("--landmark-order belongs to a table: give --landmarks too, or leave it out")
    if photos:
        return photos
    raise RecipeError("nothing to build from: give --celeba-root DIR, or --photos DIR")


def _print_result(result: BuildResult, shard: str | None) -> None:
    what = f"shard {shard}: {counted(result.photos, result.source.unit)}" if shard else result.source
    click.echo(f"{what}: {result.kept} kept + {result.rejected} rejected + {result.failed} failed")
    for reason, count in most_frequent_first(result.reasons):
        click.echo(f"  {reason}: {count}")
    if shard:
        left = (
            f"{result.batches_left} batches of other shards are left; after them," if result.batches_left else "next,"
        )
        click.echo(f"{left} the same command without --shard selects and packs")
    if result.images and not result.hdf5:
        print_path("images", result.images)
    if result.hdf5:
        print_path("data set", result.hdf5)
    if not shard:
        print_path("report", result.report)


@celebahq.command(
    "landmarks",
    interrupted="run the same command again to resume",
    examples={
        "Find all faces.": "celebahq landmarks photos --out faces.csv",
        "Take one face of each photo, if it is large enough.": (
            "celebahq landmarks photos --faces largest --min-face-px 200 --out largest.csv"
        ),
    },
)
@click.argument("photos", type=PATH, metavar="PHOTOS_DIR")
@out_option("TABLE.csv", "Table to write, for build --landmarks.")
@faces_option("all", "Faces of a photo that are used: all, the largest one, or the one nearest to the centre.")
@count_option(
    "--min-face-px", default=48, metavar="PX", help="Least width of the crop around a face, in px of the photo."
)
@click.option(
    "--min-confidence",
    type=FiniteRange(0.5, 1),
    default=0.8,
    metavar="C",
    help="Least confidence of the detector.",
)
@click.option(
    "--max-spread",
    type=POSITIVE,
    default=0.25,
    metavar="S",
    help="Largest standard deviation of the landmarks over several views of a face, in distances of the eyes; profiles "
    "have more.",
)
@workers_option("Processes; default one per core. Does not change the result.")
@path_option(
    "--model",
    metavar="FILE",
    help="Model file of OpenCV's face detector YuNet; by default it is downloaded once (0.2 MB).",
)
@path_option(
    "--refiner",
    metavar="RUN|NAME",
    show_default="none",
    help="Network that makes the landmarks more precise: a folder of train-landmarks, or weights of a registry.",
)
def find_faces(photos: Path, **options: Any) -> None:
    """Find the faces of photos, and write a table of their landmarks.

    PHOTOS_DIR is a folder, which is searched at any depth, or one photo.

    TABLE.html shows every photo with what was found, the most doubtful first. TABLE.jsonl holds all that was found: a
    killed command resumes from it, and later commands with other limits need no new search.
    """
    from celebahq_builder.landmarks.find import find_landmarks

    result = find_landmarks(photos, **options)
    for line in result.lines():
        click.echo(line)
    print_path("table", result.table)
    print_path("page", result.page)


@celebahq.command(
    examples={
        "Print what is done and what is left.": "celebahq status work",
        "Print it every minute.": "watch -n 60 celebahq status work",
    }
)
@click.argument("work", type=PATH)
def status(work: Path) -> None:
    """Print the state of the run directory WORK."""
    from celebahq_builder.pipeline.status import status_lines
    from celebahq_builder.run_directory.workspace import Workspace

    for line in status_lines(Workspace(work)):
        click.echo(line)


@celebahq.command(
    examples={
        "Check all files of a run directory.": "celebahq verify work",
        "Check one HDF5 file.": "celebahq verify faces.h5",
    }
)
@click.argument("path", type=PATH, metavar="WORK|FILE.h5")
def verify(path: Path) -> None:
    """Check all hashes, counts and levels of a run directory or an HDF5 file.

    Exit code: 0 if all is OK, 1 if there are problems.
    """
    from celebahq_builder.hdf5.integrity import Checked
    from celebahq_builder.pipeline.verify import find_problems

    found, checked, began = 0, Checked(), time.monotonic()
    for problem in find_problems(path, checked):
        found += 1
        click.echo(one_line(problem))
    click.echo(f"checked: {checked}, in {time.monotonic() - began:.1f} s")
    click.echo(f"{path}: {found} problems" if found else f"{path}: OK")
    if found:
        raise click.exceptions.Exit(1)
