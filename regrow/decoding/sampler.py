"""Chooses the next token of every row and decides which rows have ended, as transformers' own loop does."""

from __future__ import annotations

from typing import Final, Protocol, final

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from regrow.decoding.batch import Batch
from regrow.errors import UsageError

# Logits processors that read no tokens, and treat every row for itself.
_OF_SCORES: Final = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


class Streamer(Protocol):
    """transformers' BaseStreamer."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


@final
class Sampler:
    """Chooses tokens with the config, logits processors and stopping criteria that transformers prepared.

    Length limits and EOS ids are those of the stopping criteria. A caller's MaxLengthCriteria or
    EosTokenCriteria thus replaces the one that transformers made.
    """

    def __init__(
        self,
        config: GenerationConfig,
        processors: LogitsProcessorList,
        stopping: StoppingCriteriaList,
        streamer: Streamer | None,
        device: torch.device,
    ) -> None:
        """Raises UsageError if ended rows have to be padded and there is no pad token."""
        self._config, self._processors, self._streamer = config, processors, streamer
        # Two criteria are not called: EOS is checked on the device, and the length limit by the host.
        limits = [one.max_length for one in stopping if type(one) is MaxLengthCriteria]
        self.limit: int = min(limits, default=config.max_length)
        eos = [one.eos_token_id.to(device).flatten() for one in stopping if type(one) is EosTokenCriteria]
        self._eos = torch.cat(eos) if eos else torch.empty(0, dtype=torch.int64, device=device)
        self._others = StoppingCriteriaList(
            one for one in stopping if type(one) not in (MaxLengthCriteria, EosTokenCriteria)
        )
        # Without EOS ids, a row that a criterion has stopped goes on as long as the others do.
        self._pads = any(hasattr(one, "eos_token_id") for one in stopping)
        pad = config._pad_token_tensor
        if pad is None and self._pads:
            raise UsageError(
                "rows that reach an EOS are padded, but there is no pad token; pass pad_token_id"
            )
        self.pad = torch.zeros((), dtype=torch.int64, device=device) if pad is None else pad.to(device)
        keeps = config.return_dict_in_generate
        self.scores: tuple[Tensor, ...] | None = () if keeps and config.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keeps and config.output_logits else None

    def choose(self, batch: Batch, logits: Tensor, length: int) -> None:
        """Writes the next token of every row to column `length` of the batch.

        The tokens are chosen by the logits [B, V] after the columns before it.
        """
        scores = self._processed(batch, logits, length) if self._processors else logits
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)
        token = self._drawn(scores)
        if self._pads:
            token = torch.where(batch.ended, self.pad, token)
        batch.ids[:, length] = token
        batch.lengths.add_(~batch.ended)
        batch.by_eos.logical_or_(self.is_eos(token) & ~batch.ended)
        batch.ended.logical_or_(batch.by_eos)
        if self._others:
            ids = _handed_out(batch, length + 1)
            batch.ended.logical_or_(self._others(ids, self.scores))
            batch.ids[:, : length + 1] = ids
        if self._streamer is not None:
            self._streamer.put(token.cpu())

    @property
    def reads_scores_alone(self) -> bool:
        """True if a token depends on nothing but the logits after the tokens before it.

        The tokens of several rows and positions can then be chosen at once, by `pick`.
        """
        returns = self.scores is not None or self.logits is not None
        return not (self.has_callbacks or returns) and all(
            type(one) in _OF_SCORES for one in self._processors
        )

    def pick(self, logits: Tensor) -> Tensor:
        """Returns a token [n] for each of the logits [n, V]."""
        no_ids = torch.empty(len(logits), 0, dtype=torch.int64, device=logits.device)
        scores: Tensor = self._processors(no_ids, logits)  # type: ignore[arg-type]
        return self._drawn(scores)

    def is_eos(self, tokens: Tensor) -> Tensor:
        """Returns which of `tokens` are an EOS."""
        return torch.isin(tokens, self._eos)

    @property
    def pads_ended_rows(self) -> bool:
        """True if a row that has ended gets pad tokens; otherwise it goes on as long as the others do."""
        return self._pads

    def _drawn(self, scores: Tensor) -> Tensor:
        if self._config.do_sample:
            return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        return scores.argmax(dim=-1)

    @property
    def has_callbacks(self) -> bool:
        """True if a streamer or a stopping criterion of the caller is called every step.

        Such a callback would also notice steps after the last row's end.
        """
        return self._streamer is not None or bool(self._others)

    def _processed(self, batch: Batch, logits: Tensor, length: int) -> Tensor:
        ids = _handed_out(batch, length)
        scores: Tensor = self._processors(ids, logits)  # type: ignore[arg-type]
        batch.ids[:, :length] = ids
        return scores

    def end(self) -> None:
        """Tells the streamer that no token follows."""
        if self._streamer is not None:
            self._streamer.end()


def _handed_out(batch: Batch, length: int) -> Tensor:
    """Returns a copy of the ids [B, length] for one of the caller's functions.

    As in transformers, the tensor is contiguous and belongs to this step alone, so the function may keep it
    or write to it. Such writes are then copied back to the batch.
    """
    return batch.ids[:, :length].clone(memory_format=torch.contiguous_format)
