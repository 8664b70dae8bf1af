"""Code in the documentation: it runs, or a reason says why not.

A command runs on the embedded sample in a folder of its own, which has small files in place of those that the reader
has (`INPUTS`), and with options that make the work small (`SMALL`, `RECIPES`). ``<!-- not run: reason -->`` above a
block leaves it out; `PROGRAMS` has the reasons for commands of other programs.
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import nbformat
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nbclient import NotebookClient
from PIL import Image

import celebahq_builder as chq
from celebahq_builder.cli import celebahq
from celebahq_builder.config import load
from celebahq_builder.metrics import inception
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.storage import sha256
from tests.cli.pages import PAGES, REASON, ROOT, blocks, commands
from tests.conftest import SAMPLE
from tests.metrics.inception_file import write_random
from tests.progan.tiny import RECIPE
from tests.release import Release

RESTORATION = """
held_out = 1
validate_every = 2
bf16 = false
phases = [{ steps = 2, patch_px = 16, batch = 2 }]
"""

RECIPES = {
    "train": RECIPE,
    "train-denoiser": f"""task = "denoise"
{RESTORATION}
[net]
architecture = "autoencoder"
widths = [4, 6, 8]
blocks = [1, 1, 1]
""",
    "train-upscaler": f"""task = "upscale"
{RESTORATION}
[net]
architecture = "srgan"
widths = [6]
blocks = [1]
""",
    "train-landmarks": """task = "landmarks"
steps = 2
batch = 4
held_out = 3
validate_every = 2
bf16 = false
[net]
architecture = "landmarks"
widths = [8, 8, 8]
blocks = [1, 1, 1]
""",
}
"""Recipes that replace those of the pages."""

SMALL = {
    "build": ["--resolution", "64", "--limit", "2", "--workers", "1", "--device", "cpu"],
    "evaluate": ["--num", "4", "--device", "cpu"],
    "export": ["--resolution", "64", "--workers", "1"],
    "filter": ["--workers", "1"],
    "generate": ["--num", "2", "--device", "cpu"],
    "import": ["--workers", "1"],
    "interpolate": ["--seconds", "1", "--device", "cpu"],
    "landmarks": ["--workers", "1"],
    "train": ["--total-kimg", "0.16", "--device", "cpu"],
    "train-denoiser": ["--device", "cpu"],
    "train-landmarks": ["--device", "cpu"],
    "train-upscaler": ["--device", "cpu"],
}
"""Options that are added to a command; of an option that occurs twice, the last one counts."""

SLOW = ("build", "landmarks", "train", "generate", "interpolate", "evaluate", "weights export")
"""Beginnings of commands that take seconds; `make test` leaves them out."""


def cases() -> list[pytest.param]:
    """Return the commands of all pages, without repetitions."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for words in commands(page):
            if words[0] == "celebahq":
                found.setdefault(tuple(words[1:]), page.stem)
    return [
        pytest.param(
            words, id=f"{page}: {' '.join(words)}", marks=[pytest.mark.slow] * " ".join(words).startswith(SLOW)
        )
        for words, page in found.items()
    ]


# --- Every option exists -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(?:torchrun .*-m )?celebahq(?:_builder)? ([a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"`celebahq ([a-z][^`]*)`", text)
    for line in lines:
        words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
        command: click.Command = celebahq.commands[words[0]]
        if isinstance(command, click.Group) and len(words) > 1:
            command = command.commands[words[1]]
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_the_pages_have_commands() -> None:
    assert len(cases()) > 40


# --- Every block is accounted for ----------------------------------------------------------------------------

EXAMPLES = {
    "filter": {"photos": "photos", "photo.jpg": "celeba/img_celeba/000001.jpg"},
    "hdf5": {"celebahq-1024x1024.h5": "hdf5"},
    "restoration": {"runs/landmarks": "landmarks"},
}
"""Pages whose Python examples run here, and the files that they read."""

ELSEWHERE = {
    "landmarks": "tests/sources/test_docs.py",
    "metrics": "tests/metrics/test_docs.py",
    "python": "tests/test_api.py",
}
"""Pages whose fenced blocks another test runs, and its file."""

OTHER_FENCES = {("landmarks", "text"), ("python", "toml")}
"""Pages of `ELSEWHERE` and fences that the same tests look at."""

PROGRAMS = {
    r"celebahq .*": "test_every_command_runs",
    r"make [a-z-]+( [A-Z]+=\S+)*|\.ci/run": "they test the project; test_other_programs_exist looks for them",
    r"python (-m benchmarks\.fuzz|benchmarks/\w+\.py|tests/sample/make_sample\.py)( .*)?": "need time, or other data",
    r"python3 -m venv \.venv|\. \.venv/bin/activate": "docker/install.sh does the same, and .ci/run runs it",
    r"pip install (torch --index-url \S+|\.|'\.\[\w+\]')": "docker/install.sh does the same, and .ci/run runs it",
    r"docker/install\.sh cpu /opt/celebahq": ".ci/run runs it in another folder",
    r"docker (build|run) .*": "needs Docker; the Dockerfile runs docker/install.sh",
    r"cp -r tests/sample/celeba celeba": "tests/test_api.py",
}
"""Patterns of indented lines, each with the test that runs such a line, or the reason why none does."""


def unaccounted(page: Path) -> Iterator[str]:
    """Yield what no test runs without a reason: indented lines, and whole fences."""
    for block in blocks(page):
        if block.reason or (block.language == "toml" and page.name != "python.md"):  # test_recipes_load
            continue
        if not block.language:
            lines = [re.sub(r"\s+#.*", "", line) for line in block.lines() if not line.startswith("#")]
            yield from (line for line in lines if not any(re.fullmatch(known, line) for known in PROGRAMS))
        elif (page.stem, block.language) not in {
            *((page, "python") for page in (*EXAMPLES, *ELSEWHERE)),
            *OTHER_FENCES,
        }:
            yield f"fence {block.language} in line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_accounted_for(page: Path) -> None:
    assert list(unaccounted(page)) == []
    reasons = len(REASON.findall(page.read_text(encoding="utf-8")))
    assert reasons == sum(bool(block.reason) for block in blocks(page)), "a reason is not above a block"


def test_what_is_unaccounted_for_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "    celebahq status work  # shown\n    rm -rf work\n\ntext\n\n```python\nprint(1)\n```\n\n"
        "1. item\n\n        curl x\n\n<!-- not run: old -->\ntext\n\n    wget x \\\n        y\n\n"
        "<!-- not run: needs x -->\n\n    x\n\n~~~\nls\n~~~\n"
    )
    assert list(unaccounted(page)) == [
        "rm -rf work",
        "fence python in line 7",
        "curl x",
        "wget x          y",
        "fence none in line 25",
    ]
    with pytest.raises(AssertionError):
        test_every_block_is_accounted_for(page)


def test_other_tests_read_their_pages() -> None:
    for page, file in ELSEWHERE.items():
        assert f'"docs" / "{page}.md"' in (ROOT / file).read_text()


def test_recipes_load(tmp_path: Path) -> None:
    """Blocks of TOML are recipes of a build."""
    found = [(page, block) for page in PAGES for block in blocks(page) if block.language == "toml"]
    for page, block in found:
        path = tmp_path / "recipe.toml"
        path.write_text(block.text)
        assert load(ProGANRecipe if page.name == "python.md" else BuildRecipe, path)
    assert len(found) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_extras_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([^]]*)\]'", page.read_text(encoding="utf-8"))
    assert {extra for one in named for extra in one.split(",")} <= extras.keys()


def test_other_programs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for words in commands(page):
            match words:
                case ["make", target, *_]:
                    assert target in targets, words
                case ["python", "-m", module, *_]:
                    assert list(ROOT.glob(module.replace(".", "/") + "*")), words
                case ["python", script, *_] | [script] | [script, _, _] if "/" in script:
                    assert (ROOT / script).is_file() or script.startswith("."), words


# --- Every command runs ------------------------------------------------------------------------------------

INPUTS = {
    "/data/celeba": "celeba",
    "CELEBA_ROOT": "celeba",
    "tests/sample/celeba": "celeba",
    "/data/celebahq": "run",
    "work-demo": "run",
    **dict.fromkeys(("FILE.h5", "A.h5", "B.h5", "faces.h5", "celeba-128.h5", "celebahq-1024x1024.h5"), "hdf5"),
    "work-demo/celebahq-1024x1024.h5": "hdf5",
    **dict.fromkeys(("photos", "my-photos", "my-images", "PHOTOS_DIR"), "photos"),
    "landmarks.csv": "table",
    "/data/img_align_celeba": "aligned",
    "fakes": "fakes",
    "runs/progan": "progan",
    "runs/progan/generator.safetensors": "progan",
    "runs/denoiser": "denoiser",
    "runs/landmarks": "landmarks",
    "weights": "weights",
    "image_list.txt": "release/image_list.txt",
    "/data/deltas": "release/deltas",
}
"""File of `Workshop` that a name on a page stands for."""

OUTPUT_OPTIONS = ("--out", "--to", "--json", "--list", "--name")


def invoke(*words: str | Path) -> str:
    """Run a command with small settings in this process, and return its output."""
    arguments = [*map(str, words), *SMALL.get(str(words[0]), [])]
    if "official-deltas" in words:  # its deltas are those of 1024x1024
        arguments += ["--resolution", "1024"]
    if words[0] in RECIPES:
        Path("small.toml").write_text(RECIPES[str(words[0])])
        arguments += ["--recipe", "small.toml"]
    done = CliRunner().invoke(celebahq, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


class Workshop:
    """Files that stand for those of the reader; each is made when it is first needed."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            getattr(self, name.partition("/")[0])(self.folder / name.partition("/")[0])
        return path

    def celeba(self, path: Path) -> None:
        shutil.copytree(SAMPLE, path)

    def photos(self, path: Path) -> None:
        path.mkdir()
        for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
            shutil.copy(SAMPLE / "img_celeba" / name, path)

    def table(self, path: Path) -> None:
        _, columns, *rows = (SAMPLE / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()
        path.write_text("\n".join(",".join(row.split()) for row in (f"file {columns}", *rows[:3])))

    def aligned(self, path: Path) -> None:
        path.mkdir()
        for i in range(3):
            Image.fromarray(np.full((218, 178, 3), 50 * i, np.uint8)).save(path / f"{i + 1:06d}.jpg")

    def hdf5(self, path: Path) -> None:
        shutil.copy(self.run / "celebahq-64x64.h5", path)

    def noise(self, path: Path) -> None:
        folder = self.folder / "pngs"
        folder.mkdir()
        for i in range(40):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        chq.import_images(folder, path)

    def fakes(self, path: Path) -> None:
        invoke("extract", self["noise"], "--index", "0:6", "--out", path)

    def progan(self, path: Path) -> None:
        invoke("train", self["noise"], "--out", path)

    def denoiser(self, path: Path) -> None:
        invoke("train-denoiser", self["photos"], "--out", path)

    def landmarks(self, path: Path) -> None:
        invoke("train-landmarks", SAMPLE, "--out", path)

    def weights(self, path: Path) -> None:
        invoke("weights", "export", self["denoiser"], "--name", "x", "--to", path, "--licence", "CC0", "--data", "x")

    def inception(self, path: Path) -> None:
        write_random(path)

    def release(self, path: Path) -> None:
        Release(1024, {2: "000002.jpg"}).write(path)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_run, folder / "run")
    return Workshop(folder, tiny_run)


@pytest.fixture
def threads() -> Iterator[None]:
    """A training sets the number of threads of torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("words", cases())
def test_every_command_runs(
    words: tuple[str, ...],
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word.removeprefix("/") for word in words]
    for before, word in zip(("", *words), words, strict=False):
        wanted = INPUTS.get(word.rstrip("/"))
        if wanted == "hdf5" and words[0] in ("train", "evaluate"):
            wanted = "noise"
        if wanted and before not in ("", *OUTPUT_OPTIONS):
            copy(workshop[wanted], Path(word.removeprefix("/").removesuffix("generator.safetensors")))
    if words[0] == "landmarks":
        arguments += ["--model", str(request.getfixturevalue("yunet"))]
    if "--photos" in words:
        arguments += ["--landmark-model", str(request.getfixturevalue("yunet"))]
    if any("fid" in word for word in words):
        weights = workshop["inception"]
        monkeypatch.setattr(inception, "WEIGHTS_SHA256", sha256(weights.read_bytes()))
        arguments += ["--inception", str(weights)]
    invoke(*arguments)


# --- Python examples and the notebook ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("page", EXAMPLES)
def test_python_examples_run(page: str, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target, source in EXAMPLES[page].items():
        copy(workshop[source], Path(target))
    examples = [block.text for block in blocks(ROOT / "docs" / f"{page}.md") if block.language == "python"]
    assert examples
    image = np.asarray(Image.open(SAMPLE / "img_celeba" / "000001.jpg"))
    names: dict[str, object] = {"image": image, "points": np.reshape(read_celeba(SAMPLE).photos[0].landmarks, (5, 2))}
    for example in examples:
        exec(example, names)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path = ROOT / "examples" / "first_steps.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before a commit"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    printed = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "11 kept, 4 rejected" in printed
    assert printed.count("image/png") == 2


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
