"""Exported weights are those of the run; other files and entries are never changed unasked."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save

from celebahq_builder import cli
from celebahq_builder.errors import CelebAHQError, DiskFull, FingerprintMismatch, RecipeError, WeightsError
from celebahq_builder.models.registry import find_entry, load_network, read_registry, verify_weights
from celebahq_builder.pipeline.stages import denoise, upscale
from celebahq_builder.restoration.model_card import MANUAL_SECTION
from celebahq_builder.restoration.publish import ExportedWeights, export, set_entry
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import partial_path
from celebahq_builder.training.trained_weights import METADATA
from tests.cli.test_cli import celebahq, one_line_error, run
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.disk import failing
from tests.restoration.exports import SHAPES, TEXTS, contents, registry_of_two, reregister, tensors, trained


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return registry_of_two(tmp_path)


# --- Export -----------------------------------------------------------------------------------------------------


def test_exported_weights_are_those_of_the_run(tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    made = export(source, "mine", tmp_path / "to", **TEXTS)
    assert made == ExportedWeights(
        tmp_path / "to" / "mine.safetensors",
        tmp_path / "to" / "registry.toml",
        tmp_path / "to" / "mine.md",
        "denoise.weights",
    )
    stored, original = load_file(made.weights), load_file(source / "weights.safetensors")
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[key], original[key]) for key in original)
    with safe_open(made.weights, "pt") as file:
        assert file.metadata() == {"step": "40"}
    known = find_entry("mine", tmp_path / "to")
    assert known.file == "mine.safetensors"
    assert known.sha256 == hashlib.sha256(made.weights.read_bytes()).hexdigest()
    assert known.size_bytes == made.weights.stat().st_size
    assert known.shape == SHAPES["denoise"]
    assert known.licence == "CC0"
    assert known.data == "12 photos, 2 held out: nothing | real"
    assert known.command == "celebahq train-denoise PHOTOS --recipe tiny"
    assert known.scores == {"held_out_gain_q10_db": 0.5}
    assert contents(tmp_path / "to").keys() == {"mine.safetensors", "registry.toml", "mine.md"}


def test_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        export(trained(tmp_path / "run"), "mine", tmp_path / folder, **TEXTS)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_weights_are_replaced_only_on_request(tmp_path: Path) -> None:
    to = tmp_path / "to"
    export(trained(tmp_path / "run"), "mine", to, **TEXTS)
    before = contents(to)
    newer = trained(tmp_path / "newer", seed=1)
    with pytest.raises(
        WeightsError, match=r"\[mine\] of .*registry\.toml exists and is not overwritten; give `replace`"
    ):
        export(newer, "mine", to, **TEXTS)
    assert contents(to) == before
    export(newer, "mine", to, **TEXTS, replace=True)
    assert list(read_registry(to)) == ["mine"]
    assert torch.equal(load_network(f"{to}/mine").state_dict()["tail.bias"], tensors(SHAPES["denoise"], 1)["tail.bias"])


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("left", [{"mine.safetensors"}, {"mine.safetensors", "mine.md"}])
def test_a_killed_export_is_completed(left: set[str], replace: bool, tmp_path: Path) -> None:
    to = tmp_path / "to"
    export(trained(tmp_path / "run"), "mine", to, **TEXTS)
    whole = contents(to)
    for name in whole.keys() - left:
        (to / name).unlink()
    if replace:
        (to / "mine.safetensors").write_text("earlier")
    for name in whole:
        partial_path(to / name, token="0f").touch()  # of an earlier command
    export(trained(tmp_path / "run"), "mine", to, **TEXTS, replace=replace)
    assert contents(to) == whole


@pytest.mark.parametrize("file", ["mine.safetensors", "mine.md"])
def test_a_file_of_that_name_is_replaced_only_on_request(file: str, tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / file).write_text("precious")
    with pytest.raises(WeightsError, match=rf"{to / file} exists and is not overwritten; give `replace`"):
        export(trained(tmp_path / "run"), "mine", to, **TEXTS)
    assert contents(to) == {file: b"precious"}


def test_files_that_are_never_replaced(two: Path) -> None:
    """The files of the run, and those of another entry."""
    source = trained(two.parent / "run")
    with pytest.raises(WeightsError, match="is the folder of the run"):
        export(source, "weights", two / ".." / "run", **TEXTS, replace=True)
    reregister(two, "grower", scores={})
    (two / "mine.safetensors").write_bytes((two / "grower.safetensors").read_bytes())
    reregister(two, "grower", file="mine.safetensors")
    before = contents(two)
    with pytest.raises(WeightsError, match=r"mine\.safetensors belongs to \[grower\]"):
        export(source, "mine", two, **TEXTS, replace=True)
    assert contents(two) == before


def test_manual_part_and_images_of_a_card_are_kept(tmp_path: Path) -> None:
    to = tmp_path / "to"
    card = export(trained(tmp_path / "run"), "mine", to, **TEXTS).card
    by_hand = f"{MANUAL_SECTION}\n\n- It cannot sing.\n\n![A song](song.jpg)\n\n## Thanks\n\nTo all.\n"
    image = "![Left: before; right: after](mine.jpg)"
    text = card.read_text().partition(MANUAL_SECTION)[0].replace("# mine\n", f"# mine\n\n{image}\n") + by_hand
    card.write_text(text)
    export(trained(tmp_path / "run", step="60"), "mine", to, **TEXTS, replace=True)
    again = card.read_text()
    assert again.startswith(f"# mine\n\n{image}\n\n| | |\n")
    assert again.endswith(f"|\n\n{by_hand}")
    assert again.count("song.jpg") == again.count(MANUAL_SECTION) == 1
    assert "| steps | 60 |" in again
    assert again == text.replace("| steps | 40 |", "| steps | 60 |").replace("step 40:", "step 60:").replace(
        "0.5", "0.75"
    )


REGISTRY = """\
# Ours.

[first]  # the oldest
file = "first.safetensors"
sha256 = "00"
size_bytes = 1
shape = { architecture = "srgan", widths = [6], blocks = [1] }
licence = "CC0"
data = "none"
command = "none"

[first.scores]
# Set5, official files
psnr_db = 31.0 # old
other_db = 2

# The second: never finished.
[second]
file = "second.safetensors"
sha256 = "11"
size_bytes = 2
shape = {architecture="srgan",widths=[6],blocks=[1]}
licence = 'CC0'
data = "none"
command = "none"
# The end.
"""


def test_comments_of_a_registry_are_kept(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(REGISTRY)
    second = read_registry(tmp_path)["second"]
    new = dataclasses.replace(find_entry("first", tmp_path), sha256="22", scores={"psnr_db": 32.5, "new_db": 0.5})
    edited = set_entry(REGISTRY, "first", new, where=tmp_path)
    assert edited == REGISTRY.replace('"00"', '"22"').replace("31.0", "32.5").replace("other_db = 2", "new_db = 0.5")
    added = set_entry(REGISTRY, "third", new, where=tmp_path)
    assert added.startswith(REGISTRY)
    (tmp_path / "registry.toml").write_text(added)
    assert read_registry(tmp_path) == {"first": find_entry("first", tmp_path), "second": second, "third": new}


@pytest.mark.parametrize(
    "text",
    [
        REGISTRY.replace("[first.scores]", "[last]\nx = 1\n[first.scores]"),
        "first.file = 'x'\nfirst.scores.psnr_db = 1\n" + REGISTRY.partition("# The second")[2].partition("\n")[2],
        "first = { file = 'x', scores = { psnr_db = 1 } }\n\n[second]\nx = 1 # one\n",
        REGISTRY.rstrip("\n"),
        "[second]\nx = 1\n[first]\n[first.shape]\narchitecture = 'srgan' # kind\n",
        "",
    ],
    ids=["out of order", "dotted", "inline", "no last newline", "shape as table", "empty"],
)
def test_registry_of_any_layout_is_edited_correctly_or_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(REGISTRY)
    new = dataclasses.replace(find_entry("first", tmp_path), data='a "b" \\ c', scores={"psnr_db": 32.5, "new_db": 0.5})
    before = tomllib.loads(text)
    edited = set_entry(text, "first", new, where=tmp_path)
    after = tomllib.loads(edited)
    assert {key: value for key, value in after.items() if key != "first"} == {
        key: value for key, value in before.items() if key != "first"
    }
    assert after["first"]["scores"] == new.scores
    assert after["first"]["data"] == new.data
    assert after["first"]["shape"] == {"architecture": "srgan", "widths": [6], "blocks": [1]}
    assert [line for line in text.splitlines() if line.startswith("#") and line not in edited] == []


def test_unreadable_registry_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text("[mine\n")
    with pytest.raises(RecipeError, match=r"registry\.toml cannot be read as TOML"):
        export(trained(tmp_path / "run"), "mine", tmp_path, **TEXTS)
    assert contents(tmp_path) == {"registry.toml": b"[mine\n"}


def test_a_pipe_in_the_place_of_a_card(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.md")
    with pytest.raises(WeightsError, match=r"mine\.md"):
        export(trained(tmp_path / "run"), "mine", tmp_path, **TEXTS, replace=True)


# --- Export as float16 ------------------------------------------------------------------------------------------


def test_float16_weights_of_a_run_are_loaded_as_float32(whole_run: tuple[str, Path], tmp_path: Path) -> None:
    _, source = whole_run
    full = export(source, "full", tmp_path / "to", **TEXTS)
    made = export(source, "mine", tmp_path / "to", **TEXTS, half=True)
    original, stored = load_file(source / "weights.safetensors"), load_file(made.weights)
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[key], original[key].half()) for key in original)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    with safe_open(made.weights, "pt") as mine, safe_open(full.weights, "pt") as other:
        assert mine.metadata() == other.metadata()
    # --- Loading
    loaded = load_network("mine", folder=tmp_path / "to").state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[key], original[key].half().float()) for key in original)
    assert any(not torch.equal(loaded[key], original[key]) for key in original)
    # --- Registry and card
    entry = find_entry("mine", tmp_path / "to")
    assert (entry.dtype, find_entry("full", tmp_path / "to").dtype) == ("float16", "float32")
    assert entry.size_bytes == made.weights.stat().st_size
    assert made.registry.read_text().count("dtype") == 1
    assert "| stored as | float16; loading converts to float32 |" in made.card.read_text()
    assert "float" not in full.card.read_text()
    assert list(verify_weights(folder=tmp_path / "to")) == [("full", ""), ("mine", "")]


def test_float16_from_the_command_line(tmp_path: Path) -> None:
    """Weights of an entry with scores are replaced by float16 ones, and these by float32 ones."""
    to = tmp_path / "to"
    before = export(trained(tmp_path / "run"), "mine", to, **TEXTS)
    bytes_before = contents(to)
    asked = ["weights", "export", tmp_path / "run", "--name", "mine", "--to", to, "--licence", "CC0"]
    asked += ["--data", TEXTS["data"], "--replace"]
    assert CliRunner().invoke(cli.celebahq, [*map(str, asked), "--half"], catch_exceptions=False).exit_code == 0
    assert find_entry("mine", to).dtype == "float16"
    assert find_entry("mine", to).scores == {"held_out_gain_q10_db": 0.5}
    assert before.weights.stat().st_size < 0.7 * len(bytes_before["mine.safetensors"])
    assert CliRunner().invoke(cli.celebahq, [*map(str, asked)], catch_exceptions=False).exit_code == 0
    assert contents(to) == bytes_before


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (-65519.0, True), (65520.0, False), (-1e5, False)])
def test_values_that_do_not_fit_into_float16(value: float, fits: bool, tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    with safe_open(source / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    values = tensors(SHAPES["denoise"])
    values["head.weight"][0, 0, 0, 0] = value
    (source / "weights.safetensors").write_bytes(save(values, metadata))
    if fits:
        export(source, "mine", tmp_path / "to", **TEXTS, half=True)
        assert load_network("mine", folder=tmp_path / "to").state_dict()["head.weight"].abs().max() == 65504
        return
    message = rf"run: head\.weight has the absolute value {abs(value):.6g}; float16 holds up to 65504; export without"
    with pytest.raises(WeightsError, match=message) as caught:
        export(source, "mine", tmp_path / "to", **TEXTS, half=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


# --- Exports that are refused -----------------------------------------------------------------------------------


def unlink_weights(source: Path) -> None:
    (source / "weights.safetensors").unlink()


def cut_weights(source: Path) -> None:
    path = source / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {key: None for key in METADATA if key != "step"},
            "shape, recipe, command, photos: .* an older version; resume",
        ),
        ({"photos": None}, "lacks the metadata photos: it was written by an older version"),
        ({"shape": json.dumps(dataclasses.asdict(SHAPES["upscale"]))}, "belongs to another network"),
        ({"shape": '{"architecture": "vgg", "widths": [1], "blocks": [1]}'}, "architecture must be one of autoencoder"),
        ({"shape": "3"}, "damaged metadata"),
        ({"recipe": "{}"}, "damaged metadata .*task"),
        ({"recipe": "{"}, "damaged metadata"),
        ({"step": "many"}, "damaged metadata"),
        ({"step": "30"}, r"log\.jsonl has no scores of step 30; give the figures with `scores`"),
    ],
)
def test_run_with_unusable_metadata(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        export(trained(tmp_path / "run", **changed), "mine", tmp_path / "to", **TEXTS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unlink_weights, r"weights\.safetensors cannot be read: No such file .*; `run` must be the folder"),
        (cut_weights, "is not a safetensors file"),
    ],
)
def test_run_with_missing_or_damaged_weights(damage: Any, message: str, tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    damage(source)
    with pytest.raises(WeightsError, match=message):
        export(source, "mine", tmp_path / "to", **TEXTS)
    assert not (tmp_path / "to").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    with safe_open(source / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    values = tensors(SHAPES["denoise"])
    values["head.weight"][0, 0, 0, 0] = math.inf
    (source / "weights.safetensors").write_bytes(save(values, metadata))
    with pytest.raises(WeightsError, match=r"head\.weight has values that are not finite; lower learning_rate"):
        export(source, "mine", tmp_path / "to", **TEXTS)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("name", "licence", "data", "message"),
    [
        ("a/b", "CC0", "x", "`name` 'a/b'"),
        ("", "CC0", "x", "`name` ''"),
        ("../a", "CC0", "x", "`name`"),
        ("a.b", "CC0", "x", "`name`"),
        ("a", " ", "x", "`licence` ' ' must be one line"),
        ("a", "CC0", "x\ny", "`data`"),
    ],
)
def test_invalid_texts(name: str, licence: str, data: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        export(trained(tmp_path / "run"), name, tmp_path / "to", licence=licence, data=data)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "is a file; choose a folder as `to`"),
        ("file/below", "Not a directory"),
        ("weights", "cannot be written: Is a directory; choose another `to`"),
        ("card", r"mine\.md cannot be read as text: .*a folder, not a regular file"),
        ("registry", r"registry\.toml cannot be read: a folder, not a regular file"),
    ],
)
def test_folder_that_cannot_be_written(place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for folder, file in (("weights", "mine.safetensors"), ("card", "mine.md"), ("registry", "registry.toml")):
        (tmp_path / folder / file).mkdir(parents=True)
    with pytest.raises(CelebAHQError, match=f"{tmp_path / place}.*{message}"):
        export(trained(tmp_path / "run"), "mine", tmp_path / place, **TEXTS, replace=True)
    assert contents(tmp_path / place) == {}


# --- From a training run to a build ------------------------------------------------------------------------


def test_from_a_training_run_to_a_build(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    to = tmp_path / "weights"
    asked = ["weights", "export", tmp_path / "run", "--name", "mine", "--to", to, "--licence", "CC0", "--data", "none"]
    ended = CliRunner().invoke(cli.celebahq, list(map(str, asked)), catch_exceptions=False)
    assert ended.exit_code == 0
    setting = ended.output.splitlines()[0].rpartition("weights: ")[2]
    assert setting == f'denoise.weights = "{to}/mine"'
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{setting}\nresolution = 64\n\n[select]\nkeep = 2\n")
    out = tmp_path / "build"
    built = run("--celeba-root", SAMPLE, "--out", out, "--recipe", recipe, "--limit", "2", "--workers", "1")
    assert built.returncode == 0, built.stderr
    assert "2 photos: 2 kept" in built.stdout
    plan = json.loads(Workspace(out).stage("align").provenance_path.read_text())
    denoised = next(one for one in plan["ingredients"] if one["name"] == "denoise")
    assert denoised["weights_sha256"] == find_entry("mine", to).sha256
    assert "exists and is not overwritten; give --replace" in one_line_error(celebahq(*asked))


def test_build_with_both_networks_of_a_registry(two: Path, tiny_run: Path, tmp_path: Path) -> None:
    """The images depend on the networks, and worker processes find the registry, too."""
    own = dataclasses.replace(
        TINY,
        denoise=denoise.DenoiseSettings(weights=f"{two}/cleaner"),
        upscale=dataclasses.replace(TINY.upscale, weights=f"{two}/grower"),
    )
    images = []
    for out, workers in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        assert build_tiny(out, recipe=own, workers=workers).kept == 3
        images.append({p.name: p.read_bytes() for p in (out / "stages" / "align" / "images").rglob("*.png")})
    others = {p.name: p.read_bytes() for p in (tiny_run / "stages" / "align" / "images").rglob("*.png")}
    assert images[0] == images[1]
    assert images[0].keys() == others.keys()
    assert all(images[0][name] != others[name] for name in others)


def test_results_of_replaced_weights_are_not_mixed(two: Path, tmp_path: Path) -> None:
    own = dataclasses.replace(TINY, upscale=upscale.UpscaleSettings(weights=f"{two}/grower", when="always"))
    build_tiny(tmp_path / "out", recipe=own)
    export(trained(tmp_path / "newer", "upscale", seed=1), "grower", two, **TEXTS, replace=True)
    with pytest.raises(FingerprintMismatch, match=r"\[upscale\] weights_sha256"):
        build_tiny(tmp_path / "out", recipe=own)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder = trained(tmp_path / "run")
    for name in ("mine.safetensors", "mine.md", "registry.toml"):
        with monkeypatch.context() as patched:
            failing(patched, errno.ENOSPC, lambda one, name=name: one.startswith(f".{name}."))
            with pytest.raises(DiskFull):
                export(run_folder, "mine", tmp_path / "to", **TEXTS)
        assert not (tmp_path / "to").exists()
    export(run_folder, "mine", tmp_path / "to", **TEXTS)
