"""A recipe is read exactly as it says, or refused with file, line and the nearest key."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.config import (
    bundled,
    flatten,
    format_overrides,
    from_mapping,
    load,
    override,
    parse_overrides,
    read_toml,
    to_mapping,
)
from celebahq_builder.errors import RecipeError
from celebahq_builder.landmarks.training import LandmarkRecipe
from celebahq_builder.limits import MAX_TOML_BYTES
from celebahq_builder.models.registry import read_registry
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe
from celebahq_builder.restoration.pixel_training import PixelRecipe


@dataclass(frozen=True)
class Phase:
    steps: int
    patch_px: int = 8


@dataclass(frozen=True)
class Align:
    size_px: int = 3
    share: float = 0.5
    edge: Literal["mirror", "repeat"] = "mirror"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"align.share = {self.share} must be 0 to 1")


@dataclass(frozen=True)
class Recipe:
    name: str
    shuffle: bool = False
    keep: int | None = None
    window: tuple[int, int] = (1, 2)
    align: Align = field(default_factory=Align)
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class Weights:
    """As the registry of weight files has it."""

    file: str
    scores: dict[str, float] = field(default_factory=dict)


WHOLE = """\
# keep = 9 is no key
name = "x"
shuffle = true
keep = 4
window = [3, 4]

[align]
size_px = 5
share = 1
edge = "repeat"

[[phases]]
steps = 10

[[phases]]
steps = 20
patch_px = 16
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_kind_of_value(tmp_path: Path) -> None:
    recipe = load(Recipe, write(tmp_path, WHOLE))
    assert recipe == Recipe("x", True, 4, (3, 4), Align(5, 1.0, "repeat"), (Phase(10), Phase(20, 16)))
    assert type(recipe.align.share) is float


def test_defaults(tmp_path: Path) -> None:
    assert load(Recipe, write(tmp_path, 'name = "x"')) == Recipe("x")


def test_table_of_any_keys(tmp_path: Path) -> None:
    path = write(tmp_path, 'file = "a"\n[scores]\npsnr_db = 30.5\nsteps = 3\n')
    weights = load(Weights, path)
    assert weights == Weights("a", {"psnr_db": 30.5, "steps": 3.0})
    assert to_mapping(weights) == {"file": "a", "scores": {"psnr_db": 30.5, "steps": 3.0}}
    path = write(tmp_path, 'file = "a"\n[scores]\npsnr_db = "high"\n')
    with pytest.raises(RecipeError, match=r"recipe\.toml:[23]: scores\.psnr_db must be float, got 'high'$"):
        load(Weights, path)


def test_inline_tables_and_quoted_keys(tmp_path: Path) -> None:
    text = 'name = "x"\n"keep" = 3\nalign = { size_px = 7 }\nphases = [{ steps = 1 }, { steps = 2 }]\n'
    expected = Recipe("x", keep=3, align=Align(7), phases=(Phase(1), Phase(2)))
    assert load(Recipe, write(tmp_path, text)) == expected


PROBLEMS = {
    "unknown key": ("keep = 4", "kep = 4", "4: unknown key kep; did you mean keep?"),
    "unknown key of a table": ("size_px = 5", "size = 5", "8: unknown key align.size; did you mean size_px?"),
    "no key is near": ("size_px = 5", "qqq = 5", "8: unknown key align.qqq; known keys: size_px, share, edge"),
    "unknown key of a quoted kind": ("keep = 4", '"kep" = 4', "4: unknown key kep; did you mean keep?"),
    "unknown key in the last phase": ("patch_px", "patch", "17: unknown key phases.patch; did you mean patch_px?"),
    "unknown table": ("[align]", "[algin]", "7: unknown key algin; did you mean align?"),
    "text for a number": ("keep = 4", 'keep = "4"', "4: keep must be int, got '4'"),
    "number of 65 bits": (
        "keep = 4",
        f"keep = {1 << 64}",
        f"4: keep must have 64 bits as TOML's integers, got {1 << 64}",
    ),
    "fraction of 400 digits": (
        "share = 1",
        f"share = {10**400}",
        f"9: align.share must have 64 bits as TOML's integers, got 1{'0' * 99}...",
    ),
    "fraction for a whole number": ("keep = 4", "keep = 4.0", "4: keep must be int, got 4.0"),
    "truth for a whole number": ("keep = 4", "keep = true", "4: keep must be int, got True"),
    "number for a truth": ("shuffle = true", "shuffle = 1", "3: shuffle must be bool, got 1"),
    "truth for a fraction": ("share = 1", "share = true", "9: align.share must be float, got True"),
    "number for text": ('name = "x"', "name = 1", "2: name must be str, got 1"),
    "not one of the choices": ('"repeat"', '"zero"', "10: align.edge must be one of mirror, repeat; got 'zero'"),
    "number for a list": ("[3, 4]", "3", "5: window must be a list, got 3"),
    "text for a list": ("[3, 4]", '"34"', "5: window must be a list, got '34'"),
    "too long a list": ("[3, 4]", "[3, 4, 5]", "5: window must have 2 values, got 3"),
    "text in a list": ("[3, 4]", '[3, "4"]', "5: window must be int, got '4'"),
    "value refused by its table": ("share = 1", "share = 2", "7: align.share = 2.0 must be 0 to 1"),
    "wrong value in the first phase": ("steps = 10", "steps = 1.5", "13: phases.steps must be int, got 1.5"),
    "wrong value in the last phase": ("steps = 20", "steps = 2.5", "16: phases.steps must be int, got 2.5"),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problem_is_placed(kind: str, tmp_path: Path) -> None:
    right, wrong, said = PROBLEMS[kind]
    assert WHOLE.count(right) == 1
    path = write(tmp_path, WHOLE.replace(right, wrong))
    with pytest.raises(RecipeError, match=f"^{re.escape(f'{path}:{said}')}$"):
        load(Recipe, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep = 1", ": key name is missing"),
        ('name = "x"\n[[phases]]\npatch_px = 3', ": key phases.steps is missing"),
        ('name = "x"\nalign = 3', ":2: align must be a table, got 3"),
        ('name = "x"\nphases = [3]', ":2: phases must be a table, got 3"),
    ],
    ids=["key", "key in a phase", "table", "table in a list"],
)
def test_missing_and_misshapen(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=f"^{re.escape(f'{path}{said}')}$"):
        load(Recipe, path)


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'name = "x"\r\nkep = 3\r\n')
    with pytest.raises(RecipeError, match=r"recipe\.toml:2: unknown key kep"):
        load(Recipe, path)


def test_no_such_file_names_those_there(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(RecipeError, match=r"own\.toml does not exist; .* has recipe\.toml$"):
        read_toml(tmp_path / "own.toml")
    with pytest.raises(RecipeError, match=r"own\.toml does not exist$"):
        read_toml(tmp_path / "nowhere" / "own.toml")
    (tmp_path / "gan.toml").write_text('task = "progan"')
    with pytest.raises(RecipeError, match=r"own\.toml does not exist; .* has gan\.toml$"):
        read_toml(tmp_path / "own.toml", "progan")


@pytest.mark.parametrize("data", [b"name = \n", b"name = 'x'\nname = 'y'\n", b"\xff\xfe", b"a = 1 2"])
def test_not_toml(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"recipe\.toml cannot be read as TOML: "):
        load(Recipe, path)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: a folder, not a regular file"):
        read_toml(tmp_path)
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(RecipeError, match=r"pipe\.toml cannot be read: a named pipe, not a regular file"):
        load(Recipe, tmp_path / "pipe.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "{a = " * 40_000, "nested too deeply"),
        ("a." * 30_000 + "a = 1", "nested too deeply"),
        ("x = " + "9" * 5000, "4300 digits"),
        ("#" * (MAX_TOML_BYTES + 1), f"{MAX_TOML_BYTES + 1} bytes; at most {MAX_TOML_BYTES} are read"),
        ('x = """\n' + "[" * 200_000 + '\n"""', "unknown key x"),
        ("\n".join(f"[{'a.' * 50}a{i}]" for i in range(1000)), "unknown key a"),
    ],
    ids=["lists", "tables", "dots", "digits", "size", "brackets in a text", "many tables"],
)
def test_a_hostile_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)) as caught:
        load(Recipe, write(tmp_path, text))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"keep must be int, got 'a{99}\.\.\.$"):
        load(Recipe, write(tmp_path, f"name = 'x'\nkeep = '{'a' * 100_000}'"))


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbfname = 'x'\nkep = 3\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml:2: unknown key kep"):
        load(Recipe, tmp_path / "recipe.toml")


def test_none_stands_for_an_option_left_out() -> None:
    assert from_mapping(Recipe, {"name": "x", "keep": None}, where="--keep") == Recipe("x")


def test_override_sets_dotted_keys_and_whole_tables() -> None:
    base = {"a": 1, "align": {"size_px": 3, "share": 0.5}, "phases": [1, 2]}
    overrides = {"align.share": 0.1, "phases": [3], "b.c": 1}
    assert override(base, overrides) == {"a": 1, "align": {"size_px": 3, "share": 0.1}, "phases": [3], "b": {"c": 1}}
    assert override(base, {"align": {"share": 0.1}})["align"] == {"share": 0.1}
    assert override(base, {"align": {}, "align.share": 0.2})["align"] == {"share": 0.2}
    assert base == {"a": 1, "align": {"size_px": 3, "share": 0.5}, "phases": [1, 2]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep", "'keep' is not KEY=VALUE, such as schedule.minibatch=8"),
        ("=3", "'=3' is not KEY=VALUE"),
        ("a..b=3", "'a..b=3' is not KEY=VALUE"),
        ("keep=", "keep='': the value is not TOML"),
        ("keep=[1, 2", "the value is not TOML"),
        ("keep=1\nname=2", "the value is not TOML"),
        ("keep=" + "[" * 5000, "the value is not TOML"),
    ],
)
def test_overrides_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_overrides([text])
    assert said in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kep", 3, "^`overrides`: unknown key kep; did you mean keep"),
        ("keep", "many", "^`overrides`: keep must be int, got 'many'$"),
        ("name.x", 1, "^`overrides`: name must be str, got {'x': 1}$"),
    ],
)
def test_errors_of_overrides(key: str, value: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        load(Recipe, write(tmp_path, "name = 'x'\nkeep = 2"), {key: value})


def test_written_overrides_are_read_back() -> None:
    overrides = {
        "a.b": 1,
        "c": [1.5, 2.0],
        "d": {},
        "h": {"4": [1], "x y": {"z": "ü"}},
        "e": "two words",
        "f": True,
        "g": 'it\'s "quoted"',
    }
    assert parse_overrides(format_overrides(overrides)) == overrides


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": [{"f": 3}]}}) == {"a": 1, "b.c.d": 2, "b.e": [{"f": 3}]}
    assert flatten({}) == {}


INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)

recipes = st.builds(
    Recipe,
    name=st.text(max_size=5),
    shuffle=st.booleans(),
    keep=st.none() | INTEGERS,
    window=st.tuples(INTEGERS, INTEGERS),
    align=st.builds(
        Align,
        size_px=INTEGERS,
        share=st.floats(0, 1),
        edge=st.sampled_from(["mirror", "repeat"]),
    ),
    phases=st.lists(st.builds(Phase, steps=INTEGERS, patch_px=INTEGERS), max_size=3).map(tuple),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(recipes)
def test_to_mapping_and_back(recipe: Recipe) -> None:
    values = to_mapping(recipe)
    assert [*values] == ["name", "shuffle", "keep", "window", "align", "phases"]
    assert isinstance(values["phases"], list)
    assert from_mapping(Recipe, values, where="test") == recipe


@dataclass(frozen=True)
class WithPath:
    folder: Path


def test_paths_become_text() -> None:
    assert to_mapping(WithPath(Path("a/b"))) == {"folder": "a/b"}


def shipped(pattern: str) -> list[Path]:
    return sorted(bundled("pipelines").glob(pattern))


@pytest.mark.parametrize("path", shipped("*.toml"), ids=lambda path: path.name)
def test_shipped_build_recipes(path: Path) -> None:
    recipe = load(BuildRecipe, path)
    assert from_mapping(BuildRecipe, to_mapping(recipe), where="test") == recipe
    assert set(flatten(read_toml(path))) <= set(flatten(to_mapping(recipe)))


TRAINING = {
    "denoise": PixelRecipe,
    "upscale": PixelRecipe,
    "upscale-adversarially": AdversarialRecipe,
    "landmarks": LandmarkRecipe,
    "progan": ProGANRecipe,
}
"""What trains the network of each task."""


@pytest.mark.parametrize("path", shipped("train/*.toml"), ids=lambda path: path.name)
def test_shipped_training_recipes(path: Path) -> None:
    kind = TRAINING[read_toml(path)["task"]]
    recipe = load(kind, path)
    assert from_mapping(kind, to_mapping(recipe), where="test") == recipe
    assert getattr(recipe, "start", "") in ("", *read_registry())


def test_recipes_are_shipped() -> None:
    names = {path.name for path in shipped("*.toml")}
    assert {"demo.toml", "celebahq-1024.toml", "celebahq-256.toml", "own-photos.toml"} <= names
    assert {"denoiser.toml", "upscaler-psnr.toml"} <= {path.name for path in shipped("train/*.toml")}


def test_a_very_long_key_is_cut_and_found(tmp_path: Path) -> None:
    path = write(tmp_path, f'name = "x"\n{"k" * 200_000} = 1')
    with pytest.raises(RecipeError, match=r":2: unknown key k{100};") as error:
        load(Recipe, path)
    assert len(str(error.value)) < 1000
