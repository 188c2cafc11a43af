"""The decode loop. Fixed batch, one token a row and step; every method, dense included, runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from regrow.decoding.cpu_matmul import products_for
from regrow.decoding.flags import Flags
from regrow.decoding.network import Network
from regrow.session import Session


class Streamer(Protocol):
    """transformers' BaseStreamer."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


@final
@dataclass(frozen=True)
class Progress:
    """Where a batch stands, told after every look at the device."""

    step: int  # new tokens so far of a row that goes on
    finished: list[bool]  # [B] generated its EOS, or was stopped
    tokens: Tensor  # [B, step], padded after a row's end


@final
class Decoder:
    """One batch through the model: prompt, then decode steps until every row has ended or no more tokens are allowed."""

    def __init__(
        self,
        session: Session,
        network: Network,
        input_ids: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        config: GenerationConfig,
        processors: LogitsProcessorList,
        stopping: StoppingCriteriaList,
        streamer: Streamer | None = None,
        watch: Callable[[Progress], None] | None = None,
        mark: Callable[[str], None] | None = None,
    ) -> None:
        """input_ids [B, P] with the padding on the left, `mask` [B, P] zero there (None: nothing is padded), `positions` [B, P] in a row's
        own text. `mark` is told what has just ended: "prompt", "dense", "observe", "sparse" (decode steps), "refresh" (a new mask)."""
        self.session, self.network, self.config, self.streamer = session, network, config, streamer
        self.watch, self.mark = watch, mark or _unheard
        self.processors = processors
        ours = (MaxLengthCriteria, EosTokenCriteria)  # the loop itself stops there
        self.stopping = StoppingCriteriaList(c for c in stopping if not isinstance(c, ours))
        batch, self.prompt_length = input_ids.shape
        device = input_ids.device
        room = config.max_length - self.prompt_length
        self.prompt_mask = torch.ones_like(input_ids) if mask is None else mask
        self.prompt_positions = torch.where(self.prompt_mask.bool(), positions, -1)
        eos = config._eos_token_tensor
        self.eos = torch.empty(0, dtype=torch.int64, device=device) if eos is None else eos.to(device)
        pad = config._pad_token_tensor
        self.pad = torch.zeros((), dtype=torch.int64, device=device) if pad is None else pad.to(device)
        # Every buffer of the loop, at its full size from the start.
        self.ids = torch.cat([input_ids, self.pad.expand(batch, room)], dim=1)
        self.rows = torch.arange(batch, device=device)
        self.slot = self.rows.clone()
        self.nowhere = torch.full_like(self.rows, -1)
        self.position = self.prompt_positions[:, -1:].clone()
        self.ended = torch.zeros(batch, dtype=torch.bool, device=device)  # generated its EOS, or was stopped
        self.by_eos = torch.zeros_like(self.ended)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.flags = Flags(device)
        self.scores: tuple[Tensor, ...] = ()
        self.logits: tuple[Tensor, ...] = ()

    def run(self) -> Tensor:
        """The sequences [B, P + N], padded after each row's end; counters and finish reasons are left in the session."""
        counters, batch = self.session.counters, len(self.rows)
        began = time.perf_counter()
        self.session.join(range(batch))
        length = self.prompt_length
        over = self._choose(self._prompt(), length)
        self.mark("prompt")
        self._close(over, completed=True)
        counters.prefill_seconds = time.perf_counter() - began
        while not over:
            length += 1
            over = self._choose(self._step(length), length)
            self.mark(self.mode.name.lower())
            self._close(over)
        counters.decode_seconds = time.perf_counter() - began - counters.prefill_seconds
        counters.tokens = self.lengths.tolist()
        flags = zip(self.ended.tolist(), self.by_eos.tolist(), strict=True)
        counters.finish_reasons = ["eos" if eos else "stop" if ended else "length" for ended, eos in flags]
        if self.streamer is not None:
            self.streamer.end()
        return self.ids[:, : self.prompt_length + max(counters.tokens)]

    def _prompt(self) -> Tensor:
        """The whole prompt, in chunks if the configuration says so; logits [B, V] of its last position."""
        slot = torch.where(self.prompt_mask.bool(), self.rows[:, None], -1)
        chunk = self.config.prefill_chunk_size or self.network.chunk or self.prompt_length
        for start in range(0, self.prompt_length, chunk):
            stop = min(start + chunk, self.prompt_length)
            if start:
                self.session.end()
            self.session.begin(slot[:, start:stop].flatten(), prompt=True, decode=False)
            logits = self._forward(self.ids[:, start:stop], self.prompt_positions[:, start:stop], stop)
        return logits

    def _step(self, length: int) -> Tensor:
        """One decode step: feeds the token at `length` - 1 of every row; logits [B, V]."""
        torch.where(self.ended, self.nowhere, self.rows, out=self.slot)
        self.position += 1
        self.mode = self.session.begin(self.slot, prompt=False, decode=True)
        with products_for(len(self.rows), self.ids.device, self.network.dtype):
            return self._forward(self.ids[:, length - 1 : length], self.position, length, decode=True, key=self.session.key)

    def _forward(self, ids: Tensor, positions: Tensor, length: int, *, decode: bool = False, key: Hashable | None = None) -> Tensor:
        try:
            logits = self.network.forward(ids, positions, length, decode=decode, key=key)
        finally:
            self.session.ran()
        return logits.to(copy=True, dtype=torch.float32)

    def _choose(self, logits: Tensor, length: int) -> bool:
        """Puts the next token of every row at `length`; whether that was the last."""
        seen = self.ids[:, :length]
        scores: Tensor = self.processors(seen, logits)  # type: ignore[arg-type]
        if self.config.return_dict_in_generate and self.config.output_scores:
            self.scores += (scores,)
        if self.config.return_dict_in_generate and self.config.output_logits:
            self.logits += (logits,)
        if self.config.do_sample:
            token = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            token = scores.argmax(dim=-1)
        torch.where(self.ended, self.pad, token, out=self.ids[:, length])
        self.lengths += ~self.ended
        self.by_eos |= torch.isin(token, self.eos) & ~self.ended
        self.ended |= self.by_eos
        if self.stopping:
            self.ended |= self.stopping(self.ids[:, : length + 1], self.scores or None)
        if self.streamer is not None:
            self.streamer.put(self.ids[:, length].cpu())
        return self._look(length + 1 - self.prompt_length)

    def _look(self, generated: int) -> bool:
        """Whether decoding is over, as far as the host can tell without stopping the device."""
        full = self.prompt_length + generated == self.ids.shape[1]
        if not full and not self.flags.due(generated):
            return False
        finished = self.flags.read(self.ended, now=full)
        if finished is None:
            return False
        if self.watch is not None:
            self.watch(Progress(generated, finished, self.ids[:, self.prompt_length : self.prompt_length + generated]))
        return full or all(finished)

    def _close(self, over: bool, completed: bool = False) -> None:
        """Ends the pass, unless it was the last one: nothing would follow from it."""
        if over:
            return
        updates = self.session.counters.updates
        self.session.end(completed=range(len(self.rows)) if completed else (), finished=self.ended)
        if self.session.counters.updates > updates:
            self.mark("refresh")


def _unheard(_: str) -> None:
    """What a loop tells when nobody listens."""
