"""Registries of weights as people deal with them: list, check, and export what a training made."""
