"""Weights are loaded only if they are those of the registry, and the bundled weights do their work."""

import hashlib
import io
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from celebahq_builder import cli
from celebahq_builder.config import bundled
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.imaging.image_io import encode_jpeg
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.registry import (
    Architecture,
    NetworkShape,
    find_entry,
    load_network,
    locate,
    read_registry,
    table_lines,
    verify_weights,
)
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.models.weight_file import load_tensors, read_weights
from celebahq_builder.pipeline.network_stage import network
from tests.cli.test_cli import celebahq, one_line_error
from tests.restoration.exports import SHAPES, registry_of_two, reregister, tensors

SMALL = NetworkShape("srgan", (6,), (1,))
SMALL_SHAPES = {"small": SMALL, "cleaner": NetworkShape("autoencoder", (4, 6, 8), (1, 1, 1))}


def register(folder: Path, name: str, data: bytes, shape: NetworkShape = SMALL, more: str = "") -> Path:
    """Write a registry with one weight file."""
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


def change_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    tensors = weights(SMALL_SHAPES[name])
    register(tmp_path, name, save(tensors), SMALL_SHAPES[name])
    net = load_network(name, folder=tmp_path)
    assert isinstance(net, SRGenerator if name == "small" else Autoencoder)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in tensors.items())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


def test_scores_of_a_weight_file(tmp_path: Path) -> None:
    register(tmp_path, "small", save(weights(SMALL)), more="\n[small.scores]\npsnr_y_db = 30\ngain = 0.5\n")
    assert find_entry("small", tmp_path).scores == {"psnr_y_db": 30.0, "gain": 0.5}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_last_byte, "is changed or cut short: SHA-256 [0-9a-f]{64}, not "),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "is changed or cut short"),
        (Path.unlink, "cannot be read: No such file"),
    ],
    ids=["changed", "cut", "missing"],
)
def test_damaged_file(damage: Any, message: str, tmp_path: Path) -> None:
    damage(register(tmp_path, "small", save(weights(SMALL))))
    with pytest.raises(WeightsError, match=rf"small\.safetensors {message}"):
        load_network("small", folder=tmp_path)


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    register(tmp_path, "small", b"")
    with pytest.raises(
        WeightsError, match=r"no weights are called 'smal'; .*registry\.toml has small; give one of these"
    ):
        load_network("smal", folder=tmp_path)


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "header without tensors"])
def test_files_of_other_kinds(kind: str, tmp_path: Path) -> None:
    """They are refused even with the right hash, and a pickle is never run."""
    trap = tmp_path / "trap"
    file = tmp_path / "weights.pt"
    torch.save({"head.weight": Planted(trap)}, file)
    whole = save(weights(SMALL))
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
        weights(SMALL_SHAPES["cleaner"]),
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


def test_training_does_not_write_into_the_file(tmp_path: Path) -> None:
    """The tensors are copied."""
    path = tmp_path / "w.safetensors"
    save_file(weights(SMALL), path)
    before = path.read_bytes()
    _, found = read_weights(path, "")
    net = SMALL.build()
    load_tensors(net, found, path)
    with torch.no_grad():
        net.head.weight.add_(1)
    assert torch.equal(found["head.weight"], weights(SMALL)["head.weight"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("architecture", "widths", "blocks", "message"),
    [
        ("srgan", (4, 4, 4), (1,), "srgan needs 1 or 2 widths and 1 blocks; got widths = [4, 4, 4], blocks = [1]"),
        ("srgan", (4,), (), "srgan needs 1 or 2 widths and 1 blocks"),
        ("autoencoder", (4,), (1, 1, 1), "autoencoder needs 3 widths and 3 blocks"),
        ("landmarks", (4, 4), (1, 1, 1), "landmarks needs 3 widths and 3 blocks"),
        ("srgan", (10**9,), (1,), "widths = [1000000000] must be from 1 to 1024"),
        ("srgan", (4,), (10**9,), "blocks = [1000000000] must be from 1 to 1024"),
        ("autoencoder", (4, 0, 4), (1, 1, 1), "widths = [4, 0, 4] must be from 1 to 1024"),
    ],
)
def test_invalid_shapes(
    architecture: Architecture, widths: tuple[int, ...], blocks: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("[", r"\[")):
        NetworkShape(architecture, widths, blocks)


@pytest.mark.parametrize("text", ["small = 3", "[small]\nfile = 'x'", "[small]\nfil = 'x'", "small"])
def test_malformed_registry(text: str, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"registry\.toml"):
        read_registry(tmp_path)


def test_missing_registry(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"registry\.toml does not exist"):
        read_registry(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return registry_of_two(tmp_path)


# --- Names ------------------------------------------------------------------------------------------------------


def test_name_with_a_folder_is_an_entry_of_its_registry(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{two}/cleaner"
    assert find_entry(address) == read_registry(two)["cleaner"]
    assert find_entry(address, folder=bundled("pretrained")) == find_entry("cleaner", two)
    expected = tensors(SHAPES["denoise"])
    assert all(torch.equal(value, expected[key]) for key, value in load_network(address).state_dict().items())
    monkeypatch.chdir(two.parent)
    assert find_entry("two/cleaner") == find_entry("./two/cleaner") == find_entry(address)
    monkeypatch.chdir(two)
    assert find_entry("./cleaner") == find_entry(address)


@pytest.mark.parametrize(
    ("name", "place", "own"),
    [("a", None, "a"), ("w/a", "w", "a"), ("x/w/a", "x/w", "a"), ("/w/a", "/w", "a"), ("/a", "/", "a")],
)
def test_parts_of_a_name(name: str, place: str | None, own: str) -> None:
    assert locate(name) == (Path(place) if place else bundled("pretrained"), own)


def test_unknown_names(two: Path) -> None:
    with pytest.raises(WeightsError, match=rf"called '{two}/clean'; {two}/registry\.toml has cleaner, grower; give"):
        find_entry(f"{two}/clean")
    with pytest.raises(
        WeightsError, match=rf"'{two}/no/a' need {two}/no/registry\.toml, which does not exist; .* denoiser"
    ):
        load_network(f"{two}/no/a")
    with pytest.raises(WeightsError, match=r"registry\.toml has denoiser, .*or DIR/NAME"):
        find_entry("cleaner")
    (two / "registry.toml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"registry\.toml cannot be read as TOML"):
        find_entry(f"{two}/cleaner")


def test_stage_refuses_weights_of_another_network(two: Path) -> None:
    with pytest.raises(WeightsError, match="grower' are of the srgan network; this stage runs the autoencoder"):
        network(f"{two}/grower", torch.device("cpu"), "autoencoder")


# --- `celebahq weights list` and `verify` -----------------------------------------------------------------------


def test_table_of_a_registry(two: Path) -> None:
    reregister(two, "grower", scores={"a": 1.5, "b": 2.0, "c": 3.25, "d": 4.0, "e": 5.0})
    size = find_entry("cleaner", two).size_bytes / 1e6
    head, first, second = table_lines(two)
    assert head.split() == ["name", "network", "parameters", "size", "licence", "scores"]
    assert first.split("  ")[:2] == ["cleaner", "autoencoder 4/6/8, 1/1/2 blocks"]
    count = sum(t.numel() for t in tensors(SHAPES["denoise"]).values())
    assert first.split()[-6:] == [f"{count:,}", f"{size:.2f}", "MB", "CC0", "held_out_gain_q10_db", "0.5"]
    assert second.endswith("CC0      a 1.5, b 2, c 3.25, 2 more")
    assert first.index("CC0") == second.index("CC0") == head.index("licence")


def test_bundled_weights_are_listed_and_verified() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.celebahq, ["weights", "list"]).output
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(read_registry())
    checked = runner.invoke(cli.celebahq, ["weights", "verify"])
    assert (checked.exit_code, checked.output) == (0, "".join(f"{name}: OK\n" for name in read_registry()))


def with_nan(path: Path) -> None:
    values = load_file(path)
    values["down1.bias"][2] = math.nan
    save_file(values, path)


@pytest.mark.parametrize(
    ("damage", "registered", "message"),
    [
        (change_last_byte, None, "is changed or cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), None, "bytes, the registry says"),
        (lambda path: None, {"size_bytes": 7}, "bytes, the registry says 7"),
        (Path.unlink, None, "cannot be read: No such file"),
        (with_nan, {}, "down1.bias has values that are not finite"),
        (lambda path: save_file(tensors(SHAPES["upscale"]), path), {}, "belongs to another network"),
        (lambda path: path.write_bytes(b"nonsense"), {}, "is not a safetensors file"),
        (lambda path: None, {"shape": NetworkShape("autoencoder", (4, 6, 8), (1, 1, 1))}, "belongs to another network"),
    ],
    ids=["changed", "cut", "size", "missing", "NaN", "foreign", "nonsense", "shape"],
)
def test_verify_reports_a_problem_and_continues(
    damage: Any, registered: dict[str, Any] | None, message: str, two: Path
) -> None:
    assert list(verify_weights(folder=two)) == [("cleaner", ""), ("grower", "")]
    damage(two / "cleaner.safetensors")
    if registered is not None:
        reregister(two, "cleaner", **registered)
    (first, problem), second = verify_weights(folder=two)
    assert (first, second) == ("cleaner", ("grower", ""))
    assert message in problem
    assert str(two / "cleaner.safetensors") in problem
    assert "\n" not in problem


def test_verify_by_name(two: Path) -> None:
    change_last_byte(two / "grower.safetensors")
    asked = ["weights", "verify", "cleaner", "none", f"{two}/grower", "nowhere/x", "cleaner", "--pretrained", str(two)]
    ended = CliRunner().invoke(cli.celebahq, asked)
    lines = ended.output.splitlines()
    assert ended.exit_code == 1
    assert [line.split(": ")[0] for line in lines] == ["cleaner", "none", f"{two}/grower", "nowhere/x", "cleaner"]
    assert lines[0] == lines[-1] == "cleaner: OK"
    assert "no weights are called 'none'" in lines[1]
    assert "is changed or cut short" in lines[2]
    assert "which does not exist" in lines[3]


def test_missing_registry_is_an_error_of_both_commands(tmp_path: Path) -> None:
    for command in ("list", "verify"):
        message = one_line_error(celebahq("weights", command, "--pretrained", tmp_path))
        assert f"{tmp_path}/registry.toml does not exist" in message


# --- The bundled weights ----------------------------------------------------------------------------------------

NAMES = sorted(read_registry())


def test_bundled_architectures() -> None:
    kinds = {name: known.shape.architecture for name, known in read_registry().items()}
    assert kinds["denoiser"] == "autoencoder"
    assert "srgan" in kinds.values()


@pytest.mark.parametrize("name", NAMES)
def test_bundled_file_is_the_registered_one(name: str) -> None:
    known = find_entry(name)
    path = bundled("pretrained") / known.file
    assert path.stat().st_size == known.size_bytes
    assert {str(tensor.dtype) for tensor in load_file(path).values()} == {f"torch.{known.dtype}"}
    assert {parameter.dtype for parameter in load_network(name).parameters()} == {torch.float32}
    assert all(p.isfinite().all() and p.any() for p in load_network(name).parameters())


def cut(left: int = 240, top: int = 150, side: int = 96) -> Tensor:
    """Return a part of a face of the sample, uint8 [3, side, side]."""
    with Image.open(Path(__file__).parents[1] / "sample" / "celeba" / "img_celeba" / "000001.jpg") as image:
        pixels = np.asarray(image.convert("RGB").crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def compressed(pixels: Tensor, quality: int) -> Tensor:
    with Image.open(io.BytesIO(encode_jpeg(pixels.numpy(), quality))) as image:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_bundled_networks_are_invisible(name: str) -> None:
    """With the context that the network needs, tiled and untiled results differ by at most one level."""
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
    """The upscaled photo, downscaled again, is the photo."""
    small = torch.nn.functional.avg_pool2d(cut().float(), 2).round().to(torch.uint8)
    large = run_tiled(load_network(name), small, scale=4, tile_px=512, context_px=16, stride_px=1)
    again = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert error(again, small) < 0.05 * float(small.float().var())


# --- Import -----------------------------------------------------------------------------------------------------


def test_a_registry_is_read_without_importing_torch() -> None:
    code = (
        "import sys; from celebahq_builder.models.registry import read_registry; read_registry(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "celebahq_builder.models.registry" in done.stdout.split()
    assert "torch" not in done.stdout.split()
