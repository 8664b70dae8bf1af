"""The examples in docs/metrics.md run as they are."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from celebahq_builder.metrics import inception
from celebahq_builder.metrics.ssim import ms_ssim
from celebahq_builder.metrics.swd import swd
from tests.metrics.inception_file import write_random

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 10, 3, 32, 32), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    for name, images in zip(("fakes", "reals"), noise, strict=True):
        np.save(f"{name}.npy", images)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = inception.weights_cache_path()
    cached.parent.mkdir(parents=True)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", write_random(cached))
    names: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, names)
    fakes, reals = map(torch.from_numpy, noise)
    assert names["levels"] == swd(lambda: iter([fakes]), lambda: iter([reals]), resolution=32, count=10)
    assert names["similarity"] == pytest.approx(float(ms_ssim(fakes[0::2], fakes[1::2]).mean()), rel=1e-12)
    assert 1 <= names["score"] <= 1008
    assert names["fid"] > 0
    assert np.isfinite(names["kid"])
