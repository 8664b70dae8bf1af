"""Kills one command at random moments, runs it again, and compares the results byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.fuzz.worker import processor_s
from benchmarks.kill.targets import Target

VOLATILE = ("/tensorboard/",)
"""Folders whose file names hold the time."""
SLOWEST_S = 120
"""A command that takes longer to resume is at fault."""
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""Audit events of Python before which a command is killed; h5py's own writes lie between them."""


class Killer:
    """Kills one command and compares what it leaves with uninterrupted runs."""

    def __init__(self, target: Target, work: Path, seed: int, out: Path, *, repeatable: bool = False) -> None:
        self.target, self.work, self.seed, self.out = target, work / target.name.replace(" ", "-"), seed, out
        self.repeatable = repeatable
        self.counts: Counter[str] = Counter(kills=0, resumed=0, faults=0)
        self.case = self.work / "case"
        self.whole: dict[str, str] | None = None

    def _reference(self) -> dict[str, str]:
        """Return the files of an uninterrupted run, with an empty digest for those that differ between two runs."""
        if self.whole is None:
            self.target.make(self.work / "good")
            runs = []
            for _ in range(2):
                self._fresh()
                self.whole_s, self.operations = self._finish(), int((self.work / "operations").read_text())
                runs.append(digests(self.case))
            first, second = runs
            self.whole = {name: value if second.get(name) == value else "" for name, value in first.items()}
        return self.whole

    def _fresh(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.work / "good", self.case / "in")
        (self.case / "out").mkdir()
        (self.case / "out" / "mine.txt").write_text("a file of the user")
        if self.target.prepare:
            self._finish(self.target.prepare)

    def _finish(self, command: str = "") -> float:
        """Run a command to its end and return its processor time in s.

        Raises:
            RuntimeError: it fails, or does not end.
        """
        child = self._start(command or self.target.command, None)
        began, used = time.monotonic(), 0.0
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            used = processor_s(child) or used
            if used > SLOWEST_S or time.monotonic() - began > 10 * SLOWEST_S:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.002)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise RuntimeError(f"exit code {code}: {(self.work / 'said').read_text(errors='replace')[-1500:]}")
        return used

    def trial(self, number: int) -> None:
        """Kill the command once or several times, run it to its end, and compare."""
        whole = self._reference()
        random = Random(f"{self.seed}/{self.target.name}/{number}")
        self._fresh()
        kills, ended = [], False
        for _ in range(random.choice((1, 1, 2, 3))):
            if random.random() < 0.5 or self.repeatable:
                at, how = random.randrange(1, self.operations + 1), "before file operation"
                child = self._start(self.target.command, at)
            else:
                at, how = round(random.uniform(0, self.whole_s), 3), "after processor seconds"
                child = self._start(self.target.command, None)
                while (
                    processor_s(child) < at and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
                ):
                    time.sleep(0.001)
                time.sleep(random.uniform(0, 0.01))
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                ended = status == 0
                break
            self.counts["kills"] += 1
            kills.append(f"{how} {at}")
        problem = self._compared(whole, ended)
        self.counts["faults" if problem else "resumed"] += 1
        if problem:
            kept = self.out / f"{self.target.name.replace(' ', '-')}-{number:04d}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self.case, kept, symlinks=True)
            print(
                f"{self.target.name}, trial {number} of seed {self.seed}, killed {', '.join(kills)}: {problem}; {kept}",
                flush=True,
            )

    def _compared(self, whole: dict[str, str], ended: bool) -> str:
        """Run the command to its end, unless it ended already; return what is wrong with its result, or nothing."""
        said = ""
        try:
            if not ended:
                self._finish()
        except RuntimeError as error:
            if "is not overwritten" not in str(error):
                return str(error)
            said = str(error)  # rightly so, if it was killed after it had finished
        found = digests(self.case)
        if missing := sorted(whole.keys() - found.keys()):
            return f"missing: {missing[:5]} {said}"
        if more := sorted(found.keys() - whole.keys()):
            return f"left over: {more[:5]} {said}"
        other = [name for name, value in whole.items() if value and found[name] != value]
        return f"other bytes: {other[:5]} {said}" if other else ""

    def _start(self, command: str, kill_at: int | None) -> int:
        """Start a command in a forked process of its own group; it kills itself before a file operation, or never."""
        from celebahq_builder.cli import celebahq, run_command

        places = {"IN": str(self.case / "in"), "OUT": str(self.case / "out")}
        words = [one.replace(name, place, 1) for one in command.split() for name, place in _place(one, places)]
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            return child
        status = 70
        try:
            os.setsid()
            said = os.open(self.work / "said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            count = _count_operations(kill_at, str(self.case))
            sys.argv = ["celebahq", *words]
            try:
                run_command(celebahq)
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            done = count[0]
            (self.work / "operations").write_text(str(done))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _place(word: str, places: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, place) for name, place in places.items() if word.startswith(name)] or [("", "")]


def _count_operations(kill_at: int | None, inside: str) -> list[int]:
    """Count file operations below a folder, and kill the process before one of them; return the running count."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in OPERATIONS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if os.fsdecode(arguments[0]).startswith(inside):
            count[0] += 1
            if count[0] == kill_at:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder by its relative path, but not of those in VOLATILE folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file() and not any(part in f"/{name}" for part in VOLATILE):
            found[name] = hashlib.sha256(_canonical(path)).hexdigest()
    return found


def _canonical(path: Path) -> bytes:
    """Return the contents of a file; those of a checkpoint without what depends on which tensors share a memo entry."""
    if path.suffix != ".pt":
        return path.read_bytes()
    import torch

    return _flat(torch.load(path, weights_only=True)).encode()


def _flat(value: object) -> str:
    """Return nested values as text, tensors by the digests of their bytes."""
    import torch

    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_flat(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(_flat, value)) + "]" if isinstance(value, list | tuple) else repr(value)
