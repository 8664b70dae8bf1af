"""``evaluate``: how good images are, a generator is, or a training was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq
from celebahq_builder.errors import RecipeError
from celebahq_builder.storage import NewFiles


@celebahq.command()
@click.argument("source", type=PATH, metavar="SOURCE")
@click.option("--against", type=PATH, metavar="REFERENCE", help="What to compare with: swd, fid and kid need it.")
@click.option("--metrics", metavar="LIST", help="Of swd, ms-ssim, fid, kid, is, with commas between them.")
@click.option(
    "--num",
    type=click.IntRange(1),
    metavar="N",
    help="Images a side, pairs of ms-ssim; default those of the papers: swd 16384, ms-ssim and kid 10000, fid and is "
    "50000.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="S",
    help="Of latents, of the choice of images, and of what the metrics draw.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    metavar="R",
    help="Level of HDF5 files, default SOURCE's largest; of a run, only its snapshots of that size.",
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1.")
@click.option("--inception", type=PATH, metavar="FILE", help="Weights of fid, kid and is, where there is no network.")
@click.option("--json", type=PATH, metavar="FILE.json", help="Write all that the numbers need to be compared there.")
@click.option("--out", type=PATH, metavar="DIR", help="Write a page of it to DIR/index.html, and DIR/evaluation.json.")
@click.option("--audit", is_flag=True, help="Look for duplicates, bars, padding in FILE.h5: DIR/audit, or FILE-audit.")
def evaluate(source: Path, metrics: str | None, out: Path | None, audit: bool, **asked: Any) -> None:
    """Say how far the images of SOURCE are from those of REFERENCE, and how varied they are.

    SOURCE and REFERENCE are HDF5 files, folders of images, zips of them (as StyleGAN's), or generators: the file
    generator.safetensors or the folder of the run that holds it. Of a run as SOURCE all checkpoints are evaluated,
    each at its own resolution; --out draws the curves.

    \b
    swd      sliced Wasserstein distance x 1e3, by level of the Laplacian pyramid: local textures; lower is nearer
    ms-ssim  multi-scale structural similarity of random pairs of SOURCE; lower is more varied
    fid      Frechet Inception distance; lower is nearer
    kid      kernel Inception distance; lower is nearer
    is       Inception score of SOURCE; higher is better, where classes mean something

    A number is named by its protocol: swd16k is of 16,384 images a side. Those of other counts cannot be compared
    with it. Beside swd, fid and kid stands the floor, which two disjoint parts of REFERENCE have; beside ms-ssim and
    is, what REFERENCE itself has. Of a data set with more than N images N are drawn at random, without replacement;
    of a generator those of the seed are taken, from number 0 on.
    """  # noqa: D301 - click wants the character, not its name
    if metrics is None and not audit:
        raise RecipeError("nothing to do: give --metrics, some of swd,ms-ssim,fid,kid,is, or --audit")
    with NewFiles() as files:
        if audit:
            from celebahq_builder.inspect.audit import audit_report

            folder = out / "audit" if out else source.with_name(f"{source.stem}-audit")
            for line in audit_report.audit(source, folder, files=files):
                click.echo(line)
        if metrics is not None:
            for line in _scores(source, metrics, out, **asked):
                click.echo(line)


def _scores(
    source: Path, metrics: str, out: Path | None, *, device: str, num: int | None, seed: int, **asked: Any
) -> Iterator[str]:
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.evaluation.protocol import EvaluationProtocol, chosen
    from celebahq_builder.progan import evaluation as room

    where = torch.device(parallel.devices(device)[0])
    protocol = EvaluationProtocol(chosen(metrics), num, seed, where, asked["inception"])
    request = room.EvaluationRequest(source, protocol, asked["against"], asked["resolution"], asked["json"], out)
    return room.evaluate_and_report(request)
