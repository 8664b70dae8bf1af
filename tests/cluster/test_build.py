"""A build on a Dask cluster gives the bytes of one on this machine, whatever happens to the cluster."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trustme

from celebahq_builder.errors import ClusterError
from celebahq_builder.outcome import Failed
from celebahq_builder.pipeline.build import build
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.cluster.dask_processes import SEAM, Dask, dask
from tests.conftest import FAST, NETWORKS, SMALL, TINY, build_tiny
from tests.models.community_files import compact, write
from tests.pipeline.runs import PHOTOS, ROOT, assert_same, files, wait_for

pytestmark = pytest.mark.slow

SECOND_BATCH = "000010.jpg"
"""A photo of the second batch; the first batch is written before it is read, or at the same time."""

OPTIONS = (
    *("--set", "crop.context_px=16", "--set", f"denoise.weights={NETWORKS}/denoiser"),
    *("--set", f"upscale.weights={NETWORKS}/upscaler", "--set", "align.supersampling=1"),
    *("--celeba-root", str(SMALL), "--resolution", "64", "--keep", "3", "--device", "cpu", "--workers", "1"),
)
"""The arguments of `FAST` for the command line."""


class Held:
    """A cluster whose workers stop at photos, see `worker_seam`."""

    def __init__(self, started: Dask, seam: Path) -> None:
        self.started, self.seam = started, seam
        seam.mkdir()

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.started.worker("--preload", str(SEAM), *arguments, environment={"SEAM": str(self.seam)})

    def hold(self, photo: str) -> None:
        (self.seam / f"hold-{photo}").touch()

    def release(self, photo: str) -> None:
        (self.seam / f"hold-{photo}").unlink()
        (self.seam / f"held-{photo}").unlink(missing_ok=True)

    def wait(self, photo: str) -> int:
        """Wait until a worker stops at a photo; return its process id."""
        path = self.seam / f"held-{photo}"
        wait_for(path.exists)
        return int(path.read_text())


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    with dask(tmp_path / "dask") as started:
        yield Held(started, tmp_path / "seam")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line without a cluster; not to be changed."""
    out = tmp_path_factory.mktemp("local") / "run"
    ended = start_build(out).communicate(timeout=300)
    assert Workspace(out).summary_path.exists(), ended
    return out


def start_build(out: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "celebahq_builder", "build", "--out", str(out), *OPTIONS, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines_of(command: subprocess.Popen[str], status: int) -> list[str]:
    """Wait for the end of a command; return the lines of its standard error."""
    _, errors = command.communicate(timeout=300)
    assert command.returncode == status, errors
    assert "Traceback" not in errors
    return errors.splitlines()


def pid_of_nanny(worker: int) -> int:
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def test_same_bytes(tmp_path: Path, fast_run: Path) -> None:
    """With 1, 2 and 3 workers, whose working directory is another one, for a run directory with a relative path."""
    with dask(tmp_path / "dask") as started, contextlib.chdir(tmp_path):
        for workers in (1, 2, 3):
            started.worker(cwd=tmp_path / "dask")
            result = build_tiny(Path(f"run-{workers}"), limit=None, recipe=FAST, cluster=started.file)
            assert (result.photos, result.failed) == (PHOTOS, 0)
            assert_same(tmp_path / f"run-{workers}", fast_run)


@pytest.mark.usefixtures("footprint_cache")
def test_networks_of_weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers with another working directory load the files that a relative path of the command names."""
    operators = tmp_path / "operators.py"
    operators.write_text("import tests.torchvision_operators as found\n\nfound.define_missing_operators()\n")
    denoiser, upscaler = (
        write(tmp_path / f"{scale}.pth", partial(compact, scale)).replace(f"{tmp_path}/", "") for scale in (1, 2)
    )
    recipe = replace(
        TINY,
        denoise=replace(TINY.denoise, weights=denoiser),
        upscale=replace(TINY.upscale, weights=upscaler, when="always"),
        align=FAST.align,
    )
    monkeypatch.chdir(tmp_path)
    build_tiny(tmp_path / "local", recipe=recipe)
    with dask(tmp_path / "dask") as started:
        started.worker("--preload", str(operators), cwd=tmp_path / "dask")
        result = build_tiny(tmp_path / "run", recipe=recipe, cluster=started.address)
    assert result.failed == 0
    assert_same(tmp_path / "run", tmp_path / "local")
    shown = Workspace(tmp_path / "run").stage("align").manifest_path(0).read_text()
    assert '"factor": 2' in shown


def test_run_that_resumes_and_grows(tmp_path: Path, fast_run: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, limit=6, recipe=FAST)
    with dask(tmp_path / "dask") as started:
        started.worker("--no-nanny")
        build_tiny(out, limit=None, recipe=FAST, cluster=started.address)
    assert_same(out, fast_run)


@pytest.mark.parametrize("killed", ["worker", "nanny"])
def test_killed_worker(killed: str, held: Held, tmp_path: Path, local: Path) -> None:
    """Its nanny starts another one, or another worker does its work."""
    out = tmp_path / "run"
    held.hold(SECOND_BATCH)
    held.worker()
    if killed == "nanny":
        held.worker()
    running = start_build(out, "--cluster", held.started.address)
    pid = held.wait(SECOND_BATCH)
    nanny = pid_of_nanny(pid)
    os.kill(pid if killed == "worker" else nanny, signal.SIGKILL)
    if killed == "nanny":
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
    held.release(SECOND_BATCH)
    lines = lines_of(running, 0)
    assert sum(" is gone; others repeat its work" in line for line in lines) == 1
    assert_same(out, local)
    assert not list(out.rglob("*.partial"))


def test_killed_scheduler(held: Held, tmp_path: Path, local: Path) -> None:
    """The same command resumes without a cluster."""
    out = tmp_path / "run"
    held.hold(SECOND_BATCH)
    held.worker("--no-nanny")
    running = start_build(out, "--cluster", held.started.address)
    held.wait(SECOND_BATCH)
    held.started.scheduler.kill()
    lines = lines_of(running, 1)
    expected = "is gone; the same command resumes, with or without --cluster"
    assert lines[-1] == f"error: the scheduler {held.started.address} {expected}"
    assert lines_of(start_build(out), 0)
    assert_same(out, local)
    held.release(SECOND_BATCH)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_client(number: signal.Signals, held: Held, tmp_path: Path, local: Path) -> None:
    """The worker is in the middle of a batch, and the next command begins before it has noticed."""
    out = tmp_path / "run"
    held.hold(SECOND_BATCH)
    held.worker("--no-nanny")
    running = start_build(out, "--cluster", held.started.address)
    held.wait(SECOND_BATCH)
    running.send_signal(number)
    lines = lines_of(running, -9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        what = "interrupted" if number == signal.SIGINT else "interrupted by SIGTERM"
        assert lines[-1] == f"{what}; the same command resumes"
    again = start_build(out, "--cluster", held.started.address)
    wait_for(lambda: f"process {again.pid} on" in (out / ".celebahq-lock").read_text())
    held.release(SECOND_BATCH)
    lines_of(again, 0)
    assert_same(out, local)
    assert not list(out.rglob("*.partial"))


def test_photo_that_kills(held: Held, tmp_path: Path) -> None:
    """It is filed as failed; all other photos have the results of a run in which this one is rejected."""
    victim = "000005.jpg"
    (held.seam / f"kill-{victim}").touch()
    held.worker()
    out = tmp_path / "run"
    lines = lines_of(start_build(out, "--cluster", held.started.address), 0)
    assert any(line.startswith("warning: batch 1: 3 workers died with it; its images are tried one") for line in lines)
    failed = [one for _, one in Workspace(out).stage("align").outcomes() if isinstance(one, Failed)]
    assert failed == [Failed(victim, "3 worker processes died with its batch, and one with it alone")]
    root = shutil.copytree(SMALL, tmp_path / "celeba")
    (root / "img_celeba" / victim).unlink()
    lines_of(start_build(tmp_path / "other", "--celeba-root", str(root)), 0)
    images = {name: data for name, data in files(out).items() if name.endswith((".png", "selection.csv"))}
    other = files(tmp_path / "other")
    assert len(images) > 5
    assert {name: other[name] for name in images} == images
    assert list(find_problems(out)) == []
    assert not list(out.rglob("*.partial"))


# --- Workers that are refused


def refusal(started: Dask, out: Path, *, source: Path = SMALL, device: str = "cpu", **recipe: object) -> str:
    """Return the message of a build whose only worker cannot be used, without the name of the worker."""
    settings = replace(FAST, **recipe)  # type: ignore[arg-type]
    with pytest.raises(ClusterError) as raised:
        build(read_celeba(source), out, recipe=settings, limit=5, cluster=started.address, device=device, workers=1)
    worker, _, why = str(raised.value).partition(" gets no work: ")
    assert worker.startswith("worker tcp://127.0.0.1:")
    assert not list((out / "stages").rglob("*.jsonl"))
    return why


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Dask]:
    with dask(tmp_path / "dask") as scheduler:
        yield scheduler


HERE = Path("/proc/self/cwd")
"""A path that names another folder in each process."""

needs_proc = pytest.mark.skipif(not HERE.exists(), reason="needs Linux's /proc")


@needs_proc
def test_other_folders_of_the_same_name(started: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker sees other photos, another run directory, and other weights, under the same paths."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        shutil.copytree(SMALL, folder / "celeba")
        shutil.copytree(NETWORKS, folder / "networks")
    build_tiny(there / "run", recipe=FAST, until="crop")
    monkeypatch.chdir(here)
    (there / "celeba" / "img_celeba" / "000001.jpg").write_bytes(b"none")
    (there / "celeba" / "img_celeba" / "000003.jpg").unlink()
    network = there / "networks" / "denoiser.safetensors"
    network.write_bytes(network.read_bytes() + b" ")
    started.worker("--no-nanny", cwd=there)
    denoise = replace(TINY.denoise, weights=f"{HERE}/networks/denoiser")
    why = refusal(started, HERE / "run", source=HERE / "celeba", denoise=denoise).split("; ")
    size = (SMALL / "img_celeba" / "000001.jpg").stat().st_size
    assert why[0].startswith(f"holder of {HERE}/run: celebahq run directory there, process {os.getpid()} on")
    assert why[1] == f"size of {HERE}/celeba/img_celeba/000001.jpg: 4 bytes there, {size} bytes here"
    assert why[2].startswith(f"size of {HERE}/celeba/img_celeba/000003.jpg: No such file or directory there, ")
    assert why[3].startswith(f"SHA-256 of the weights {HERE}/networks/denoiser: ")
    assert len(why) == 4


@needs_proc
def test_no_run_directory(started: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    started.worker("--no-nanny", cwd=tmp_path)
    why = refusal(started, HERE / "run")
    assert why.startswith(f"holder of {HERE}/run: No such file or directory there, process {os.getpid()} on")


def test_other_versions(started: Dask, tmp_path: Path) -> None:
    """A worker with another release of a package, or another checkout of this one, is refused."""
    other = tmp_path / "other"
    shutil.copytree(ROOT / "celebahq_builder", other / "celebahq_builder")
    for folder in ("pipelines", "pretrained"):
        (other / folder).symlink_to(ROOT / folder)
    package = other / "celebahq_builder" / "__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "9.'))
    (other / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "others = ('torch', 'opencv-python-headless', 'pillow')\n"
        "metadata.version = lambda name: '1.0' if name in others else version(name)\n"
    )
    started.worker("--no-nanny", environment={"PYTHONPATH": str(other)}, cwd=tmp_path)
    why = [one.partition(": ")[::2] for one in refusal(started, tmp_path / "run").split("; ")]
    assert [name for name, _ in why] == [
        *("celebahq_builder", "torch", "pillow", "opencv-python-headless", "code of celebahq_builder")
    ]
    assert why[0][1].startswith("9.")
    assert all(values.startswith("1.0 there, ") for _, values in why[1:4])


def test_no_such_device(started: Dask, tmp_path: Path) -> None:
    started.worker("--no-nanny")
    why = refusal(started, tmp_path / "run", device="cuda:77")
    assert why.startswith("device: `device` cuda:77: torch finds ")


# --- Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path]:
    """An authority, and a key with a certificate that it has signed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path / "ca.pem", tmp_path / "key.pem"


def test_tls(certificates: tuple[Path, Path], tmp_path: Path, local: Path) -> None:
    authority, key = map(str, certificates)
    common: Sequence[str] = ("--tls-ca-file", authority, "--tls-cert", key, "--tls-key", key)
    listening = ("--protocol", "tls", "--host", "tls://127.0.0.1", "--port", "0", "--no-dashboard")
    with dask(
        tmp_path / "dask",
        scheduler=(*listening, "--scheduler-file", str(tmp_path / "dask" / "scheduler.json")),
        common=common,
    ) as started:
        assert started.address.startswith("tls://")
        started.worker("--no-nanny", "--protocol", "tls")
        out = tmp_path / "run"
        without = lines_of(start_build(out, "--cluster", started.address), 1)
        expected = "no scheduler answers (Dask's configuration has no certificate for it, see docs/cluster.md)"
        assert without[-1].startswith(f"error: --cluster {started.address}: {expected}")
        settings = {"CA_FILE": authority, "CLIENT__CERT": key, "CLIENT__KEY": key}
        environment = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": value for name, value in settings.items()}
        lines_of(start_build(out, "--cluster", started.address, environment=environment), 0)
        assert_same(out, local)
