"""The ``celebahq`` command group: parses, calls one function, prints; heavy imports are inside the commands."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder import __version__
from celebahq_builder.errors import CelebAHQError, RecipeError

if TYPE_CHECKING:
    from celebahq_builder.runner import Summary
    from celebahq_builder.source import Source

STAGES = ("region", "denoise", "upscale", "align", "score", "select", "pack")
FOLDER = click.Path(path_type=Path)


def main() -> None:
    """Run the ``celebahq`` command group."""
    run_command(celebahq)


def run_command(command: click.Command) -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(command.main(standalone_mode=False))
    except CelebAHQError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command (without --redo) goes on from here", err=True)
        sys.stderr.flush()
        os._exit(130)  # workers are told to stop already; waiting for them would look like a hang


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def celebahq() -> None:
    """Build CelebA-HQ from in-the-wild photos, train its networks, and check the results."""


@celebahq.command()
@click.option(
    "--celeba-root", type=FOLDER, metavar="DIR", help="CelebA as its authors ship it: img_celeba/, Anno/, Eval/."
)
@click.option("--photos", type=FOLDER, metavar="DIR", help="Your own photos instead, with --landmarks.")
@click.option(
    "--landmarks", type=FOLDER, metavar="TABLE.csv", help="Landmarks of --photos: file, lefteye_x, ... rightmouth_y."
)
@click.option(
    "--out", type=FOLDER, metavar="WORK", required=True, help="Run directory; an interrupted run goes on in it."
)
@click.option("--recipe", type=FOLDER, metavar="FILE.toml", help="Settings; default pipelines/celebahq-1024.toml.")
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
    "--ids", type=FOLDER, metavar="FILE", help="Only the photos named in this file, one id or file name per line."
)
@click.option(
    "--image-list",
    type=FOLDER,
    metavar="FILE",
    help="image_list.txt of the official CelebA-HQ, with --recipe official-deltas: only its photos, in its order. "
    "Without --deltas, the pictures that the deltas belong to, each checked by its MD5.",
)
@click.option(
    "--deltas",
    type=FOLDER,
    metavar="DIR",
    help="Folder of deltas00000.zip, ..., all or some, with --image-list: makes the official CelebA-HQ, bit for bit.",
)
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Seed of whatever is random.")
@click.option("--dry-run", is_flag=True, help="Print settings, what is done, what is left, and the disk it will take.")
def build(out: Path, dry_run: bool, device: str, until: str, start: str | None, redo: str | None, **asked: Any) -> None:
    """Build a data set: region, denoise, upscale, align, score, select, pack.

    Kill it at any time: the same command, less --redo, goes on where it stood.
    """
    from celebahq_builder import runner, settings

    recipe, origins = settings.resolve(
        asked["recipe"],
        {
            "select.keep": ("--keep", asked["keep"]),
            "resolution": ("--resolution", asked["resolution"]),
            "seed": ("--seed", asked["seed"]),
        },
    )
    ids = settings.read_ids(asked["ids"])
    settings.check_official(recipe, asked["deltas"], asked["image_list"])
    source = _source(asked["celeba_root"], asked["photos"], asked["landmarks"])
    from celebahq_builder.source import official, subset

    if asked["image_list"]:
        from celebahq_builder.image_list import read_image_list

        source = official(source, read_image_list(asked["image_list"]))
    source = subset(source, limit=asked["limit"], ids=ids)
    request = runner.Request(
        out=out,
        recipe=recipe,
        origins=origins,
        workers=asked["workers"] or os.cpu_count() or 1,
        device=device,
        limit=asked["limit"],
        ids=settings.ids_hash(ids),
        until=until,
        start=start,
        redo=redo,
        deltas=asked["deltas"],
    )
    if dry_run:
        for line in runner.dry_run(request, source):
            click.echo(line)
        return
    for warning in source.warnings:
        logging.getLogger(__name__).warning("warning: %s", warning)
    _print_summary(runner.build(request, source))


def _source(celeba_root: Path | None, photos: Path | None, landmarks: Path | None) -> Source:
    from celebahq_builder.source import read_celeba, read_folder

    if celeba_root and (photos or landmarks):
        raise RecipeError("give either --celeba-root, or --photos with --landmarks, not both")
    if celeba_root:
        return read_celeba(celeba_root)
    if photos and landmarks:
        return read_folder(photos, landmarks)
    raise RecipeError("nothing to build from: give --celeba-root DIR, or --photos DIR with --landmarks TABLE.csv")


def _print_summary(summary: Summary) -> None:
    click.echo(f"{summary.photos} photos: {summary.kept} kept + {summary.rejected} rejected + {summary.failed} failed")
    for reason, count in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"  {reason}: {count}")
    if summary.hdf5:
        click.echo(f"data set: {summary.hdf5}")
    if summary.report:
        click.echo(f"report:   {summary.report}")


@celebahq.command()
@click.argument("work", type=FOLDER)
def status(work: Path) -> None:
    """Say what the run directory WORK holds so far."""
    from celebahq_builder.status import status as lines
    from celebahq_builder.workspace import Workspace

    for line in lines(Workspace(work)):
        click.echo(line)


@celebahq.command()
@click.argument("path", type=FOLDER, metavar="WORK|FILE.h5")
def verify(path: Path) -> None:
    """Check hashes, counts and levels of a run directory or an HDF5 file; exit code 1 if anything is wrong."""
    from celebahq_builder.verify import verify as problems

    found = 0
    for problem in problems(path):
        found += 1
        click.echo(problem)
    click.echo(f"{path}: {found} problems" if found else f"{path}: sound")
    if found:
        raise click.exceptions.Exit(1)


@celebahq.command()
@click.argument("file", type=FOLDER, metavar="FILE.h5")
def inspect(file: Path) -> None:
    """Say what an HDF5 file holds: levels, sizes, sources, scores, recipe."""
    from celebahq_builder.formats.inspection import inspect_hdf5

    for line in inspect_hdf5(file):
        click.echo(line)


@celebahq.command("filter")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep the N pictures of the highest scores.")
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="S", help="Keep all of score S or more: 0 to 1.")
@click.option(
    "--top",
    "top_percent",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Keep the best PERCENT of a hundred of those that have a score, rounded down, but at least one.",
)
@click.option(
    "--out",
    type=FOLDER,
    metavar="DIR2",
    help="Deliver the kept pictures there, with the folders they are in below DIR.",
)
@click.option("--list", "list_path", type=FOLDER, metavar="FILE.csv", help="Or write their names and scores there.")
@click.option("--copy", "mode", flag_value="copy", help="With --out: copy them, with their time stamps. The default.")
@click.option(
    "--link",
    "mode",
    flag_value="link",
    help="With --out: hard links, which take no space, but a change of one is a change of both; "
    "symbolic ones to absolute paths where DIR2 is on another disk.",
)
@click.option("--move", "mode", flag_value="move", help="With --out: take them out of DIR; asks first.")
@click.option("--yes", is_flag=True, help="Answer what --move asks with yes.")
@click.option(
    "--scores",
    type=FOLDER,
    metavar="DIR3",
    help="Folder of scores.csv, index.html and what goes on after a kill; default DIR-scores, beside DIR.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes; default one per core. Never changes the result."
)
@click.option(
    "--pixels-max",
    type=click.IntRange(1),
    default=100_000_000,
    show_default=True,
    metavar="PX",
    help="Pictures of more pixels are not decoded: 6 bytes of memory per pixel and process.",
)
def filter_pictures(folder: Path, yes: bool, mode: str | None, workers: int | None, **asked: Any) -> None:
    """Score the pictures below DIR, of any size, and keep the best.

    The score says how much fine detail the square in the middle of a picture shows, judged as 1024x1024 px: a larger
    one is reduced by averaging areas, a smaller one is enlarged, which adds no detail. 0 to 1, higher is better;
    equal scores are ordered by path. Without --keep, --min-score or --top all are kept.

    Without --out or --list nothing is written but the scores folder: scores.csv with every picture, and index.html
    to look at. Nothing is ever overwritten, and DIR is not written into unless a path in it is given.

    Kill it at any time: the same command goes on. A file that changed (size, time) is scored again.

    Pictures are files ending in .jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .tif, .tiff, .gif, .jp2, .ppm, .pgm, .tga,
    .avif, .heic, .heif, in any case. Those that cannot be read are listed with the reason; other files, hidden ones and
    links to folders are counted. Of several names of one file the first counts, of an animation the first picture.
    """
    from celebahq_builder.filter import command
    from celebahq_builder.filter.delivery import Mode
    from celebahq_builder.filter.selection import Cut

    if mode == "move" and not yes and not sys.stdin.isatty():
        raise RecipeError("--move asks before it moves anything, and there is no terminal to answer on; add --yes")
    cut = Cut(asked.pop("keep"), asked.pop("min_score"), asked.pop("top_percent"))
    request = command.Request(
        folder, cut, mode=Mode(mode) if mode else None, workers=workers or os.cpu_count() or 1, **asked
    )
    summary = command.run(request, lambda question: yes or click.confirm(question))
    for line in summary.lines():
        click.echo(line)
    if summary.declined or (summary.delivered and summary.delivered.problems):
        raise click.exceptions.Exit(1)


def _training_options(command: Any) -> Any:
    options = (
        click.argument("photos", type=FOLDER, metavar="PHOTOS_DIR"),
        click.option(
            "--out",
            type=FOLDER,
            metavar="RUN",
            required=True,
            help="Directory of the run; the same command resumes it.",
        ),
        click.option(
            "--recipe", type=FOLDER, metavar="FILE.toml", help="Training settings; default the bundled recipe."
        ),
        click.option("--start", metavar="NAME", help="Weights to go on from: a registered name, or DIR/NAME."),
        click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1."),
        click.option(
            "--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="CPU threads of torch."
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            metavar="N",
            help="Threads that prepare pictures ahead; default 0 on a CPU, up to 8 beside a GPU.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@celebahq.command("train-denoiser")
@_training_options
def train_denoiser(photos: Path, recipe: Path | None, **asked: Any) -> None:
    """Train the network that removes JPEG artefacts on any folder of clean photos.

    --recipe denoiser-finetune --start denoiser goes on from the bundled weights. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-denoiser ...
    """
    _train("denoise", photos, recipe or Path("denoiser"), asked)


@celebahq.command("train-upscaler")
@_training_options
def train_upscaler(photos: Path, recipe: Path | None, **asked: Any) -> None:
    """Train the 4x super-resolution network on any folder of clean photos.

    --recipe upscaler-gan goes on from the bundled upscaler-psnr against a discriminator. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-upscaler ...
    """
    _train("upscale", photos, recipe or Path("upscaler-psnr"), asked)


def _train(kind: str, photos: Path, recipe: Path, asked: dict[str, Any]) -> None:
    from celebahq_builder.settings import bundled_recipe
    from celebahq_builder.training.command import train

    click.echo(f"best weights: {train(kind, photos, recipe=bundled_recipe(recipe, 'train'), **asked)}")


PRETRAINED = click.option(
    "--pretrained", type=FOLDER, metavar="DIR", help="Folder of registry.toml; default the bundled one."
)


@celebahq.group("weights")
def weights_group() -> None:
    """List, check and export weights: NAME is bundled, DIR/NAME is in DIR/registry.toml."""


@weights_group.command("list")
@PRETRAINED
def list_weights(pretrained: Path | None) -> None:
    """Print a registry: name, network, parameters, size, licence, scores."""
    from celebahq_builder.weights.catalogue import table

    for line in table(pretrained):
        click.echo(line)


@weights_group.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME|DIR/NAME]...")
@PRETRAINED
def verify_weights(names: tuple[str, ...], pretrained: Path | None) -> None:
    """Check size, SHA-256, tensors and values of weights, by default all; exit code 1 if anything is wrong."""
    from celebahq_builder.weights.catalogue import verify as check

    wrong = False
    for name, problem in check(names, pretrained):
        click.echo(f"{name}: {problem or 'sound'}")
        wrong = wrong or bool(problem)
    if wrong:
        raise click.exceptions.Exit(1)


@weights_group.command("export")
@click.argument("run", type=FOLDER)
@click.option("--name", required=True, metavar="NAME", help="Name to be known by: letters, digits, - and _.")
@click.option("--to", type=FOLDER, required=True, metavar="DIR", help="Folder of registry.toml; made if need be.")
@click.option("--licence", required=True, metavar="TEXT", help="Licence of the weights: CC BY-SA 4.0.")
@click.option("--data", required=True, metavar="TEXT", help="What they were trained on, for the model card.")
@click.option(
    "--scores",
    type=FOLDER,
    metavar="FILE.json",
    help="Figures as name -> number, or a benchmark's rows; default the run's last validation of these weights.",
)
@click.option("--replace", is_flag=True, help="Replace weights of that name; what the card says by hand is kept.")
def export_weights(run: Path, name: str, to: Path, **asked: Any) -> None:
    """Make the best weights of the training run RUN usable by name.

    Writes DIR/NAME.safetensors, the entry [NAME] of DIR/registry.toml, and the model card DIR/NAME.md.
    """
    from celebahq_builder.weights.export import export

    made = export(run, name, to, **asked)
    click.echo(f"weights:    {made.weights}, in {made.registry}")
    click.echo(f"model card: {made.card}; complete its section on what the network cannot do")
    click.echo(f'recipe:     {made.setting} = "{to}/{name}"')
