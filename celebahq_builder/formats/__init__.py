"""Files that data sets are kept in: one format a file."""
