"""Finished weights are the mixture asked for, and no longer lighter at some of the 4x4 pixels than at others."""

import numpy as np
import pytest
import torch
from torch import Tensor

from celebahq_builder.models.registry import load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.restoration.adversarial_training import interpolate_weights, phase_means, remove_subpixel_bias

Pairs = list[tuple[Tensor, Tensor]]


@pytest.fixture
def pairs() -> Pairs:
    rng = np.random.default_rng(0)
    lows = [torch.from_numpy(rng.random((2, 3, 12, 12), dtype=np.float32)) for _ in range(2)]
    return [(low, low.repeat_interleave(4, 2).repeat_interleave(4, 3)) for low in lows]


def network() -> SRGenerator:
    net = SRGenerator(48, 6, 8)
    net.load_state_dict(net.state_dict() | load_network("upscaler-psnr").state_dict())
    return net.requires_grad_(False)


def test_phase_means_by_hand(pairs: Pairs) -> None:
    net = network()
    wrong = [(net(low) - high).double() for low, high in pairs]
    means = phase_means(net, pairs)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        here = torch.stack([w[:, :, row::4, column::4].mean(dim=(0, 2, 3)) for w in wrong]).mean(dim=0)
        everywhere = torch.stack([w.mean(dim=(0, 2, 3)) for w in wrong]).mean(dim=0)
        torch.testing.assert_close(means[:, row, column], here - everywhere, rtol=0, atol=1e-7)


def test_levelling_takes_a_checkerboard_away_and_leaves_the_mean(pairs: Pairs) -> None:
    net = network()
    net.tail.bias.view(3, 4, 4)[:, ::2, 1::2] += 4 / 255
    before, colour = phase_means(net, pairs), torch.stack([net(low).mean(dim=(0, 2, 3)) for low, _ in pairs])
    remove_subpixel_bias(net, pairs)
    after = phase_means(net, pairs)
    spread = [255 * float((m.amax(dim=(1, 2)) - m.amin(dim=(1, 2))).max()) for m in (before, after)]
    assert spread[0] > 2
    assert spread[1] < 0.15 * spread[0]
    shifted = torch.stack([net(low).mean(dim=(0, 2, 3)) for low, _ in pairs]) - colour
    assert 255 * float(shifted.abs().max()) < 0.05


def test_a_mixture_lies_between_and_the_noise_counts_as_zero_in_the_start() -> None:
    net, start = network(), load_network("upscaler-psnr").state_dict()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1)
    moved = {name: value.clone() for name, value in net.state_dict().items()}
    interpolate_weights(net, start, 0.25)
    for name, value in net.state_dict().items():
        expected = 0.75 * moved[name] + (0.25 * start[name] if name in start else 0)
        torch.testing.assert_close(value, expected)
    assert "noise.weight" not in start
