"""``python -m celebahq_builder`` is the ``celebahq`` command."""

from celebahq_builder.cli.main import main

main()
