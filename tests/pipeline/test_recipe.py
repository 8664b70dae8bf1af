"""The settings of a build: recipe, options that override it, and the source of each value."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.config import bundled
from celebahq_builder.errors import RecipeError, SourceError
from celebahq_builder.limits import MAX_TOML_BYTES
from celebahq_builder.pipeline.recipe import DEFAULT_RECIPE, BuildRecipe, resolve
from celebahq_builder.pipeline.request import check_official, ids_hash, read_ids
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.pipeline.stages.select import SelectSettings


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text("resolution = 128\n[select]\nkeep = 5\n[crop]\ncrop_min_px = 32\n")
    return path


def test_recipe_alone(recipe: Path) -> None:
    built, origins = resolve(recipe, {})
    assert (built.resolution, built.select.keep, built.crop.crop_min_px) == (128, 5, 32)
    assert built.align == BuildRecipe().align
    assert origins == dict.fromkeys(("resolution", "select.keep", "crop.crop_min_px"), str(recipe))


def test_options_override_the_recipe(recipe: Path) -> None:
    built, origins = resolve(recipe, {"select.keep": 7, "pack.order": "rank", "seed": None})
    assert (built.resolution, built.select.keep, built.pack.order, built.seed) == (128, 7, "rank", 0)
    assert origins["select.keep"] == "`keep`"
    assert origins["pack.order"] == "`order`"
    assert origins["resolution"] == str(recipe)
    assert "seed" not in origins


def test_overrides_come_between_recipe_and_options(recipe: Path) -> None:
    built, origins = resolve(recipe, {"seed": 4}, {"crop": {"context_px": 8}, "align.supersampling": 2})
    assert (built.seed, built.crop, built.align.supersampling) == (4, CropSettings(context_px=8), 2)
    assert origins == {
        "resolution": str(recipe),
        "select.keep": str(recipe),
        "crop.context_px": "`overrides`",
        "align.supersampling": "`overrides`",
        "seed": "`seed`",
    }
    with pytest.raises(RecipeError, match=r"^`keep` and `overrides` both set select\.keep; give one of them$"):
        resolve(recipe, {"select.keep": 7}, {"select.keep": 7})
    with pytest.raises(RecipeError, match=r"^`overrides`: unknown key select\.kep; did you mean keep\?$"):
        resolve(recipe, {}, {"select.kep": 7})


def test_error_of_a_recipe_names_its_file(recipe: Path) -> None:
    recipe.write_text("resolution = 128\nkep = 1\n")
    with pytest.raises(RecipeError, match=r"own\.toml:2: unknown key kep"):
        resolve(recipe, {"select.keep": 7})


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("resolution", 100, "^`resolution`: resolution 100 is not a power of two$"),
        ("resolution", 32, "^`resolution`: resolution = 32 must be 64 to 2048$"),
        ("pack.order", "best", "^`order`: pack.order must be one of photo, rank, shuffled; got 'best'$"),
        ("select.keep", "many", "^`keep`: select.keep must be int, got 'many'$"),
        ("upscale.min_zoom", 0.9, "^`min_zoom`: upscale.min_zoom = 0.9 must be at least 1$"),
    ],
)
def test_error_of_an_option_names_the_option(setting: str, value: object, said: str, recipe: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        resolve(recipe, {"crop.crop_min_px": 40, setting: value})


def test_all_faces_and_a_least_zoom_exclude_each_other(recipe: Path) -> None:
    recipe.write_text("[upscale]\nmin_zoom = 1.25\n")
    said = r'upscale\.min_zoom = 1\.25 has no effect with when = "always"; set min_zoom = 1, or when = "needed"$'
    with pytest.raises(RecipeError, match=said):
        resolve(recipe, {}, {"upscale.when": "always"})
    assert resolve(recipe, {}, {"upscale": {"when": "always", "min_zoom": 1}})[0].upscale.when == "always"


def test_default_recipe() -> None:
    built, origins = resolve(DEFAULT_RECIPE, {})
    assert built.resolution == 1024
    assert set(origins.values()) == {f"recipe {DEFAULT_RECIPE}"}


@pytest.mark.parametrize("name", ["celebahq-1024", "celebahq-256", "demo"])
def test_the_data_set_of_the_paper_has_all_missing_pixels_from_the_upscaler(name: str) -> None:
    upscale = resolve(name, {})[0].upscale
    assert (upscale.when, upscale.min_zoom) == ("needed", 1.0)


@pytest.mark.parametrize("name", ["demo", "demo.toml"])
def test_bundled_recipe_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # a folder is no recipe
    assert resolve(Path(name), {}) == resolve(bundled("pipelines") / "demo.toml", {})


def test_own_recipe_has_priority_over_a_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo.toml").write_text("resolution = 64")
    assert resolve(Path("demo.toml"), {})[0].resolution == 64


def test_unknown_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"does not exist; .* has .*demo\.toml"):
        resolve(Path("dmo"), {})
    with pytest.raises(RecipeError, match="does not exist$"):
        resolve(Path("nowhere/demo.toml"), {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = " + b"[" * 100_000, "cannot be read as TOML"),
        (b"#" * (MAX_TOML_BYTES + 1), "cannot be read: 262145 bytes; at most 262144 are read; give a TOML file"),
        (b"\xff", "cannot be read as TOML: 'utf-8' codec can't decode byte"),
    ],
)
def test_hostile_recipe(content: bytes, said: str, recipe: Path) -> None:
    recipe.write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        resolve(recipe, {})


def test_exact_recipe() -> None:
    built, origins = resolve(Path("official-deltas"), {})
    assert (built.method, built.resolution, built.select.keep) == ("exact", 1024, 30_000)
    assert "method" in origins


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[denoise]\nweights = "mine"', "denoise.weights = mine"),
        ('[upscale]\nwhen = "always"', "upscale.when = always"),
        ("[align]\nblur = 0.1", "align.blur = 0.1"),
    ],
)
def test_exact_refuses_what_would_have_no_effect(table: str, says: str, recipe: Path) -> None:
    recipe.write_text(f'method = "exact"\n{table}\n')
    with pytest.raises(RecipeError, match=rf'{says} has no effect with method = "exact"; leave out \['):
        resolve(recipe, {})
    recipe.write_text(table)
    resolve(recipe, {})


def test_requirements_of_the_official_deltas(tmp_path: Path) -> None:
    exact, paper = resolve(Path("official-deltas"), {})[0], resolve(DEFAULT_RECIPE, {})[0]
    deltas, image_list = tmp_path / "deltas", tmp_path / "list.txt"
    deltas.mkdir()
    check_official(exact, None, None)
    check_official(paper, None, None)
    check_official(exact, None, image_list)
    with pytest.raises(RecipeError, match=r"`deltas` .* needs `image_list` FILE too"):
        check_official(exact, deltas, None)
    for given, option in ((deltas, "`deltas`"), (None, "`image_list`")):
        with pytest.raises(RecipeError, match=rf'{option} needs .*"exact", but .* "paper"; give `recipe` official-'):
            check_official(paper, given, image_list)
        with pytest.raises(RecipeError, match=rf"{option} needs resolution = 1024, got 256"):
            check_official(replace(exact, resolution=256), given, image_list)
    with pytest.raises(SourceError, match=r"holds none of deltas00000\.zip"):
        check_official(exact, deltas, image_list)
    (deltas / "deltas05000.zip").touch()
    check_official(exact, deltas, image_list)


def test_ids_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf000001\r\n# the second\r\n\r\n  000003.jpg  \n000001\n")
    assert read_ids(path) == {"000001", "000003.jpg"}
    assert read_ids(None) is None


def test_ids_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    with pytest.raises(RecipeError, match=r"`ids` .*ids\.txt cannot be read"):
        read_ids(path)
    path.write_text("\n# nothing\n")
    with pytest.raises(RecipeError, match="names no photos"):
        read_ids(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_ids(path)


def test_hash_of_ids_does_not_depend_on_order() -> None:
    assert ids_hash(None) is None
    names = [f"{i:06d}" for i in range(50)]
    sorted_names = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert ids_hash(frozenset(names)) == ids_hash(frozenset(reversed(names))) == sorted_names
    assert ids_hash(frozenset(["a", "b"])) != ids_hash(frozenset(["ab"]))
    assert ids_hash(frozenset()) is not None


def test_a_recipe_of_an_earlier_version(recipe: Path) -> None:
    recipe.write_text("[region]\ncrop_min_px = 32\n")
    with pytest.raises(RecipeError, match=r"own\.toml: the table \[region\] is called \[crop\] now; rename it$"):
        resolve(recipe, {})


def test_settings_in_place_of_a_file() -> None:
    given = BuildRecipe(resolution=128, crop=CropSettings(inside_min=0.5))
    built, origins = resolve(given, {"select.keep": 7})
    assert built == replace(given, select=SelectSettings(keep=7))
    assert origins == {"select.keep": "`keep`"}
    with pytest.raises(ValueError, match=r"crop\.inside_min = 2 must be a share"):
        CropSettings(inside_min=2)
    with pytest.raises(ValueError, match="method = 'quick' must be one of paper, exact"):
        BuildRecipe(method="quick")
    with pytest.raises(ValueError, match="keep_stages names 'score'; stages with images are crop, denoise, upscale"):
        BuildRecipe(keep_stages=("score",))
