"""Weight files of other projects: loaded without running code, refused in one line, and run in tiles without a seam."""

import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from celebahq_builder.errors import WeightsError
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.models.community import Task, load_community_network, pinned, weights_sha256
from celebahq_builder.models.community_network import (
    CONTEXT_MAX_PX,
    MEMORY_BYTES,
    REACH_LEVELS,
    WINDOW_PX,
    CommunityNetwork,
    Footprint,
    measure_footprint,
)
from celebahq_builder.pipeline.network_stage import network
from tests.conftest import SAMPLE
from tests.models.community_files import (
    compact,
    esrgan,
    face_network,
    grey_dncnn,
    inpainting_network,
    nafnet,
    swin,
    tensors,
    write,
)

pytestmark = pytest.mark.usefixtures("footprint_cache")

CPU = torch.device("cpu")
Build = Callable[[], nn.Module]


def loaded(weights: str, task: Task = "upscale") -> CommunityNetwork:
    return load_community_network(weights, task, CPU)


def photo(height: int, width: int) -> Tensor:
    """The middle of a photo of the sample, uint8 [3, height, width]."""
    with Image.open(SAMPLE / "img_celeba" / "000001.jpg") as image:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.convert("RGB").crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def seam(net: CommunityNetwork, pixels: Tensor, tile_px: int) -> int:
    """Return the largest difference between the tiled result and that of one window, in grey levels."""
    whole, tiled = (
        run_tiled(net, pixels, scale=net.SCALE, tile_px=px, context_px=net.context_px, stride_px=net.STRIDE_PX).int()
        for px in (4096, tile_px)
    )
    assert whole.shape == (3, net.SCALE * pixels.shape[1], net.SCALE * pixels.shape[2])
    return int((whole - tiled).abs().max())


NETWORKS: dict[str, tuple[Build, Task, int, int]] = {
    "compact 1x": (partial(compact, 1), "denoise", 1, 1),
    "compact 2x": (partial(compact, 2), "upscale", 2, 1),
    "compact 4x": (partial(compact, 4), "upscale", 4, 1),
    "esrgan 1x": (partial(esrgan, 1), "denoise", 1, 1),
    "esrgan 8x": (partial(esrgan, 8), "upscale", 8, 1),
    "esrgan 2x, multiples of 4 px": (partial(esrgan, 4, 2), "upscale", 2, 4),
    "grey dncnn 1x": (grey_dncnn, "denoise", 1, 1),
    "grey compact 2x": (partial(compact, 2, 1), "upscale", 2, 1),
    "swin 2x, windows of 8 px": (partial(swin, 2), "upscale", 2, WINDOW_PX),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_have_no_seam(name: str, tmp_path: Path) -> None:
    build, task, scale, stride = NETWORKS[name]
    net = loaded(write(tmp_path / "net.pth", build), task)
    assert (scale, stride) == (net.SCALE, net.STRIDE_PX)
    assert net.footprint.beyond_levels <= REACH_LEVELS
    assert seam(net, photo(61, 333), tile_px=48) <= 1


@pytest.mark.parametrize("name", ["compact 2x", "esrgan 2x, multiples of 4 px", "swin 2x, windows of 8 px"])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (21, 30)])
def test_images_of_any_size(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Images are padded to what the network requires, and the result is cut."""
    net = loaded(write(tmp_path / "net.pth", NETWORKS[name][0]))
    result = net(torch.rand(2, 3, *size))
    assert result.shape == (2, 3, 2 * size[0], 2 * size[1])
    assert result.isfinite().all()


def test_a_grey_network_keeps_the_colours(tmp_path: Path) -> None:
    net = loaded(write(tmp_path / "net.pth", grey_dncnn), "denoise")
    image = torch.rand(1, 3, 9, 12)
    change = net(image) - image
    assert torch.allclose(change, change[:, :1].expand_as(change), atol=1e-6)
    assert change.abs().max() > 1e-4
    grey = image.mean(dim=1, keepdim=True)
    assert torch.allclose(net(grey.expand_as(image))[:, :1], net.descriptor(grey), atol=1e-6)


def test_all_kinds_of_files_hold_the_same_network(tmp_path: Path) -> None:
    own, build = tensors(partial(compact, 2)), partial(compact, 2)
    torch.save(own, tmp_path / "bare.pth")
    torch.save({"epoch": 3, "params": own, "note": "x"}, tmp_path / "nested.ckpt")
    torch.save({"module." + name: one for name, one in own.items()}, tmp_path / "parallel.pth")
    torch.save(own, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    write(tmp_path / "ema.pth", build)
    write(tmp_path / "net.safetensors", build)
    save_file({name: one.half() for name, one in own.items()}, tmp_path / "half.safetensors")
    image = torch.rand(1, 3, 8, 9)
    results = {path.name: loaded(f"file:{path}")(image) for path in sorted(tmp_path.iterdir())}
    assert len(results) == 7
    half = results.pop("half.safetensors")
    assert all(torch.equal(one, results["bare.pth"]) for one in results.values())
    assert half.dtype == torch.float32
    assert 0 < (half - results["bare.pth"]).abs().max() < 0.01


# --- Refusals ---------------------------------------------------------------------------------------------------


class _Command:
    """An object whose pickle runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def refusal(weights: str, task: Task = "upscale") -> str:
    with pytest.raises(WeightsError) as error:
        loaded(weights, task)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_code_is_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pth", tmp_path / "mark"
    for zipped in (True, False):
        torch.save({"params": _Command(f"touch {mark}")}, path, _use_new_zipfile_serialization=zipped)
        assert "could run code and are not loaded" in refusal(f"file:{path}")
    path.write_bytes(pickle.dumps(_Command(f"touch {mark}")))
    assert "is not a file of PyTorch" in refusal(f"file:{path}")
    assert not mark.exists()


def test_damaged_files(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"net{suffix}"
        write(path, partial(compact, 2))
        whole = path.read_bytes()
        for length in (0, 5, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert "get the file again" in refusal(f"file:{path}")
    broken = tensors(partial(compact, 2))
    broken["body.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(broken, path := tmp_path / "nan.pth")
    assert refusal(f"file:{path}").endswith("body.0.weight has values that are not finite; get the file again")


def test_files_that_are_no_network(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_text("Not Found")
    assert "is not a file of PyTorch: it begins with b'Not Foun'" in refusal(f"file:{path}")
    torch.save([torch.zeros(2)], path)
    assert "holds a list" in refusal(f"file:{path}")
    torch.save({"anything": torch.zeros(2), "else": torch.zeros(3)}, path)
    assert "is not a network that spandrel" in refusal(f"file:{path}")
    cut = tensors(partial(esrgan, 4))
    del cut["model.0.bias"]
    torch.save(cut, path)
    assert "has tensors that do not form a network (RuntimeError: " in refusal(f"file:{path}")
    assert "must end in .pth, .pt, .ckpt, .safetensors" in refusal(f"file:{tmp_path}/net.bin")
    assert "nothing.pth cannot be read: No such file or directory" in refusal(f"file:{tmp_path}/nothing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "a folder, not a regular file" in refusal(f"file:{tmp_path}/folder.pth")


def test_files_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({**tensors(partial(compact, 2)), "body.0.weight": torch.zeros(1).expand(1 << 40)}, path)
    assert "claim more values than the file holds" in refusal(f"file:{path}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", bytes(1 << 20))
    assert "is damaged: its archive is compressed" in refusal(f"file:{path}")


def test_networks_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    assert "is a network of scale 1x (RealESRGAN Compact); upscale.weights needs" in refusal(
        write(path, partial(compact, 1))
    )
    assert "is a network that enlarges 4x (ESRGAN); denoise.weights needs" in refusal(
        write(path, partial(esrgan, 4)), "denoise"
    )
    assert "is a network of scale 16x (ESRGAN)" in refusal(write(path, partial(esrgan, 16)))
    assert "maps 4 to 4 channels; upscale.weights needs" in refusal(write(path, partial(compact, 2, 4)))
    assert "for the restoration of aligned faces (RestoreFormer); denoise.weights" in refusal(
        write(path, face_network), "denoise"
    )
    torch.save({name: one.half() for name, one in tensors(inpainting_network).items()}, path)
    assert "is a network for inpainting (LaMa); denoise.weights" in refusal(f"file:{path}", "denoise")


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    message = refusal(write(tmp_path / "net.pth", partial(compact, 2)))
    assert "package spandrel, which is not installed: pip install 'celebahq-builder[community]'" in message


def test_a_file_that_changes(tmp_path: Path) -> None:
    """A worker runs the network whose hash the main process has put into the name, or none."""
    weights = write(tmp_path / "net.pth", partial(compact, 2))
    name = pinned(weights)
    assert name == f"{weights}#{weights_sha256(weights)}"
    first = network(name, CPU, "srgan")
    assert network(weights, CPU, "srgan") is first
    write(tmp_path / "net.pth", partial(compact, 2), seed=1)
    assert network(weights, CPU, "srgan") is not first
    assert "has changed since the build began" in refusal(name)


def test_bfloat16_where_the_network_has_none(tmp_path: Path) -> None:
    weights = write(tmp_path / "net.pth", partial(compact, 2))
    found = network(weights, CPU, "srgan", "bf16")
    assert isinstance(found, CommunityNetwork)
    found.descriptor.supports_bfloat16 = False
    with pytest.raises(WeightsError, match=r'cannot run in bfloat16; leave out upscale\.precision = "bf16"'):
        network(weights, CPU, "srgan", "bf16")


# --- Footprint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "context"), [(1, 0), (9, 8), (41, 24), (201, 104)])
def test_the_context_is_the_reach(kernel: int, context: int) -> None:
    net = nn.AvgPool2d(kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    found = measure_footprint(net)
    assert (found.context_px, found.stride_px) == (context, 1)
    assert kernel // 2 <= found.context_px < kernel // 2 + 8


def test_a_network_that_looks_at_the_whole_image(tmp_path: Path) -> None:
    net = loaded(write(tmp_path / "net.pth", nafnet), "denoise")
    assert (net.context_px, net.STRIDE_PX) == (CONTEXT_MAX_PX, WINDOW_PX)
    assert net.footprint.beyond_levels > REACH_LEVELS
    assert "a result depends on the whole image" in net.warning
    assert loaded(write(tmp_path / "other.pth", partial(compact, 2))).warning == ""


def test_a_network_with_random_numbers_is_refused(tmp_path: Path) -> None:
    """Measured again with a layer that adds noise, as AuraSR has some."""
    net = loaded(write(tmp_path / "net.pth", nafnet), "denoise")
    net.model.register_forward_hook(lambda _, inputs, result: result + 0.1 * torch.rand_like(result))
    with pytest.raises(WeightsError, match="gives another result each time"):
        net.measure()


def test_the_memory_bounds_the_tiles() -> None:
    """The result of a convolution to 512 channels and that of the next one, beside the image."""
    net = nn.Sequential(nn.Conv2d(3, 512, 1), nn.Conv2d(512, 512, 1), nn.Conv2d(512, 3, 1)).requires_grad_(False)
    found = measure_footprint(net)
    values = found.bytes_per_px / 4
    assert 1024 <= values <= 1024 + 2 * 6
    window = found.tile_px(at_most=4096) + 2 * found.context_px
    assert MEMORY_BYTES - 10**7 < window**2 * found.bytes_per_px <= MEMORY_BYTES
    assert found.tile_px(at_most=64) == 64
    assert Footprint(112, 64, 10**6, 0.0).tile_px(at_most=512) == 32


def test_footprints_are_cached(footprint_cache: Path, tmp_path: Path) -> None:
    weights = write(tmp_path / "net.pth", partial(compact, 2, 3, 5), seed=7)
    first = loaded(weights).footprint
    [file] = footprint_cache.glob(f"*{weights_sha256(weights)}.json")
    file.write_text(file.read_text().replace(f'"context_px": {first.context_px}', '"context_px": 56'))
    assert loaded(weights).context_px == 56
    file.write_text("[]")
    assert loaded(weights).footprint == first
    shutil.rmtree(footprint_cache)
    footprint_cache.write_text("a file where the folder should be")
    assert loaded(weights).footprint == first
    footprint_cache.unlink()


# --- Real networks ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "context"), [("RealSR_DF2K_x4", 40), ("RealESRGAN_x4plus", 88)])
def test_published_networks(name: str, context: int, shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "models" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    net = loaded(f"file:{path}")
    assert (net.SCALE, net.context_px, net.STRIDE_PX) == (4, context, 1)
    assert seam(net, photo(48, 2 * context + 96), tile_px=48) <= 1
    small = photo(24, 24)
    [enlarged] = torch.nn.functional.interpolate(small[None].float(), scale_factor=4, mode="bicubic")
    result = run_tiled(net, small, scale=4, tile_px=64, context_px=net.context_px, stride_px=1)
    assert (result.float() - enlarged).abs().mean() < 8
