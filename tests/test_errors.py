from __future__ import annotations

import pytest

from regrow.errors import said

ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("It is wrong."), "It is wrong"),
    (ValueError("It is wrong. Please visit https://example.org for more."), "It is wrong"),
    (ValueError("first\nsecond"), "first"),
    (ValueError("  \n\n first\n"), "first"),
    (ValueError("One of these:\n\t(1) a\n\n\t(2) b"), "One of these: (1) a (2) b"),
    (ValueError("nothing follows:"), "nothing follows"),
    (ValueError("version 1.2 of a.b is old"), "version 1.2 of a.b is old"),
    (ValueError(""), "ValueError"),
    (ValueError("\n"), "ValueError"),
    (KeyError("type"), "KeyError 'type'"),
    (ValueError(), "ValueError"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_what_an_error_says_fits_into_a_sentence(error: BaseException, text: str) -> None:
    assert said(error) == text


def test_a_long_text_is_cut_between_words() -> None:
    text = said(RuntimeError("word " * 200))
    assert text.endswith("word …")
    assert len(text) < 170
