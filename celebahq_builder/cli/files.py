"""Commands on data set files: ``inspect``, ``export``, ``import``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq


@celebahq.command()
@click.argument("file", type=PATH, metavar="FILE.h5")
def inspect(file: Path) -> None:
    """Say what an HDF5 file holds: levels, sizes, sources, scores, recipe."""
    from celebahq_builder.inspect.info import inspect_hdf5

    for line in inspect_hdf5(file):
        click.echo(line)


@celebahq.command("export", interrupted="the same command goes on from here")
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
    metavar="N",
    help="webdataset, parquet: images in a file; default 1000.",
)
@click.option(
    "--png-level",
    type=click.IntRange(0, 9),
    metavar="0-9",
    help="All but tfrecord: of PNG, 0 no compression, 9 smallest and slowest; default 1.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes, of stylegan-zip threads; default one per core. Never changes the result.",
)
def export_file(file: Path, out: Path, workers: int | None, **asked: Any) -> None:
    """Write a level of an HDF5 file as another program reads it; pixels stay what they are.

    \b
    tfrecord      ProGAN, StyleGAN for TensorFlow: a folder of NAME-r02.tfrecords (4x4) to NAME-r10.tfrecords
    stylegan-zip  StyleGAN2-ADA, StyleGAN3: a zip of PNG and dataset.json
    images        a folder of PNG and metadata.jsonl
    webdataset    tar shards of PNG and JSON
    parquet       shards of a table with an image column: Hugging Face datasets

    What is known of the images goes along where the format has a place for it. Labels are those of
    FILE-labels.npy, or else the attributes. Kill it at any time: the same command goes on from PATH.partial.
    """  # noqa: D301 - click wants the character, not its name
    from celebahq_builder.formats.export import ExportSettings, export

    images = export(file, out, ExportSettings(**asked), workers or os.cpu_count() or 1)
    click.echo(f"{out}: {images} images")


@celebahq.command("import", interrupted="nothing is left of it, the same command begins anew")
@click.argument("path", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="FILE.h5", help="File to be made.")
@click.option(
    "--from",
    "format",
    type=click.Choice(
        ["images", "stylegan-zip", "tfrecord", "webdataset", "parquet", "hdf5", "cifar10", "mnist", "lsun"]
    ),
    help="The format; default what PATH looks like.",
)
@click.option(
    "--resize",
    type=int,
    metavar="R",
    help="Formats of images of any size: cut the middle of each to R x R px, by a Lanczos filter.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--skip", type=PATH, metavar="FILE", help="lsun: leave out the entries of these names, one a line.")
@click.option(
    "--compression",
    type=click.Choice(["gzip", "none", "blosc2"]),
    default="gzip",
    show_default=True,
    help="Of the file; every HDF5 reader has gzip.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Threads; default one per core. Never changes the result."
)
def import_file(path: Path, out: Path, workers: int | None, **asked: Any) -> None:
    """Write the data set PATH to a new multi-resolution HDF5 file; pixels stay what they are.

    \b
    images        a folder of PNG, JPEG, WebP, BMP or TIFF at any depth; metadata.jsonl where it has one
    stylegan-zip  a zip of such images; labels of its dataset.json
    tfrecord      a folder of NAME-r02.tfrecords ... with NAME-rxx.labels, or a single file
    webdataset    a folder of tar shards: of each sample the image, .json and .cls; or a single one
    parquet       a folder of Parquet files with an image column, as Hugging Face datasets has it; or a single one
    hdf5          a file of the ProGAN authors' Theano tool, or of this package
    cifar10       its folder or archive, Python or binary
    mnist         the folder of its four files
    lsun          the folder of an LMDB, or of images; 256 px without --resize

    Images are square, of one size, a power of two, RGB or grey of 8 bits; grey stays one channel where all are.
    Labels go to FILE-labels.npy. An import that was killed starts again.
    """  # noqa: D301
    from celebahq_builder.formats.import_ import import_images

    images = import_images(path, out, workers=workers or os.cpu_count() or 1, **asked)
    click.echo(f"{out}: {images} images")
