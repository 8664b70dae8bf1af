"""Import that kills itself after some images: ``python -m tests.formats.killed_import PATH OUT WORKERS N``."""

import os
import signal
import sys
from pathlib import Path

from celebahq_builder.formats import conversion
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.progress import Progress


class Deadly(Progress):
    """Kills the process after a number of images."""

    def advance(self, photos: int, rejected: int = 0, failed: int = 0) -> None:
        super().advance(photos, rejected, failed)
        if self.done >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    conversion.Progress = Deadly
    import_images(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]))
