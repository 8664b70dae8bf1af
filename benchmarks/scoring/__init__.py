"""Parts of the benchmark of the quality score."""
