"""Writes small networks for builds in tests, which need a tenth of the time of the bundled ones.

Their weights are random and change a photo a little. From the root of the project::

    python -m tests.sample.make_networks
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from celebahq_builder.models.registry import NetworkShape, RegistryEntry
from celebahq_builder.restoration.publish import set_entry
from celebahq_builder.storage import sha256

FOLDER = Path(__file__).parent / "networks"
SHAPES = {
    "denoiser": NetworkShape("autoencoder", (4, 6, 8), (1, 1, 2)),
    "upscaler": NetworkShape("srgan", (6, 2), (1,)),
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    registry = FOLDER / "registry.toml"
    text = "# Random weights for builds in tests, made by make_networks.py.\n"
    for name, shape in SHAPES.items():
        path = FOLDER / f"{name}.safetensors"
        torch.manual_seed(1)
        save_file({key: t + 0.003 * torch.randn(t.shape) for key, t in shape.build().state_dict().items()}, path)
        entry = RegistryEntry(
            file=path.name,
            sha256=sha256(path.read_bytes()),
            size_bytes=path.stat().st_size,
            shape=shape,
            licence="CC0",
            data="none",
            command="python -m tests.sample.make_networks",
        )
        text = set_entry(text, name, entry, where=registry)
    registry.write_text(text)
