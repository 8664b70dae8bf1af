"""Commands on data set files: ``inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from celebahq_builder.cli.group import PATH, celebahq


@celebahq.command()
@click.argument("file", type=PATH, metavar="FILE.h5")
def inspect(file: Path) -> None:
    """Say what an HDF5 file holds: levels, sizes, sources, scores, recipe."""
    from celebahq_builder.formats.inspection import inspect_hdf5

    for line in inspect_hdf5(file):
        click.echo(line)
