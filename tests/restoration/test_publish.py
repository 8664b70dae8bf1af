"""What a training found gets a name, a registry entry and a card; what a registry says of its files is checked."""

import dataclasses
import errno
import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from celebahq_builder import cli
from celebahq_builder.config import bundled
from celebahq_builder.errors import CelebAHQError, DiskFull, FingerprintMismatch, RecipeError, WeightsError
from celebahq_builder.models.registry import Shape, entry, load, locate, parameters, registry, table, verify
from celebahq_builder.pipeline.networks import network
from celebahq_builder.pipeline.stages import denoise, upscale
from celebahq_builder.pipeline.workspace import Workspace
from celebahq_builder.restoration.model_card import BY_HAND, Figure, gflop_per_megapixel, read_figures, validation
from celebahq_builder.restoration.publish import METADATA, Exported, export, with_entry
from tests.cli.test_cli import celebahq, one_line_error, run
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.disk import failing

SHAPES = {"denoise": Shape("autoencoder", (4, 6, 8), (1, 1, 2)), "upscale": Shape("srgan", (6,), (1,))}

RECIPES: dict[str, dict[str, Any]] = {
    "denoise": {
        "task": "denoise",
        "degradation": {
            "quality_min": 9,
            "quality_max": 97,
            "clean_share": 0.05,
            "grey_share": 0.0,
            "twice_share": 0.3,
            "rescale_share": 0.4,
            "sampling_shares": [0.7, 0.0, 0.3],
        },
    },
    "upscale": {"task": "upscale", "start": "upscaler-psnr"},
}

SAID = {"licence": "CC0", "data": "nothing | real"}


def tensors(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a network that changes its input a little; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {name: t + 0.01 * torch.randn(t.shape) for name, t in shape.build().state_dict().items()}


def trained(folder: Path, task: str = "denoise", seed: int = 0, **changed: Any) -> Path:
    """A training run's folder, as a training leaves it; None among `changed` leaves a key of the metadata out."""
    shape = SHAPES[task]
    metadata = {
        "step": "40",
        "shape": json.dumps(dataclasses.asdict(shape)),
        "recipe": json.dumps(RECIPES[task]),
        "command": f"celebahq train-{task} PHOTOS --recipe tiny",
        "photos": "12 photos, 2 held out",
    } | changed
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in metadata.items() if value is not None}
    save_file(tensors(shape, seed), folder / "weights.safetensors", kept)
    lines = [{"step": step, "loss": 0.1, "steps_per_s": 3.0, "gain_q10_db": step / 80} for step in (20, 40, 60)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A registry of two entries, made by exports."""
    for name, task in (("cleaner", "denoise"), ("grower", "upscale")):
        export(trained(tmp_path / f"run-{name}", task), name, tmp_path / "two", **SAID)
    return tmp_path / "two"


def reregister(folder: Path, name: str, **changed: Any) -> None:
    """Change an entry of a registry, its hash and size to those of its file."""
    data = (folder / entry(name, folder).file).read_bytes()
    true = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} | changed
    path = folder / "registry.toml"
    path.write_text(with_entry(path.read_text(), name, dataclasses.replace(entry(name, folder), **true), where=path))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}


# --- Names ------------------------------------------------------------------------------------------------------


def test_name_with_folder_is_the_entry_of_its_registry(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{two}/cleaner"
    assert entry(address) == registry(two)["cleaner"]
    assert entry(address, folder=bundled("pretrained")) == entry("cleaner", two)
    expected = tensors(SHAPES["denoise"])
    assert all(torch.equal(value, expected[key]) for key, value in load(address).state_dict().items())
    monkeypatch.chdir(two.parent)
    assert entry("two/cleaner") == entry("./two/cleaner") == entry(address)
    monkeypatch.chdir(two)
    assert entry("./cleaner") == entry(address)


@pytest.mark.parametrize(
    ("name", "place", "own"),
    [("a", None, "a"), ("w/a", "w", "a"), ("x/w/a", "x/w", "a"), ("/w/a", "/w", "a"), ("/a", "/", "a")],
)
def test_parts_of_an_address(name: str, place: str | None, own: str) -> None:
    assert locate(name) == (Path(place) if place else bundled("pretrained"), own)


def test_addresses_that_lead_nowhere(two: Path) -> None:
    with pytest.raises(WeightsError, match=rf"called '{two}/clean'; the registry has cleaner, grower \({two}/registry"):
        entry(f"{two}/clean")
    with pytest.raises(WeightsError, match=rf"'{two}/no/a' were looked for in {two}/no/registry\.toml, .* denoiser"):
        load(f"{two}/no/a")
    with pytest.raises(WeightsError, match="the registry has denoiser, .*or DIR/NAME"):
        entry("cleaner")
    (two / "registry.toml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"registry\.toml cannot be read as TOML"):
        entry(f"{two}/cleaner")


def test_stage_refuses_weights_of_the_other_network(two: Path) -> None:
    with pytest.raises(WeightsError, match="grower' are of the srgan network; this stage runs the autoencoder"):
        network(f"{two}/grower", torch.device("cpu"), "autoencoder")


# --- List and verify --------------------------------------------------------------------------------------------


def test_table_of_a_registry(two: Path) -> None:
    reregister(two, "grower", scores={"a": 1.5, "b": 2.0, "c": 3.25, "d": 4.0, "e": 5.0})
    size = entry("cleaner", two).size_bytes / 1e6
    head, first, second = table(two)
    assert head.split() == ["name", "network", "parameters", "size", "licence", "scores"]
    assert first.split("  ")[:2] == ["cleaner", "autoencoder 4/6/8, 1/1/2 blocks"]
    count = sum(t.numel() for t in tensors(SHAPES["denoise"]).values())
    assert first.split()[-6:] == [f"{count:,}", f"{size:.2f}", "MB", "CC0", "held_out_gain_q10_db", "0.5"]
    assert second.endswith("CC0      a 1.5, b 2, c 3.25, 2 more")
    assert first.index("CC0") == second.index("CC0") == head.index("licence")


def test_bundled_weights_are_listed_and_sound() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.celebahq, ["weights", "list"]).output
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(registry())
    checked = runner.invoke(cli.celebahq, ["weights", "verify"])
    assert (checked.exit_code, checked.output) == (0, "".join(f"{name}: ok\n" for name in registry()))


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def with_nan(path: Path) -> None:
    values = load_file(path)
    values["down1.bias"][2] = math.nan
    save_file(values, path)


@pytest.mark.parametrize(
    ("harm", "registered", "said"),
    [
        (alter, None, "has SHA-256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), None, "bytes, the registry says"),
        (lambda path: None, {"size_bytes": 7}, "bytes, the registry says 7"),
        (Path.unlink, None, "cannot be read: No such file"),
        (with_nan, {}, "down1.bias has values that are not finite"),
        (lambda path: save_file(tensors(SHAPES["upscale"]), path), {}, "belongs to another network"),
        (lambda path: path.write_bytes(b"nonsense"), {}, "is not a safetensors file"),
        (lambda path: None, {"shape": Shape("autoencoder", (4, 6, 8), (1, 1, 1))}, "belongs to another network"),
    ],
    ids=["altered", "cut", "size", "missing", "NaN", "foreign", "nonsense", "shape"],
)
def test_verify_says_what_is_wrong_and_goes_on(
    harm: Any, registered: dict[str, Any] | None, said: str, two: Path
) -> None:
    assert list(verify(folder=two)) == [("cleaner", ""), ("grower", "")]
    harm(two / "cleaner.safetensors")
    if registered is not None:
        reregister(two, "cleaner", **registered)
    (first, problem), second = verify(folder=two)
    assert (first, second) == ("cleaner", ("grower", ""))
    assert said in problem
    assert str(two / "cleaner.safetensors") in problem
    assert "\n" not in problem


def test_verify_by_name(two: Path) -> None:
    alter(two / "grower.safetensors")
    asked = ["weights", "verify", "cleaner", "none", f"{two}/grower", "nowhere/x", "cleaner", "--pretrained", str(two)]
    ended = CliRunner().invoke(cli.celebahq, asked)
    lines = ended.output.splitlines()
    assert ended.exit_code == 1
    assert [line.split(": ")[0] for line in lines] == ["cleaner", "none", f"{two}/grower", "nowhere/x", "cleaner"]
    assert lines[0] == lines[-1] == "cleaner: ok"
    assert "no weights are called 'none'" in lines[1]
    assert "has SHA-256" in lines[2]
    assert "which does not exist" in lines[3]


def test_no_registry_is_an_error_and_not_a_sound_one(tmp_path: Path) -> None:
    for command in ("list", "verify"):
        said = one_line_error(celebahq("weights", command, "--pretrained", tmp_path))
        assert f"{tmp_path}/registry.toml does not exist" in said


# --- Export -----------------------------------------------------------------------------------------------------


def test_exported_weights_are_those_of_the_run(tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    made = export(source, "mine", tmp_path / "to", **SAID)
    assert made == Exported(
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
    known = entry("mine", tmp_path / "to")
    assert known.file == "mine.safetensors"
    assert known.sha256 == hashlib.sha256(made.weights.read_bytes()).hexdigest()
    assert known.size_bytes == made.weights.stat().st_size
    assert known.shape == SHAPES["denoise"]
    assert known.licence == "CC0"
    assert known.data == "12 photos, 2 held out: nothing | real"
    assert known.command == "celebahq train-denoise PHOTOS --recipe tiny"
    assert known.scores == {"held_out_gain_q10_db": 0.5}
    assert contents(tmp_path / "to").keys() == {"mine.safetensors", "registry.toml", "mine.md"}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is full, nothing is left and the same command works."""
    run_folder = trained(tmp_path / "run")
    for name in ("mine.safetensors", "mine.md", "registry.toml"):
        with monkeypatch.context() as patched:
            failing(patched, errno.ENOSPC, lambda one, name=name: one.startswith(f"{name}."))
            with pytest.raises(DiskFull):
                export(run_folder, "mine", tmp_path / "to", **SAID)
        assert not (tmp_path / "to").exists()
    export(run_folder, "mine", tmp_path / "to", **SAID)


def test_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        export(trained(tmp_path / "run"), "mine", tmp_path / folder, **SAID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_model_card(tmp_path: Path) -> None:
    made = export(trained(tmp_path / "run"), "mine", tmp_path / "to", **SAID)
    text = made.card.read_text()
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ") and line[2] != "|"
    )
    assert text.startswith("# mine\n\n| | |\n|---|---|\n| network | ")
    assert "4/6/8 channels, 1/1/2 blocks" in rows["network"]
    assert rows["cost"] == f"{gflop_per_megapixel(SHAPES['denoise']):.3g} GFLOP per input megapixel"
    assert rows["trained on"] == r"12 photos, 2 held out: nothing \| real"
    assert rows["damage learnt"] == (
        "JPEG quality 9 to 97; 4:2:0, 4:4:4; 30% compressed twice on shifted grids, 40% of those scaled down between; "
        "5% left as they are"
    )
    assert rows["command"] == "`celebahq train-denoise PHOTOS --recipe tiny`"
    assert (rows["steps"], rows["licence"]) == ("40", "CC0")
    assert "started from" not in rows
    assert "## Measured\n\nMean over the run's held-out photos at step 40:\n\n| figure | value |\n|---|---|\n" in text
    assert rows["held_out_gain_q10_db"] == "0.5"
    assert "To be completed" in text.partition(BY_HAND)[2]


def test_model_card_of_an_upscaler(tmp_path: Path) -> None:
    chain = {"share": 0.5, "quality_min": 40, "quality_max": 95, "weights": "denoiser"}
    gan = json.dumps({"task": "upscale-adversarially", "start": "upscaler-psnr", "chain": chain})
    made = export(trained(tmp_path / "run", "upscale", recipe=gan), "mine", tmp_path / "to", **SAID)
    text = made.card.read_text()
    assert made.setting == "upscale.weights"
    assert "| started from | `upscaler-psnr` |" in text
    assert "in 50% of the batches also JPEG quality 40 to 95, cleaned by `denoiser` |" in text
    assert "four times its width" in text


def test_replacing_is_refused_until_asked_for(tmp_path: Path) -> None:
    to = tmp_path / "to"
    export(trained(tmp_path / "run"), "mine", to, **SAID)
    before = contents(to)
    newer = trained(tmp_path / "newer", seed=1)
    with pytest.raises(WeightsError, match=r"\[mine\] of .*registry\.toml is there already; --replace replaces it"):
        export(newer, "mine", to, **SAID)
    assert contents(to) == before
    export(newer, "mine", to, **SAID, replace=True)
    assert list(registry(to)) == ["mine"]
    assert torch.equal(load(f"{to}/mine").state_dict()["tail.bias"], tensors(SHAPES["denoise"], 1)["tail.bias"])


@pytest.mark.parametrize("file", ["mine.safetensors", "mine.md"])
def test_file_of_that_name_is_not_replaced_unasked(file: str, tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / file).write_text("precious")
    with pytest.raises(WeightsError, match=rf"{to / file} is there already; --replace"):
        export(trained(tmp_path / "run"), "mine", to, **SAID)
    assert contents(to) == {file: b"precious"}


def test_what_is_never_replaced(two: Path) -> None:
    """Neither the run's own files nor those of another entry."""
    source = trained(two.parent / "run")
    with pytest.raises(WeightsError, match="is the run's own folder"):
        export(source, "weights", two / ".." / "run", **SAID, replace=True)
    reregister(two, "grower", scores={})
    (two / "mine.safetensors").write_bytes((two / "grower.safetensors").read_bytes())
    reregister(two, "grower", file="mine.safetensors")
    before = contents(two)
    with pytest.raises(WeightsError, match=r"mine\.safetensors belongs to \[grower\]"):
        export(source, "mine", two, **SAID, replace=True)
    assert contents(two) == before


def test_hand_written_parts_of_a_card_stay(tmp_path: Path) -> None:
    to = tmp_path / "to"
    card = export(trained(tmp_path / "run"), "mine", to, **SAID).card
    by_hand = f"{BY_HAND}\n\n- It cannot sing.\n\n![A song](song.jpg)\n\n## Thanks\n\nTo all.\n"
    image = "![Left: before; right: after](mine.jpg)"
    text = card.read_text().partition(BY_HAND)[0].replace("# mine\n", f"# mine\n\n{image}\n") + by_hand
    card.write_text(text)
    export(trained(tmp_path / "run", step="60"), "mine", to, **SAID, replace=True)
    again = card.read_text()
    assert again.startswith(f"# mine\n\n{image}\n\n| | |\n")
    assert again.endswith(f"|\n\n{by_hand}")
    assert again.count("song.jpg") == again.count(BY_HAND) == 1
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


def test_registry_keeps_its_comments(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(REGISTRY)
    second = registry(tmp_path)["second"]
    new = dataclasses.replace(entry("first", tmp_path), sha256="22", scores={"psnr_db": 32.5, "new_db": 0.5})
    edited = with_entry(REGISTRY, "first", new, where=tmp_path)
    assert edited == REGISTRY.replace('"00"', '"22"').replace("31.0", "32.5").replace("other_db = 2", "new_db = 0.5")
    added = with_entry(REGISTRY, "third", new, where=tmp_path)
    assert added.startswith(REGISTRY)
    (tmp_path / "registry.toml").write_text(added)
    assert registry(tmp_path) == {"first": entry("first", tmp_path), "second": second, "third": new}


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
def test_registries_of_any_layout(text: str, tmp_path: Path) -> None:
    """Whatever the layout: edited right, or refused."""
    (tmp_path / "registry.toml").write_text(REGISTRY)
    new = dataclasses.replace(entry("first", tmp_path), data='a "b" \\ c', scores={"psnr_db": 32.5, "new_db": 0.5})
    before = tomllib.loads(text)
    edited = with_entry(text, "first", new, where=tmp_path)
    after = tomllib.loads(edited)
    assert {key: value for key, value in after.items() if key != "first"} == {
        key: value for key, value in before.items() if key != "first"
    }
    assert after["first"]["scores"] == new.scores
    assert after["first"]["data"] == new.data
    assert after["first"]["shape"] == {"architecture": "srgan", "widths": [6], "blocks": [1]}
    assert [line for line in text.splitlines() if line.startswith("#") and line not in edited] == []


def test_unreadable_registry_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text("[mine\n")
    with pytest.raises(RecipeError, match=r"registry\.toml cannot be read as TOML"):
        export(trained(tmp_path / "run"), "mine", tmp_path, **SAID)
    assert contents(tmp_path) == {"registry.toml": b"[mine\n"}


# --- Runs that cannot be exported -------------------------------------------------------------------------------


def unlink_weights(source: Path) -> None:
    (source / "weights.safetensors").unlink()


def cut_weights(source: Path) -> None:
    path = source / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {key: None for key in METADATA if key != "step"},
            "shape, recipe, command, photos: .* an older version; resume",
        ),
        ({"photos": None}, "lacks the metadata photos: the run was made by an older version"),
        ({"shape": json.dumps(dataclasses.asdict(SHAPES["upscale"]))}, "belongs to another network"),
        ({"shape": '{"architecture": "vgg", "widths": [1], "blocks": [1]}'}, "architecture must be one of autoencoder"),
        ({"shape": "3"}, "damaged metadata"),
        ({"recipe": "{}"}, "damaged metadata .*task"),
        ({"recipe": "{"}, "damaged metadata"),
        ({"step": "many"}, "damaged metadata"),
        ({"step": "30"}, r"log\.jsonl has no validation of step 30; give the figures with --scores"),
    ],
)
def test_run_without_a_usable_origin(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        export(trained(tmp_path / "run", **changed), "mine", tmp_path / "to", **SAID)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (unlink_weights, r"weights\.safetensors cannot be read: No such file .*; give the --out folder of a training"),
        (cut_weights, "is not a safetensors file"),
    ],
)
def test_run_without_whole_weights(harm: Any, said: str, tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    harm(source)
    with pytest.raises(WeightsError, match=said):
        export(source, "mine", tmp_path / "to", **SAID)
    assert not (tmp_path / "to").exists()


def test_diverged_run(tmp_path: Path) -> None:
    source = trained(tmp_path / "run")
    with safe_open(source / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    values = tensors(SHAPES["denoise"])
    values["head.weight"][0, 0, 0, 0] = math.inf
    (source / "weights.safetensors").write_bytes(save(values, metadata))
    with pytest.raises(WeightsError, match=r"head\.weight has values that are not finite; lower learning_rate"):
        export(source, "mine", tmp_path / "to", **SAID)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("name", "licence", "data", "said"),
    [
        ("a/b", "CC0", "x", "--name 'a/b'"),
        ("", "CC0", "x", "--name ''"),
        ("../a", "CC0", "x", "--name"),
        ("a.b", "CC0", "x", "--name"),
        ("a", " ", "x", "--licence ' ' must be one line"),
        ("a", "CC0", "x\ny", "--data"),
    ],
)
def test_words_that_cannot_be_used(name: str, licence: str, data: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        export(trained(tmp_path / "run"), name, tmp_path / "to", licence=licence, data=data)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "is a file; give a folder"),
        ("file/below", "Not a directory"),
        ("weights", "cannot be written: Is a directory; choose another --to"),
        ("card", r"mine\.md cannot be read as text: .*Is a directory"),
        ("registry", r"registry\.toml cannot be read as"),
    ],
)
def test_folder_that_cannot_be_written(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for folder, file in (("weights", "mine.safetensors"), ("card", "mine.md"), ("registry", "registry.toml")):
        (tmp_path / folder / file).mkdir(parents=True)
    with pytest.raises(CelebAHQError, match=f"{tmp_path / place}.*{said}"):
        export(trained(tmp_path / "run"), "mine", tmp_path / place, **SAID, replace=True)
    assert contents(tmp_path / place) == {}


# --- Figures ----------------------------------------------------------------------------------------------------


def test_scores_of_a_flat_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"live1_q10_gain_db": 1.23456789, "Set5 (5): Y-PSNR": 31}')
    export(trained(tmp_path / "run"), "mine", tmp_path / "to", **SAID, scores=path)
    assert entry("mine", tmp_path / "to").scores == {"live1_q10_gain_db": 1.23457, "set5_5_y_psnr": 31.0}
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
    export(trained(tmp_path / "run"), "mine", tmp_path / "to", **SAID, scores=path)
    assert entry("mine", tmp_path / "to").scores == {
        "live1_29_jpeg_10_mean_gain_db": 1.1,
        "jpeg_20_db": 1.3,
        "texture": 7.0,
    }
    expected = (
        "| figure | value | goal |\n|---|---|---|\n| LIVE1 (29), JPEG 10: mean gain | 1.1 dB | >= 1.2 dB, MISSED |\n"
        "| JPEG 20 | 1.3 dB | >= 1.2 dB, met |\n| texture | 7 |  |\n\nThe rows marked missed "
    )
    assert expected in (tmp_path / "to" / "mine.md").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read as JSON: .*No such file"),
        ("{", "cannot be read as JSON"),
        ("3", "must be an object of name -> number or a list of rows, got 3"),
        ("{}", "it holds no figures"),
        ("[]", "it holds no figures"),
        ('{"a": "1"}', "a must be a finite number, got '1'"),
        ('{"a": true}', "a must be a finite number, got True"),
        ('{"a": NaN}', "a must be a finite number, got nan"),
        ('{"a": {"b": 1}}', "a must be a finite number"),
        ('{"a b": 1, "a-b": 2}', "'a_b' names more than one figure"),
        ('{"?": 1}', "'' names more than one figure, or none"),
        ('[{"what": "x"}]', "row 1, x must be a finite number, got None"),
        ('[{"what": "x", "value": 1}, {"value": 1}]', "row 2 must be like"),
        ("[1]", "row 1 must be like"),
    ],
)
def test_scores_that_are_none(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=f"^--scores {path}.*{said}"):
        read_figures(path)


def test_log_of_a_run(tmp_path: Path) -> None:
    """The last line of the step counts; losses are no scores; what a kill cut off is passed over."""
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 5, "pixel": 1.0, "discriminator": 2.0, "steps_per_s": 1.0, "swd": 9}\n{"step": 6, "swd": 1}\n'
        '{"step": 5, "loss": 1.0, "swd": 8, "psnr_y_db": 30.5}\n{"step": 7, "sw'
    )
    assert validation(log, 5) == (Figure("held_out_swd", 8.0), Figure("held_out_psnr_y_db", 30.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: .*No such file"),
        ("", "has no validation of step 5"),
        ('{"step": 4, "swd": 1}\n', "has no validation of step 5"),
        ('{"step": 5, "loss": 1}\n', "has no scores of step 5"),
        ('{"step": 5, "swd": NaN}\n', "step 5: swd must be a finite number, got nan"),
        ('{"swd": 1}\n', "cannot be read"),
        ("{x}\n", "cannot be read"),
    ],
)
def test_log_without_scores_of_the_step(text: str | None, said: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    with pytest.raises(WeightsError, match=rf"log\.jsonl.*{said}.*; give the figures with --scores"):
        validation(log, 5)


# --- Cost -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "blocks"), [((4, 6, 8), (1, 1, 2)), ((32, 64, 96), (2, 2, 3))])
def test_cost_of_the_autoencoder_by_hand(widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    (a, b, c), (i, j, k) = widths, blocks
    half = 9 * 12 * a + 2 * i * 2 * 9 * a * a + 9 * a * 12  # head, two stacks, tail
    quarter = 4 * a * b + 2 * j * 2 * 9 * b * b + 4 * a * b  # way down, two stacks; way up: 1 tap per result pixel
    eighth = 4 * b * c + k * 2 * 9 * c * c + 4 * b * c
    mega = half / 4 + quarter / 16 + eighth / 64
    assert gflop_per_megapixel(Shape("autoencoder", widths, blocks)) == pytest.approx(2 * mega / 1000)


def test_cost_of_the_generator_by_hand() -> None:
    per_pixel = 9 * 3 * 5 + 4 * 2 * 9 * 5 * 5 + 9 * 5 * 48
    assert gflop_per_megapixel(Shape("srgan", (5,), (4,))) == pytest.approx(2 * per_pixel / 1000)
    assert parameters(Shape("srgan", (5,), (4,))) == per_pixel + 5 + 4 * 2 * 5 + 48


# --- From a training's folder to a build ------------------------------------------------------------------------


def test_from_a_run_to_a_build(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    to = tmp_path / "weights"
    asked = ["weights", "export", tmp_path / "run", "--name", "mine", "--to", to, "--licence", "CC0", "--data", "none"]
    ended = CliRunner().invoke(cli.celebahq, list(map(str, asked)), catch_exceptions=False)
    assert ended.exit_code == 0
    setting = ended.output.splitlines()[-1].removeprefix("recipe:").strip()
    assert setting == f'denoise.weights = "{to}/mine"'
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{setting}\nresolution = 64\n\n[select]\nkeep = 2\n")
    out = tmp_path / "build"
    built = run("--celeba-root", SAMPLE, "--out", out, "--recipe", recipe, "--limit", "2", "--workers", "1")
    assert built.returncode == 0, built.stderr
    assert "2 photos: 2 kept" in built.stdout
    plan = json.loads(Workspace(out).stage("align").plan_path.read_text())
    denoised = next(one for one in plan["ingredients"] if one["name"] == "denoise")
    assert denoised["weights_sha256"] == entry("mine", to).sha256
    assert "is there already; --replace" in one_line_error(celebahq(*asked))


def test_build_with_both_networks_of_a_registry(two: Path, tiny_run: Path, tmp_path: Path) -> None:
    """The images are those of the networks named, and workers find a registry as this process does."""
    own = dataclasses.replace(
        TINY,
        denoise=denoise.DenoiseSettings(weights=f"{two}/cleaner"),
        upscale=dataclasses.replace(TINY.upscale, weights=f"{two}/grower"),
    )
    images = []
    for out, workers in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        assert build_tiny(out, recipe=own, workers=workers).kept == 3
        images.append({p.name: p.read_bytes() for p in (out / "stages" / "align" / "images").rglob("*.png")})
    bundled_images = {p.name: p.read_bytes() for p in (tiny_run / "stages" / "align" / "images").rglob("*.png")}
    assert images[0] == images[1]
    assert images[0].keys() == bundled_images.keys()
    assert all(images[0][name] != bundled_images[name] for name in bundled_images)


def test_replaced_weights_do_not_mix_with_the_old_ones(two: Path, tmp_path: Path) -> None:
    own = dataclasses.replace(TINY, upscale=upscale.UpscaleSettings(weights=f"{two}/grower", when="always"))
    build_tiny(tmp_path / "out", recipe=own)
    export(trained(tmp_path / "newer", "upscale", seed=1), "grower", two, **SAID, replace=True)
    with pytest.raises(FingerprintMismatch, match=r"\[upscale\] weights_sha256"):
        build_tiny(tmp_path / "out", recipe=own)
