"""``build``, and what looks at a run directory: ``status``, ``verify``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder.cli.main import PATH, celebahq
from celebahq_builder.errors import RecipeError

if TYPE_CHECKING:
    from celebahq_builder.pipeline.build import BuildResult
    from celebahq_builder.sources.photo import PhotoSource

STAGES = ("region", "denoise", "upscale", "align", "score", "select", "pack")


@celebahq.command(interrupted="run the same command again, without --redo, to resume")
@click.option(
    "--celeba-root", type=PATH, metavar="DIR", help="CelebA as its authors ship it: img_celeba/, Anno/, Eval/."
)
@click.option("--photos", type=PATH, metavar="DIR", help="Your own photos instead, with --landmarks.")
@click.option(
    "--landmarks", type=PATH, metavar="TABLE.csv", help="Landmarks of --photos: file, lefteye_x, ... rightmouth_y."
)
@click.option(
    "--out", type=PATH, metavar="WORK", required=True, help="Run directory; an interrupted run goes on in it."
)
@click.option("--recipe", type=PATH, metavar="FILE.toml", help="Settings; default pipelines/celebahq-1024.toml.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Photos to keep, best first.")
@click.option("--resolution", type=int, metavar="PX", help="Side of the result: a power of two, 64 to 2048.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes; default one per core. Never changes the result."
)
@click.option("--device", default="auto", show_default=True, metavar="NAMES", help="auto, cpu, cuda, or cuda:0,cuda:1.")
@click.option("--until", type=click.Choice(STAGES), default="pack", show_default=True, help="Stop after this stage.")
@click.option(
    "--from", "start", type=click.Choice(STAGES), help="Do not go back beyond this stage; its input must be on disk."
)
@click.option(
    "--redo",
    type=click.Choice(STAGES),
    help="Delete this stage's results and later ones first; leave out to go on.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N photos.")
@click.option(
    "--ids", type=PATH, metavar="FILE", help="Only the photos named in this file, one id or file name per line."
)
@click.option(
    "--image-list",
    type=PATH,
    metavar="FILE",
    help="image_list.txt of the official CelebA-HQ, with --recipe official-deltas: only its photos, in its order. "
    "Without --deltas, the images that the deltas belong to, each checked by its MD5.",
)
@click.option(
    "--deltas",
    type=PATH,
    metavar="DIR",
    help="Folder of deltas00000.zip, ..., all or some, with --image-list: makes the official CelebA-HQ, bit for bit.",
)
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Seed of whatever is random.")
@click.option(
    "--labels",
    is_flag=True,
    default=None,
    help="Write CelebA's attributes as labels beside the HDF5 file, for training.",
)
@click.option("--dry-run", is_flag=True, help="Print settings, what is done, what is left, and the disk it will take.")
def build(out: Path, dry_run: bool, device: str, until: str, start: str | None, redo: str | None, **asked: Any) -> None:
    """Build a data set: region, denoise, upscale, align, score, select, pack.

    You can kill the command at any time: the same command, without --redo, resumes.
    """
    from celebahq_builder.pipeline import recipe as recipe_module
    from celebahq_builder.pipeline.build import build as run
    from celebahq_builder.pipeline.plan import BuildRequest
    from celebahq_builder.pipeline.plan import dry_run as tell

    recipe, origins = recipe_module.resolve(
        asked["recipe"],
        {
            "select.keep": ("--keep", asked["keep"]),
            "resolution": ("--resolution", asked["resolution"]),
            "seed": ("--seed", asked["seed"]),
            "pack.labels": ("--labels", asked["labels"]),
        },
    )
    ids = recipe_module.read_ids(asked["ids"])
    recipe_module.check_official(recipe, asked["deltas"], asked["image_list"])
    source = _source(asked["celeba_root"], asked["photos"], asked["landmarks"])
    from celebahq_builder.sources.photo import official, subset

    if asked["image_list"]:
        from celebahq_builder.sources.official import read_image_list

        source = official(source, read_image_list(asked["image_list"]))
    source = subset(source, limit=asked["limit"], ids=ids)
    request = BuildRequest(
        out=out,
        recipe=recipe,
        origins=origins,
        workers=asked["workers"] or os.cpu_count() or 1,
        device=device,
        limit=asked["limit"],
        ids=recipe_module.ids_hash(ids),
        until=until,
        start=start,
        redo=redo,
        deltas=asked["deltas"],
    )
    if dry_run:
        for line in tell(request, source):
            click.echo(line)
        return
    for warning in source.warnings:
        logging.getLogger(__name__).warning("warning: %s", warning)
    _print_summary(run(request, source))


def _source(celeba_root: Path | None, photos: Path | None, landmarks: Path | None) -> PhotoSource:
    from celebahq_builder.sources.celeba import read_celeba
    from celebahq_builder.sources.folder import read_folder

    if celeba_root and (photos or landmarks):
        raise RecipeError("give either --celeba-root, or --photos with --landmarks, not both")
    if celeba_root:
        return read_celeba(celeba_root)
    if photos and landmarks:
        return read_folder(photos, landmarks)
    raise RecipeError("nothing to build from: give --celeba-root DIR, or --photos DIR with --landmarks TABLE.csv")


def _print_summary(summary: BuildResult) -> None:
    click.echo(f"{summary.photos} photos: {summary.kept} kept + {summary.rejected} rejected + {summary.failed} failed")
    for reason, count in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"  {reason}: {count}")
    if summary.hdf5:
        click.echo(f"data set: {summary.hdf5}")
    if summary.report:
        click.echo(f"report:   {summary.report}")


@celebahq.command()
@click.argument("work", type=PATH)
def status(work: Path) -> None:
    """Say what the run directory WORK holds so far."""
    from celebahq_builder.pipeline.verify import status_lines as lines
    from celebahq_builder.pipeline.workspace import Workspace

    for line in lines(Workspace(work)):
        click.echo(line)


@celebahq.command()
@click.argument("path", type=PATH, metavar="WORK|FILE.h5")
def verify(path: Path) -> None:
    """Check hashes, counts and levels of a run directory or an HDF5 file; exit code 1 if anything is wrong."""
    from celebahq_builder.pipeline.verify import find_problems as problems

    found = 0
    for problem in problems(path):
        found += 1
        click.echo(problem)
    click.echo(f"{path}: {found} problems" if found else f"{path}: sound")
    if found:
        raise click.exceptions.Exit(1)
