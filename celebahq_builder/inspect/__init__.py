"""Tools that look into data set files: info, compare, contact sheets, extraction, audit."""
