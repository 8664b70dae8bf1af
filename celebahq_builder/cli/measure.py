"""The command ``evaluate``: metrics of data sets, generators and training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import DEVICE, PATH, celebahq, print_path
from celebahq_builder.errors import FormatError


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
@click.option(
    "--against",
    type=PATH,
    metavar="REFERENCE",
    show_default="none",
    help="Reference images; swd, fid and kid need them.",
)
@click.option(
    "--metrics", metavar="LIST", required=True, help="Metrics, separated by commas: swd, ms-ssim, fid, kid, is."
)
@click.option(
    "--num",
    type=click.IntRange(1),
    metavar="N",
    help="Number of images per side (pairs for ms-ssim); default as in the papers: swd 16384, ms-ssim and kid 10000, "
    "fid and is 50000.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    metavar="S",
    help="Seed of the latents, of the choice of images, and of random choices of the metrics.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    metavar="R",
    help="Level of HDF5 files, default the largest of SOURCE; for a run, only its snapshots of that resolution.",
)
@DEVICE
@click.option(
    "--inception",
    type=PATH,
    metavar="FILE",
    help="Inception weights for fid, kid and is; by default they are downloaded once.",
)
@click.option(
    "--json",
    type=PATH,
    metavar="FILE.json",
    show_default="none",
    help="Write the results with all details of the protocol to FILE.json.",
)
@click.option(
    "--out", type=PATH, metavar="DIR", show_default="none", help="Write DIR/index.html and DIR/evaluation.json."
)
@click.option("--audit", is_flag=True, hidden=True, is_eager=True, expose_value=False, callback=_audit_moved)
def evaluate(
    source: Path, metrics: str, against: Path | None, num: int | None, seed: int, device: str, **asked: Any
) -> None:
    """Measure the quality and the variation of images: SWD, MS-SSIM, FID, KID, IS.

    SOURCE and REFERENCE are HDF5 files, folders of images, zips of images (as StyleGAN uses), or generators: the file
    generator.safetensors or the folder of a training. If SOURCE is a training, all its checkpoints are evaluated, each
    at its own resolution, and the page that --out writes shows the curves. Of a run directory of celebahq build, the
    HDF5 file is read.

    \b
    swd      sliced Wasserstein distance x 1e3, by level of the Laplacian pyramid: local texture; lower is better
    ms-ssim  multi-scale structural similarity of random pairs of SOURCE; lower means more variation
    fid      Frechet Inception distance; lower is better
    kid      kernel Inception distance; lower is better
    is       Inception score of SOURCE; higher is better; meaningful only for images of ImageNet-like classes

    A result is named by its protocol: swd16k uses 16,384 images per side and can be compared only with swd16k. Next
    to swd, fid and kid the output shows the floor, the value for two disjoint parts of REFERENCE; next to ms-ssim and
    is, the value of REFERENCE itself. From a data set of more than N images, N are drawn at random without
    replacement; from a generator, the first N images of the seed are used.
    """  # noqa: D301 - click wants the character, not its name
    from celebahq_builder.pipeline.run_images import find_hdf5

    for path in filter(None, (source, against)):
        check_exists(path)
    source, against = find_hdf5(source), against and find_hdf5(against)
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.evaluation.protocol import EvaluationProtocol, parse_metrics
    from celebahq_builder.progan import evaluation as room

    where = torch.device(parallel.devices(device)[0])
    protocol = EvaluationProtocol(parse_metrics(metrics), num, seed, where, asked["inception"])
    request = room.EvaluationRequest(source, protocol, against, asked["resolution"], asked["json"], asked["out"])
    for line in room.evaluate_and_report(request):
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
