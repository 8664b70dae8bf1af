"""The command ``evaluate``: metrics of data sets, generators and training runs, and audits of data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq
from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.storage import NewFiles


@celebahq.command()
@click.argument("source", type=PATH, metavar="SOURCE")
@click.option("--against", type=PATH, metavar="REFERENCE", help="Reference images; swd, fid and kid need them.")
@click.option("--metrics", metavar="LIST", help="Metrics, separated by commas: swd, ms-ssim, fid, kid, is.")
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
    show_default=True,
    metavar="S",
    help="Seed of the latents, of the choice of images, and of random choices of the metrics.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    metavar="R",
    help="Level of HDF5 files, default the largest of SOURCE; for a run, only its snapshots of that resolution.",
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--inception",
    type=PATH,
    metavar="FILE",
    help="Inception weights for fid, kid and is; by default they are downloaded once.",
)
@click.option(
    "--json", type=PATH, metavar="FILE.json", help="Write the results with all details of the protocol to FILE.json."
)
@click.option("--out", type=PATH, metavar="DIR", help="Write DIR/index.html and DIR/evaluation.json.")
@click.option(
    "--audit",
    is_flag=True,
    help="Look for duplicates, black bars and padding in FILE.h5; writes DIR/audit, or FILE-audit.",
)
def evaluate(source: Path, metrics: str | None, out: Path | None, audit: bool, **asked: Any) -> None:
    """Measure how close the images of SOURCE are to those of REFERENCE, and how varied they are.

    SOURCE and REFERENCE are HDF5 files, folders of images, zips of images (as StyleGAN uses), or generators: the file
    generator.safetensors or the folder of a run. If SOURCE is a run, all its checkpoints are evaluated, each at its
    own resolution, and the page that --out writes shows the curves.

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
    if metrics is None and not audit:
        raise RecipeError("nothing to do: give --metrics, some of swd,ms-ssim,fid,kid,is, or --audit")
    for path in filter(None, (source, asked["against"])):
        check_exists(path)
    with NewFiles() as files:
        if audit:
            from celebahq_builder.inspect import audit_report

            folder = out / "audit" if out else source.with_name(f"{source.stem}-audit")
            for line in audit_report.audit(source, folder, files=files):
                click.echo(line)
        if metrics is not None:
            for line in _scores(source, metrics, out, **asked):
                click.echo(line)


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


def _scores(
    source: Path, metrics: str, out: Path | None, *, device: str, num: int | None, seed: int, **asked: Any
) -> Iterator[str]:
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.evaluation.protocol import EvaluationProtocol, parse_metrics
    from celebahq_builder.progan import evaluation as room

    where = torch.device(parallel.devices(device)[0])
    protocol = EvaluationProtocol(parse_metrics(metrics), num, seed, where, asked["inception"])
    request = room.EvaluationRequest(source, protocol, asked["against"], asked["resolution"], asked["json"], out)
    return room.evaluate_and_report(request)
