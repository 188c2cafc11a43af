"""Numbers for people."""

from __future__ import annotations

import pytest

from regrow.format import batches, count


@pytest.mark.parametrize(("number", "text"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_one_thing_is_not_several(number: int, text: str) -> None:
    assert count(number, "token") == text
    assert batches(number) == text.replace("tokens", "batches").replace("token", "batch")
