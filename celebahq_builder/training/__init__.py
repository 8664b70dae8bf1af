"""Training of the networks: straight-line loops, resumable at any step."""
