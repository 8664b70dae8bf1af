"""Commands on data set files: ``inspect``, ``export``, ``import``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.group import PATH, celebahq


@celebahq.command()
@click.argument("file", type=PATH, metavar="FILE.h5")
def inspect(file: Path) -> None:
    """Say what an HDF5 file holds: levels, sizes, sources, scores, recipe."""
    from celebahq_builder.formats.inspection import inspect_hdf5

    for line in inspect_hdf5(file):
        click.echo(line)


WORKERS = click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes; default one per core. Never changes the result."
)


@celebahq.command("export")
@click.argument("file", type=PATH, metavar="FILE.h5")
@click.option(
    "--to",
    type=click.Choice(["tfrecord", "stylegan-zip", "images", "webdataset", "parquet"]),
    required=True,
    help="The format.",
)
@click.option("--out", type=PATH, required=True, metavar="PATH", help="Zip file, or folder of the other formats.")
@click.option("--resolution", type=int, metavar="R", help="Which level, in px; default the largest.")
@click.option("--shuffle", is_flag=True, help="tfrecord: in the order of the ProGAN authors' tool, not the file's.")
@click.option(
    "--shard",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="webdataset, parquet: pictures in a file.",
)
@click.option(
    "--png-level",
    type=click.IntRange(0, 9),
    default=1,
    show_default=True,
    metavar="0-9",
    help="Of PNG: 0 no compression, 9 smallest and slowest.",
)
@WORKERS
def export_file(file: Path, out: Path, workers: int | None, **asked: Any) -> None:
    r"""Write a level of an HDF5 file as another program reads it; pixels stay what they are.

    \b
    tfrecord      ProGAN, StyleGAN for TensorFlow: a folder of NAME-r02.tfrecords (4x4) to NAME-r10.tfrecords
    stylegan-zip  StyleGAN2-ADA, StyleGAN3: a zip of PNG and dataset.json
    images        a folder of PNG and metadata.jsonl
    webdataset    tar shards of PNG and JSON
    parquet       shards of a table with an image column: Hugging Face datasets

    What is known of the pictures goes along where the format has a place for it. Labels are those of
    FILE-labels.npy, or else the attributes. Kill it at any time: the same command goes on from PATH.partial.
    """
    from celebahq_builder.formats.exporting import Settings, export

    pictures = export(file, out, Settings(**asked), workers or os.cpu_count() or 1)
    click.echo(f"{out}: {pictures} pictures")
