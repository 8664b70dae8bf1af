"""ProGAN: ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.group import PATH, celebahq


@celebahq.command()
@click.argument("data", type=PATH, metavar="DATA.h5")
@click.option(
    "--out", type=PATH, metavar="RUN", required=True, help="Folder of the run; the same command goes on there."
)
@click.option("--recipe", type=PATH, metavar="FILE.toml", help="Settings; default celebahq-1024-1gpu.")
@click.option("--resume", is_flag=True, help="Go on only: an error where RUN holds no checkpoint.")
@click.option(
    "--total-kimg", type=click.FloatRange(0, min_open=True), metavar="K", help="Length, in 1000 pictures shown."
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:1.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads of torch; they change the last bits.")
@click.option(
    "--workers", type=click.IntRange(0), default=0, metavar="N", help="Processes that read; default: threads."
)
@click.option("--dry-run", is_flag=True, help="Print the networks and the schedule, and stop.")
def train(
    data: Path, out: Path, recipe: Path | None, device: str, threads: int | None, dry_run: bool, **asked: Any
) -> None:
    """Train a ProGAN on the HDF5 file DATA.h5.

    Kill it at any time, or send it SIGTERM, upon which it saves: the same command goes on. On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train ...

    RUN holds stats.jsonl, TensorBoard's events, grids of generated pictures (fakes-KKKKKK.png) beside real ones
    (reals.png), checkpoints, and generator.safetensors, the averaged generator.
    """
    from celebahq_builder.progan import command
    from celebahq_builder.progan.train import Request
    from celebahq_builder.settings import bundled_recipe

    path = bundled_recipe(recipe or Path("celebahq-1024-1gpu"), "train")
    request = Request(data, out, **asked)
    if dry_run:
        for line in command.plan(request, path):
            click.echo(line)
        return
    click.echo(f"run: {command.train(request, path, device=device, threads=threads)}")
