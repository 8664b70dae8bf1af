"""A build that kills itself at a named point: ``killed_build.py OUT POINT COUNT``."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celebahq_builder.hdf5.writer import PyramidWriter
from celebahq_builder.pipeline import batch, build, photo_stages
from celebahq_builder.pipeline.stages import load_stages, select
from celebahq_builder.run_directory.workspace import StageFolder
from tests.conftest import build_tiny

POINTS: dict[str, tuple[Any, Callable[..., Any]]] = {
    **{stage.name: (type(stage), type(stage).run) for stage in load_stages("paper")},
    "image": (batch, batch.write_partial),
    "batch": (photo_stages, photo_stages.publish_batch),
    "manifest": (StageFolder, StageFolder.write_manifest),
    "complete": (StageFolder, StageFolder.complete),
    "selection": (select, select.select_best),
    "level": (PyramidWriter, PyramidWriter.write),
    "publish": (PyramidWriter, PyramidWriter.finish),
    "report": (build, build.write_build_report),
    "rename": (Path, Path.replace),
}
"""Points at which a run can be killed: module or class, and its function before whose COUNT-th call it is killed."""


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


def run_killed(build: Callable[[], None], count: int) -> bool:
    """Run a build in a child process, kill it before its `count`-th rename, and return whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a fork beside threads, none of which the child uses
        child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            setattr(Path, "replace", killing(Path.replace, count))  # noqa: B010 - mypy knows no other method
            build()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


if __name__ == "__main__":
    out, point, count = sys.argv[1:]
    owner, function = POINTS[point]
    setattr(owner, function.__name__, killing(function, int(count)))
    build_tiny(Path(out))
