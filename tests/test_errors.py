from __future__ import annotations

from errno import EACCES, EDQUOT, EIO, ENOSPC, EROFS
from pathlib import Path

import pytest

from regrow.errors import said, unwritable

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


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (ENOSPC, "make room or choose another --out"),
        (EDQUOT, "make room or choose another --out"),
        (EACCES, "allow writing there or choose another --out"),
        (EROFS, "choose another --out"),
        (EIO, "choose another --out"),
    ],
)
def test_advice_fits_the_reason_why_a_file_cannot_be_written(number: int, advice: str) -> None:
    error = OSError(number, "Reason")
    wanted = f"some/file cannot be written: Reason; {advice}"
    assert str(unwritable(Path("some/file"), error, "choose another --out")) == wanted


def test_the_file_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "run", tmp_path / "file" / "folder" / "run"):
        with pytest.raises(OSError, match=r"directory|exists") as caught:
            place.parent.mkdir(parents=True, exist_ok=True)
        assert str(unwritable(place, caught.value, "choose another --out")) == (
            f"{place} cannot be written: {tmp_path / 'file'} is a file and not a directory; "
            "choose another --out"
        )
