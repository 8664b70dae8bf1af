"""The ``celebahq`` commands: parse options, call one function, print; heavy imports are inside the commands."""

from celebahq_builder.cli import (  # noqa: F401 - each adds its commands
    convert,
    filter,
    gan,
    inspect,
    landmarks,
    measure,
    pipeline,
    restoration,
)
from celebahq_builder.cli.main import celebahq, main, run_command

__all__ = ["celebahq", "main", "run_command"]
