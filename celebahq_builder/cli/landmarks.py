"""Commands for landmarks: ``train-landmarks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq


@celebahq.command("train-landmarks", interrupted="run the same command again to resume from the last checkpoint")
@click.argument("celeba_root", type=PATH, metavar="CELEBA_ROOT")
@click.option("--out", type=PATH, metavar="RUN", required=True, help="Folder of the run; the same command resumes it.")
@click.option("--recipe", type=PATH, metavar="FILE.toml", help="Training recipe; default the bundled one.")
@click.option("--start", metavar="NAME", help="Weights to start from: a registered name, or DIR/NAME.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="CPU threads of torch."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Threads that prepare images ahead; default 0 on a CPU, up to 8 beside a GPU.",
)
def train_landmarks(celeba_root: Path, recipe: Path | None, **asked: Any) -> None:
    """Train the network that refines landmarks, on any folder in CelebA's layout.

    CELEBA_ROOT has the folder img_celeba and the table Anno/list_landmarks_celeba.txt. The network learns the
    convention of this table.
    """
    from celebahq_builder.landmarks.training import train
    from celebahq_builder.pipeline.recipe import bundled_recipe

    recipe = bundled_recipe(recipe or Path("landmarks"), "train")
    click.echo(f"weights: {train(celeba_root, recipe=recipe, **asked)}")
