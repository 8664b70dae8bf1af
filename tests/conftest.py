"""Fixtures of several test files: the embedded sample, and builds that are small enough to repeat often."""

import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from celebahq_builder.pipeline.build import BuildResult, build
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.pipeline.stages.denoise import DenoiseSettings
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.stages.upscale import UpscaleSettings
from celebahq_builder.sources.celeba import read_celeba
from tests.browser import browser
from tests.torchvision_operators import define_missing_operators

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what runs in the background, and it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests.pipeline.runs")  # so that its assertions show the values

torch.set_num_threads(1)  # as in a worker; more threads than cores make small tests crawl


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt modules and tests from garbage collection: each pass over their half a million objects takes 0.3 s."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


SAMPLE = Path(__file__).parent / "sample" / "celeba"

SMALL = Path(__file__).parent / "sample" / "small"
"""The same photos, reduced until the crop of each face has at most 120 px; builds of them need half of the time."""

NETWORKS = Path(__file__).parent / "sample" / "networks"
"""Registry of two small networks, ``denoiser`` and ``upscaler``."""

TINY = BuildRecipe(
    resolution=64,
    crop=CropSettings(context_px=16),
    denoise=DenoiseSettings(weights=f"{NETWORKS}/denoiser"),
    upscale=UpscaleSettings(weights=f"{NETWORKS}/upscaler", when="always"),
    select=SelectSettings(keep=3),
)
"""Settings with which every stage has work, in a fraction of a second per photo."""

FAST = replace(TINY, upscale=replace(TINY.upscale, when="needed"), align=replace(TINY.align, supersampling=1))
"""Settings with which nothing is enlarged."""


def build_tiny(
    out: Path, root: Path = SMALL, *, recipe: BuildRecipe = TINY, limit: int | None = 5, workers: int = 1, **arguments
) -> BuildResult:
    """Build the first photos of a folder in CelebA's layout at 64x64, in this process unless asked otherwise."""
    source = read_celeba(root)
    return build(source, out, **{"recipe": recipe, "limit": limit, "workers": workers, "device": "cpu", **arguments})


PHOTO_STAGES = tuple(stage.name for stage in TINY.photo_stages())


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the first five photos; not to be changed: copy it."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    build_tiny(out)
    return out


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all photos with the settings `FAST`; not to be changed."""
    out = tmp_path_factory.mktemp("fast") / "run"
    build_tiny(out, limit=None, recipe=FAST)
    return out


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def footprint_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache of what is measured of networks of other projects, for all tests of a process; spandrel can be imported."""
    define_missing_operators()
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "celebahq_builder"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real test data that is no part of the project; the test is skipped where it is absent."""
    root = Path(os.environ.get("CELEBAHQ_SHARED", "../shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"real test data is not at {root} (CELEBAHQ_SHARED)")
    return root


@pytest.fixture(scope="session")
def yunet(shared: Path) -> Path:
    """Model file of the face detector, for the version of OpenCV that is installed."""
    import cv2

    name = "2026may" if int(cv2.__version__.split(".")[0]) >= 5 else "2023mar"
    path = shared / "data" / "models" / f"face_detection_yunet_{name}.onnx"
    if not path.exists():
        pytest.skip(f"the face detector is not at {path}")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser for the tests of a file; they are skipped where there is none."""
    with browser() as started:
        yield started
