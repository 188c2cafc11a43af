"""Reads the message with which a model is refused."""

from __future__ import annotations

import pytest
from torch import nn

from regrow.adapter.find import find_ffns
from regrow.errors import UsageError


def refusal(model: nn.Module) -> str:
    """Return the one sentence with which a model is refused."""
    with pytest.raises(UsageError) as caught:
        find_ffns(model)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message  # before it: what is wrong, after it: what to do
    return message
