"""A build on a CPU that computes in bf16 suggests the faster settings."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from celebahq_builder import parallel
from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import WeightsError
from tests.conftest import NETWORKS, SAMPLE

SUGGESTION = "hint: with "


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--until", "upscale"), "`overrides` upscale.precision=bf16"),
        (("--until", "upscale", "--set", "upscale.precision=bf16"), ""),
        (("--until", "upscale", "--set", "upscale.precision=fp32"), ""),
        (("--until", "denoise"), ""),
    ],
)
def test_bf16_is_suggested_once(
    options: tuple[str, ...],
    settings: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new run on a CPU with bf16 names the settings that nobody chose; a resumed run does not repeat them."""
    caplog.set_level("INFO")
    networks = [f"--set={stage}.weights={NETWORKS}/{stage}r" for stage in ("denoise", "upscale")]
    words = ["--celeba-root", str(SAMPLE), "--limit=1", "--workers=1", "--resolution=64", "--device=cpu", *networks]
    for has_bf16, found in ((False, ""), (True, settings), (True, "")):
        caplog.clear()
        monkeypatch.setattr(parallel, "cpu_has_bf16", lambda has=has_bf16: has)
        out = tmp_path / ("run" if has_bf16 else "other")
        done = CliRunner().invoke(celebahq, ["build", "--out", str(out), *words, *options])
        assert done.exit_code == 0, done.output
        shown = [line for line in caplog.messages if SUGGESTION in line]
        assert [line.partition(SUGGESTION)[2].partition(", a build takes")[0] for line in shown] == [found] * bool(
            found
        )


def test_nothing_is_suggested_before_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(parallel, "cpu_has_bf16", lambda: True)
    words = ["--celeba-root", str(SAMPLE), "--out", str(tmp_path / "run"), "--device=cpu", "--limit=1"]
    done = CliRunner().invoke(celebahq, ["build", *words, f"--set=denoise.weights={tmp_path}/nothing"])
    assert isinstance(done.exception, WeightsError)
    assert caplog.messages == []
