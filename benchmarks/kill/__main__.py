"""Kill the commands that write files at random moments, run them again, and compare the results byte for byte.

    python -m benchmarks.kill [--kills 200] [--seed 0] [--target NAME]...

Each command first runs twice without a kill; files that differ between these two runs (times, speeds) must exist in
the end but are not compared. Then it is killed by SIGKILL, half of the time before a random file operation, which the
seed repeats exactly, and half of the time at a random moment of its processor time; often it is killed again while it
resumes. In the end the same command must succeed, leave the same files with the same bytes, nothing else, and the files
of the user as they were. The exit code is 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.fuzz.__main__ import load_package
from benchmarks.kill.killer import Killer
from benchmarks.kill.targets import TARGETS


def main() -> None:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of all commands together")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--repeatable", action="store_true", help="kill before file operations only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=[one.name for one in TARGETS], help="default all")
    parser.add_argument("--out", type=Path, default=Path("build/kill"), help="folder for what faulty commands left")
    asked = parser.parse_args()
    load_package()
    targets = [one for one in TARGETS if not asked.target or one.name in asked.target]
    until = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(prefix="kill-") as work:
        killers = [
            Killer(one, Path(work), asked.seed, asked.out.resolve(), repeatable=asked.repeatable) for one in targets
        ]
        number = 0
        while sum(one.counts["kills"] for one in killers) < asked.kills and time.monotonic() < until:
            killers[number % len(killers)].trial(number // len(killers))
            number += 1
            if number % len(killers) == 0:
                print(f"{sum(one.counts['kills'] for one in killers)} kills", file=sys.stderr, flush=True)
    print(f"\n{'command':18}{'kills':>7}{'resumed':>9}{'faults':>8}")
    for one in killers:
        print(f"{one.target.name:18}{one.counts['kills']:7}{one.counts['resumed']:9}{one.counts['faults']:8}")
    total = sum((one.counts for one in killers), Counter())
    print(f"{'all':18}{total['kills']:7}{total['resumed']:9}{total['faults']:8}")
    sys.exit(bool(total["faults"]))


if __name__ == "__main__":
    main()
