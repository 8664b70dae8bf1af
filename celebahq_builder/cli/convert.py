"""Conversion commands: ``export`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder import parallel
from celebahq_builder.cli.main import PATH, celebahq, print_path


@celebahq.command(
    "export",
    interrupted="run the same command again to resume",
    examples={
        "Write a zip for StyleGAN3, at 256x256.": (
            "celebahq export faces.h5 --to stylegan-zip --resolution 256 --out faces.zip"
        ),
        "Write what is done of a run as JPEG files.": (
            "celebahq export work --to images --image-format jpg --quality 95 --out jpg"
        ),
    },
)
@click.argument("file", type=PATH, metavar="FILE.h5|WORK")
@click.option(
    "--to",
    type=click.Choice(["tfrecord", "stylegan-zip", "images", "webdataset", "parquet"]),
    required=True,
    help="Format to write.",
)
@click.option(
    "--out", type=PATH, required=True, metavar="PATH", help="Zip file for stylegan-zip, a folder for the other formats."
)
@click.option("--resolution", type=int, metavar="R", show_default="the largest", help="Level to export, in px.")
@click.option("--shuffle", is_flag=True, help="tfrecord: shuffle as the ProGAN authors' tool does.")
@click.option(
    "--shard",
    type=click.IntRange(1),
    metavar="N",
    help="webdataset, parquet: images per file; default 1000.",
)
@click.option(
    "--png-level",
    type=click.IntRange(0, 9),
    metavar="0-9",
    help="All formats but tfrecord: PNG compression, 0 none, 9 smallest and slowest; default 1.",
)
@click.option(
    "--image-format",
    type=click.Choice(["png", "jpg", "webp"]),
    show_default="png",
    help="images: format of the files. JPEG and WebP are smaller, and change the pixels.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    metavar="1-100",
    show_default="95",
    help="Quality of JPEG and WebP files.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Worker processes (threads for stylegan-zip); default one per core. Does not change the result.",
)
def export(file: Path, out: Path, workers: int | None, **asked: Any) -> None:
    """Export a level of an HDF5 file or a run directory to another format.

    \b
    tfrecord      ProGAN, StyleGAN for TensorFlow: a folder of NAME-r02.tfrecords (4x4) to NAME-r10.tfrecords
    stylegan-zip  StyleGAN2-ADA, StyleGAN3: a zip of PNG files and dataset.json
    images        a folder of PNG, JPEG or WebP files and metadata.jsonl
    webdataset    tar shards of PNG and JSON files
    parquet       shards of a table with an image column, as Hugging Face datasets reads them

    Metadata of the images are exported where the format can hold them. Labels come from FILE-labels.npy, or else
    from the attributes. If a run directory has no HDF5 file yet, the images of its finished batches are exported.

    You can kill the command at any time: the same command resumes from PATH.partial.
    """  # noqa: D301 - click wants the character, not its name
    from celebahq_builder.formats.export import export_file
    from celebahq_builder.pipeline.run_images import find_images

    images = export_file(find_images(file), out, asked.pop("to"), workers=workers, **asked)
    click.echo(f"{images} images")
    print_path("export", out)


@celebahq.command(
    "import",
    interrupted="nothing was written",
    examples={
        "Make an HDF5 file of a folder of images.": "celebahq import photos --resize 256 --out photos.h5",
        "Make CelebA at 128x128, as in the paper.": (
            "celebahq import img_align_celeba --crop celeba --out celeba-128.h5"
        ),
    },
)
@click.argument("path", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="FILE.h5", help="HDF5 file to create.")
@click.option(
    "--from",
    "format",
    type=click.Choice(
        ["images", "stylegan-zip", "tfrecord", "webdataset", "parquet", "hdf5", "cifar10", "mnist", "lsun"]
    ),
    help="Format of PATH; by default it is recognised.",
)
@click.option(
    "--resize",
    type=int,
    metavar="R",
    show_default="no change of size",
    help="Crop the centre of each image and resize it to R x R px with a Lanczos filter; not for formats of one size.",
)
@click.option(
    "--crop",
    type=click.Choice(["celeba"]),
    show_default="none",
    help="images: cut 128x128 px around (89, 121) out of CelebA's aligned images (img_align_celeba, 178x218 px) as the "
    "ProGAN authors did; attributes and splits come from CelebA's tables near them.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", show_default="all", help="Only the first N images.")
@click.option(
    "--skip",
    type=PATH,
    metavar="FILE",
    show_default="none",
    help="lsun: leave out the entries that this file names, one per line.",
)
@click.option(
    "--split",
    metavar="NAME",
    show_default="the only one",
    help="webdataset, parquet: the split to take, such as train, if PATH holds several.",
)
@click.option(
    "--compression",
    type=click.Choice(["gzip", "none", "blosc2"]),
    default="gzip",
    help="Compression of the file; every HDF5 reader supports gzip.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Threads; default one per core. Does not change the result."
)
def import_file(path: Path, out: Path, workers: int | None, **asked: Any) -> None:
    """Import a data set into a new HDF5 file.

    Pixel values do not change, unless --resize is given.

    \b
    images        a folder of PNG, JPEG, WebP, BMP, TIFF or AVIF files at any depth, with metadata.jsonl, metadata.csv
                  and dataset.json if there are any
    stylegan-zip  a zip of such files and tables
    tfrecord      a folder of NAME-r02.tfrecords ... with NAME-rxx.labels, or a single file
    webdataset    a folder of tar shards, or a single one: the image, .json and .cls of each sample
    parquet       a folder of Parquet files with an image column, as Hugging Face datasets writes them, or a single one
    hdf5          a file of the ProGAN authors' Theano tool, or of this package
    cifar10       its folder or archive, Python or binary version
    mnist         the folder of its four files
    lsun          the folder of an LMDB, or of images; 256 px unless --resize is given

    Images must be square, of one size that is a power of two, 8-bit RGB or greyscale. Greyscale keeps one channel if
    all images are greyscale. Labels are written to FILE-labels.npy.
    """  # noqa: D301
    from celebahq_builder.formats.import_ import import_images

    images = import_images(path, out, workers=workers or parallel.cores(), **asked)
    click.echo(f"{images} images")
    print_path("data set", out)
