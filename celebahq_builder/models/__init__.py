"""Neural networks as torch modules, and the registry of their released weights."""
