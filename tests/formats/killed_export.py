"""Export that kills itself after some images: ``python -m tests.formats.killed_export FILE OUT FORMAT WORKERS N``."""

import os
import signal
import sys

from celebahq_builder.formats import conversion, load_formats
from celebahq_builder.formats import stylegan_zip as stylegan_zip_module
from celebahq_builder.formats.conversion import export_file
from celebahq_builder.progress import Progress

SHARD = 16
"""Images per shard, so that there are several shards."""


def small_shards(to: str) -> dict[str, int]:
    """Return arguments of an export that ask for small shards if the format has shards."""
    return {"shard": SHARD} if "shard" in load_formats()[to].options else {}


class Deadly(Progress):
    """Kills the process after a number of images."""

    def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
        super().advance(items, rejected, failed)
        if self.done >= int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    conversion.Progress = Deadly
    stylegan_zip_module.CHECKPOINT = 16
    export_file(sys.argv[1], sys.argv[2], to := sys.argv[3], **small_shards(to), workers=int(sys.argv[4]))
