"""Text out of files that others made, on its way to a terminal, a page or a picture."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text on one line, with a question mark for what is no letter, digit, sign or blank."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
