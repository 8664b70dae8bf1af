"""The run directory of a build: the places of its files, its content, and its shards."""
