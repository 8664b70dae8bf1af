"""Build CelebA-HQ: ``python build.py --celeba-root DIR --out WORK``; ``--help`` lists the options."""

from celebahq_builder.cli import run_command
from celebahq_builder.cli.build import build

if __name__ == "__main__":
    run_command(build)
