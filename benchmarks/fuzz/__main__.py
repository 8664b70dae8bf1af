"""Run the package's commands on mutated inputs until the time is spent, and print the faults.

    python -m benchmarks.fuzz [--seconds 600] [--seed 0] [--target NAME]... [--out build/fuzz]
    python -m benchmarks.fuzz --repeat build/fuzz/faults/NAME-000123

A fault is a traceback, a hang, more than 1 GB of memory, the death of the process, a file outside the output folder, or
an error that is not one readable line. Every input is kept with the commands that repeat it, at most five of a kind.
The exit code is 1 if there are faults.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.fuzz.file_mutations import mutate_folder
from benchmarks.fuzz.targets import TARGETS, Target
from benchmarks.fuzz.worker import Result, Worker, empty

ADDRESS_SPACE_BYTES = 9_000_000_000
"""Largest address space of a mutation; the limits of the commands are in `worker`."""

MUTATION_S = 20
"""Processor seconds of a mutation; then the file is tried as it is."""
KEPT = 5
"""Inputs that are kept of each kind of fault."""
KINDS = ("lost", "killed", "hang", "memory", "traceback", "words")
"""Kinds of faults, the worst first."""


def main() -> None:
    """Fuzz, or repeat one input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="time to spend, without that for the good inputs")
    parser.add_argument("--inputs", type=int, help="stop after this many inputs instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=[one.name for one in TARGETS], help="default all")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder for the faulty inputs")
    parser.add_argument("--repeat", type=Path, help="folder of a faulty input: run its commands again")
    asked = parser.parse_args()
    load_package()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        if asked.repeat:
            sys.exit(repeat(asked.repeat.resolve(), Path(work)))
        targets = [one for one in TARGETS if not asked.target or one.name in asked.target]
        fuzzer = Fuzzer(targets, asked.seed, asked.out.resolve(), Path(work))
        try:
            fuzzer.run(asked.seconds, asked.inputs)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            fuzzer.worker.close()
        fuzzer.report()
        sys.exit(bool(fuzzer.faults))


def load_package() -> None:
    """Import what the commands use, so that forked workers have it already; nothing may start threads here."""
    os.environ.update(MALLOC_ARENA_MAX="2", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import cv2
    import torch

    for name in ("pyarrow.parquet", "celebahq_builder.cli"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger().handlers.clear()


def forked(mutation: Callable[[], str]) -> str:
    """Run a mutation in a forked process; return its description.

    A mutation reads damaged files with libraries that may take any memory or time, keep files open, or crash. The files
    stay as it left them, then.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MUTATION_S, MUTATION_S))
        try:
            said = mutation()
        except Exception as error:
            said = f"the mutation failed: {type(error).__name__}"
        os.write(send, said.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return said or "the mutation crashed"


class Fuzzer:
    """Mutates the inputs of targets in turn, and keeps what is at fault."""

    def __init__(self, targets: list[Target], seed: int, out: Path, work: Path) -> None:
        self.targets, self.seed, self.out, self.work = targets, seed, out, work
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: dict[tuple[str, str, str], list[str]] = {}
        """Names of faulty inputs by kind, place and target."""
        self.details: dict[tuple[str, str, str], str] = {}
        self.case = work / "deep" / "deeper" / "case"
        self.case.mkdir(parents=True)
        self.worker = Worker(self.case)

    def run(self, seconds: float, inputs: int | None) -> None:
        """Try inputs of all targets in turn."""
        made: dict[object, Path] = {}
        for target in self.targets:
            folder = self.work / "good" / target.name
            if target.make in made:
                shutil.copytree(made[target.make], folder)
            else:
                target.make(folder)
                made[target.make] = folder
        until, number = time.monotonic() + seconds, 0
        tried: Counter[str] = Counter()
        while time.monotonic() < until if inputs is None else number < inputs:
            # Targets get equal time, so that slow ones do not decide how many inputs are tried.
            spent = [self.counts[one.name]["seconds"] if inputs is None else tried[one.name] for one in self.targets]
            target = self.targets[spent.index(min(spent))]
            self.one(target, tried[target.name])
            tried[target.name] += 1
            number += 1
            if number % 500 == 0:
                print(f"{number} inputs", file=sys.stderr, flush=True)

    def one(self, target: Target, number: int) -> Result:
        """Try one input; it depends on the seed, the target and the number alone."""
        began = time.monotonic()
        empty(self.case)
        fresh(self.case)
        change, commands = self._mutated(target, number, self.case / "in")
        result = self.worker.run([_placed(one, self.case) for one in commands])
        result = self._checked(result, target)
        self.counts[target.name][result.outcome] += 1
        self.counts[target.name]["seconds"] += time.monotonic() - began
        if result.outcome == "fault":
            self._keep(target, number, commands, change, result)
        return result

    def _mutated(self, target: Target, number: int, folder: Path) -> tuple[str, list[list[str]]]:
        """Write an input into a new folder; return what was changed, and the commands."""
        random = Random(f"{self.seed}/{target.name}/{number}")
        shutil.copytree(self.work / "good" / target.name, folder, symlinks=True)
        arguments = target.arguments(random)
        change = forked(lambda: mutate_folder(folder, target.files, random, others=self.work / "good"))
        return change, arguments

    def _checked(self, result: Result, target: Target) -> Result:
        """Return a fault if files were left in the wrong place, or a refusal left a result."""
        folders = (self.work, self.work / "deep", self.case.parent)
        around = {path.name for folder in folders for path in folder.iterdir()}
        strange = around - {"deep", "good", "deeper", "case", "watch"}
        if result.outcome != "fault" and strange:
            return Result("fault", "lost", "files outside the output folder", ", ".join(sorted(strange)))
        if result.outcome == "refused" and target.commands[0][0] in ("import", "export"):
            left = sorted(path.name for path in (self.case / "out").iterdir())
            if left and not any(".partial" in name for name in left):
                return Result("fault", "lost", f"refused {target.commands[0][0]} left a result", ", ".join(left))
        return result

    def _keep(self, target: Target, number: int, commands: list[list[str]], change: str, result: Result) -> None:
        key = (result.kind, result.where, target.name)
        name = f"{target.name}-{number:06d}"
        names = self.faults.setdefault(key, [])
        names.append(name)
        self.details.setdefault(key, result.detail)
        if len(names) > KEPT:
            return
        folder = self.out / "faults" / name
        if folder.exists():
            shutil.rmtree(folder)
        self._mutated(target, number, folder / "in")
        about = {"commands": commands, "seed": self.seed, "change": change, **vars(result)}
        (folder / "fault.json").write_text(json.dumps(about, indent=1))
        print(f"{result.kind:10} {result.where[:90]}  {name}", flush=True)

    def report(self) -> None:
        """Print the table of targets and the list of faults, the worst first."""
        print(f"\n{'target':16}{'tried':>8}{'accepted':>10}{'refused':>9}{'faults':>8}{'inputs/s':>10}")
        total: Counter[str] = Counter()
        for target in self.targets:
            counts = self.counts[target.name]
            total += counts
            _print_row(target.name, counts)
        _print_row("all", total)
        for key in sorted(self.faults, key=lambda one: (KINDS.index(one[0]), -len(self.faults[one]))):
            kind, where, target = key
            names = self.faults[key]
            print(f"{kind}: {where} ({target}, {len(names)} inputs)")
            print(f"    python -m benchmarks.fuzz --repeat {_shown(self.out / 'faults' / names[0])}")


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _print_row(name: str, counts: Counter[str]) -> None:
    tried = counts["accepted"] + counts["refused"] + counts["fault"]
    speed = tried / counts["seconds"] if counts["seconds"] else 0.0
    print(f"{name:16}{tried:8}{counts['accepted']:10}{counts['refused']:9}{counts['fault']:8}{speed:10.1f}")


def _placed(arguments: list[str], case: Path) -> list[str]:
    """Return arguments with the folders of a case in place of IN and OUT."""
    return [one.replace("IN", str(case / "in"), 1) if one.startswith("IN") else
            one.replace("OUT", str(case / "out" / "new"), 1) if one.startswith("OUT") else one
            for one in arguments]  # fmt: skip


def fresh(case: Path) -> None:
    """Make the folders of a case."""
    for name in ("out", "home", "tmp"):
        (case / name).mkdir(parents=True, exist_ok=True)


def repeat(folder: Path, work: Path) -> int:
    """Run the commands of a faulty input again; return 1 if it is still at fault."""
    about = json.loads((folder / "fault.json").read_text())
    case = work / "deep" / "deeper" / "case"
    fresh(case)
    subprocess.run(["cp", "-a", "--sparse=always", folder / "in", case / "in"], check=True)  # keeps pipes
    worker = Worker(case)
    commands = [_placed(one, case) for one in about["commands"]]
    for one in commands:
        print("celebahq", *one)
    result = worker.run(commands)
    worker.close()
    print(f"{result.outcome} {result.kind} {result.where}\n{result.detail}")
    return int(result.outcome == "fault")


if __name__ == "__main__":
    main()
