"""An import or export that kills itself after some images."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from celebahq_builder.formats import conversion, load_formats
from celebahq_builder.formats import stylegan_zip as stylegan_zip_module
from celebahq_builder.progress import Progress

SHARD = 16
"""Images per shard, so that there are several shards."""


def small_shards(to: str) -> dict[str, int]:
    """Return arguments of an export that ask for small shards if the format has shards."""
    return {"shard": SHARD} if "shard" in load_formats()[to].options else {}


def kill_after(images: int, source: Path, target: Path, workers: int, to: str = "") -> None:
    """Import a data set, or export an HDF5 file to a format, in a process that kills itself."""
    command = [sys.executable, "-m", __name__, str(images), str(source), str(target), str(workers), to]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not target.exists()


class Deadly(Progress):
    """Kills the process after a number of images."""

    def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
        super().advance(items, rejected, failed)
        if self.done >= int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    conversion.Progress = Deadly
    stylegan_zip_module.CHECKPOINT = 16
    source, target, workers, to = sys.argv[2:]
    if to:
        conversion.export_file(source, target, to, **small_shards(to), workers=int(workers))
    else:
        conversion.import_images(source, target, workers=int(workers))
