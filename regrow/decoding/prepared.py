"""The model's own forward on inputs that its own code prepares, for models that replace that part of `generate`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.decoding.network import Network


@final
class PreparedNetwork(Network):
    """Calls `prepare_inputs_for_generation` and `_update_model_kwargs_for_generation` where transformers' loop does."""

    def __init__(self, model: PreTrainedModel, mask: Tensor | None, positions: Tensor, inputs: dict[str, Any], *, numbered: bool) -> None:
        """`mask` and `positions` [B, P] of the prompt, `inputs` what else transformers prepared. The model is given positions
        if `numbered`; otherwise it counts columns."""
        self._model: Any = model
        prompt = inputs | {"attention_mask": mask, "position_ids": positions if numbered else None}
        self._inputs = {name: value for name, value in prompt.items() if value is not None}
        self._ids, self._prompt = positions.new_empty((len(positions), 0)), positions.shape[1]
        self.dtype = model.dtype

    def forward(
        self,
        ids: Tensor,
        position: Tensor,  # noqa: ARG002 (the model's own code counts)
        length: int,
        *,
        decode: bool = False,
        key: Hashable | None = None,  # noqa: ARG002
    ) -> Tensor:
        self._ids = torch.cat([self._ids, ids], dim=1)
        if decode:
            prepared = self._prepare(self._ids.clone(), self._inputs, next_sequence_length=ids.shape[1])
        elif ids.shape[1] == self._prompt:
            prepared = self._prepare(ids.clone(), self._inputs, next_sequence_length=length, is_first_iteration=True)
        else:
            prepared = self._prepare(ids.clone(), self._part(length - ids.shape[1], length))
        output = self._model(**prepared, return_dict=True)
        if decode or length == self._prompt:
            self._inputs = self._model._update_model_kwargs_for_generation(output, self._inputs, is_encoder_decoder=False)
        logits: Tensor = output.logits[:, -1]
        return logits

    def _prepare(self, ids: Tensor, inputs: dict[str, Any], **how: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = self._model.prepare_inputs_for_generation(ids, **how, **inputs)
        return prepared

    def _part(self, start: int, stop: int) -> dict[str, Any]:
        """The inputs of a part of the prompt, as transformers cuts them."""
        columns = {"attention_mask": slice(stop), "position_ids": slice(start, stop)}
        cut = {name: self._inputs[name][:, place] for name, place in columns.items() if name in self._inputs}
        return self._inputs | cut
