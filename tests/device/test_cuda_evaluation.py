"""Evaluation on a CUDA device: the numbers of the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from celebahq_builder.config import flatten
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.evaluation.result import Result
from celebahq_builder.models.generator_file import export_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.progan.evaluation import GeneratorSource
from tests.evaluation.sources import Held, smooth
from tests.progan.tiny import NET

CPU = torch.device("cpu")


def numbers(result: Result) -> dict[str, float]:
    """Return all numbers of a result by their place in its JSON."""
    return {place: value for place, value in flatten(result.to_json()).items() if isinstance(value, float)}


def test_swd_and_ms_ssim_equal_those_of_the_cpu(device: torch.device) -> None:
    results = []
    for where in (CPU, device):
        images, reference = (SourceImages(Held(smooth(40, 64, seed)), 0) for seed in (1, 2))
        protocol = EvaluationProtocol(("swd", "ms-ssim"), 20, device=where)
        results.append(numbers(evaluate(images.source, reference, protocol)))
    wanted, found = results
    assert len(wanted) > 4
    assert found == pytest.approx(wanted, rel=2e-3, abs=1e-5)


def test_a_generator_is_evaluated_on_the_device(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = GeneratorNetwork(replace(NET, resolution=32))
    path = export_generator(tmp_path, net, 5, 1.0, {"kimg": 7, "data": {"sha256": "ab"}})
    results = []
    for where in (CPU, device):
        source, reference = GeneratorSource.of_file(path, 0, where), SourceImages(Held(smooth(40, 32, 2)), 0)
        protocol = EvaluationProtocol(("swd",), 20, device=where)
        results.append(numbers(evaluate(source, reference, protocol)))
    assert results[1] == pytest.approx(results[0], rel=0.02)
