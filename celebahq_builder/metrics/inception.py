"""The Inception network of FID, KID and IS: TensorFlow's of 2015-12-05, as torch-fidelity has it.

Figures that were computed with any other network, weights or resizing cannot be compared with those of the literature.
torch-fidelity's port has the original's pooling, TensorFlow 1's bilinear resizing to 299x299 (corners not aligned, no
antialiasing) and its range, (x - 128) / 128.
"""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.metrics import inception_package, inception_weights

NAME = "TensorFlow Inception 2015-12-05"

FEATURES, CLASSES = 2048, 1008

MINIBATCH = 32
"""Pictures that pass the network together; more take memory (20 MB each, and 12 MB for one of 1024x1024) and no less
time."""


class InceptionOutput(NamedTuple):
    """What the network says of some pictures."""

    pool3: Tensor
    """float32 [n, 2048], of FID and KID."""
    logits: Tensor
    """float32 [n, 1008], of IS: without the last layer's bias, as Salimans et al. 2016 have it in their code."""


class Inception:
    """The network with its weights, in eval mode.

    Args:
        path: of the weights; None for torch-fidelity's cache, or its download.
        device: where the network is to be.
        sha256: of the weights; None for those of the literature. Others are for tests.

    Attributes:
        name: of the network, and the package with its version.
        sha256: of the weights.

    Raises:
        WeightsError: torch-fidelity is not installed, or the weights are missing or not these.
    """

    def __init__(
        self, path: Path | None = None, device: torch.device | str = "cpu", *, sha256: str | None = None
    ) -> None:
        extractor = inception_package.module("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        self.name = f"{NAME} (torch-fidelity {importlib.metadata.version('torch-fidelity')})"
        self.device = torch.device(device)
        where = inception_weights.locate(path)
        tensors, self.sha256 = inception_weights.read(where, sha256 or inception_weights.SHA256)
        self._net: Any = _network(extractor, tensors, where).to(self.device)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> InceptionOutput:
        """Return features and logits of pictures.

        Args:
            pictures: uint8 [n, 3, H, W], RGB, of any size; or [n, 1, H, W], grey, which counts as RGB of equal parts.

        Returns:
            Both on the network's device. Those of one picture are the same in any batch, but for rounding.

        Raises:
            ValueError: pictures of another type or shape.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise ValueError(f"Inception needs uint8 [n, 3 or 1, H, W], got {pictures.dtype} {list(pictures.shape)}")
        if not len(pictures):
            empty = torch.empty(0, FEATURES, device=self.device), torch.empty(0, CLASSES, device=self.device)
            return InceptionOutput(*empty)
        parts = [self._forward(part) for part in torch.split(pictures, MINIBATCH)]
        return InceptionOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        rgb = pictures.to(self.device).expand(-1, 3, -1, -1)
        # TF32 keeps 10 bits of a factor; what the kernels of one batch size and another make of it would show.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pool3, logits = self._net(rgb)
        return pool3, logits


def _network(extractor: Any, tensors: dict[str, Any], path: Path) -> Any:
    # The package unpickles a file without asking whether it holds nothing but tensors: it gets one written here.
    checked = io.BytesIO()
    torch.save(tensors, checked)
    checked.seek(0)
    try:
        return extractor("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:2]).split()) or str(error)
        raise WeightsError(f"Inception weights {path} belong to another network: {reason[:200]}") from None
