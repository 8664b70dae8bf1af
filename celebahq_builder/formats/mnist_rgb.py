"""MNIST-RGB: three random digits of MNIST as the channels of one picture, of which 1000 kinds can be told apart.

How many of them a network makes tells how many modes it covers (Karras et al. 2018, appendix D; Metz et al. 2016,
"Unrolled Generative Adversarial Networks"). The digits are drawn as the ProGAN authors' tool draws them, numpy's
RandomState(123).randint(N, size=3) a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder.formats import mnist
from celebahq_builder.formats.pictures import Picture, Pixels

COUNT, SEED = 1_000_000, 123
"""The ProGAN authors'."""


@dataclass(frozen=True)
class MnistRgb:
    """Stacked digits; those of MNIST are held in memory, 61 MB."""

    digits: Pixels
    """uint8 [n, 32, 32]."""
    count: int
    seed: int
    channels: int = 3
    labels: None = None
    """With 1000 classes they would take 4 GB."""
    label_names: tuple[str, ...] = ()
    resolution: int = mnist.SIDE_PX + 2 * mnist.BORDER_PX

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures from number `start` on, named by the digits they are made of: ``0000012/7-41-3``."""
        drawn = np.random.RandomState(self.seed)
        for number in range(self.count):
            rows = drawn.randint(len(self.digits), size=3)
            if number >= start:
                yield Picture(self.digits[rows], f"{number:07d}/{'-'.join(map(str, rows))}")


def read(path: Path, count: int = COUNT, seed: int = SEED) -> MnistRgb:
    """Stack the training digits of MNIST, uint8 [3, 32, 32] a picture.

    Args:
        path: the folder of MNIST's files; see `mnist.read`.
        count: how many pictures.
        seed: of the draw.

    Raises:
        FormatError: as `mnist.read` does.
    """
    digits = np.concatenate([picture.pixels for picture in mnist.read(path).pictures()])
    return MnistRgb(digits, count, seed)
