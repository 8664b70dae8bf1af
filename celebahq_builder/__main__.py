"""``python -m celebahq_builder`` is the ``celebahq`` command."""

from celebahq_builder.cli import main

main()
