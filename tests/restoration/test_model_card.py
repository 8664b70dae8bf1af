"""Model cards and the figures that they report."""

import json
import os
from pathlib import Path

import pytest

from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.models.registry import NetworkShape, find_entry, parameter_count
from celebahq_builder.restoration.model_card import (
    MANUAL_SECTION,
    Figure,
    gflop,
    read_figures,
    validation_figures,
)
from celebahq_builder.restoration.publish import export
from tests.restoration.exports import SHAPES, TEXTS, recipe_json, trained

# --- Cards ------------------------------------------------------------------------------------------------------


def test_model_card(tmp_path: Path) -> None:
    made = export(trained(tmp_path / "run"), "mine", tmp_path / "to", **TEXTS)
    text = made.card.read_text()
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ") and line[2] != "|"
    )
    assert text.startswith("# mine\n\n| | |\n|---|---|\n| network | ")
    assert "4/6/8 channels, 1/1/2 blocks" in rows["network"]
    assert rows["cost"] == f"{gflop(SHAPES['denoise'], 1000):.3g} GFLOP per input megapixel"
    assert rows["trained on"] == r"12 photos, 2 held out: nothing \| real"
    assert rows["degradation"] == (
        "JPEG quality 9 to 97; 4:2:0, 4:4:4; 30% compressed twice on shifted grids, 40% of those scaled down between; "
        "5% left as they are"
    )
    assert rows["command"] == "`celebahq train-denoise PHOTOS --recipe tiny`"
    assert (rows["steps"], rows["licence"]) == ("40", "CC0")
    assert "started from" not in rows
    assert "## Measured\n\nMean over the run's held-out photos at step 40:\n\n| figure | value |\n|---|---|\n" in text
    assert rows["held_out_gain_q10_db"] == "0.5"
    assert "To be completed" in text.partition(MANUAL_SECTION)[2]


def test_model_card_of_an_upscaler(tmp_path: Path) -> None:
    gan = trained(tmp_path / "run", "upscale", recipe=recipe_json("upscale-adversarially"))
    made = export(gan, "mine", tmp_path / "to", **TEXTS)
    text = made.card.read_text()
    assert made.setting == "upscale.weights"
    assert "| started from | `upscaler-psnr` |" in text
    assert "in 50% of the batches also JPEG quality 40 to 95, cleaned by `denoiser` |" in text
    assert "area filter" not in text
    recipe = json.loads(recipe_json("upscale-adversarially")) | {"area_share": 0.25}
    by_area = trained(tmp_path / "by-area", "upscale", recipe=json.dumps(recipe))
    text = export(by_area, "by-area", tmp_path / "to", **TEXTS).card.read_text()
    assert "; in 25% of the batches with an area filter instead, cleaned by `denoiser`; in 50%" in text
    assert "four times its width" in text


# --- Figures ----------------------------------------------------------------------------------------------------


def test_scores_of_a_flat_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"live1_q10_gain_db": 1.23456789, "Set5 (5): Y-PSNR": 31}')
    export(trained(tmp_path / "run"), "mine", tmp_path / "to", **TEXTS, scores=path)
    assert find_entry("mine", tmp_path / "to").scores == {"live1_q10_gain_db": 1.23457, "set5_5_y_psnr": 31.0}
    text = (tmp_path / "to" / "mine.md").read_text()
    assert "From `scores.json`:\n\n| figure | value |\n|---|---|\n| live1_q10_gain_db | 1.23457 |\n" in text


def test_scores_of_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "restoration.json"
    rows = [
        {"what": "LIVE1 (29), JPEG 10: mean gain", "value": 1.1, "unit": "dB", "goal": ">= 1.2", "verdict": "MISSED"},
        {"what": "JPEG 20", "value": 1.3, "unit": "dB", "goal": ">= 1.2 dB", "verdict": "met"},
        {"what": "texture", "value": 7, "unit": None, "goal": "", "verdict": ""},
    ]
    path.write_text(json.dumps(rows))
    export(trained(tmp_path / "run"), "mine", tmp_path / "to", **TEXTS, scores=path)
    assert find_entry("mine", tmp_path / "to").scores == {
        "live1_29_jpeg_10_mean_gain_db": 1.1,
        "jpeg_20_db": 1.3,
        "texture": 7.0,
    }
    expected = (
        "| figure | value | goal |\n|---|---|---|\n| LIVE1 (29), JPEG 10: mean gain | 1.1 dB | >= 1.2 dB, MISSED |\n"
        "| JPEG 20 | 1.3 dB | >= 1.2 dB, met |\n| texture | 7 |  |\n\nThese weights do not "
    )
    assert expected in (tmp_path / "to" / "mine.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as JSON: .*No such file"),
        ("{", "cannot be read as JSON"),
        ("3", "must be an object of name -> number or a list of rows, got 3"),
        ("{}", "holds no figures"),
        ("[]", "holds no figures"),
        ('{"a": "1"}', "row 1, a: value .*'1'"),
        ('{"a": true}', "row 1, a: value .*True"),
        ('{"a": NaN}', "row 1, a: value must be a finite number, got nan"),
        ('{"a": {"b": 1}}', "row 1, a: value"),
        ('{"a b": 1, "a-b": 2}', "'a_b' is the name of 2 figure"),
        ('{"?": 1}', "'' is the name of 1 figure"),
        ('[{"what": "x"}]', "row 1, x: key value is missing"),
        ('[{"what": "x", "value": 1, "goall": ""}]', "row 1, x: unknown key goall; did you mean goal"),
        ('[{"what": "x", "value": 1}, {"value": 1}]', "row 2 must be like"),
        ("[1]", "row 1 must be like"),
    ],
)
def test_invalid_files_of_figures(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=f"^`scores` {path}.*{message}"):
        read_figures(path)


def test_files_of_figures_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "deep").write_text("[" * 100_000)
    for name, message in {"pipe": "a named pipe", "sparse": "bytes; at most", "deep": "nested too deeply"}.items():
        with pytest.raises(RecipeError, match=f"{name} cannot be read as JSON: .*{message}"):
            read_figures(tmp_path / name)


def test_figures_of_a_log(tmp_path: Path) -> None:
    """The last line of the step counts, losses are not scores, and half a line at the end is ignored."""
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 5, "pixel": 1.0, "discriminator": 2.0, "steps_per_s": 1.0, "swd": 9}\n{"step": 6, "swd": 1}\n'
        '{"step": 5, "loss": 1.0, "swd": 8, "psnr_y_db": 30.5}\n{"step": 7, "sw'
    )
    assert validation_figures(log, 5) == (Figure("held_out_swd", 8.0), Figure("held_out_psnr_y_db", 30.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no scores of step 5"),
        ("", "has no scores of step 5"),
        ('{"step": 4, "swd": 1}\n', "has no scores of step 5"),
        ('{"step": 5, "loss": 1}\n', "has no scores of step 5"),
        ('{"step": 5, "swd": NaN}\n', "step 5, held_out_swd: value must be a finite number, got nan"),
        ('{"swd": 1}\n', "has no scores of step 5"),
        ("{x}\n", "has no scores of step 5"),
        ("3\n", "has no scores of step 5"),
    ],
)
def test_log_without_scores_of_the_step(text: str | None, message: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    with pytest.raises(WeightsError, match=rf"log\.jsonl.*{message}.*; give the figures with `scores`"):
        validation_figures(log, 5)


# --- Cost -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "blocks"), [((4, 6, 8), (1, 1, 2)), ((32, 64, 96), (2, 2, 3))])
def test_cost_of_the_autoencoder_by_hand(widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    (a, b, c), (i, j, k) = widths, blocks
    half = 9 * 12 * a + 2 * i * 2 * 9 * a * a + 9 * a * 12  # head, two stacks, tail
    quarter = 4 * a * b + 2 * j * 2 * 9 * b * b + 4 * a * b  # way down, two stacks; way up: 1 tap per result pixel
    eighth = 4 * b * c + k * 2 * 9 * c * c + 4 * b * c
    mega = half / 4 + quarter / 16 + eighth / 64
    assert gflop(NetworkShape("autoencoder", widths, blocks), 1000) == pytest.approx(2 * mega / 1000)


def test_cost_of_the_generator_by_hand() -> None:
    per_pixel = 9 * 3 * 5 + 4 * 2 * 9 * 5 * 5 + 9 * 5 * 48
    bicubic = 2 * 25 * 3 * 48  # the enlargement and that of the back-projection
    assert gflop(NetworkShape("srgan", (5,), (4,)), 1000) == pytest.approx(2 * (per_pixel + bicubic) / 1000)
    assert parameter_count(NetworkShape("srgan", (5,), (4,))) == per_pixel + 5 + 4 * 2 * 5 + 48
