"""Start of the ``celebahq`` command, which is also ``python -m celebahq_builder``."""

from __future__ import annotations

import os


def main(command: str = "") -> None:
    """Run the ``celebahq`` command; Ctrl-C during the imports ends it without a traceback.

    Args:
        command: name of the only command to run, such as ``build``; by default the arguments name it.
    """
    try:
        from celebahq_builder import cli
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        os._exit(130)
    cli.run_command(cli.celebahq.commands[command] if command else cli.celebahq)


if __name__ == "__main__":
    main()
