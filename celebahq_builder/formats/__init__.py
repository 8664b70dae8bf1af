"""Foreign data set formats: one file per format, a registry, export and import."""
