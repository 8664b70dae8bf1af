"""A weight file of Inception with random tensors; the real file must be downloaded."""

import io
from pathlib import Path
from typing import Any

import torch

from celebahq_builder.metrics.inception import import_torch_fidelity
from celebahq_builder.storage import sha256


def random_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """All tensors by name, scaled so that features of images neither vanish nor explode."""
    extractor: Any = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3

    class Unloaded(extractor):
        def load_state_dict(self, _: object) -> None:
            """Keep the initial tensors."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    rng = torch.Generator().manual_seed(seed)
    tensors = Unloaded("shapes", ["2048"], feature_extractor_weights_path=empty).state_dict()
    for name, tensor in tensors.items():
        if name.endswith("conv.weight") or name == "fc.weight":
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name == "fc.bias":
            tensor.normal_(generator=rng)
    return tensors


def write_random(path: Path, seed: int = 0) -> str:
    """Write the file and return its SHA-256."""
    torch.save(random_tensors(seed), path)
    return sha256(path.read_bytes())
