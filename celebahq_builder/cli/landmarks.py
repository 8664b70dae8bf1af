"""Commands for landmarks: ``landmarks``, ``train-landmarks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq, print_path
from celebahq_builder.cli.restoration import run_training, training_options


@celebahq.command(
    interrupted="run the same command again to resume",
    examples={
        "Find all faces.": "celebahq landmarks photos --out faces.csv",
        "Take one face of each photo, if it is large enough.": (
            "celebahq landmarks photos --faces largest --min-face-px 200 --out largest.csv"
        ),
    },
)
@click.argument("photos", type=PATH, metavar="PHOTOS_DIR")
@click.option("--out", type=PATH, metavar="TABLE.csv", required=True, help="Table to write, for build --landmarks.")
@click.option(
    "--faces",
    type=click.Choice(["all", "largest", "central"]),
    default="all",
    help="Faces of a photo that are used: all, the largest one, or the one nearest to the centre.",
)
@click.option(
    "--min-face-px",
    type=click.IntRange(1),
    default=48,
    metavar="PX",
    help="Least width of the crop around a face, in px of the photo.",
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0.5, 1),
    default=0.8,
    metavar="C",
    help="Least confidence of the detector.",
)
@click.option(
    "--max-spread",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    metavar="S",
    help="Largest standard deviation of the landmarks over several views of a face, in distances of the eyes; profiles "
    "have more.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes; default one per core. Does not change the result.",
)
@click.option(
    "--model",
    type=PATH,
    metavar="FILE",
    help="Model file of OpenCV's face detector YuNet; by default it is downloaded once (0.2 MB).",
)
@click.option(
    "--refiner",
    type=PATH,
    metavar="RUN|NAME",
    show_default="none",
    help="Network that makes the landmarks more precise: a folder of train-landmarks, or weights of a registry.",
)
def landmarks(photos: Path, **options: Any) -> None:
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
