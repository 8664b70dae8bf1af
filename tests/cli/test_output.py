"""Output of the commands: safe for a terminal in any encoding, and true where it cannot be written."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from tests.hdf5.pyramids import described_file, noise

ROOT = Path(__file__).parents[2]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell, in which `celebahq` is the command."""
    function = f'celebahq() {{ "{sys.executable}" -m celebahq_builder "$@"; }}; set -o pipefail; '
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", function + line], cwd=folder, env=variables, capture_output=True, timeout=300, check=False
    )


def script(body: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in which `run` runs a function as a command."""
    program = f"""\
import click, logging, os, sys, warnings
from celebahq_builder.cli.main import run_command
def run(body): run_command(click.command()(body))
{textwrap.dedent(body)}
"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("line", "status", "stderr"),
    [
        ("celebahq --help > /dev/full", 1, b"error: standard output: No space left on device\n"),
        ("celebahq --version > /dev/full", 1, b"error: standard output: No space left on device\n"),
        ("celebahq filter nowhere 2> /dev/full", 1, b""),
        ("celebahq filter nowhere 2>&-", 1, b""),
        ("celebahq --help >&-", 0, b""),
        ("celebahq --help <&- >&- 2>&-", 0, b""),
        ("celebahq nocommand 2> /dev/full", 2, b""),
    ],
)
def test_output_that_cannot_be_written(line: str, status: int, stderr: bytes, tmp_path: Path) -> None:
    ended = shell(line, tmp_path)
    assert (ended.returncode, ended.stderr, ended.stdout) == (status, stderr, b"")


@pytest.mark.parametrize("line", ["celebahq inspect faces.h5", "celebahq verify faces.h5", "celebahq --help"])
def test_a_reader_that_stops_reading(line: str, tmp_path: Path) -> None:
    """The command ends quietly, with the status of a program that SIGPIPE ends, also at its first line."""
    described_file(tmp_path / "faces.h5", noise(4, 16))
    ended = shell(f"{line} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (ended.stdout, ended.stderr) == (b"141\n", b"")


def test_work_goes_to_its_end_without_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "a.png")
    assert b"1 of 1 images" in shell("celebahq import in --out 0.h5", tmp_path).stderr
    for number, line in enumerate(("2>&-", "2> /dev/full"), start=1):
        out = f"{number}\U0001f600.h5"
        ended = shell(f"celebahq import in --out {out} {line}", tmp_path, PYTHONIOENCODING="latin-1")
        assert ended.returncode == 0
        assert f"{number}\\U0001f600.h5".encode() in ended.stdout
        assert (tmp_path / out).read_bytes() == (tmp_path / "0.h5").read_bytes()


def test_every_way_to_the_terminal_is_safe() -> None:
    ended = script(r"""
        name = "a\x1b]0;x\x07\u202e\udcff\r.png"
        def body():
            click.echo(f"echo {name}")
            click.echo(f"echo {name}", err=True)
            logging.getLogger("x").info("log %s\n.", name)
            warnings.warn(f"warn {name}")
            raise click.UsageError(f"usage {name}")
        run(body)
    """)
    safe = rb"a\x1b]0;x\x07\u202e\xff"
    assert ended.returncode == 2
    assert ended.stdout == b"echo " + safe + rb"\r.png" + b"\n"
    assert b"log " + safe + rb"\r.png\n." + b"\n" in ended.stderr
    assert ended.stderr.count(safe) == 4
    assert b"\x1b" not in ended.stderr


def test_log_lines_name_options_instead_of_arguments() -> None:
    ended = script("""
        def body(start): logging.getLogger("x").warning("warning: %s; build again with `start` %s", "a `b`", "crop")
        run(click.option("--from", "start")(body))
        """)
    assert ended.stderr == b"warning: a `b`; build again with --from crop\n"


def test_a_very_long_message_loses_its_middle() -> None:
    ended = script("""
        from celebahq_builder.errors import FormatError
        def body():
            raise FormatError("first " + 100_000 * "x" + " last")
        run(body)
    """)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: first xxx")
    assert ended.stderr.endswith(b"xxx last\n")
    assert b"x ... x" in ended.stderr
    assert len(ended.stderr) < 2100


def test_a_very_long_line_of_the_log_loses_its_middle() -> None:
    ended = script("""
        def body(): logging.getLogger("x").warning("first %s last", 100_000 * "x")
        run(body)
        """)
    assert ended.stderr.startswith(b"first xxx")
    assert ended.stderr.endswith(b"xxx last\n")
    assert len(ended.stderr) < 2100


def test_a_system_error_is_one_line() -> None:
    ended = script(r"""
        def body(): open("/" + "a" * 300)
        run(body)
    """)
    assert (ended.returncode, ended.stderr) == (1, b"error: /" + b"a" * 300 + b": File name too long\n")
    ended = script(r"""
        def body(): raise MemoryError
        run(body)
    """)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (1, 1)
    assert ended.stderr.startswith(b"error: out of memory; ")


def test_a_bug_has_a_traceback() -> None:
    """Also an error of HDF5, which is an OSError without a number."""
    for error in ("ValueError('x')", "OSError('x')"):
        ended = script(f"""
            def body(): raise {error}
            run(body)
        """)
        assert ended.returncode == 1
        assert b"Traceback" in ended.stderr


def test_ctrl_c_during_the_imports() -> None:
    program = "import sys, celebahq_builder.__main__ as m\n"
    program += "class Finder:\n"
    program += "    def find_spec(self, name, *more):\n"
    program += "        if name == 'celebahq_builder.cli.pipeline': raise KeyboardInterrupt\n"
    program += "sys.meta_path.insert(0, Finder())\nm.main()"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"interrupted\n")
