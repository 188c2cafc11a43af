from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from families import build


@pytest.fixture(scope="module")
def shared() -> PreTrainedModel:
    """Return a model for tests that leave it as it was, which is what they are about."""
    return build("qwen2")
