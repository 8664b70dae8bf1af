"""Generators have the metrics of their images; the checkpoints of a run are evaluated at their own resolutions."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from celebahq_builder.cli.main import celebahq
from celebahq_builder.config import load
from celebahq_builder.errors import CelebAHQError, FormatError, TrainingError, WeightsError
from celebahq_builder.evaluation import image_sources
from celebahq_builder.evaluation.evaluate import evaluate as scores
from celebahq_builder.evaluation.image_sources import SourceImages, open_data_set
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.evaluation.result import Result, format_number
from celebahq_builder.models.generator_file import export_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.progan import evaluation
from celebahq_builder.progan.evaluation import (
    EvaluationRequest,
    GeneratorSource,
    checkpoint_sources,
    evaluate_and_report,
    evaluation_results,
    is_run,
)
from celebahq_builder.progan.generate import GeneratedImages, generate
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.training.checkpoint import read_checkpoint, write_checkpoint
from tests.evaluation.sources import smooth
from tests.hdf5.pyramids import theano_file
from tests.progan.tiny import NET, NETWORK, trained

CPU = torch.device("cpu")

RECIPE = f"""
{NETWORK.replace("16", "32")}[schedule]
total_kimg = 0.224
train_kimg = 0.032
fade_kimg = 0.032
minibatch = 8
[tick]
kimg = 0.032
checkpoint_ticks = 1
grid_ticks = 100
grid = [2, 1]
"""
"""4x4 to 32x32, with two checkpoints per resolution."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return theano_file(tmp_path_factory.mktemp("data") / "data.h5", smooth(80, 32))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "tiny.toml").write_text(RECIPE)
    trained(data, folder / "run", load(ProGANRecipe, folder / "tiny.toml"))
    return folder / "run"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    net = GeneratorNetwork(NET)
    return export_generator(tmp_path_factory.mktemp("net"), net, 4, 1.0, {"kimg": 7, "data": {"sha256": "ab"}})


def results(
    source: Path, metrics: tuple[str, ...], num: int, against: Path | None = None, resolution: int | None = None
) -> list[Result]:
    return list(evaluation_results(EvaluationRequest(source, EvaluationProtocol(metrics, num), against, resolution)))


def test_metrics_of_a_generator_are_those_of_its_images(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not depend on the batch size, the memory, or the number of images."""
    reference = SourceImages(open_data_set(theano_file(tmp_path / "faces.h5", smooth(100, 16))))
    protocol = EvaluationProtocol(("swd", "ms-ssim"), 40)
    source = GeneratorSource.of_file(generator, 0, CPU)
    usual = scores(source, reference, protocol)
    for memory_bytes, batch_bytes in ((0, 1), (0, 2**30), (2**30, 5 * 768)):
        monkeypatch.setattr(image_sources, "MEMORY_BYTES", memory_bytes)
        monkeypatch.setattr(image_sources, "BATCH_BYTES", batch_bytes)
        assert scores(source, reference, protocol) == usual
    monkeypatch.undo()
    generate(GeneratedImages(generator, 128, 0, CPU), tmp_path / "fakes.h5", lambda _: None)
    stored = open_data_set(tmp_path / "fakes.h5")
    first = next(iter(stored.read(np.arange(70), 70)))
    for count in (40, 70):
        assert torch.equal(torch.cat(list(source.read(np.arange(count), 9))), first[:count])
    assert torch.equal(torch.cat(list(source.read(np.arange(30, 70), 9))), first[30:])
    other = scores(
        GeneratorSource.of_file(generator, 1, CPU),
        SourceImages(reference.source, 1),
        EvaluationProtocol(("swd",), 40, 1),
    )
    assert other.scores[0].source_sha256 != usual.scores[0].source_sha256
    facts = usual.to_json()["source"]
    assert (facts["kind"], facts["images"], facts["seed"], facts["kimg"]) == ("generator", None, 0, 7)
    assert facts["trained_on"] == {"sha256": "ab"}


def test_checkpoints_are_the_averaged_generators(run: Path) -> None:
    found = checkpoint_sources(run, 0, CPU)
    assert is_run(run)
    points = [(one.kimg, one.resolution, one.alpha) for one in found]
    # The first three were written when the next resolution was about to enter, the fourth at the end of a fade-in.
    assert points == [(0.032, 4, 1.0), (0.096, 8, 1.0), (0.16, 16, 1.0), (0.192, 32, 1.0), (0.224, 32, 1.0)]
    last = found[-1]
    exported = GeneratorSource.of_file(run, 0, CPU)
    assert (last.level, last.alpha) == (exported.level, exported.alpha)
    assert last.facts["weights_sha256"] == exported.facts["weights_sha256"]
    assert last.facts["trained_on"] == exported.facts["trained_on"]
    assert found[-2].facts["weights_sha256"] != last.facts["weights_sha256"]


def test_all_checkpoints_of_a_run(run: Path, data: Path, tmp_path: Path) -> None:
    request = EvaluationRequest(
        run, EvaluationProtocol(("swd", "ms-ssim"), 20), data, None, tmp_path / "all.json", tmp_path / "page"
    )
    lines = list(evaluate_and_report(request))
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["run"] == str(run)
    each = found["snapshots"]
    assert [one["resolution"] for one in each] == [4, 8, 16, 32, 32]
    assert [one["source"]["kimg"] for one in each] == [one.kimg for one in checkpoint_sources(run, 0, CPU)]
    assert all("swd" in one["left_out"] for one in each[:2])
    assert "needs 16x16 or more, this is 4x4" in each[0]["left_out"]["swd"]
    assert list(each[2]["scores"]["swd20"]["levels"]) == ["16"]
    assert list(each[4]["scores"]["swd20"]["levels"]) == ["32", "16"]
    assert all("ms-ssim20" in one["scores"] for one in each)
    # Each is compared with the level of its own resolution.
    alone = scores(checkpoint_sources(run, 0, CPU)[2], SourceImages(open_data_set(data, 16)), request.protocol)
    assert each[2]["scores"] == json.loads(json.dumps(alone.to_json()))["scores"]
    assert each[4]["source"]["trained_on"]["sha256"] == each[4]["reference"]["sha256"]
    head = re.split(r"  +", lines[0].strip())
    assert head == ["kimg", "px", "swd20 32", "swd20 16", "swd20 mean", "ms-ssim20"]
    rows = [line.split() for line in lines[1:6]]
    assert [row[1] for row in rows] == ["4", "8", "16", "32", "32"]
    assert rows[0][2:5] == rows[1][2:5] == ["-", "-", "-"]
    assert rows[4][3] == f"{each[4]['scores']['swd20']['levels']['16']:.2f}"
    assert [line.split()[:2] for line in lines if line.strip().startswith("baseline  ")][-1] == ["baseline", "32"]
    assert (tmp_path / "all.json").is_file()
    assert (tmp_path / "page" / "evaluation.json").read_bytes() == (tmp_path / "all.json").read_bytes()
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("<polyline") >= 4
    assert "swd20 mean" in page


def test_checkpoints_of_one_resolution(run: Path, data: Path, tmp_path: Path) -> None:
    assert [one.resolution for one in results(run, ("swd",), 10, data, 16)] == [16]
    with pytest.raises(FormatError, match="has no checkpoint of 64x64; it has checkpoints of 4, 8, 16, 32 px"):
        results(run, ("swd",), 10, data, 64)
    with pytest.raises(FormatError, match="are 8x8 at most, too small for swd; train on"):
        results(run, ("swd",), 10, data, 8)
    small = theano_file(tmp_path / "small.h5", smooth(20, 16))
    with pytest.raises(FormatError, match=r"r0032\.pt has images of 32x32: .*small\.h5 has no level 32x32"):
        results(run, ("swd",), 10, small)


def test_impossible_evaluations_are_refused_before_the_first_checkpoint(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "build_generator", pytest.fail)
    with pytest.raises(FormatError, match=r"swd compares .*r0016\.pt with other images, and there are none"):
        results(run, ("swd",), 10)
    with pytest.raises(FormatError, match=r"swd81 compares with 81 images at least, .*data\.h5 has 80"):
        results(run, ("swd", "ms-ssim"), 81, data)


def test_a_run_as_reference(run: Path, data: Path) -> None:
    (result,) = results(data, ("swd",), 10, run)
    assert result.reference["kind"] == "generator"
    assert result.scores[0].baseline.count == 10


def test_a_generator_that_returns_nan(tmp_path: Path, data: Path) -> None:
    torch.manual_seed(0)
    net = GeneratorNetwork(replace(NET, resolution=32))
    with torch.no_grad():
        net.dense.weight[0, 0] = float("nan")
    path = export_generator(tmp_path, net, 5, 1.0, {})
    with pytest.raises(WeightsError, match=r"generator\.safetensors: the generator returns NaN or infinity"):
        results(path, ("swd",), 10, data)
    with pytest.raises(WeightsError, match="the generator returns NaN or infinity for some latents at 32x32"):
        generate(GeneratedImages(path, 5, 0, CPU), tmp_path / "fakes.h5", lambda _: None)
    assert not (tmp_path / "fakes.h5").exists()


def test_results_are_logged_one_by_one(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a later checkpoint fails, the results of the earlier ones are in the log."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    last = max((copy / "checkpoints").iterdir())
    checkpoint = read_checkpoint(last)
    checkpoint.state["networks"]["averaged"]["dense.bias"].fill_(float("nan"))
    write_checkpoint(last, checkpoint.config, checkpoint.state)
    expected = [one.scores[0].number.value for one in results(run, ("ms-ssim",), 4)]
    caplog.clear()
    with caplog.at_level("INFO"), pytest.raises(WeightsError, match="returns NaN or infinity"):
        results(copy, ("ms-ssim",), 4)
    logged = [line.partition(" kimg: ms-ssim4 ")[2] for line in caplog.messages if "kimg: " in line]
    assert logged == [format_number(value) for value in expected[:-1]]


def test_a_damaged_checkpoint(run: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    damaged = sorted((copy / "checkpoints").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:500])
    advice = "delete it to evaluate the other checkpoints"
    with pytest.raises(TrainingError, match=rf"{damaged.name} is damaged .* {advice}"):
        results(copy, ("ms-ssim",), 4, data)


def test_missing_tensors(run: Path, data: Path, generator: Path, tmp_path: Path) -> None:
    """Complete files that another program wrote."""

    def without(name: str, **facts: object) -> None:
        with safe_open(generator, "pt") as file:
            meta = json.loads(file.metadata()["progan"]) | facts
            tensors = {key: file.get_tensor(key) for key in file.keys() if key != name}  # noqa: SIM118
        save_file(tensors, tmp_path / "other.safetensors", {"progan": json.dumps(meta)})

    for name, facts in (("dense.bias", {}), ("", {"architecture": {"width": 3}}), ("", {"level": None})):
        without(name, **facts)
        with pytest.raises(WeightsError, match=r"other\.safetensors was written by another version, or changed"):
            results(tmp_path / "other.safetensors", ("ms-ssim",), 4)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    first = min((copy / "checkpoints").iterdir())
    checkpoint = read_checkpoint(first)
    del checkpoint.state["networks"]["averaged"]["dense.bias"]
    write_checkpoint(first, checkpoint.config, checkpoint.state)
    with pytest.raises(TrainingError, match=rf"{first.name} is damaged \(.*Missing.*delete it") as raised:
        results(copy, ("ms-ssim",), 4, data)
    assert "\n" not in str(raised.value)


def command(*arguments: object) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(celebahq, ["evaluate", *map(str, arguments), "--device", "cpu"])
    return done.exit_code, done.output, done.exception


def test_the_command(data: Path, generator: Path, tmp_path: Path) -> None:
    code, output, error = command(
        *(data, "--resolution", 16, "--against", generator, "--metrics", "swd,ms-ssim", "--num", 20),
        *("--json", tmp_path / "a.json", "--out", tmp_path / "out"),
    )
    assert (code, error) == (0, None), error
    assert f"source     {data}: hdf5, 80 images, 16x16, RGB" in output
    assert "generator, seed 0" in output
    assert json.loads((tmp_path / "a.json").read_text())["scores"].keys() == {"swd20", "ms-ssim20"}
    before = (tmp_path / "a.json").read_bytes()
    code, _, error = command(data, "--metrics", "ms-ssim", "--num", 20, "--json", tmp_path / "a.json")
    assert code == 1
    assert "a.json exists and is not overwritten; delete it, or choose another --json" in str(error)
    assert (tmp_path / "a.json").read_bytes() == before


def test_a_killed_evaluation_is_completed(data: Path, tmp_path: Path) -> None:
    """The page is the last file. A file that is no evaluation is refused before anything is computed."""
    out = tmp_path / "out"
    asked = (data, "--metrics", "ms-ssim", "--num", 5, "--out", out)
    assert command(*asked)[0] == 0
    whole = {one.name: one.read_bytes() for one in out.iterdir()}
    (out / "index.html").unlink()
    assert command(*asked)[0] == 0
    assert {one.name: one.read_bytes() for one in out.iterdir()} == whole
    (out / "index.html").unlink()
    code, _, error = command(data, "--metrics", "ms-ssim", "--num", 6, "--out", out)
    assert code == 1
    assert "evaluation.json exists with other contents; nothing is overwritten" in str(error)
    assert {one.name: one.read_bytes() for one in out.iterdir()} == {"evaluation.json": whole["evaluation.json"]}
    (out / "evaluation.json").write_text("{}")
    code, output, error = command(*asked)
    assert "evaluation.json exists and is not overwritten" in str(error)
    assert "ms-ssim5" not in output


def test_output_paths_are_checked_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (data, "--metrics", "ms-ssim", "--num", 5)
    (tmp_path / "file").write_text("")
    for arguments in (("--json", tmp_path / "file" / "a.json"), ("--out", tmp_path / "file" / "out")):
        code, output, error = command(*asked, *arguments)
        assert code == 1
        assert f"cannot be written ({tmp_path / 'file'}: Not a directory); choose another {arguments[-2]}" in str(error)
        assert "ms-ssim5" not in output  # nothing was computed
    code, _, error = command(*asked, "--json", tmp_path / "out" / "index.html", "--out", tmp_path / "out")
    assert code == 1
    assert "index.html would be the page in --out; choose another --json" in str(error)
    monkeypatch.chdir(tmp_path)
    code, output, _ = command(*asked, "--json", tmp_path / "out" / "evaluation.json", "--out", "out")
    assert code == 0
    made = [f"results: {tmp_path / 'out' / 'evaluation.json'}", f"page: {tmp_path / 'out' / 'index.html'}"]
    assert output.splitlines()[-2:] == made  # two names of one file
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"]
    assert (tmp_path / "out" / "index.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--metrics", "swd,psnr"), "--metrics psnr is no metric; there are swd, ms-ssim, fid, kid, is"),
        (("--metrics", "swd", "--num", 10), "and there are none: add --against REFERENCE"),
        (("--metrics", "ms-ssim"), "ms-ssim10k needs 20,000 images for 10,000 pairs"),
        (("--metrics", "swd", "--num", 10, "--against", "nowhere.h5"), "nowhere.h5 does not exist"),
        (("--metrics", "is", "--num", 10, "--resolution", 24), "has no level 24x24; it has 32, 16"),
    ],
)
def test_impossible_requests(arguments: tuple[object, ...], line: str, data: Path) -> None:
    code, _, error = command(data, *arguments)
    assert code == 1
    assert isinstance(error, CelebAHQError)
    assert line in str(error)
    assert "\n" not in str(error)


def test_wrong_files(data: Path, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.pth").write_bytes(b"no weights")
    _, _, error = command(data, "--metrics", "is", "--num", 10, "--inception", tmp_path / "wrong.pth")
    assert isinstance(error, WeightsError)
    assert "wrong.pth" in str(error)
    (tmp_path / "other.safetensors").write_bytes(b"no weights either")
    _, _, error = command(tmp_path / "other.safetensors", "--metrics", "ms-ssim", "--num", 5)
    assert isinstance(error, WeightsError)
    assert "other.safetensors is not a safetensors file" in str(error)
    grey = theano_file(tmp_path / "grey.h5", smooth(40, 16)[:, :1])
    _, _, error = command(generator, "--metrics", "swd", "--num", 10, "--against", grey)
    assert "is in colour" in str(error)
    (tmp_path / "file").write_text("")
    _, _, error = command(data, "--metrics", "ms-ssim", "--num", 5, "--out", tmp_path / "file")
    assert "file is a file; choose a folder" in str(error)
    with pytest.raises(FormatError, match="has images of 16x16, wanted are 32x32"):
        results(generator, ("ms-ssim",), 5, resolution=32)
