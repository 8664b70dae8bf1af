"""The ``celebahq`` commands: parse, call one function, print; heavy imports are inside the commands."""

from celebahq_builder.cli import build, files, filter, looking, progan, restoration, weights  # noqa: F401 - each adds its commands
from celebahq_builder.cli.group import celebahq, main, run_command

__all__ = ["celebahq", "main", "run_command"]
