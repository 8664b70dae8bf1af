"""Work spread over processes: one result for each job, errors as they are, and no device that is not there."""

import itertools
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from celebahq_builder import parallel
from celebahq_builder.errors import RecipeError, SourceError, WorkspaceError
from celebahq_builder.pipeline.photo_stages import WORKER_GPU_BYTES
from tests.worker_jobs import (
    device_of_worker,
    dies_at_three,
    fails_at_three,
    grows,
    slow_first,
    square,
    threads,
    worker,
)

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_has_a_result(workers: int) -> None:
    assert sorted(parallel.run(square, range(20), workers=workers)) == [n * n for n in range(20)]
    assert sorted(parallel.run(slow_first, range(6), workers=workers)) == list(range(6))


def test_one_worker_is_this_process() -> None:
    assert set(parallel.run(worker, range(3), workers=1)) == {os.getpid()}
    found = set(parallel.run(worker, range(8), workers=2))
    assert os.getpid() not in found
    assert len(found) <= 2


def test_no_jobs() -> None:
    assert list(parallel.run(square, [], workers=1)) == []
    assert list(parallel.run(square, [], workers=2)) == []


def test_workers_have_one_thread_each() -> None:
    """The sums of a convolution depend on how it is split."""
    assert set(parallel.run(threads, range(2), workers=2)) == {1}


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_in_order(workers: int) -> None:
    assert list(parallel.run_threads(square, range(20), workers=workers)) == [n * n for n in range(20)]
    assert list(parallel.run_threads(slow_first, range(6), workers=workers)) == list(range(6))
    assert list(parallel.run_threads(square, [], workers=workers)) == []
    with pytest.raises(SourceError, match="^the third$"):
        list(parallel.run_threads(fails_at_three, range(100), workers=workers))


def test_jobs_of_threads_wait_for_the_reader() -> None:
    jobs = iter(range(60))
    results = parallel.run_threads(square, jobs, workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert next(jobs) - 3 <= 6


def test_threads_end_with_their_reader() -> None:
    before = threading.active_count()
    results = parallel.run_threads(square, itertools.count(), workers=3)
    assert next(results) == 0
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_a_job_comes_through(workers: int) -> None:
    with pytest.raises(SourceError, match="^the third$"):
        list(parallel.run(fails_at_three, range(100), workers=workers))
    assert sorted(parallel.run(square, range(3), workers=workers)) == [0, 1, 4]


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given")
def test_killed_worker() -> None:
    with pytest.raises(WorkspaceError, match=r"a worker process was killed.* a smaller `workers`"):
        list(parallel.run(dies_at_three, range(20), workers=2))
    assert sorted(parallel.run(square, range(3), workers=2)) == [0, 1, 4]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells by /proc whether a process lives")
def test_workers_end_with_their_owner(tmp_path: Path) -> None:
    """Orphans would go on to write into a directory that nobody holds."""
    code = (
        "from pathlib import Path; from celebahq_builder import parallel; from tests.worker_jobs import pid_into; "
        f"list(parallel.run(pid_into, [Path({str(tmp_path)!r})] * 4, workers=2))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as owner:
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        owner.kill()
    assert len(pids) == 2
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


# --- Devices ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no several GPUs")
def test_one_device_per_worker(tmp_path: Path) -> None:
    """A worker keeps its device for all its jobs, and each device has as many workers."""
    found = list(parallel.run(device_of_worker, [(tmp_path, "1a2b")] * 24, workers=8))
    devices = dict(found)
    assert len(found) == 24
    assert len(devices) == 8
    assert set(found) == set(devices.items())
    assert sorted(devices.values()) == sorted([f"cuda:{number}" for number in range(4)] * 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no several GPUs")
def test_a_worker_takes_the_device_of_one_that_has_ended() -> None:
    """The slots of other runs, and those of processes that were killed, are free."""
    code = (
        "import sys; from celebahq_builder import parallel; names = ['cuda:0', 'cuda:1', 'cuda:2'];"
        "print(parallel.worker_device(names, sys.argv[1]), flush=True); sys.stdin.read()"
    )

    def start(token: str) -> tuple[subprocess.Popen[str], str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", code, token], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    token = f"{os.getpid():x}"
    started = [start(token) for _ in range(2)]
    started.append(start(f"{token}f"))
    assert [device for _, device in started] == ["cuda:0", "cuda:1", "cuda:0"]
    started[0][0].kill()
    started[0][0].wait()
    started += [start(token), start(token)]
    assert [device for _, device in started[3:]] == ["cuda:0", "cuda:2"]
    for process, _ in started:
        process.kill()
        process.communicate()


def test_one_device_needs_no_slot() -> None:
    assert parallel.worker_device(["cpu"], "3c4d") == "cpu"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the affinity of a process")
def test_cores_that_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from celebahq_builder import parallel; "
    code += "print(parallel.cores(), parallel.workers_on(['cpu'], 1))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == "1 1\n"
    assert 1 <= parallel.cores() <= (os.cpu_count() or 1)


def test_memory_of_gpus_limits_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are spread evenly, so the smallest GPU decides."""

    class Properties:
        def __init__(self, name: str) -> None:
            self.total_memory = {"cuda:0": 24, "cuda:1": 9, "cuda:2": 2}[name] * 10**9

    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    monkeypatch.setattr(parallel, "cores", lambda: 100)
    for names, workers in ((["cuda:0"], 6), (["cuda:0", "cuda:1"], 4), (["cuda:2"], 1), (["cpu"], 100)):
        assert parallel.workers_on(names, 4 * 10**9) == workers
    assert parallel.workers_on(["cuda:0"], WORKER_GPU_BYTES) == 5
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    assert parallel.workers_on(["cuda:0"], 4 * 10**9) == 3


@pytest.fixture
def cuda_devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with so many CUDA devices, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(
    ("cuda_devices", "wanted", "found"),
    [
        (0, "auto", ("cpu",)),
        (0, "cpu", ("cpu",)),
        (2, "auto", ("cuda:0", "cuda:1")),
        (2, "cuda", ("cuda:0",)),
        (2, "cuda:1", ("cuda:1",)),
        (2, "cuda:0, cuda:1", ("cuda:0", "cuda:1")),
        (2, "cpu", ("cpu",)),
    ],
    indirect=["cuda_devices"],
)
@pytest.mark.usefixtures("cuda_devices")
def test_devices(wanted: str, found: tuple[str, ...]) -> None:
    assert parallel.devices(wanted) == found
    assert [str(torch.device(name)) for name in found] == list(found)


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:x", "cuda:", "cuda:-1", "cuda0", "cpu:1", "cpu,tpu"])
@pytest.mark.parametrize("cuda_devices", [2], indirect=True)
@pytest.mark.usefixtures("cuda_devices")
def test_what_is_no_device(wanted: str) -> None:
    with pytest.raises(RecipeError, match=r"^`device` .* is not a device; expected auto, cpu, cuda or cuda:0,cuda:1$"):
        parallel.devices(wanted)


@pytest.mark.parametrize(
    ("cuda_devices", "wanted"),
    [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (2, "cpu,cuda:5")],
    indirect=["cuda_devices"],
)
@pytest.mark.usefixtures("cuda_devices")
def test_device_that_is_not_there(wanted: str, request: pytest.FixtureRequest) -> None:
    count = torch.cuda.device_count()
    with pytest.raises(
        RecipeError, match=f"`device` {wanted}: torch finds {count} CUDA devices on this machine; use cpu"
    ):
        parallel.devices(wanted)


def test_an_early_end_prints_no_warning() -> None:
    """joblib warns about jobs that nobody waits for; in these tests, a warning is an error."""
    with closing(parallel.run(slow_first, range(50), workers=2)) as results:
        next(results)


@pytest.mark.slow
def test_replaced_workers() -> None:
    """Workers whose memory grows are replaced while jobs wait, also where warnings are errors as in these tests."""
    pytest.importorskip("psutil")
    assert sorted(parallel.run(grows, range(6), workers=2)) == list(range(6))


def test_bf16_of_this_cpu() -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("no /proc/cpuinfo")
    assert parallel.cpu_has_bf16() == bool({"avx512_bf16", "amx_bf16"} & set(info.read_text().split()))
