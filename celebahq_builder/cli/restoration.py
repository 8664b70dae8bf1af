"""Commands that train the restoration networks: ``train-denoiser`` and ``train-upscaler``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq


def _training_options(command: Any) -> Any:
    options = (
        click.argument("photos", type=PATH, metavar="PHOTOS_DIR"),
        click.option(
            "--out",
            type=PATH,
            metavar="RUN",
            required=True,
            help="Folder of the run; the same command resumes it.",
        ),
        click.option("--recipe", type=PATH, metavar="FILE.toml", help="Training recipe; default the bundled one."),
        click.option("--start", metavar="NAME", help="Weights to start from: a registered name, or DIR/NAME."),
        click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1."),
        click.option(
            "--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="CPU threads of torch."
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            metavar="N",
            help="Threads that prepare images ahead; default 0 on a CPU, up to 8 beside a GPU.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@celebahq.command("train-denoiser", interrupted="run the same command again to resume from the last checkpoint")
@_training_options
def train_denoiser(photos: Path, recipe: Path | None, **asked: Any) -> None:
    """Train the network that removes JPEG artefacts on any folder of clean photos.

    --recipe denoiser-finetune --start denoiser fine-tunes the bundled weights. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-denoiser ...
    """
    _train("denoise", photos, recipe or Path("denoiser"), asked)


@celebahq.command("train-upscaler", interrupted="run the same command again to resume from the last checkpoint")
@_training_options
def train_upscaler(photos: Path, recipe: Path | None, **asked: Any) -> None:
    """Train the 4x super-resolution network on any folder of clean photos.

    --recipe upscaler-gan trains the bundled upscaler-psnr further, with a discriminator. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train-upscaler ...
    """
    _train("upscale", photos, recipe or Path("upscaler-psnr"), asked)


def _train(kind: str, photos: Path, recipe: Path, asked: dict[str, Any]) -> None:
    from celebahq_builder.pipeline.recipe import bundled_recipe
    from celebahq_builder.restoration.loop import train

    click.echo(f"best weights: {train(kind, photos, recipe=bundled_recipe(recipe, 'train'), **asked)}")
