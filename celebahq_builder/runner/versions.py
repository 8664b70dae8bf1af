"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from celebahq_builder import __version__

VERSIONS = ("torch", "numpy", "pillow", "opencv-python-headless", "scipy", "h5py", "deflate")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what decides the pixels."""
    found = {"celebahq_builder": __version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
