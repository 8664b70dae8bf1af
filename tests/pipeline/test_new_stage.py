"""A new stage is one file and one line; all the rest derives from the list of stages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import celebahq_builder
from tests.conftest import NETWORKS, SMALL

STAGE = '''
"""Mean brightness of the face."""

from dataclasses import dataclass

from celebahq_builder.pipeline.stage import PhotoStage


@dataclass(frozen=True)
class BrightnessSettings:
    """Unit of the mean."""

    levels: int = 255


@dataclass(frozen=True)
class BrightnessRecord:
    """Brightness of a face."""

    mean: float


class BrightnessStage(PhotoStage[BrightnessSettings]):
    """Compute the mean brightness."""

    name = "brightness"

    Settings = BrightnessSettings
    Record = BrightnessRecord
    saves_image = False

    def run(self, faces, settings, context):
        scale = settings.levels / 255
        return [face.with_record(BrightnessRecord(float(face.pixels.float().mean()) * scale)) for face in faces]
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more stage before the score."""
    root = tmp_path_factory.mktemp("checkout")
    package = Path(celebahq_builder.__file__).parent
    for folder in (package, package.parent / "pipelines", package.parent / "pretrained"):
        shutil.copytree(folder, root / folder.name)
    stages = root / "celebahq_builder" / "pipeline" / "stages"
    (stages / "brightness.py").write_text(STAGE)
    line = '        "score": "score.ScoreStage",\n'
    text = (stages / "__init__.py").read_text()
    assert line in text
    new = '        "brightness": "brightness.BrightnessStage",\n'
    (stages / "__init__.py").write_text(text.replace(line, new + line, 1))
    (root / "tiny.toml").write_text(
        "resolution = 64\n[crop]\ncontext_px = 16\n[brightness]\nlevels = 1\n"
        f'[denoise]\nweights = "{NETWORKS}/denoiser"\n'
    )
    return root


def celebahq(checkout: Path, *commands: list[object]) -> list[str]:
    """Run commands of the copy in one process; return what each of them prints."""
    program = """
import json, sys
from click.testing import CliRunner
from celebahq_builder.cli.main import celebahq
done = [CliRunner().invoke(celebahq, one, catch_exceptions=False) for one in json.load(sys.stdin)]
json.dump([one.stdout for one in done], sys.stdout)
sys.exit(any(one.exit_code for one in done))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        input=json.dumps([list(map(str, one)) for one in commands]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def manifest(out: Path, stage: str) -> list[dict]:
    paths = sorted((out / "stages" / stage / "batches").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_new_stage_is_one_file_and_one_line(checkout: Path) -> None:
    out = checkout / "run"
    build = ["build", "--celeba-root", SMALL, "--out", out, "--recipe", "tiny.toml", "--limit", 2]
    build += ["--workers", 1, "--device", "cpu"]

    first = [*build, "--until", "brightness"]
    planned, *_ = celebahq(checkout, [*first, "--dry-run"], first, build)
    assert "brightness: 0 of 1 batches done" in planned
    assert "brightness.levels = 1  (tiny.toml)" in planned
    assert [0 < one["brightness"]["mean"] < 1 for one in manifest(out, "brightness")] == [True, True]

    run = json.loads((out / "run.json").read_text())
    assert run["photo_stages"] == ["crop", "denoise", "upscale", "align", "brightness", "score"]
    assert run["stages"] == ["align", "brightness", "score", "select", "pack"]
    plan = json.loads((out / "stages" / "score" / "plan.json").read_text())
    assert plan["ingredients"][-2] == {"name": "brightness", "version": 1, "levels": 1}
    assert manifest(out, "select")[0]["brightness"] in [one["brightness"] for one in manifest(out, "brightness")]
    report = (out / "report" / "index.html").read_text()
    assert '<th scope="row">brightness</th>' in report
    assert "brightness.levels" in report
