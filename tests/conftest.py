"""What several test files need: the embedded sample, and builds small enough to repeat often."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from celebahq_builder.pipeline.build import BuildResult, build
from celebahq_builder.pipeline.plan import BuildRequest
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages import crop, select, upscale
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import subset

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what runs in the background, and it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # as in a worker; more threads than cores make small tests crawl

SAMPLE = Path(__file__).parent / "sample" / "celeba"

TINY = BuildRecipe(
    resolution=64,
    region=crop.CropSettings(context_px=16),
    upscale=upscale.UpscaleSettings(when="always"),
    select=select.SelectSettings(keep=3),
)
"""Every stage at work, in a fraction of a second per photo."""


def build_tiny(
    out: Path, root: Path = SAMPLE, *, recipe: BuildRecipe = TINY, limit: int | None = 5, **request
) -> BuildResult:
    """Build the first photos of a folder in CelebA's layout at 64x64, in this process unless asked otherwise."""
    source = subset(read_celeba(root), limit=limit)
    return build(BuildRequest(out=out, recipe=recipe, limit=limit, device="cpu", **request), source)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the first five photos; not to be changed: copy it."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    build_tiny(out)
    return out


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real test data that is no part of the project; the test is skipped where it is absent."""
    root = Path(os.environ.get("CELEBAHQ_SHARED", "../shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"real test data is not at {root} (CELEBAHQ_SHARED)")
    return root
