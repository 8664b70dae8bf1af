"""A build that kills itself at a named point: ``killed_build.py OUT POINT COUNT``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celebahq_builder.hdf5 import writer
from celebahq_builder.pipeline import batch, build, workspace
from celebahq_builder.pipeline.stages import load_stages, select
from tests.conftest import build_tiny

POINTS: dict[str, tuple[Any, str]] = {
    **{stage.name: (type(stage), "run") for stage in load_stages("paper")},
    "image": (batch, "write_partial"),
    "batch": (build, "publish_batch"),
    "manifest": (workspace.StageFolder, "write_manifest"),
    "complete": (workspace.StageFolder, "complete"),
    "selection": (select, "select_best"),
    "level": (writer.PyramidWriter, "write"),
    "publish": (writer.PyramidWriter, "finish"),
    "report": (build, "write_build_report"),
    "rename": (Path, "replace"),
}
"""Points at which a run can be killed: just before the COUNT-th call of a function."""


def killing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that calls another one, and kills the process at its `count`-th call."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if __name__ == "__main__":
    out, point, count = sys.argv[1:]
    owner, name = POINTS[point]
    setattr(owner, name, killing(getattr(owner, name), int(count)))
    build_tiny(Path(out))
