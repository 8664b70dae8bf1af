"""Commands that train the networks of the build: ``train-denoiser`` and others; and the group ``weights``."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import (
    DEVICE,
    PATH,
    THREADS,
    Command,
    path_option,
    together,
    training_run,
    workers_option,
)
from celebahq_builder.cli.output import print_path
from celebahq_builder.config import format_overrides


def training_options(recipe: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of a training; `recipe` is the default of --recipe."""
    return together(
        training_run(recipe),
        click.option(
            "--start",
            metavar="NAME",
            show_default="as in the recipe",
            help="Weights to start from: a registered name, or DIR/NAME.",
        ),
        DEVICE,
        THREADS,
        workers_option("Processes that prepare images ahead; default 0 on a CPU, up to 8 with a GPU.", least=0),
    )


def run_training(
    command: str,
    kind: str,
    module: str,
    photos: Path,
    *,
    recipe: Path,
    overrides: dict[str, object],
    start: str | None,
    **asked: Any,
) -> None:
    """Train a network, and print the path of its weights.

    Args:
        command: command line up to the photos, for the model card.
        kind: prefix of the recipe's key ``task``.
        module: name of the module with the table `TASKS`.
        photos: folder of the photos.
        recipe: path of the recipe, or name of a bundled one.
        overrides: values by dotted key that replace those of the recipe.
        start: weights to start from, instead of those of the recipe.
        asked: fields of `training.loop.TrainingOptions`.
    """
    from celebahq_builder.training.interruption import StopRequest

    stop = StopRequest()
    with stop.listening():
        with stop.abandonable():
            from celebahq_builder.pipeline.recipe import bundled_recipe
            from celebahq_builder.training.distributed import is_main_process
            from celebahq_builder.training.interface import load_recipe
            from celebahq_builder.training.loop import TrainingOptions, train

            tasks = importlib.import_module(module).TASKS
        task, settings = load_recipe(bundled_recipe(recipe, "train"), kind, tasks, overrides, start)
        started = f" --start {start}" if start else ""
        changes = "".join(f" --set {shlex.quote(change)}" for change in format_overrides(overrides))
        line = f"celebahq {command} --recipe {recipe.stem}{started}{changes}"
        weights = train(task, settings, photos, TrainingOptions(**asked, command=line, stop=stop))
        if is_main_process():
            print_path("weights", weights)


PHOTOS = click.argument("photos", type=PATH, metavar="PHOTOS_DIR")
RESTORATION = "celebahq_builder.restoration"


@celebahq.command(
    "train-denoiser",
    interrupted="run the same command again; it resumes if there is a checkpoint",
    examples={
        "Train from the beginning.": "celebahq train-denoiser photos --out runs/denoiser",
        "Fine-tune the bundled weights.": (
            "celebahq train-denoiser photos --recipe denoiser-finetune --start denoiser --out runs/fine"
        ),
    },
)
@PHOTOS
@training_options("denoiser")
def train_denoiser(photos: Path, **asked: Any) -> None:
    """Train the network that removes JPEG artefacts.

    PHOTOS_DIR is any folder of clean photos. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-denoiser ...
    """
    run_training("train-denoiser PHOTOS", "denoise", RESTORATION, photos, **asked)


@celebahq.command(
    "train-upscaler",
    interrupted="run the same command again; it resumes if there is a checkpoint",
    examples={
        "Train from the beginning.": "celebahq train-upscaler photos --out runs/upscaler",
        "Train the bundled weights further, with a discriminator.": (
            "celebahq train-upscaler photos --recipe upscaler-gan --out runs/gan"
        ),
    },
)
@PHOTOS
@training_options("upscaler-psnr")
def train_upscaler(photos: Path, **asked: Any) -> None:
    """Train the 4x super-resolution network.

    PHOTOS_DIR is any folder of clean photos. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-upscaler ...
    """
    run_training("train-upscaler PHOTOS", "upscale", RESTORATION, photos, **asked)


@celebahq.command(
    "train-landmarks",
    interrupted="run the same command again; it resumes if there is a checkpoint",
    examples={
        "Train on CelebA.": "celebahq train-landmarks /data/celeba --out runs/landmarks",
        "Train for fewer steps than the recipe.": (
            "celebahq train-landmarks /data/celeba --out runs/short --set steps=2000"
        ),
    },
)
@click.argument("celeba_root", type=PATH, metavar="CELEBA_ROOT")
@training_options("landmarks")
def train_landmarks(celeba_root: Path, **asked: Any) -> None:
    """Train the network that refines landmarks.

    CELEBA_ROOT is CelebA, or any folder in its layout: it has the folder img_celeba and the table
    Anno/list_landmarks_celeba.txt. The network learns the convention of this table.
    """
    module = "celebahq_builder.landmarks.training"
    run_training("train-landmarks CELEBA_ROOT", "landmarks", module, celeba_root, **asked)


PRETRAINED = path_option("--pretrained", metavar="DIR", help="Folder of registry.toml; default the bundled registry.")


@celebahq.group(
    "weights",
    examples={
        "List the bundled weights.": "celebahq weights list",
        "Check them.": "celebahq weights verify",
    },
)
def weights_group() -> None:
    """List, check and export weights.

    NAME is bundled, DIR/NAME is in DIR/registry.toml.
    """


@weights_group.command(
    "list",
    examples={
        "List the bundled weights.": "celebahq weights list",
        "List your own weights.": "celebahq weights list --pretrained weights",
    },
)
@PRETRAINED
def list_weights(pretrained: Path | None) -> None:
    """Print a registry: name, network, parameters, size, licence, scores."""
    from celebahq_builder.models.registry import table_lines

    for line in table_lines(pretrained):
        click.echo(line)


@weights_group.command(
    "verify",
    examples={
        "Check all bundled weights.": "celebahq weights verify",
        "Check bundled weights and weights of your own.": "celebahq weights verify denoiser weights/mine",
    },
)
@click.argument("names", nargs=-1, metavar="[NAME|DIR/NAME]...")
@PRETRAINED
def verify_weights(names: tuple[str, ...], pretrained: Path | None) -> None:
    """Check size, SHA-256, tensors and values of weights, by default of all; exit code 1 if a check fails."""
    from celebahq_builder.models.registry import verify_weights as check

    wrong = False
    for name, problem in check(names, pretrained):
        click.echo(f"{name}: {problem or 'OK'}")
        wrong = wrong or bool(problem)
    if wrong:
        raise click.exceptions.Exit(1)


@weights_group.command(
    "export",
    examples={
        "Export the best weights of a run.": (
            "celebahq weights export runs/denoiser --name mine --to weights --licence CC0 --data 'my photos'"
        ),
        "Replace them by those of another run.": (
            "celebahq weights export runs/fine --name mine --to weights --licence CC0 --data 'my photos' --replace"
        ),
    },
)
@click.argument("run", type=PATH)
@click.option("--name", required=True, metavar="NAME", help="Name of the weights: letters, digits, - and _.")
@path_option("--to", required=True, metavar="DIR", help="Folder of registry.toml; created if it does not exist.")
@click.option("--licence", required=True, metavar="TEXT", help="Licence of the weights, such as CC BY-SA 4.0.")
@click.option("--data", required=True, metavar="TEXT", help="Training data, for the model card.")
@path_option(
    "--scores",
    metavar="FILE.json",
    help="Scores as name -> number, or the rows of a benchmark; default the validation of these weights in the run.",
)
@click.option("--half", is_flag=True, help="Store float16 instead of float32: half the bytes; loading gives float32.")
@click.option("--replace", is_flag=True, help="Replace weights of that name; text added to the card by hand is kept.")
def export_weights(run: Path, name: str, to: Path, **asked: Any) -> None:
    """Export the best weights of the training run RUN to a registry.

    Writes DIR/NAME.safetensors, the entry [NAME] of DIR/registry.toml, and the model card DIR/NAME.md.
    """
    from celebahq_builder.restoration.publish import export

    made = export(run, name, to, **asked)
    if made.setting:
        click.echo(f'line of a recipe that uses the weights: {made.setting} = "{to}/{name}"')
    click.echo("complete the section of the model card on the limits of the network")
    for kind, path in (("registry", made.registry), ("weights", made.weights), ("model card", made.card)):
        print_path(kind, path)
