"""Build CelebA-HQ: ``python build.py --celeba-root DIR --out WORK``; ``--help`` lists the options."""

from celebahq_builder.cli.build import build
from celebahq_builder.cli.main import run_command

if __name__ == "__main__":
    run_command(build)
