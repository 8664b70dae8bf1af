"""Training of the restoration networks."""
