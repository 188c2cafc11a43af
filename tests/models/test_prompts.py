from __future__ import annotations

import pytest

from regrow.errors import UsageError
from regrow.models import Loaded, encode


def test_encode_pads_on_the_left_with_a_mask(loaded: Loaded) -> None:
    ids, mask = encode(loaded, ["ab", "abcd"], chat=False)
    assert ids.tolist() == [[0, 0, 40, 41], [40, 41, 42, 43]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_the_chat_template_is_used_where_there_is_one(loaded: Loaded) -> None:
    assert encode(loaded, ["a"])[0].tolist() == [[2, 40, 4]]
    loaded.tokenizer.chat_template = None
    assert encode(loaded, ["a"])[0].tolist() == [[40]]
    with pytest.raises(UsageError, match="no chat template"):
        encode(loaded, ["a"], chat=True)


@pytest.mark.parametrize(
    ("prompts", "says"), [([], "no prompts"), (["a", " \n"], "prompt 2 is empty"), (["a" * 10_000], "prompt 1 has .* tokens")]
)
def test_prompts_that_cannot_be_answered_are_refused(loaded: Loaded, prompts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        encode(loaded, prompts)
