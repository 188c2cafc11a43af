"""Lossless decoding: tokens are drafted cheaply and checked by one dense pass, so answers are the dense ones.

A check feeds the last token of every row and w drafted ones, and rewrites the keys and values of the drafts.
Its logits after the i-th draft are those of dense decoding, provided that the drafts up to there are what
dense decoding chose. So the drafts before the first one that differs are kept, and one token more. Source of
the idea: Leviathan et al. 2023 (arXiv 2211.17192). A draft is one guessed token here, and not a distribution.
It is kept if the token that is chosen by the dense logits is the same one. For sampling this has the same
chance as their rejection sampling, and tokens have exactly the dense distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from regrow.core import Pass, Role
from regrow.decoding.drafts.guesser import Guesser
from regrow.decoding.drafts.masked import MaskedGuesser
from regrow.decoding.drafts.ngram import NGram
from regrow.decoding.fused import WIDEST, FusedNetwork
from regrow.decoding.loop import Loop, Progress
from regrow.decoding.network import Network
from regrow.errors import UsageError
from regrow.session import Session


@final
class LosslessLoop(Loop):
    """Runs one batch like `Loop`, with the same tokens in fewer dense passes.

    Rows keep different numbers of drafts, and none waits for another. With stopping criteria, a streamer, or
    logits processors that read the tokens, all rows keep as many drafts as the row that keeps fewest. Every
    such function is then called with what it would get without drafts.
    """

    def __init__(self, *given: Any, guesser: Guesser, window: int, **settings: Any) -> None:
        """Takes what `Loop` takes, and what guesses `window` tokens a row before each check."""
        super().__init__(*given, **settings)
        self._guesser, self._window = guesser, window
        self._apart = self._sampler.reads_scores_alone
        self._offsets = torch.arange(window + 1, device=self._batch.ids.device)

    def _decode(self) -> None:
        generated, over = 1, False
        while not over:
            if self._late is not None:
                self._late.look()
            planned, drafts, logits = self._checked(generated)
            if self._apart:
                kept, over = self._keep_apart(drafts, logits), self._all_done()
            else:
                before = generated
                generated, over = self._keep_together(drafts, logits, generated)
                kept = torch.full_like(self._batch.lengths, generated - before)
            selected = self._session.commit(
                planned,
                kept=kept,
                steps=1,
                finished=self._batch.ended,
                last=over,
                counted=partial(self._phase_ended, "check"),
            )
            if selected:
                self._phase_ended("refresh")

    def _checked(self, generated: int) -> tuple[Pass, Tensor, Tensor]:
        """Drafts and checks. Returns the pass, the drafts [B, w] and the dense logits [B, w + 1, V]."""
        batch = self._batch
        columns = (
            batch.prompt_length
            - 1
            + (batch.lengths if self._apart else torch.full_like(batch.lengths, generated))
        )
        drafts = self._guesser.guess(batch, columns, self._window)
        fed = batch.known(torch.cat([batch.ids.gather(1, columns[:, None]), drafts], dim=1))
        position = batch.within(batch.position_of(columns)[:, None] + self._offsets)
        slot = torch.where(batch.room > 0, batch.rows, -1).repeat_interleave(len(self._offsets))
        planned = self._session.plan(slot, position, role=Role.VERIFY)
        with self._session.running(planned) as key:
            logits = self._network.forward(planned, fed, length=batch.capacity, key=key, every=True)
        return planned, drafts, logits.to(copy=True, dtype=torch.float32)

    def _keep_apart(self, drafts: Tensor, logits: Tensor) -> Tensor:
        """Appends to every row the drafts that agree and one token more, up to the row's end.

        Returns the number of new tokens [B].
        """
        batch = self._batch
        chosen = self._sampler.pick(logits.flatten(0, 1)).view(len(batch), -1)
        agreed = (chosen[:, :-1] == drafts).cumprod(dim=1).sum(dim=1)
        eos = self._sampler.is_eos(chosen)
        until_eos = torch.where(eos, self._offsets, len(self._offsets)).min(dim=1).values + 1
        count = torch.minimum(torch.minimum(agreed + 1, until_eos), batch.room)
        batch.append(chosen, count)
        batch.by_eos.logical_or_(count == until_eos)
        batch.ended.logical_or_(batch.by_eos)
        return count

    def _all_done(self) -> bool:
        """Returns True if no row needs another token, as far as the host knows."""
        batch = self._batch
        done = self._flags.read(batch.room == 0, now=False)
        if self._watch is not None:
            step, start = int(batch.lengths.max()), batch.prompt_length
            self._watch(Progress(step, batch.ended.tolist(), batch.ids[:, start : start + step]))
        return done is not None and all(done)

    def _keep_together(self, drafts: Tensor, logits: Tensor, generated: int) -> tuple[int, bool]:
        """Appends tokens to all rows, until one of them is not what was drafted.

        `generated` are the new tokens so far. Returns their new number, and True if they are the last.
        """
        batch, over = self._batch, False
        for number in range(len(self._offsets)):
            column = batch.prompt_length + generated
            self._sampler.choose(batch, logits[:, number], column)
            generated += 1
            over = self._look(generated)
            if over or number == self._window:
                break
            same = batch.ids[:, column] == drafts[:, number]
            if self._sampler.pads_ended_rows:
                same |= batch.ended
            if not bool(same.all()):
                break
        return generated, over


@final
@dataclass(frozen=True)
class Lossless:
    """Decodes with the tokens of the dense model, in fewer dense passes.

    In bfloat16 and float16, a pass over several tokens may round otherwise than one over a single token, so
    that tokens which are almost equally likely can differ.

    Args:
        draft: What guesses the next tokens. `NGram` looks them up in the row's own text. None: the method
            guesses them in sparse steps, with a mask that every check selects anew; for a method that never
            prunes (the dense model), `NGram()`.
        window: Tokens that are guessed for every row before each check, from 1 to 16.

    Raises:
        UsageError: If a parameter has the wrong type, or the window is not from 1 to 16.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, prompts, lossless=regrow.Lossless(window=4))
        ```
    """

    draft: NGram | None = None
    window: int = 8

    def __post_init__(self) -> None:
        if self.draft is not None and not isinstance(self.draft, NGram):
            raise UsageError(f"draft is an NGram or None, not {type(self.draft).__name__}")
        if type(self.window) is not int or not 1 <= self.window < WIDEST:
            raise UsageError(f"window is a whole number from 1 to {WIDEST - 1}, not {self.window}")

    def loop(self, session: Session, network: Network, *given: Any, **settings: Any) -> LosslessLoop:
        """Returns the loop for one batch. Raises UsageError for a network whose rows share a length."""
        if not isinstance(network, FusedNetwork):
            raise UsageError(
                "lossless decoding needs a model that Regrow runs by its parts, and this one runs through "
                "its own forward; leave lossless out"
            )
        own = MaskedGuesser(session, network) if session.schedule.prunes else NGram()
        guesser: Guesser = self.draft or own
        return LosslessLoop(session, network, *given, guesser=guesser, window=self.window, **settings)
