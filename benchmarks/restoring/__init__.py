"""The parts of the table that `restoration.py` prints."""
