"""The ``celebahq`` command group, and how a command ends: the only place that prints errors and sets exit codes."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from celebahq_builder import __version__
from celebahq_builder.errors import CelebAHQError

PATH = click.Path(path_type=Path, readable=False)
"""Of a file or a folder; whether it must exist is for the function to say, in its own words."""


def main() -> None:
    """Run the ``celebahq`` command group."""
    run_command(celebahq)


def run_command(command: click.Command) -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(command.main(standalone_mode=False))
    except CelebAHQError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command (without --redo) goes on from here", err=True)
        sys.stderr.flush()
        os._exit(130)  # workers are told to stop already; waiting for them would look like a hang


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def celebahq() -> None:
    """Build CelebA-HQ from in-the-wild photos, train its networks, and check the results."""
