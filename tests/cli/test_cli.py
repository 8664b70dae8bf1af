"""The commands as a user types them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from celebahq_builder import cli
from celebahq_builder.cli.options import FiniteRange
from celebahq_builder.cli.output import name_options
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.progan.schedule import RESUMABLE_KEYS
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import SAMPLE
from tests.release import Release

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, program: tuple[str, ...] = ("build.py",)) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def celebahq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(*arguments, program=("-m", "celebahq_builder"))


def one_line_error(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: ")
    return ended.stderr


def refused(*arguments: str | Path, command: str = "build") -> str:
    """Run a command in this process, and return the error that `run_command` would print on one line."""
    done = CliRunner().invoke(cli.celebahq, [command, *map(str, arguments)], catch_exceptions=True)
    assert isinstance(done.exception, CelebAHQError), done.output
    assert done.output == ""
    return str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "loop"),
        ("filter", "loop"),
        ("filter", "in", "--out", "loop"),
        ("filter", "in", "--scores", "loop"),
        ("build", "--photos", "loop", "--out", "out"),
        ("build", "--photos", "in", "--out", "loop"),
        ("evaluate", "in", "--metrics", "ms-ssim", "--out", "out", "--json", "loop"),
        ("weights", "export", "in", "--name", "a", "--to", "loop", "--licence", "CC0", "--data", "none"),
    ],
)
def test_a_link_to_itself(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    refused(*arguments[1:], command=arguments[0])


def test_the_recorded_stages_are_the_real_ones() -> None:
    assert [stage.name for stage in BuildRecipe().stages()] == list(cli.pipeline.STAGES)


def test_own_photos_from_a_table(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    rows = (SAMPLE / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()
    table = ["file," + ",".join(rows[1].split())]
    for row, name in zip(rows[4:6], ("a.jpg", "sub/a.jpg"), strict=True):
        file, *numbers = row.split()
        shutil.copy(SAMPLE / "img_celeba" / file, photos / name)
        table.append(",".join([name, *numbers]))
    (tmp_path / "table.csv").write_text("\n".join(table))
    recipe = tmp_path / "r.toml"
    recipe.write_text("resolution = 64\n")
    out = tmp_path / "run"
    words = ["build", "--photos", photos, "--landmarks", tmp_path / "table.csv", "--no-check-landmarks"]
    words += ["--recipe", recipe, "--out", out, "--workers", "1", "--device", "cpu"]
    ended = CliRunner().invoke(cli.celebahq, list(map(str, words)))
    assert ended.exit_code == 0, ended.output
    assert "2 photos: 2 kept + 0 rejected + 0 failed" in ended.output
    assert f"data set: {out / 'celebahq-64x64.h5'}" in ended.output
    assert len(Workspace(out).selection_path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--celeba-root", "nowhere"], "--celeba-root nowhere is not a folder"),
        (["--celeba-root", "pipelines"], "looked for img_celeba, Img/img_celeba; the folder has"),
        ([], "nothing to build from: give --celeba-root DIR, or --photos DIR"),
        (["--celeba-root", SAMPLE, "--photos", "x"], "not both"),
        (["--celeba-root", SAMPLE, "--recipe", "pipelines/celebhq.toml"], "celebahq-1024.toml"),
        (["--celeba-root", SAMPLE, "--resolution", "1000"], "--resolution: resolution 1000 is not a power of two"),
        (["--celeba-root", SAMPLE, "--device", "gpu"], "gpu is not a device"),
        (["--celeba-root", SAMPLE, "--ids", "missing.txt"], "--ids missing.txt cannot be read"),
        (["--celeba-root", SAMPLE, "--image-list", "missing.txt"], "give --recipe official-deltas"),
        (
            ["--celeba-root", SAMPLE, "--recipe", "official-deltas", "--image-list", "README.md"],
            "README.md:1: expected the column names idx orig_idx orig_file proc_md5 final_md5, got",
        ),
    ],
)
def test_what_a_user_gets_wrong(
    arguments: list[str | Path], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert says in refused("--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "stages").exists()


def test_arguments_are_checked_before_torch_is_imported(tmp_path: Path) -> None:
    """Importing torch takes seconds. Two commands fail at the last checks of arguments; the third plans a run."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom celebahq_builder import cli\n"
        "missing = ['--image-list', 'missing.txt']\n"
        "for more in ([*missing, '--recipe', 'official-deltas'], [*missing, '--device', 'gpu'], ['--dry-run']):\n"
        "    done = CliRunner().invoke(cli.celebahq, [*sys.argv[1:], *more])\n"
        "    print(type(done.exception).__name__, 'torch' in sys.modules)"
    )
    ended = run("build", "--celeba-root", SAMPLE, "--out", tmp_path / "run", program=("-c", code))
    assert ended.stdout == "SourceError False\nRecipeError False\nNoneType False\n"


def test_an_error_is_one_line_on_stderr(tmp_path: Path) -> None:
    said = one_line_error(run("--celeba-root", "now\nhere\x1b[31m", "--out", tmp_path / "run"))
    assert said.startswith("error: --celeba-root now\\nhere\\x1b[31m is not a folder")


def test_unknown_setting_names_line_and_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text("resolution = 64\n\n[align]\nsupersamplin = 2\n")
    said = refused("--celeba-root", SAMPLE, "--out", tmp_path / "run", "--recipe", recipe)
    assert f"{recipe}:4: unknown key align.supersamplin; did you mean supersampling?" in said


@pytest.mark.slow
def test_official_images_from_deltas(tmp_path: Path) -> None:
    release = Release(1024, {3: "000002.jpg"})
    image_list, deltas = release.write(tmp_path / "release")
    out = tmp_path / "run"
    common = ["--celeba-root", SAMPLE, "--out", out, "--recipe", "official-deltas", "--workers", "1", "--device", "cpu"]
    said = one_line_error(run(*common, "--deltas", deltas))
    assert "needs --image-list FILE too" in said
    common += ["--image-list", image_list, "--deltas", deltas]
    planned = run(*common, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "image list: MD5s of all photos are checked; deltas: from 1 archives in" in planned.stdout
    ended = run(*common)
    assert ended.returncode == 0, ended.stderr
    assert "1 photo: 1 kept + 0 rejected + 0 failed" in ended.stdout
    with PyramidFile(Workspace(out).hdf5_path(1024)) as pyramid:
        assert (pyramid.level(1024)[0] == release.finals[3]).all()


def test_typo_in_an_option() -> None:
    ended = CliRunner().invoke(cli.celebahq, ["build", "--celeba-rot", "x", "--out", "y"])
    assert (ended.exit_code, "--celeba-root" in ended.output) == (2, True)


def test_dry_run_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run("--celeba-root", SAMPLE, "--out", out, "--keep", "7", "--labels", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "pack.labels = true  (--labels)" in ended.stdout
    assert 'pack.compression = "gzip"  (default)' in ended.stdout
    assert "select.keep = 7  (--keep)" in ended.stdout
    assert "resolution = 1024  (recipe celebahq-1024)" in ended.stdout
    assert "align.supersampling = 4  (default)" in ended.stdout
    assert "crop: to do; result is not stored" in ended.stdout
    assert "align: 0 of 4 batches done" in ended.stdout
    assert "GB free" in ended.stdout
    assert not out.exists()


def test_every_command_with_a_recipe_can_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = {"build": ["--celeba-root", str(SAMPLE)], "train-landmarks": [str(SAMPLE)]}
    for name, command in cli.celebahq.commands.items():
        options = {option for one in command.params for option in one.opts}
        assert ("--recipe" in options) == ("--set" in options), name
        if "--set" in options:
            words = [*inputs.get(name, ["photos"]), "--out", "run", "--set", "sed=1"]
            assert refused(*words, command=name).startswith("--set: unknown key sed; did you mean seed?"), name
    wrong = CliRunner().invoke(cli.celebahq, ["build", "--out", "run", "--set", "seed"])
    assert (wrong.exit_code, "'seed' is not KEY=VALUE, such as schedule.minibatch=8" in wrong.output) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_changes_of_a_recipe_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["build", "--celeba-root", SAMPLE, "--out", out, "--resolution", "64", "--limit", "1", "--workers", "1"]
    words += ["--device", "cpu", "--set", "align.supersampling=2", "--set", "upscale.when=always"]
    planned = CliRunner().invoke(cli.celebahq, list(map(str, [*words, "--dry-run"])))
    assert "align.supersampling = 2  (--set)" in planned.output
    assert 'upscale.when = "always"  (--set)' in planned.output
    assert CliRunner().invoke(cli.celebahq, list(map(str, words))).exit_code == 0
    assert Workspace(out).run().origins["align.supersampling"] == "`overrides`"
    changed = [*words, "--set", "align.supersampling=4"]
    assert "[align] supersampling = 2, this run asks 4" in refused(*changed[1:])


def test_status_verify_and_inspect(tiny_run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    status = runner.invoke(cli.celebahq, ["status", str(tiny_run)])
    assert "pack     complete: 3 kept" in status.output
    hdf5 = Workspace(tiny_run).hdf5_path(64)
    for path in (tiny_run, hdf5):
        verified = runner.invoke(cli.celebahq, ["verify", str(path)])
        assert (verified.exit_code, verified.output.splitlines()[-1]) == (0, f"{path}: OK")
    inspected = runner.invoke(cli.celebahq, ["inspect", str(hdf5)]).output
    assert "3 images" in inspected
    assert "data64x64" in inspected
    broken = tmp_path / "broken.h5"
    broken.write_bytes(hdf5.read_bytes()[:-100])
    assert "is not a readable HDF5 file" in refused(broken, command="verify")
    assert "does not exist" in refused(tmp_path / "none", command="verify")


def test_verify_fails_on_an_altered_run(tiny_copy: Path) -> None:
    image = next((tiny_copy / "stages" / "align" / "images").rglob("*.png"))
    image.unlink()
    ended = CliRunner().invoke(cli.celebahq, ["verify", str(tiny_copy)])
    assert ended.exit_code == 1
    assert image.name in ended.output
    assert "1 problems" in ended.output


def test_training_command_refuses_the_other_recipe(tmp_path: Path) -> None:
    recipe = ROOT / "pipelines" / "train" / "denoiser.toml"
    said = refused(SAMPLE, "--out", tmp_path / "run", "--recipe", recipe, command="train-upscaler")
    assert "this command trains task = upscale" in said


def test_everything_is_in_the_wheel() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["force-include"]) == {"pretrained", "pipelines"}


def test_messages_name_options_instead_of_arguments() -> None:
    build, inspect = (click.Context(cli.celebahq.commands[name]) for name in ("build", "inspect"))
    message = "`start` needs `resolution`, see `celebahq weights` and `nothing`"
    assert name_options(message, build) == "--from needs --resolution, see `celebahq weights` and `nothing`"
    assert name_options("choose another `file`", inspect) == "choose another FILE.h5|WORK"


def test_train_help_lists_the_keys_that_may_change() -> None:
    text = " ".join(CliRunner().invoke(cli.celebahq, ["train", "--help"]).output.split())
    assert all(key in text for key in RESUMABLE_KEYS)
    wrong = CliRunner().invoke(cli.celebahq, ["train", "a.h5", "--out", "run", "--changed", "seed"])
    assert (wrong.exit_code, "expected one of schedule.learning_rate" in wrong.output) == (2, True)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_every_number_is_finite(value: str) -> None:
    """No limit of a range excludes nan, and infinity lies in a range without an upper limit."""
    options = [one for command in cli.celebahq.commands.values() for one in command.params]
    numbers = [one for one in options if isinstance(one.type, (click.FloatRange, type(click.FLOAT)))]
    assert {"top_percent", "total_kimg", "seconds", "max_spread"} <= {one.name for one in numbers}
    for one in numbers:
        assert isinstance(one.type, FiniteRange), one.name
        with pytest.raises(click.BadParameter, match="is not a finite number|is not in the range"):
            one.type.convert(value, one, None)


def test_an_empty_path_is_refused() -> None:
    """An unset variable of a shell must not mean the working directory."""
    done = CliRunner().invoke(cli.celebahq, ["build", "--celeba-root", str(SAMPLE), "--out", ""])
    assert (done.exit_code, "the path is empty" in done.output) == (2, True)
