"""Scores equal those of the metrics on the images of the protocol; the JSON record has everything that affects them."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation import image_sources
from celebahq_builder.evaluation import result as result_module
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.evaluation.result import Number
from celebahq_builder.metrics.batches import array_batches as batches
from celebahq_builder.metrics.inception import Inception, InceptionOutput
from celebahq_builder.metrics.inception_metrics import inception_score, kernel_inception_distance
from celebahq_builder.metrics.ssim import ms_ssim
from celebahq_builder.metrics.swd import swd
from tests.evaluation.sources import Held, noise, smooth
from tests.metrics.inception_file import write_random
from tests.reference.frechet import frechet


class Linear:
    """An extractor with a matrix product of few dimensions, which is fast and known in closed form."""

    name, sha256 = "linear", "0" * 64

    def __init__(self, side: int = 16) -> None:
        self.seen: list[int] = []
        self.matrix = torch.from_numpy(np.random.default_rng(5).normal(size=(3 * side * side, 12)) / 500)

    def __call__(self, images: Tensor) -> InceptionOutput:
        self.seen.append(len(images))
        features = (images.flatten(1).double() @ self.matrix).float()
        return InceptionOutput(features, features[:, :7])


def order(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


def features(pixels: np.ndarray) -> Tensor:
    return Linear()(torch.from_numpy(pixels)).pool3


def test_swd_and_its_floor() -> None:
    ours, theirs = smooth(40, 32), smooth(90, 32, 1)
    result = evaluate(Held(ours), SourceImages(Held(theirs), 2), EvaluationProtocol(("swd",), 30, 2))
    score = result.scores[0]
    first, second = ours[order(40, 2)[:30]], theirs[order(90, 2)[:30]]
    assert score.number.levels == swd(batches(first), batches(second), resolution=32, count=30, seed=2)
    assert list(score.number.levels) == [32, 16]
    assert score.number.value == pytest.approx(sum(score.number.levels.values()) / 2)
    other = theirs[order(90, 2)[30:60]]
    assert score.baseline.number.levels == swd(batches(second), batches(other), resolution=32, count=30, seed=2)
    assert (score.name, score.baseline.kind, score.baseline.count) == ("swd30", "floor", 30)
    assert score.source_sha256 == hashlib.sha256(first.tobytes()).hexdigest()
    assert score.reference_sha256 == hashlib.sha256(second.tobytes()).hexdigest()


def test_ms_ssim_of_pairs_and_of_the_reference() -> None:
    ours, theirs = smooth(30, 16), smooth(50, 16, 1)
    score = evaluate(Held(ours), SourceImages(Held(theirs)), EvaluationProtocol(("ms-ssim",), 10)).scores[0]
    for number, pixels in ((score.number, ours), (score.baseline and score.baseline.number, theirs)):
        pairs = torch.from_numpy(pixels[order(len(pixels))[:20]])
        assert number.value == pytest.approx(float(ms_ssim(pairs[0::2], pairs[1::2]).mean()), rel=1e-12)
    assert (score.baseline.kind, score.baseline.count, score.reference_count) == ("reference", 10, None)
    assert evaluate(Held(ours), None, EvaluationProtocol(("ms-ssim",), 10)).scores[0].baseline is None


def test_inception_metrics_share_one_pass_over_each_side() -> None:
    ours, theirs = smooth(60, 16), smooth(130, 16, 1)
    protocol, extractor = EvaluationProtocol(("fid", "kid", "is"), 50), Linear()
    reference = SourceImages(Held(theirs))
    result = evaluate(Held(ours), reference, protocol, extractor=extractor)
    assert sum(extractor.seen) == 50 + 100
    a, b, c = features(ours[order(60)[:50]]), *features(theirs[order(130)[:100]]).split(50)
    fid, kid, score = result.scores
    assert fid.number.value == pytest.approx(frechet(a, b), rel=1e-6)
    assert fid.baseline.number.value == pytest.approx(frechet(b, c), rel=1e-6)
    assert kid.number == Number(kernel_inception_distance(a, b, 1, 50)[0])  # one subset has all images
    assert (kid.settings["subsets"], kid.settings["subset_size"]) == (1, 50)
    assert (score.number.value, score.number.spread) == inception_score(a[:, :7], 10, 0)
    assert score.baseline.number.value == inception_score(b[:, :7], 10, 0)[0]
    extractor.seen.clear()
    again = evaluate(Held(ours), reference, protocol, extractor=extractor)
    assert again == result
    assert sum(extractor.seen) == 50  # none of the reference


def test_kid_of_subsets_has_a_deviation() -> None:
    ours, theirs = smooth(60, 16), smooth(40, 16, 1)
    score = evaluate(
        Held(ours), SourceImages(Held(theirs)), EvaluationProtocol(("kid",), 50), extractor=Linear()
    ).scores[0]
    a, b = features(ours[order(60)[:50]]), features(theirs[order(40)])
    assert score.number == Number(*kernel_inception_distance(a, b, 100, 40))
    assert score.number.spread > 0
    assert (score.settings["subsets"], score.settings["subset_size"]) == (100, 40)


def test_fid_with_a_reference_of_fewer_images() -> None:
    ours, theirs = smooth(60, 16), smooth(40, 16, 1)
    score = evaluate(
        Held(ours), SourceImages(Held(theirs)), EvaluationProtocol(("fid",), 50), extractor=Linear()
    ).scores[0]
    wanted = frechet(features(ours[order(60)[:50]]), features(theirs))
    assert score.number.value == pytest.approx(wanted, rel=1e-6)
    assert (score.name, score.reference_count) == ("fid50", 40)
    assert score.baseline.number is None
    assert score.baseline.missing_reason == "the reference has 40 images, its two halves need 50 at least"


@pytest.mark.parametrize(("memory_bytes", "batch_bytes"), [(0, 1), (0, 2**30), (2**30, 5 * 768)])
def test_batches_and_memory_do_not_change_a_number(
    memory_bytes: int, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = EvaluationProtocol(("swd", "ms-ssim", "fid", "kid", "is"), 20)
    ours, theirs = smooth(45, 16), smooth(60, 16, 1)
    usual = evaluate(Held(ours), SourceImages(Held(theirs)), protocol, extractor=Linear())
    monkeypatch.setattr(image_sources, "MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(image_sources, "BATCH_BYTES", batch_bytes)
    assert evaluate(Held(ours), SourceImages(Held(theirs)), protocol, extractor=Linear()) == usual


def test_baselines_are_computed_once() -> None:
    reference, source = Held(smooth(60, 16)), Held(smooth(20, 16, 1))
    kept = SourceImages(reference)
    protocol = EvaluationProtocol(("swd",), 20)
    first = evaluate(source, kept, protocol)
    assert reference.read_images == 40
    assert evaluate(source, kept, protocol) == first
    assert reference.read_images == 40
    with pytest.raises(ValueError, match="the reference is of seed 0, the protocol of seed 1"):
        evaluate(source, kept, EvaluationProtocol(("swd",), 20, 1))


def test_the_baseline_of_another_network_is_computed_again() -> None:
    source, kept = Held(smooth(20, 16, 1)), SourceImages(Held(smooth(60, 16)))
    first, second = Linear(), Linear()
    second.sha256, second.matrix = "1" * 64, second.matrix * 2
    found = [
        evaluate(source, kept, EvaluationProtocol(("fid",), 20), extractor=one).scores[0] for one in (first, second)
    ]
    baselines = [score.baseline_number.value for score in found if score.baseline_number]
    assert baselines[1] == pytest.approx(4 * baselines[0], rel=1e-4)


def test_inception_network(tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    inception = Inception(path, sha256=write_random(path))
    ours, theirs = smooth(12, 16), smooth(5, 16, 1)
    result = evaluate(
        Held(ours), SourceImages(Held(theirs)), EvaluationProtocol(("kid", "is"), 10), extractor=inception
    )
    a, b = inception(torch.from_numpy(ours[order(12)[:10]])), inception(torch.from_numpy(theirs[order(5)]))
    kid, score = result.scores
    assert kid.number.value == pytest.approx(kernel_inception_distance(a.pool3, b.pool3, 100, 5)[0], rel=1e-4)
    assert score.number.value == pytest.approx(inception_score(a.logits, 10, 0)[0], rel=1e-5)
    recorded = result.to_json()["scores"]["kid10"]["settings"]
    assert recorded["extractor_sha256"] == inception.sha256
    assert recorded["extractor"].startswith("TensorFlow Inception 2015-12-05 (torch-fidelity ")
    assert "299x299" in recorded["resize"]


def test_json_has_everything_that_affects_a_number() -> None:
    reference = SourceImages(Held(smooth(60, 16, 1)), 7)
    result = evaluate(
        Held(smooth(45, 16), generated=True), reference, EvaluationProtocol(("swd", "fid"), 40, 7), extractor=Linear()
    )
    recorded = json.loads(json.dumps(result.to_json()))
    assert (recorded["resolution"], recorded["channels"], recorded["seed"], recorded["mirror"]) == (16, 3, 7, False)
    assert recorded["range"] == "uint8, 0 to 255"
    assert recorded["source"] == {"kind": "held", "path": "held", "images": None}
    assert recorded["reference"]["images"] == 60
    assert {"celebahq-builder", "torch", "numpy", "opencv", "pillow", "python"} == recorded["versions"].keys()
    swd40 = recorded["scores"]["swd40"]
    assert swd40["levels"].keys() == {"16"}
    assert swd40["value"] == swd40["levels"]["16"]
    assert (swd40["unit"], swd40["count"], swd40["counted"]) == ("x 1e3", 40, "images")
    assert swd40["baseline"] == {"kind": "floor", "count": 30} | {
        key: swd40["baseline"][key] for key in ("value", "levels")
    }
    assert swd40["source_choice"] == "numbers 0 to 39 of the seed"
    assert swd40["reference_choice"] == "40 of 60, at random without replacement"
    assert len(swd40["source_pixels_sha256"]) == len(swd40["reference_pixels_sha256"]) == 64
    assert swd40["settings"]["resize"] is None
    assert swd40["settings"]["patches"] == "128 of 7x7 px an image and level"
    fid = recorded["scores"]["fid40"]
    assert (fid["settings"]["extractor"], fid["settings"]["features"]) == ("linear", "pool3")
    assert math.isfinite(fid["value"])


def test_result_lines() -> None:
    protocol = EvaluationProtocol(("swd", "kid"), 40)
    source, reference = Held(smooth(45, 32)), SourceImages(Held(smooth(50, 32, 1)))
    result = evaluate(source, reference, protocol, extractor=Linear(32))
    lines = list(result_module.result_lines(result))
    assert lines[0] == "source     held: held, 45 images, 32x32, RGB"
    assert lines[1] == "reference  held: held, 50 images"
    levels = [line.split() for line in lines if line.startswith("swd40")]
    assert [line[1] for line in levels] == ["32x32", "16x16", "mean"]
    assert levels[-1][-4:] == ["floor", "of", "25", "images"]
    assert levels[0][2] == result_module.format_number(result.scores[0].number.levels[32])
    assert not any("same images" in line for line in lines)
    equal = evaluate(Held(smooth(40, 16)), SourceImages(Held(smooth(40, 16))), EvaluationProtocol(("swd",), 40))
    assert list(result_module.result_lines(equal))[-1].startswith("swd40: both sides are the same images")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (144.0312, "144.03"),
        (7.3, "7.300"),
        (0.28284, "0.2828"),
        (0.0123456, "0.01235"),
        (0.00123456, "0.001235"),
        (-1.22838e-05, "-1.228e-05"),
        (0.0, "0.0000"),
    ],
)
def test_format_number(value: float, text: str) -> None:
    assert result_module.format_number(value) == text


def test_images_without_texture() -> None:
    flat = np.full((20, 3, 16, 16), 77, np.uint8)
    with pytest.raises(FormatError, match="texture"):
        evaluate(Held(flat), SourceImages(Held(noise(40, 16))), EvaluationProtocol(("swd",), 20))
