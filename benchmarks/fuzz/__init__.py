"""Fuzzer of everything that the package reads: `python -m benchmarks.fuzz --help`."""
