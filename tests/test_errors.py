from celebahq_builder.errors import printable


def test_printable() -> None:
    assert printable("a b\n\x1b[31m\u202e.jpg") == "a b??[31m?.jpg"
    assert printable("Zo\u00eb") == "Zo\u00eb"
