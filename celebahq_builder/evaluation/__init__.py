"""How near the pictures of one source are to those of another: sources, protocols, results; the arithmetic is in metrics."""
