"""How a refusal is read in these tests."""

from __future__ import annotations

import pytest
from torch import nn

from regrow.adapter.find import find_ffns
from regrow.errors import UsageError


def refusal(model: nn.Module) -> str:
    """The one sentence with which a model is refused."""
    with pytest.raises(UsageError) as caught:
        find_ffns(model)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do
    return message
