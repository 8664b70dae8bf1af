"""Text that is safe to print."""

import sys
import unicodedata

import pytest

from celebahq_builder.errors import printable


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (
            "Zo\u00eb \u6f22 \u202f\U0001f600.jpg",
            "Zo\u00eb \u6f22 \u202f\U0001f600.jpg",
        ),  # a narrow space, as macOS writes it
        ("a b\n\x1b[31m\u202e.jpg", "a b\\n\\x1b[31m\\u202e.jpg"),
        ("\r\x07\x9b\x7f\u2028\u2029\u200b\ufeff", r"\r\x07\x9b\x7f\u2028\u2029\u200b\ufeff"),
        ("\udcff\udce4\ud800.jpg", r"\xff\xe4\ud800.jpg"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_printable(text: str, printed: str) -> None:
    assert printable(text) == printed
    printable(text).encode()
    assert printable("\udc41") == r"\udc41"  # no byte: ASCII has no surrogates


def test_no_control_or_format_character_is_printed() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert {unicodedata.category(letter) for letter in printable(every)}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"
