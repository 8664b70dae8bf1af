"""Conversion commands: ``export`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder import parallel
from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import PATH, choice_option, count_option, out_option, path_option, workers_option
from celebahq_builder.cli.output import print_path


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
@choice_option(
    "--to",
    choices=["tfrecord", "stylegan-zip", "images", "webdataset", "parquet"],
    required=True,
    help="Format to write.",
)
@out_option("PATH", "Zip file for stylegan-zip, a folder for the other formats.")
@click.option("--resolution", type=int, metavar="R", show_default="the largest", help="Level to export, in px.")
@click.option("--shuffle", is_flag=True, help="tfrecord: shuffle as the ProGAN authors' tool does.")
@count_option("--shard", help="webdataset, parquet: images per file; default 1000.")
@count_option(
    "--png-level",
    least=0,
    most=9,
    metavar="0-9",
    help="All formats but tfrecord: PNG compression, 0 none, 9 smallest and slowest; default 1.",
)
@choice_option(
    "--image-format",
    choices=["png", "jpg", "webp"],
    show_default="png",
    help="images: format of the files. JPEG and WebP are smaller, and change the pixels.",
)
@count_option("--quality", most=100, metavar="1-100", show_default="95", help="Quality of JPEG and WebP files.")
@workers_option("Worker processes (threads for stylegan-zip); default one per core. Does not change the result.")
def export(file: Path, out: Path, workers: int | None, **asked: Any) -> None:
    r"""Export a level of an HDF5 file or a run directory to another format.

    \b
    tfrecord      ProGAN, StyleGAN for TensorFlow: a folder of NAME-r02.tfrecords
                  (4x4) to NAME-r10.tfrecords (1024x1024)
    stylegan-zip  StyleGAN2-ADA, StyleGAN3: a zip of PNG files and dataset.json
    images        a folder of PNG, JPEG or WebP files and metadata.jsonl
    webdataset    tar shards of PNG and JSON files
    parquet       shards of a table with an image column, which Hugging Face
                  datasets reads

    Metadata of the images are exported where the format can hold them. Labels come from FILE-labels.npy, or else
    from the attributes. If a run directory has no HDF5 file yet, the images of its finished batches are exported.

    You can kill the command at any time: the same command resumes from PATH.partial.
    """
    from celebahq_builder.formats.conversion import export_file
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
@out_option("FILE.h5", "HDF5 file to create.")
@choice_option(
    *("--from", "format"),
    choices=["images", "stylegan-zip", "tfrecord", "webdataset", "parquet", "hdf5", "cifar10", "mnist", "lsun"],
    metavar="FORMAT",
    help="Format of PATH, one of the list above; by default it is recognized.",
)
@click.option(
    "--resize",
    type=int,
    metavar="R",
    show_default="no change of size",
    help="Crop the centre of each image and resize it to R x R px with a Lanczos filter; not for formats of one size.",
)
@choice_option(
    "--crop",
    choices=["celeba"],
    show_default="none",
    help="images: cut 128x128 px around (89, 121) out of CelebA's aligned images (img_align_celeba, 178x218 px) as the "
    "ProGAN authors did; attributes and splits come from CelebA's tables near them.",
)
@count_option("--limit", show_default="all", help="Only the first N images.")
@path_option(
    "--skip",
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
@choice_option(
    "--compression",
    choices=["gzip", "none", "blosc2"],
    default="gzip",
    help="Compression of the file; every HDF5 reader supports gzip.",
)
@workers_option("Threads; default one per core. Does not change the result.")
def import_file(path: Path, out: Path, workers: int | None, **asked: Any) -> None:
    r"""Import a data set into a new HDF5 file.

    Pixel values do not change, unless --resize is given.

    \b
    images        a folder of PNG, JPEG, WebP, BMP, TIFF or AVIF files at any
                  depth, with metadata.jsonl, metadata.csv and dataset.json if
                  there are any
    stylegan-zip  a zip of such files and tables
    tfrecord      a folder of NAME-r02.tfrecords ... with NAME-rxx.labels, or a
                  single file
    webdataset    a tar shard, or a folder of them: image, .json and .cls of each
                  sample
    parquet       a Parquet file with an image column, as Hugging Face datasets
                  writes it, or a folder of them
    hdf5          a file of the ProGAN authors' Theano tool, or of this package
    cifar10       its folder or archive, Python or binary version
    mnist         the folder of its four files
    lsun          the folder of an LMDB, or of images; 256 px unless --resize is
                  given

    Images must be square, of one size that is a power of two, 8-bit RGB or greyscale. Greyscale keeps one channel if
    all images are greyscale. Labels are written to FILE-labels.npy.
    """
    from celebahq_builder.formats.conversion import import_images

    images = import_images(path, out, workers=workers or parallel.cores(), **asked)
    click.echo(f"{images} images")
    print_path("data set", out)
