"""The ``celebahq`` commands: parse options, call one function, print; heavy imports are inside the commands."""

from celebahq_builder.cli import convert, gan, inspect, measure, pipeline, restoration
from celebahq_builder.cli.main import celebahq, run_command

__all__ = ["celebahq", "convert", "gan", "inspect", "measure", "pipeline", "restoration", "run_command"]
