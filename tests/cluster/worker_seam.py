"""Actions of a worker at certain photos, for ``dask worker --preload``.

The folder of the environment variable SEAM holds files that name a photo: before ``kill-PHOTO``, the worker kills
itself; at ``hold-PHOTO``, it writes ``held-PHOTO`` with its process id, and waits until the first file is gone.
"""

import os
import signal
import time
from pathlib import Path

from celebahq_builder.pipeline import photo_context
from celebahq_builder.storage import read_file

FOLDER = Path(os.environ.get("SEAM", "."))


def read_photo(path: Path) -> bytes:
    """Act as the files ask, then read a photo."""
    if (FOLDER / f"kill-{path.name}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (FOLDER / f"hold-{path.name}").exists():
        partial = FOLDER / f"{os.getpid()}"
        partial.write_text(str(os.getpid()))
        partial.rename(FOLDER / f"held-{path.name}")
        while (FOLDER / f"hold-{path.name}").exists():
            time.sleep(0.02)
    return read_file(path)


photo_context.read_file = read_photo
