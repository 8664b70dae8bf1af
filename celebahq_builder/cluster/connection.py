"""The connection to a Dask scheduler."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from celebahq_builder.errors import ClusterError, RecipeError, first_line
from celebahq_builder.storage import parse_json, read_text

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")

CONNECT_S = 10.0
"""Longest time in which a scheduler must accept the connection."""


class Cluster:
    """A connection to a Dask scheduler.

    Args:
        target: address such as ``tcp://host:8786``, or path of the file that ``dask scheduler --scheduler-file``
            writes. The certificates of a ``tls://`` address are those of Dask's own configuration.

    Attributes:
        address: of the scheduler.
        client: Dask's own object.
        dashboard: address of its web page; None if it has none.

    Raises:
        RecipeError: distributed is not installed, or the file cannot be used.
        ClusterError: no scheduler answers.
    """

    def __init__(self, target: str) -> None:
        check_target(target)
        self.address = _scheduler_address(target)
        with contextlib.ExitStack() as opened:
            opened.enter_context(_quiet_loggers())
            self.client = _connect(self.address)
            opened.callback(_disconnect, self.client)
            services = self.ask(lambda: self.client.scheduler_info()["services"])
            self.dashboard: str | None = self.client.dashboard_link if "dashboard" in services else None
            self._opened = opened.pop_all()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the scheduler then cancels the jobs, and their workers end them, see `check_wanted`."""
        self._opened.close()

    def ask(self, question: Callable[[], Result]) -> Result:
        """Return what a function of the client returns.

        Raises:
            ClusterError: the scheduler does not answer.
        """
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # RuntimeError: the client has closed itself
            if self.client.status == "running":
                return question()
        raise ClusterError(f"the scheduler {self.address} is gone; the same command resumes, with or without `cluster`")


def check_target(target: str) -> None:
    """Check that distributed is installed and that a cluster is named; connects to nothing.

    Raises:
        RecipeError: it is not.
    """
    if not target.strip():
        raise RecipeError("`cluster` is empty; expected the address of a Dask scheduler, or its scheduler.json")
    if importlib.util.find_spec("distributed") is None:
        raise RecipeError(
            "`cluster` needs distributed, which is not installed: pip install 'celebahq-builder[cluster]', or "
            "pip install '.[cluster]' in the folder of the project"
        )


def _scheduler_address(target: str) -> str:
    path = Path(target)
    if "://" in target or not (path.exists() or path.suffix == ".json"):
        return target
    try:
        values = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(
            f"`cluster` {target} cannot be read: {why}; dask scheduler --scheduler-file makes it"
        ) from None
    address = values.get("address") if isinstance(values, dict) else None
    if not isinstance(address, str):
        raise RecipeError(f"`cluster` {target} has no address; expected a file of dask scheduler --scheduler-file")
    return address


def _connect(address: str) -> Client:
    from distributed import Client, Security
    from distributed.comm import resolve_address

    try:
        # These are checked first, because Dask's client does not close in order after an error of this kind.
        is_encrypted = resolve_address(address).startswith(("tls:", "wss:"))
        if is_encrypted and Security().get_connection_args("client")["ssl_context"] is None:
            raise ValueError("Dask's configuration has no certificate for it, see docs/cluster.md")
        with warnings.catch_warnings():  # of other versions: every worker is checked
            warnings.simplefilter("ignore")
            return Client(address, timeout=CONNECT_S, set_as_default=False, direct_to_workers=False)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"`cluster` {address}: no scheduler answers ({first_line(error)}); expected the address that dask "
            "scheduler prints, such as tcp://host:8786"
        ) from None


def _disconnect(client: Client) -> None:
    with contextlib.suppress(Exception):  # the scheduler may be gone
        client.close(timeout=2)


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Silence the loggers of the client, which would repeat our messages with tracebacks."""
    importlib.import_module("distributed")  # sets the levels of its loggers

    logging.getLogger("asyncio").addFilter(_is_not_of_dask)  # stays: asyncio reports such errors late
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_not_of_dask(record: logging.LogRecord) -> bool:
    """Return whether a log record is about anything but an exception inside Dask."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not kind.__module__.startswith("distributed")
