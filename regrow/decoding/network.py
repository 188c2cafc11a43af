"""A causal language model as the decode loop sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.core import Pass
from regrow.decoding.attention import DecodeAttention


class Network(ABC):
    """Runs a model on one batch and keeps its keys and values.

    Columns of a batch are its tokens, with the padding on the left.
    """

    dtype: torch.dtype  # of the weights
    chunk: int | None = None  # prompt tokens per row that are fed at once by default; None: all

    @abstractmethod
    def forward(
        self,
        planned: Pass,
        ids: Tensor,
        *,
        length: int | None = None,
        key: Hashable | None = None,
        every: bool = False,
    ) -> Tensor:
        """Runs the pass on the last w columns of `ids` [B, n].

        Returns logits [B, V] after the last column or, with `every`, logits [B, w, V] after each of the w
        columns. `length` is an upper bound on the tokens of a row, where rows have their own positions; by
        default it is n. Decode passes of equal sizes and `key` may be captured and replayed. Passes without a
        key are not.
        """


@final
class StockNetwork(Network):
    """Runs the model's own forward.

    It is called as transformers' own loop calls it, with the cache that transformers prepared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_length: int,
        inputs: dict[str, Any],
        attention: DecodeAttention | None = None,
    ) -> None:
        """Takes `inputs`, which are what transformers prepared beside the ids [B, P].

        Decode passes use `attention` if it is given.
        """
        self._model: Any = model
        self._attention, self._prompt_length, self.dtype = attention, prompt_length, model.dtype
        self._state = dict(inputs)  # what transformers passes from one forward to the next

    def forward(
        self,
        planned: Pass,
        ids: Tensor,
        *,
        length: int | None = None,  # noqa: ARG002 (all rows are at the same column)
        key: Hashable | None = None,  # noqa: ARG002
        every: bool = False,
    ) -> Tensor:
        attention = None if planned.prompt else self._attention
        ours: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
        if attention is not None:
            ours = attention.step(ids.shape[1], planned.width)
        with ours as more:
            inputs = self._prompt(planned, ids, every) if planned.prompt else self._step(planned, ids, every)
            output = self._model(**inputs, return_dict=True, **more)
        if planned.prompt and ids.shape[1] < self._prompt_length:
            self._state["past_key_values"] = output.past_key_values  # more of the prompt follows
        else:
            self._state = self._model._update_model_kwargs_for_generation(
                output, self._state, is_encoder_decoder=False
            )
        logits: Tensor = output.logits[:, -planned.width :] if every else output.logits[:, -1]
        return logits

    def _prompt(self, planned: Pass, ids: Tensor, every: bool) -> dict[str, Any]:
        """Returns the arguments for a forward of the whole prompt, or of a part of it."""
        state, stop = self._kept(planned, every), ids.shape[1]
        if planned.width == self._prompt_length:
            # Only the part of the text that is not in the cache is fed. The ids may already be that part.
            whole = _columns(state) in (None, stop)
            rest = stop - state["past_key_values"].get_seq_length() if whole else None
            return self._inputs(ids, next_sequence_length=rest, is_first_iteration=True, **state)
        if state.get("attention_mask") is not None:
            state["attention_mask"] = state["attention_mask"][:, :stop]
        if state.get("position_ids") is not None:
            state["position_ids"] = state["position_ids"][..., stop - planned.width : stop]
        return self._inputs(ids[:, -planned.width :], **state)

    def _step(self, planned: Pass, ids: Tensor, every: bool) -> dict[str, Any]:
        """Returns the arguments for a forward of the last w tokens."""
        missing = planned.width - 1  # columns that transformers has not added to the mask and positions
        if missing:
            mask, positions = self._state.get("attention_mask"), self._state.get("position_ids")
            if mask is not None:
                self._state["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), missing)], dim=1)
            if positions is not None:
                self._state["position_ids"] = torch.cat([positions, planned.position[:, 1:]], dim=-1)
        return self._inputs(ids, next_sequence_length=planned.width, **self._kept(planned, every))

    def _kept(self, planned: Pass, every: bool) -> dict[str, Any]:
        """Returns the state, which asks for the logits of all w positions if `every`."""
        wider = {"logits_to_keep": planned.width} if every and "logits_to_keep" in self._state else {}
        return {**self._state, **wider}

    def _inputs(self, ids: Tensor, **state: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._model.prepare_inputs_for_generation(ids, **state)
        return found


def _columns(state: dict[str, Any]) -> int | None:
    """Returns the length of the text that transformers prepared positions for.

    Returns None if the forward takes no positions.
    """
    positions: Tensor | None = state.get("position_ids")
    return None if positions is None else positions.shape[-1]
