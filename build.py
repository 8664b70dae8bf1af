"""Build CelebA-HQ: ``python build.py --celeba-root DIR --out WORK``; ``--help`` lists the options."""

from celebahq_builder.__main__ import main

if __name__ == "__main__":
    main("build")
