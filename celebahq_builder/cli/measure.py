"""Commands that measure images: ``filter`` scores each one, ``evaluate`` compares sets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import (
    CLUSTER,
    DEVICE,
    PATH,
    FiniteRange,
    count_option,
    out_option,
    path_option,
    seed_option,
    workers_option,
)
from celebahq_builder.cli.output import print_path
from celebahq_builder.errors import FormatError
from celebahq_builder.limits import MAX_IMAGE_PIXELS


@celebahq.command(
    "filter",
    interrupted="run the same command again to resume",
    examples={
        "Score all images, and show the best and the worst.": "celebahq filter photos",
        "Copy the best 30 percent to the folder best.": "celebahq filter photos --top 30 --out best",
    },
)
@click.argument("folder", type=PATH, metavar="DIR")
@count_option("--keep", show_default="all", help="Keep the N images of the highest scores.")
@click.option(
    "--min-score",
    type=FiniteRange(0, 1),
    metavar="S",
    show_default="all",
    help="Keep the images of score S or more. Sharp photos of a megapixel score 0.35 to 0.6, small ones 0 to 0.3.",
)
@click.option(
    "--top",
    "top_percent",
    type=FiniteRange(0, 100, min_open=True),
    metavar="PERCENT",
    show_default="all",
    help="Keep the best PERCENT of the images that have a score, rounded down, but at least one.",
)
@out_option(
    "DIR2", "Deliver the kept images to DIR2, in the same subfolders as in DIR.", required=False, show_default="none"
)
@path_option(
    *("--list", "list_path"),
    metavar="FILE.csv",
    show_default="none",
    help="Or write their names and scores to FILE.csv.",
)
@click.option(
    "--copy", "mode", flag_value="copy", help="With --out: copy them, with their time stamps. This is the default."
)
@click.option(
    "--link",
    "mode",
    flag_value="link",
    help="With --out: make hard links, which take no space; if one name is edited, the other one changes too. If DIR2 "
    "is on another disk, make symbolic links to absolute paths.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="With --out: remove the files from DIR2 that an earlier command put there and that are not kept now. Files "
    "that you put there or changed stay. Do not use it if you deleted the originals.",
)
@path_option(
    "--scores",
    metavar="DIR3",
    help="Folder for scores.csv, index.html and the scores from which a killed command resumes; default DIR-scores in "
    "the current folder.",
)
@workers_option("Processes; default one per core. Does not change the result.")
@CLUSTER
@count_option(
    "--pixels-max",
    default=MAX_IMAGE_PIXELS,
    metavar="PX",
    help="Images of more pixels are not decoded: 6 bytes of memory per pixel and process.",
)
def filter_images(folder: Path, **options: Any) -> None:
    """Score the images of the folder DIR, of any size, and keep the best.

    DIR is searched at any depth.

    The score measures the fine detail of an image, from 0 to 1; higher is better, and sharp photos have about 0.5. It
    is computed at 1024x1024 px from the centred square. A larger square is reduced by averaging areas. A smaller square
    is enlarged, which adds no detail.
    Images of equal scores are ordered by path. Without --keep, --min-score or --top all images are kept.

    Without --out or --list the command writes only the scores folder: scores.csv lists every image, and index.html
    shows the best and the worst. No file is ever overwritten or moved. Nothing is written into DIR unless you give a
    path in it.

    You can kill the command at any time: the same command resumes. A file that changed (size, time) is scored again.

    Image files end in .jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .tif, .tiff, .gif, .jp2, .ppm, .pgm, .tga, .avif,
    .heic or .heif, in any case. Image files that cannot be read are listed with the reason. Other files, hidden files
    and links to folders are counted. If a file has several names, the first one counts; of an animation, the first
    frame.
    """
    from celebahq_builder.filter.run import filter_folder

    result = filter_folder(folder, **options)
    for line in result.lines():
        click.echo(line)
    delivered = result.delivery.out if result.delivery else None
    for kind, path in (
        ("images", delivered),
        ("list", result.list_path),
        ("table", result.table_path),
        ("page", result.page_path),
    ):
        if path:
            print_path(kind, path)
    if result.has_errors:
        raise click.exceptions.Exit(1)


def _audit_moved(_: click.Context, __: click.Parameter, given: bool) -> None:
    if given:
        raise click.UsageError("--audit is a command of its own now: celebahq audit FILE.h5")


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Compare generated images with a data set.": "celebahq evaluate fakes --against faces.h5 --metrics swd,ms-ssim",
        "Evaluate all checkpoints of a run, and draw the curves.": (
            "celebahq evaluate runs/progan --against faces.h5 --metrics swd --out scores"
        ),
    },
)
@click.argument("source", type=PATH, metavar="SOURCE")
@path_option(
    "--against", metavar="REFERENCE", show_default="none", help="Reference images; swd, fid and kid need them."
)
@click.option(
    "--metrics", metavar="LIST", required=True, help="Metrics, separated by commas: swd, ms-ssim, fid, kid, is."
)
@count_option(
    "--num",
    help="Number of images per side (pairs for ms-ssim); default as in the papers: swd 16384, ms-ssim and kid 10000, "
    "fid and is 50000.",
)
@seed_option("Seed of the latents, of the choice of images, and of random choices of the metrics.")
@count_option(
    "--resolution",
    metavar="R",
    help="Level of HDF5 files, default the largest of SOURCE; for a run, only its snapshots of that resolution.",
)
@DEVICE
@path_option(
    "--inception", metavar="FILE", help="Inception weights for fid, kid and is; by default they are downloaded once."
)
@path_option(
    "--json",
    metavar="FILE.json",
    show_default="none",
    help="Write the results with all details of the protocol to FILE.json.",
)
@out_option("DIR", "Write DIR/index.html and DIR/evaluation.json.", required=False, show_default="none")
@click.option("--audit", is_flag=True, hidden=True, is_eager=True, expose_value=False, callback=_audit_moved)
def evaluate(
    source: Path, metrics: str, against: Path | None, num: int | None, seed: int, device: str, **asked: Any
) -> None:
    r"""Measure the quality and the variation of images: SWD, MS-SSIM, FID, KID, IS.

    SOURCE and REFERENCE are HDF5 files, folders of images, zips of images (as StyleGAN uses), or generators: the file
    generator.safetensors or the folder of a training. If SOURCE is a training, all its checkpoints are evaluated, each
    at its own resolution, and the page that --out writes shows the curves. Of a run directory of celebahq build, the
    HDF5 file is read.

    \b
    swd      sliced Wasserstein distance x 1e3, by level of the Laplacian pyramid:
             local texture; lower is better
    ms-ssim  multi-scale structural similarity of random pairs of SOURCE; lower
             means more variation
    fid      Frechet Inception distance; lower is better
    kid      kernel Inception distance; lower is better
    is       Inception score of SOURCE; higher is better; only for images of
             classes like those of ImageNet

    A result is named by its protocol: swd16k uses 16,384 images per side and can be compared only with swd16k. Next
    to swd, fid and kid the output shows the floor, the value for two disjoint parts of REFERENCE; next to ms-ssim and
    is, the value of REFERENCE itself. From a data set of more than N images, N are drawn at random without
    replacement; from a generator, the first N images of the seed are used.
    """
    from celebahq_builder.pipeline.run_images import find_hdf5

    for path in filter(None, (source, against)):
        check_exists(path)
    source, against = find_hdf5(source), against and find_hdf5(against)
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.evaluation.protocol import EvaluationProtocol, parse_metrics
    from celebahq_builder.progan.evaluation import EvaluationRequest, evaluate_and_report

    where = torch.device(parallel.devices(device)[0])
    protocol = EvaluationProtocol(parse_metrics(metrics), num, seed, where, asked["inception"])
    request = EvaluationRequest(source, protocol, against, asked["resolution"], asked["json"], asked["out"])
    for line in evaluate_and_report(request):
        click.echo(line)
    for path in request.files:
        print_path("page" if path.suffix == ".html" else "results", path)


def check_exists(path: Path) -> None:
    """Raise an error for a wrong path before the libraries of the metrics are imported, which takes seconds."""
    try:
        path.stat()
    except FileNotFoundError:
        raise FormatError(
            f"{path} does not exist; give an HDF5 file, a folder or a zip of images, or a generator"
        ) from None
    except (OSError, ValueError):
        pass  # the reader of the path has a message for it
