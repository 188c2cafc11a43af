"""Drafts from the text continue what followed the latest longest match."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.decoding.batch import Batch
from regrow.decoding.drafts.ngram import NGram


def naive(tokens: list[int], longest: int, shortest: int, window: int) -> list[int]:
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 2, size - 2, -1):
            if size <= end + 1 and tokens[end - size + 1 : end + 1] == tokens[len(tokens) - size :]:
                period = tokens[end + 1 :]
                return [period[place % len(period)] for place in range(window)]
    return [tokens[-1]] * window


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=3),
    shortest=st.integers(1, 3),
    more=st.integers(0, 2),
    window=st.integers(1, 6),
)
def test_ngrams_continue_what_followed_the_latest_longest_match(
    texts: list[list[int]], shortest: int, more: int, window: int
) -> None:
    width, room = max(map(len, texts)), 4
    ids = torch.tensor([[1] * (width - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
    batch = Batch.of(ids, mask, None, room, torch.tensor(2), 10)
    columns = torch.full((len(texts),), width - 1)
    found = NGram(shortest + more, shortest).guess(batch, columns, window)
    assert found.tolist() == [naive(text, shortest + more, shortest, window) for text in texts]
