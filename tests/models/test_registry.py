"""Weights are what the registry says, bit for bit, or they are refused; and the bundled ones do their work."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor

from celebahq_builder.config import bundled
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.imaging.image_io import encode_jpeg
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.models import registry as registry_module
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.registry import (
    NetworkShape,
    find_entry,
    load_network,
    load_tensors,
    read_registry,
    read_verified,
)
from celebahq_builder.models.srgan import SRGenerator

SHAPES = {"small": NetworkShape("srgan", (6,), (1,)), "cleaner": NetworkShape("autoencoder", (4, 6, 8), (1, 1, 1))}


def register(folder: Path, name: str, data: bytes, shape: NetworkShape = SHAPES["small"], more: str = "") -> Path:
    """A registry with one weight file."""
    file = folder / f"{name}.safetensors"
    file.write_bytes(data)
    layers = f'architecture = "{shape.architecture}", widths = {list(shape.widths)}, blocks = {list(shape.blocks)}'
    (folder / "registry.toml").write_text(
        f'[{name}]\nfile = "{file.name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\nsize_bytes = {len(data)}\n'
        f'shape = {{ {layers} }}\nlicence = "CC0"\ndata = "none"\ncommand = "none"\n{more}'
    )
    return file


def weights(shape: NetworkShape, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) for name, t in shape.build().state_dict().items()}


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    tensors = weights(SHAPES[name])
    register(tmp_path, name, save(tensors), SHAPES[name])
    net = load_network(name, folder=tmp_path)
    assert isinstance(net, SRGenerator if name == "small" else Autoencoder)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in tensors.items())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


def test_scores_of_a_weight_file(tmp_path: Path) -> None:
    register(tmp_path, "small", save(weights(SHAPES["small"])), more="\n[small.scores]\npsnr_y_db = 30\ngain = 0.5\n")
    assert find_entry("small", tmp_path).scores == {"psnr_y_db": 30.0, "gain": 0.5}


def test_altered_file(tmp_path: Path) -> None:
    file = register(tmp_path, "small", save(weights(SHAPES["small"])))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    said = rf"small\.safetensors has SHA-256 {hashlib.sha256(data).hexdigest()}, the registry says "
    with pytest.raises(WeightsError, match=said):
        load_network("small", folder=tmp_path)


def test_truncated_file(tmp_path: Path) -> None:
    file = register(tmp_path, "small", save(weights(SHAPES["small"])))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="altered or cut short"):
        load_network("small", folder=tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    register(tmp_path, "small", b"").unlink()
    with pytest.raises(WeightsError, match=r"small\.safetensors cannot be read: No such file"):
        load_network("small", folder=tmp_path)


def test_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    register(tmp_path, "small", b"")
    with pytest.raises(WeightsError, match="no weights are called 'smal'; the registry has small"):
        load_network("smal", folder=tmp_path)


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "header without tensors"])
def test_what_is_no_safetensors_file(kind: str, tmp_path: Path) -> None:
    """Even with the right hash; and a pickle is never run."""
    trap = tmp_path / "trap"
    file = tmp_path / "weights.pt"
    torch.save({"head.weight": Planted(trap)}, file)
    whole = save(weights(SHAPES["small"]))
    data = {
        "pickle": pickle.dumps(Planted(trap)),
        "torch": file.read_bytes(),
        "text": b"weights",
        "empty": b"",
        "header without tensors": whole[: 8 + int.from_bytes(whole[:8], "little")],
    }[kind]
    register(tmp_path, "small", data)
    with pytest.raises(WeightsError, match=r"small\.safetensors is not a safetensors file: "):
        load_network("small", folder=tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "other",
    [
        weights(SHAPES["cleaner"]),
        weights(NetworkShape("srgan", (7,), (1,))),
        weights(NetworkShape("srgan", (6,), (2,))),
        {"head.weight": torch.zeros(6, 3, 3, 3)},
    ],
    ids=["architecture", "width", "more blocks", "too few tensors"],
)
def test_weights_of_another_network(other: dict[str, Tensor], tmp_path: Path) -> None:
    register(tmp_path, "small", save(other))
    with pytest.raises(WeightsError, match=r"small\.safetensors belongs to another network: \w+"):
        load_network("small", folder=tmp_path)


def test_file_on_disk_is_left_alone(tmp_path: Path) -> None:
    """Tensors are copied: training the network does not write into the file's bytes."""
    path = tmp_path / "w.safetensors"
    save_file(weights(SHAPES["small"]), path)
    data = read_verified(path, hashlib.sha256(path.read_bytes()).hexdigest())
    before = bytes(data)
    net = SHAPES["small"].build()
    load_tensors(net, data, path)
    with torch.no_grad():
        net.head.weight.add_(1)
    assert data == before == path.read_bytes()


@pytest.mark.parametrize(
    ("architecture", "widths", "blocks", "said"),
    [
        ("srgan", (4, 4, 4), (1,), "srgan needs 1 or 2 widths and 1 blocks; got widths = [4, 4, 4], blocks = [1]"),
        ("srgan", (4,), (), "srgan needs 1 or 2 widths and 1 blocks"),
        ("autoencoder", (4,), (1, 1, 1), "autoencoder needs 3 widths and 3 blocks"),
    ],
)
def test_shape_that_fits_no_network(
    architecture: registry_module.Architecture, widths: tuple[int, ...], blocks: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("[", r"\[")):
        NetworkShape(architecture, widths, blocks)


@pytest.mark.parametrize("text", ["small = 3", "[small]\nfile = 'x'", "[small]\nfil = 'x'", "small"])
def test_malformed_registry(text: str, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"registry\.toml"):
        read_registry(tmp_path)


def test_missing_registry(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"registry\.toml does not exist"):
        read_registry(tmp_path)


# --- The bundled weights ----------------------------------------------------------------------------------------

NAMES = sorted(read_registry())


def test_what_is_bundled() -> None:
    kinds = {name: known.shape.architecture for name, known in read_registry().items()}
    assert kinds["denoiser"] == "autoencoder"
    assert "srgan" in kinds.values()


@pytest.mark.parametrize("name", NAMES)
def test_bundled_file_is_the_registered_one(name: str) -> None:
    known = find_entry(name)
    assert (bundled("pretrained") / known.file).stat().st_size == known.size_bytes
    assert all(p.isfinite().all() and p.any() for p in load_network(name).parameters())


def cut(left: int = 240, top: int = 150, side: int = 96) -> Tensor:
    """Part of a face of the sample, uint8 [3, side, side]."""
    with Image.open(Path(__file__).parents[1] / "sample" / "celeba" / "img_celeba" / "000001.jpg") as image:
        pixels = np.asarray(image.convert("RGB").crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def compressed(pixels: Tensor, quality: int) -> Tensor:
    with Image.open(io.BytesIO(encode_jpeg(pixels.numpy(), quality))) as image:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_bundled_networks_do_not_show(name: str) -> None:
    """With the context that the network asks for, the result is the untiled one's to a grey level."""
    net = load_network(name)
    scale = net.SCALE if isinstance(net, SRGenerator) else 1
    pixels = compressed(cut(side=192 // scale), 20)
    tile, all_of_it = (32, 4096)
    whole, tiled = (
        run_tiled(net, pixels, scale=scale, tile_px=side, context_px=net.context_px, stride_px=net.STRIDE_PX).int()
        for side in (all_of_it, tile)
    )
    assert (tiled - whole).abs().max() <= 1
    assert (tiled != whole).float().mean() < 0.01


def error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean())


@pytest.mark.parametrize("name", [name for name in NAMES if find_entry(name).shape.architecture == "autoencoder"])
def test_bundled_denoiser_removes_artefacts(name: str) -> None:
    truth = cut()
    damaged = compressed(truth, 12)
    net = load_network(name)
    restored, untouched = (
        run_tiled(net, pixels, scale=1, tile_px=512, context_px=48, stride_px=8) for pixels in (damaged, truth)
    )
    assert error(restored, truth) < 0.9 * error(damaged, truth)
    assert error(untouched, truth) < 0.3 * error(damaged, truth)


@pytest.mark.parametrize("name", [name for name in NAMES if find_entry(name).shape.architecture == "srgan"])
def test_bundled_upscaler_keeps_the_photo(name: str) -> None:
    """Reduced again, the enlarged photo is the photo."""
    small = torch.nn.functional.avg_pool2d(cut().float(), 2).round().to(torch.uint8)
    large = run_tiled(load_network(name), small, scale=4, tile_px=512, context_px=16, stride_px=1)
    again = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert error(again, small) < 0.05 * float(small.float().var())
