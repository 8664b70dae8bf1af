"""Commands for weights: ``weights list``, ``weights verify``, ``weights export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq

PRETRAINED = click.option(
    "--pretrained", type=PATH, metavar="DIR", help="Folder of registry.toml; default the bundled registry."
)


@celebahq.group("weights")
def weights_group() -> None:
    """List, check and export weights: NAME is bundled, DIR/NAME is in DIR/registry.toml."""


@weights_group.command("list")
@PRETRAINED
def list_weights(pretrained: Path | None) -> None:
    """Print a registry: name, network, parameters, size, licence, scores."""
    from celebahq_builder.models.registry import table

    for line in table(pretrained):
        click.echo(line)


@weights_group.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME|DIR/NAME]...")
@PRETRAINED
def verify_weights(names: tuple[str, ...], pretrained: Path | None) -> None:
    """Check size, SHA-256, tensors and values of weights, by default of all; exit code 1 if a check fails."""
    from celebahq_builder.models.registry import verify as check

    wrong = False
    for name, problem in check(names, pretrained):
        click.echo(f"{name}: {problem or 'ok'}")
        wrong = wrong or bool(problem)
    if wrong:
        raise click.exceptions.Exit(1)


@weights_group.command("export")
@click.argument("run", type=PATH)
@click.option("--name", required=True, metavar="NAME", help="Name of the weights: letters, digits, - and _.")
@click.option(
    "--to", type=PATH, required=True, metavar="DIR", help="Folder of registry.toml; created if it does not exist."
)
@click.option("--licence", required=True, metavar="TEXT", help="Licence of the weights, such as CC BY-SA 4.0.")
@click.option("--data", required=True, metavar="TEXT", help="Training data, for the model card.")
@click.option(
    "--scores",
    type=PATH,
    metavar="FILE.json",
    help="Scores as name -> number, or the rows of a benchmark; default the validation of these weights in the run.",
)
@click.option("--replace", is_flag=True, help="Replace weights of that name; text added to the card by hand is kept.")
def export_weights(run: Path, name: str, to: Path, **asked: Any) -> None:
    """Export the best weights of the training run RUN to a registry.

    Writes DIR/NAME.safetensors, the entry [NAME] of DIR/registry.toml, and the model card DIR/NAME.md.
    """
    from celebahq_builder.restoration.publish import export

    made = export(run, name, to, **asked)
    click.echo(f"weights:    {made.weights}, in {made.registry}")
    click.echo(f"model card: {made.card}; complete its section on the limits of the network")
    click.echo(f'recipe:     {made.setting} = "{to}/{name}"')
