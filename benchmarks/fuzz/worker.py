"""Commands that run in a forked process, observed and limited."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_S = 20
"""Longer is a hang."""
LIMIT_BYTES = 1 << 30
"""Growth of the resident memory beyond which a command is at fault."""
ADDRESS_SPACE_BYTES = 4 << 30
"""Growth of the address space at which memory is refused to a command, so that a bomb does not take the machine."""
FILE_BYTES = 2 << 30
"""Size of the largest file that a command may write."""
INPUTS_PER_WORKER = 60
"""Inputs after which a worker is replaced, so that nothing accumulates in it."""
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of characters that change a terminal, a line or the direction of writing."""

LOCK_STALE_S = 5.0
"""Time after which a silent lock of another host is taken over, in place of the two minutes of the package."""
LINE_LENGTH_MAX = 100_000
"""Characters of the longest line that a command may print."""
REMARKABLE = re.compile(r"\w*Warning: |Traceback \(most recent|Exception ignored|Segmentation fault")


@dataclass
class Result:
    """The result of running the commands on one input."""

    outcome: str
    """accepted, refused or fault."""
    kind: str = ""
    """Kind of a fault: killed, hang, memory, lost, traceback, words."""
    where: str = ""
    """Text that is equal for equal faults: class of the error and the function in which it was raised."""
    detail: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    codes: list[int] = field(default_factory=list)
    """Exit codes of the commands."""


class Worker:
    """A forked process that runs commands on inputs, one after another; it is replaced after a fault."""

    def __init__(self, case: Path) -> None:
        self.case = case
        self._watch = case.with_name("watch")
        self._watch.mkdir(parents=True, exist_ok=True)
        self._pid, self._inputs = 0, 0

    def run(self, commands: list[list[str]]) -> Result:
        """Run commands of `celebahq` in the folder of the case."""
        if not self._pid or self._inputs >= INPUTS_PER_WORKER:
            self.close()
            self._start()
        self._inputs += 1
        began = time.monotonic()
        os.write(self._to, (json.dumps(commands) + "\n").encode())
        result = self._answer(len(commands))
        result.seconds = time.monotonic() - began
        if result.outcome == "fault":
            self.close()
        return result

    def _answer(self, commands: int) -> Result:
        reply = b""
        watched = _Watch(self._pid, LIMIT_S * commands)
        while not reply.endswith(b"\n"):
            if not select.select([self._from], [], [], 1.0)[0]:
                if not watched.hangs():
                    continue
                os.kill(self._pid, signal.SIGUSR1)  # faulthandler writes the stack
                time.sleep(0.5)
                where = _stack_place((self._watch / "log").read_text(errors="replace"))
                return Result("fault", "hang", where, f"no end after {LIMIT_S} s per command")
            got = os.read(self._from, 1 << 20)
            if not got:
                _, status = os.waitpid(self._pid, 0)
                self.close()
                said = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
                where = _stack_place((self._watch / "log").read_text(errors="replace"))
                return Result("fault", "killed", f"{said} {where}", said)
            reply += got
        return Result(**json.loads(reply))

    def _start(self) -> None:
        receive, self._to = os.pipe()
        self._from, send = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        self._inputs = 0
        if not self._pid:
            os.setsid()
            os.close(self._to)
            os.close(self._from)
            try:
                _serve(receive, send, self.case, self._watch)
            finally:
                os._exit(0)
        os.close(receive)
        os.close(send)

    def close(self) -> None:
        """End the process and all that it started."""
        if not self._pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)
        self._pid = 0


class _Watch:
    """Decides that a process hangs: it used its time on the processor, or it waits for something that never comes.

    A slow or busy machine is no hang, so the time on the processor counts, not that on the clock.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._pid, self._limit_s = pid, limit_s
        self._began = self._moved = time.monotonic()
        self._used_at_first = self._used = processor_s(pid)

    def hangs(self) -> bool:
        now, used = time.monotonic(), processor_s(self._pid)
        if used > self._used:
            self._used, self._moved = used, now
        if now - self._began < self._limit_s:
            return False
        return used - self._used_at_first > self._limit_s or now - self._moved > self._limit_s


def processor_s(pid: int) -> float:
    """Return the processor time of a process and of those that it started and that have ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


# --- In the worker


def _serve(receive: int, send: int, case: Path, watch: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE_BYTES, used + ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.environ.update(HOME=str(case / "home"), TMPDIR=str(case / "tmp"))
    from celebahq_builder.storage import folder_lock

    folder_lock.STALE_S = LOCK_STALE_S
    warnings.simplefilter("always", UserWarning)
    warnings.simplefilter("always", RuntimeWarning)
    log = os.open(watch / "log", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log, all_threads=True)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    writes: list[str] = []
    sys.addaudithook(_record_writes(writes, case))
    for line in os.fdopen(receive):
        writes.clear()
        os.write(send, (json.dumps(vars(_observe(json.loads(line), watch, writes))) + "\n").encode())


def _record_writes(writes: list[str], case: Path) -> Callable[[str, tuple[object, ...]], None]:
    """Return an audit hook that records what is opened for writing, renamed or removed outside the case's folder."""
    inside = (f"{case}/", f"{case.with_name('watch')}/", "/dev/", "/proc/", "/tmp/torchinductor_")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            paths = arguments[:1] if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR) else ()
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = arguments[1:2]
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"):
            paths = arguments[:1]
        else:
            return
        folder = os.getcwd()  # noqa: PTH109
        if event in ("os.remove", "os.rmdir") and isinstance(arguments[1], int) and arguments[1] >= 0:
            folder = os.readlink(f"/proc/self/fd/{arguments[1]}")  # noqa: PTH115 - `shutil.rmtree` opens folders
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                full = os.path.join(folder, os.fsdecode(path))  # noqa: PTH118
                if not f"{os.path.normpath(full)}/".startswith(inside):
                    writes.append(f"{event} {full}")

    return hook


def _observe(commands: list[list[str]], watch: Path, writes: list[str]) -> Result:
    """Run commands and judge how they end."""
    codes: list[int] = []
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before, children_before = _resident("VmRSS"), _children_bytes()
    said = ""
    for number, arguments in enumerate(commands):
        with _redirected(watch / f"said-{number}"):
            code, fault = _run(arguments)
        codes.append(code)
        said = (watch / f"said-{number}").read_text(errors="surrogateescape")
        children = _children_bytes()
        peak = max(0, _resident("VmHWM") - before, children - before if children > children_before else 0)
        fault = fault or _words(said, code)
        if writes:
            fault = Result("fault", "lost", "writes outside the output folder", "; ".join(writes[:5]))
        elif fault is None and peak > LIMIT_BYTES:
            fault = Result("fault", "memory", arguments[0], f"{peak / 1e9:.1f} GB; {said[-300:]}")
        if fault is not None:
            fault.peak_bytes, fault.codes = peak, codes
            return fault
    return Result("refused" if any(codes) else "accepted", detail=said[-500:], codes=codes, peak_bytes=peak)


def _run(arguments: list[str]) -> tuple[int, Result | None]:
    from celebahq_builder.cli import celebahq as group
    from celebahq_builder.cli import run_command

    sys.argv = ["celebahq", *arguments]
    try:
        run_command(group)
    except SystemExit as end:
        return (end.code if isinstance(end.code, int) else 1 if end.code else 0), None
    except BaseException as error:
        kind = "memory" if isinstance(error, MemoryError) else "traceback"
        text = "".join(traceback.format_exception(error)[-12:])
        return 1, Result("fault", kind, f"{type(error).__name__} in {_place(error)}", text[-3000:])
    return 0, None


def _place(error: BaseException) -> str:
    """Return the innermost function of the package in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "celebahq_builder" in frame.filename]
    last = (own or frames)[-1]
    return f"{last.filename.rpartition('celebahq_builder/')[2]}:{last.name}"


def _stack_place(log: str) -> str:
    """Return the innermost function of the package in what faulthandler wrote."""
    current = log.rpartition("Current thread")[2] or log
    found = re.search(r'File ".*?celebahq_builder/(\S+)", line \d+ in (\S+)', current)
    return f"{found[1]}:{found[2]}" if found else "elsewhere"


def _words(said: str, code: int) -> Result | None:
    """Return a fault in what a command printed."""
    longest = max(map(len, said.splitlines()), default=0)
    if longest > LINE_LENGTH_MAX:
        return Result("fault", "words", "a very long line", f"{longest} characters: {said[:1000]!a}")
    found = REMARKABLE.search(said)
    if found:
        line = said[found.start() :].splitlines()[0]
        where = re.sub(r"0x[0-9a-f]+|\d+", "N", line)[:90]
        return Result("fault", "words", where, said[-2000:])
    raw = sorted({letter for letter in said if letter not in "\n\r\t" and unicodedata.category(letter) in UNSAFE})
    if raw:
        return Result("fault", "words", "characters that are not printable", f"{raw!r}: {said[-1000:]!a}")
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    if code and not said.strip():
        return Result("fault", "words", f"exit code {code} without a reason", "")
    if len(lines) > 1 or any(len(line) > 3000 for line in lines):
        return Result("fault", "words", "an error of several or of very long lines", said[-4000:])
    return None


def _children_bytes() -> int:
    """Return the peak of the resident memory of all processes that this one started, the largest of them."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


@contextlib.contextmanager
def _redirected(path: Path) -> Iterator[None]:
    """Send everything that the process prints, also from C, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for one in (*kept, file):
            os.close(one)


def empty(folder: Path) -> None:
    """Remove everything in a folder that the fuzzer made."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
