"""The HTML report of a run: `page.write` makes it, from what lies in the run directory."""
