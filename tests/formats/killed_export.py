"""Export that kills itself after some images: ``python -m tests.formats.killed_export FILE OUT FORMAT WORKERS N``."""

import os
import signal
import sys
from pathlib import Path

from celebahq_builder.formats import export as export_module
from celebahq_builder.formats import stylegan_zip as stylegan_zip_module
from celebahq_builder.formats.export import ExportSettings, export
from celebahq_builder.formats.registry import formats
from celebahq_builder.progress import Progress

SHARD = 16
"""Images per shard, so that there are several shards."""


def small_shards(to: str) -> ExportSettings:
    """Return settings for an export, with small shards if the format has shards."""
    return ExportSettings(to, shard=SHARD if "shard" in formats()[to].options else None)


class Deadly(Progress):
    """Kills the process after a number of images."""

    def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
        super().advance(items, rejected, failed)
        if self.done >= int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    export_module.Progress = Deadly
    stylegan_zip_module.CHECKPOINT = 16
    export(Path(sys.argv[1]), Path(sys.argv[2]), small_shards(sys.argv[3]), int(sys.argv[4]))
