"""Weight files of other projects, with random weights: small networks of the architectures that spandrel knows."""

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.torchvision_operators import define_missing_operators


def architecture(name: str, **sizes: Any) -> nn.Module:
    """Return a network of an architecture of spandrel."""
    define_missing_operators()
    net: nn.Module = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)(**sizes)
    return net


def compact(scale: int, channels: int = 3, convolutions: int = 2) -> nn.Module:
    return architecture(
        "Compact",
        num_in_ch=channels,
        num_out_ch=channels,
        num_feat=6,
        num_conv=convolutions,
        upscale=scale,
        act_type="prelu",
    )


def esrgan(scale: int, shuffle_factor: int | None = None) -> nn.Module:
    """An RRDBNet; with a `shuffle_factor` it enlarges less, and takes images of multiples of 4 px."""
    in_nc = 3 * (shuffle_factor or 1) ** 2
    return architecture(
        "ESRGAN", num_filters=6, num_blocks=1, scale=scale, in_nc=in_nc, out_nc=3, shuffle_factor=shuffle_factor
    )


def swin(scale: int) -> nn.Module:
    """A network whose result depends on the position of its attention windows, 8 px wide."""
    return architecture(
        "SwinIR",
        img_size=16,
        embed_dim=12,
        depths=(2,),
        num_heads=(2,),
        window_size=8,
        upscale=scale,
        upsampler="pixelshuffle",
    )


def grey_dncnn() -> nn.Module:
    return architecture("DnCNN", in_nc=1, out_nc=1, nc=6, nb=9, act_mode="R")


def nafnet() -> nn.Module:
    """A network with global pooling, so that each pixel depends on the whole image."""
    net = architecture("NAFNet", width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.ones_(parameter)  # they start at zero, which switches the blocks off
    return net


def face_network() -> nn.Module:
    return architecture(
        "RestoreFormer", n_embed=8, embed_dim=32, ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=32, head_size=1
    )


def inpainting_network() -> nn.Module:
    return architecture("LaMa")


def tensors(build: Callable[[], nn.Module], seed: int = 0) -> dict[str, Any]:
    """Return the tensors of a network; the mean of its results is a medium grey."""
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):  # SwinIR calls what will be removed
        torch.manual_seed(seed)
        net = build()
    found = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if type(net).__name__ == "RRDBNet":
        found[list(found)[-1]] += 0.5
    return found


def write(path: Path, build: Callable[[], nn.Module], seed: int = 0) -> str:
    """Write the tensors of a network as training programs do, and return the setting that names the file."""
    if path.suffix == ".safetensors":
        save_file(tensors(build, seed), path)
    else:
        torch.save({"params_ema": tensors(build, seed)}, path)
    return f"file:{path}"
