"""``weights``: list, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq

PRETRAINED = click.option(
    "--pretrained", type=PATH, metavar="DIR", help="Folder of registry.toml; default the bundled one."
)


@celebahq.group("weights")
def weights_group() -> None:
    """List, check and export weights: NAME is bundled, DIR/NAME is in DIR/registry.toml."""


@weights_group.command("list")
@PRETRAINED
def list_weights(pretrained: Path | None) -> None:
    """Print a registry: name, network, parameters, size, licence, scores."""
    from celebahq_builder.models.registry import table_lines

    for line in table_lines(pretrained):
        click.echo(line)


@weights_group.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME|DIR/NAME]...")
@PRETRAINED
def verify_weights(names: tuple[str, ...], pretrained: Path | None) -> None:
    """Check size, SHA-256, tensors and values of weights, by default all; exit code 1 if anything is wrong."""
    from celebahq_builder.models.registry import verify_weights as check

    wrong = False
    for name, problem in check(names, pretrained):
        click.echo(f"{name}: {problem or 'sound'}")
        wrong = wrong or bool(problem)
    if wrong:
        raise click.exceptions.Exit(1)


@weights_group.command("export")
@click.argument("run", type=PATH)
@click.option("--name", required=True, metavar="NAME", help="Name to be known by: letters, digits, - and _.")
@click.option("--to", type=PATH, required=True, metavar="DIR", help="Folder of registry.toml; made if need be.")
@click.option("--licence", required=True, metavar="TEXT", help="Licence of the weights: CC BY-SA 4.0.")
@click.option("--data", required=True, metavar="TEXT", help="What they were trained on, for the model card.")
@click.option(
    "--scores",
    type=PATH,
    metavar="FILE.json",
    help="Figures as name -> number, or a benchmark's rows; default the run's last validation of these weights.",
)
@click.option("--replace", is_flag=True, help="Replace weights of that name; what the card says by hand is kept.")
def export_weights(run: Path, name: str, to: Path, **asked: Any) -> None:
    """Make the best weights of the training run RUN usable by name.

    Writes DIR/NAME.safetensors, the entry [NAME] of DIR/registry.toml, and the model card DIR/NAME.md.
    """
    from celebahq_builder.restoration.publish import export

    made = export(run, name, to, **asked)
    click.echo(f"weights:    {made.weights}, in {made.registry}")
    click.echo(f"model card: {made.card}; complete its section on what the network cannot do")
    click.echo(f'recipe:     {made.setting} = "{to}/{name}"')
