"""Folders of trained weights, as a training leaves them, and registries made from them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from celebahq_builder.config import to_mapping
from celebahq_builder.models.registry import NetworkShape, find_entry
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, ChainSettings
from celebahq_builder.restoration.degradation import DegradationSettings
from celebahq_builder.restoration.pixel_training import PixelRecipe
from celebahq_builder.restoration.publish import export, set_entry
from celebahq_builder.restoration.task import Phase, TrainingRecipe

SHAPES = {"denoise": NetworkShape("autoencoder", (4, 6, 8), (1, 1, 2)), "upscale": NetworkShape("srgan", (6,), (1,))}

RECIPES: dict[str, TrainingRecipe] = {
    "denoise": PixelRecipe(
        task="denoise",
        net=SHAPES["denoise"],
        phases=(Phase(60, 16, 1),),
        degradation=DegradationSettings(
            quality_min=9,
            quality_max=97,
            clean_share=0.05,
            grey_share=0.0,
            twice_share=0.3,
            rescale_share=0.4,
            sampling_shares=(0.7, 0.0, 0.3),
        ),
    ),
    "upscale": PixelRecipe(task="upscale", net=SHAPES["upscale"], phases=(Phase(60, 16, 1),), start="upscaler-psnr"),
    "upscale-adversarially": AdversarialRecipe(
        task="upscale-adversarially", start="upscaler-psnr", phases=(Phase(60, 16, 1),), chain=ChainSettings()
    ),
}

TEXTS = {"licence": "CC0", "data": "nothing | real"}


def recipe_json(name: str) -> str:
    """Return a recipe as a training stores it, with the hashes of what it depends on."""
    return json.dumps({**to_mapping(RECIPES[name]), "start_sha256": "00", "photos": "11"})


def tensors(shape: NetworkShape, seed: int = 0) -> dict[str, Tensor]:
    """Return weights of a network that changes its input a little."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {name: t + 0.01 * torch.randn(t.shape) for name, t in shape.build().state_dict().items()}


def trained(folder: Path, task: str = "denoise", seed: int = 0, **changed: str | None) -> Path:
    """Make the folder of a training run.

    Args:
        folder: of the run.
        task: key of `SHAPES` and `RECIPES`.
        seed: of the weights.
        changed: metadata of the weight file; None leaves a key out.
    """
    shape = SHAPES[task]
    metadata = {
        "step": "40",
        "shape": json.dumps(dataclasses.asdict(shape)),
        "recipe": recipe_json(task),
        "command": f"celebahq train-{task} PHOTOS --recipe tiny",
        "photos": "12 photos, 2 held out",
    } | changed
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in metadata.items() if value is not None}
    save_file(tensors(shape, seed), folder / "weights.safetensors", kept)
    lines = [{"step": step, "loss": 0.1, "steps_per_s": 3.0, "gain_q10_db": step / 80} for step in (20, 40, 60)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def registry_of_two(folder: Path) -> Path:
    """Export a denoiser, ``cleaner``, and an upscaler, ``grower``, to a registry."""
    for name, task in (("cleaner", "denoise"), ("grower", "upscale")):
        export(trained(folder / f"run-{name}", task), name, folder / "two", **TEXTS)
    return folder / "two"


def reregister(folder: Path, name: str, **changed: Any) -> None:
    """Change an entry of a registry, and set its hash and size to those of its file."""
    data = (folder / find_entry(name, folder).file).read_bytes()
    values = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} | changed
    entry = dataclasses.replace(find_entry(name, folder), **values)
    path = folder / "registry.toml"
    path.write_text(set_entry(path.read_text(), name, entry, where=path))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
