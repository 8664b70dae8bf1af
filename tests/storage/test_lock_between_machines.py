"""A lock holds between machines, too, where `flock` is missing or reaches the processes of one machine only."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celebahq_builder.errors import WorkspaceLocked
from celebahq_builder.storage import LOCK_NAME as NAME
from celebahq_builder.storage import Holder, folder_lock, last_holder, lock
from celebahq_builder.storage.partial_files import HOST

ROOT = Path(__file__).parents[2]

ALIVE_S = "30"
"""A process is not taken for dead on a machine that is busy for this long."""

DEAD_S = "2"
"""Nobody waits for dead processes for long."""


class Locking:
    """A process of `locking_process`."""

    def __init__(self, machine: str = "", flock: str = "local", stale_s: str = ALIVE_S) -> None:
        command = [sys.executable, "-m", "tests.storage.locking_process", machine, flock, stale_s]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def lock(self, root: Path) -> str:
        self.send(f"lock {root} 0")
        return self.answer()

    def unlock(self) -> str:
        self.send("unlock")
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start() -> Iterator[type[Locking]]:
    """Starts processes, and ends them after the test."""
    started: list[Locking] = []

    class Started(Locking):
        def __init__(self, *arguments: str) -> None:
            super().__init__(*arguments)
            started.append(self)

    yield Started
    for one in started:
        one.kill()
        for pipe in (one.process.stdin, one.process.stdout, one.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


def names(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()]


def forge(root: Path, age_s: float, machine: str = "elsewhere", host: str = "other_host") -> None:
    """Write the line of a holder whose last sign of life has an age."""
    holder = Holder("process 7 on node12", "shard 3/16", machine, host, "0123")
    (root / NAME).write_bytes(b"celebahq folder\n" + holder.line())
    os.utime(root / NAME, (time.time() - age_s, time.time() - age_s))


@pytest.mark.parametrize("flock", ["local", "missing"])
def test_another_machine(flock: str, start: type[Locking], tmp_path: Path) -> None:
    """Refused while the holder lives, free after it."""
    one, two = start("one", flock), start("two", flock)
    assert one.lock(tmp_path) == "locked"
    who = f"process {one.process.pid} on {socket.gethostname()}, which gave its last sign of life "
    refused = two.lock(tmp_path)
    assert refused.startswith(f"WorkspaceLocked: {tmp_path} is in use by {who}"), refused
    assert refused.endswith(" s ago; wait for it, or use another `out`")
    assert str(last_holder(tmp_path)).startswith(f"process {one.process.pid} on ")
    assert one.unlock() == "unlocked"
    assert two.lock(tmp_path) == "locked"
    assert two.unlock() == "unlocked"
    assert last_holder(tmp_path) is None
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("flock", ["local", "missing"])
def test_killed_on_another_machine(flock: str, start: type[Locking], tmp_path: Path) -> None:
    """The next process waits until the signs of life have been missing for long enough."""
    one, two = start("one", flock), start("two", flock, DEAD_S)
    assert one.lock(tmp_path) == "locked"
    one.kill()
    assert two.lock(tmp_path) == "locked"
    two.kill()
    assert two.process.stderr is not None
    said = two.process.stderr.read()
    assert f"waiting for a sign of life of process {one.process.pid} on" in said
    assert f"is taken over from process {one.process.pid} on" in said


@pytest.mark.parametrize("flock", ["works", "local", "missing"])
def test_killed_on_this_machine(flock: str, start: type[Locking], tmp_path: Path) -> None:
    """The lock is free at once: the processes would wait an hour for each other otherwise."""
    one, two = start("", flock, "3600"), start("", flock, "3600")
    assert one.lock(tmp_path) == "locked"
    if flock != "local":
        assert two.lock(tmp_path).startswith(f"WorkspaceLocked: {tmp_path} is in use by process {one.process.pid} on")
    one.kill()
    assert two.lock(tmp_path) == "locked"


def test_another_container_of_this_machine_was_killed(tmp_path: Path) -> None:
    """Its process ids mean nothing here, but `flock` is that of the same kernel."""
    forge(tmp_path, 0, machine=folder_lock.MACHINE)
    with lock(tmp_path, "folder", "out"):
        pass


def test_signs_of_life_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line counts by its age, and as long as it is touched."""
    forge(tmp_path, folder_lock.STALE_S + 30)
    with lock(tmp_path, "folder", "out") as held:
        assert held.intact
    monkeypatch.setattr(folder_lock, "STALE_S", 2.0)
    forge(tmp_path, -3600)  # the clock of the file server was set back; nobody touches the file
    with lock(tmp_path, "folder", "out") as held:
        assert held.intact
    assert names(tmp_path) == [NAME]


def test_the_clock_of_this_machine_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are dated by the clock of the file server."""
    forge(tmp_path, folder_lock.STALE_S + 30)
    now = time.time
    monkeypatch.setattr(folder_lock.time, "time", lambda: now() - 3600)
    with lock(tmp_path, "folder", "out"):
        pass


def test_flock_of_another_machine(start: type[Locking], tmp_path: Path) -> None:
    """A `flock` that reaches other machines decides. The message says what to do if the other machine is gone."""
    assert start("", "works").lock(tmp_path) == "locked"
    for age_s, remedy in ((5, "wait for it, or use"), (1000, "wait for it; or end it, or delete .* is gone, or use")):
        forge(tmp_path, age_s)
        said = rf"in use by process 7 on node12 \(shard 3/16\), which gave its last sign of life {age_s} s ago; "
        with pytest.raises(WorkspaceLocked, match=said + remedy), lock(tmp_path, "folder", "out"):
            pass


def test_wait_for_a_holder(start: type[Locking], tmp_path: Path) -> None:
    other, asked = start("", "works"), []
    assert other.lock(tmp_path) == "locked"

    def wait(holder: Holder) -> bool:
        asked.append(holder.name)
        if len(asked) == 2:
            other.send("unlock")
        return True

    with lock(tmp_path, "folder", "out", role="shard 3/16", wait=wait) as held:
        assert str(last_holder(tmp_path)) == f"process {os.getpid()} on {socket.gethostname()} (shard 3/16)"
        assert held.holder == last_holder(tmp_path)
    assert set(asked) == {f"process {other.process.pid} on {socket.gethostname()}"}


@pytest.mark.parametrize("state", ["free", "stale line", "stale claims"])
def test_all_machines_start_at_once(state: str, start: type[Locking], tmp_path: Path) -> None:
    """One of them gets the lock. A claim of a dead process does not keep them from it."""
    machines = [start(str(number), ("local", "missing")[number % 2]) for number in range(6)]
    for turn in range(10):
        root = tmp_path / str(turn)
        root.mkdir()
        if state != "free":
            forge(root, 1000)
        if state == "stale claims":
            for _ in range(2):  # of a process, and of the one that was to take over from that
                attempt = folder_lock._Attempt(root / NAME, "out", Holder("process 8 on node13"), lambda _: False)
                attempt.flocked = True
                attempt.claim()
                os.utime(attempt.claims[0], (0, 0))
            assert len(names(root)) == 3
        at_s = time.monotonic() + 0.2
        for one in machines:
            one.send(f"lock {root} {at_s}")
        answers = [one.answer() for one in machines]
        assert sorted(answer.partition(":")[0] for answer in answers) == ["WorkspaceLocked"] * 5 + ["locked"], answers
        winner = machines[answers.index("locked")]
        assert f"process {winner.process.pid} on" in (root / NAME).read_text()
        assert names(root) == [NAME]
        assert winner.unlock() == "unlocked"


def test_claim_that_comes_too_late(start: type[Locking], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was free when this process looked; another one has locked it since."""
    other, create = start("one"), folder_lock._Attempt._create_claim

    def late(attempt: folder_lock._Attempt, line: bytes) -> bool:
        if not line:
            assert other.lock(tmp_path) == "locked"
        return create(attempt, line)

    monkeypatch.setattr(folder_lock._Attempt, "_create_claim", late)
    with pytest.raises(WorkspaceLocked, match=f"process {other.process.pid} on"), lock(tmp_path, "folder", "out"):
        pass
    assert names(tmp_path) == [NAME]


def test_suspended_process_loses_the_lock(start: type[Locking], tmp_path: Path) -> None:
    """It says so at its end, and does not touch the line of the process that has taken over."""
    one, two = start("one"), start("two", "local", DEAD_S)
    assert one.lock(tmp_path) == "locked"
    one.process.send_signal(signal.SIGSTOP)
    assert two.lock(tmp_path) == "locked"
    two.process.send_signal(signal.SIGSTOP)
    one.process.send_signal(signal.SIGCONT)
    before = (tmp_path / NAME).stat().st_mtime_ns
    time.sleep(1)
    assert (tmp_path / NAME).stat().st_mtime_ns == before
    two.process.send_signal(signal.SIGCONT)
    assert "another process has taken it over" in one.unlock()
    assert f"process {two.process.pid} on" in (tmp_path / NAME).read_text()
    assert start("three").lock(tmp_path).startswith(f"WorkspaceLocked: {tmp_path} is in use by process")


def test_sweep_of_a_killed_attempt(tmp_path: Path) -> None:
    """The next lock deletes the files of a killed attempt, apart from the lock file."""
    (tmp_path / f"{NAME}.0123456789abcdef").touch()
    left = [*names(tmp_path), f".{NAME}.{HOST}-{os.getpid()}-0123.partial"]
    assert all(folder_lock.is_lock_file(name) for name in (*left, NAME))
    assert not folder_lock.is_lock_file(f"{NAME}.txt")
    with lock(tmp_path, "folder", "out"):
        assert names(tmp_path) == [NAME]


def test_holder_that_has_not_written_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for one holder gives the next one time to write its line."""
    monkeypatch.setattr(folder_lock, "SETTLE_S", 1.0)
    monkeypatch.setattr(folder_lock, "RETRY_S", 0.02)
    (tmp_path / NAME).write_bytes(b"celebahq folder\n" + Holder.of_this_process("shard 1/2").line())
    asked: list[Holder] = []
    with (tmp_path / NAME).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def wait(holder: Holder) -> bool:
            time.sleep(2)
            asked.append(holder)
            (tmp_path / NAME).write_bytes(b"celebahq folder\n")
            threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN)).start()
            return True

        with lock(tmp_path, "folder", "out", wait=wait):
            assert len(asked) == 1
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.1)
    with (tmp_path / NAME).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(WorkspaceLocked, match="is in use by another process; wait"),
            lock(tmp_path, "folder", "out"),
        ):
            pass
