"""Lossless decoding: tokens are drafted cheaply and checked by one dense pass, so answers are the dense ones.

A check feeds the last token of every row and w drafted ones, and rewrites the keys and values of the drafts.
Its logits after the i-th draft are those of dense decoding, provided that the drafts up to there are what
dense decoding chose. So the drafts before the first one that differs are kept, and one token more. Source of
the idea: Leviathan et al. 2023 (arXiv 2211.17192). A draft is one guessed token here, and not a distribution.
It is kept if the token that is chosen by the dense logits is the same one. For sampling this has the same
chance as their rejection sampling, and tokens have exactly the dense distribution.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from regrow.core import Pass, Role
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.guesser import Draft, Guesser
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.ngram import NGram
from regrow.decoding.flags import Flags
from regrow.decoding.fused import WIDEST, FusedNetwork
from regrow.decoding.loop import Loop, Progress
from regrow.decoding.network import Network
from regrow.decoding.window import WINDOWS, AdaptiveWindow, Costs, FixedWindow, Measurement, Window
from regrow.errors import UsageError
from regrow.kernels import multiplies_codes, native
from regrow.session import Session


@final
class LosslessLoop(Loop):
    """Runs one batch like `Loop`, with the same tokens in fewer dense passes.

    Rows keep different numbers of drafts, and none waits for another. With stopping criteria, a streamer, or
    logits processors that read the tokens, all rows keep as many drafts as the row that keeps fewest. Every
    such function is then called with what it would get without drafts.
    """

    def __init__(self, *given: Any, guesser: Guesser, window: Window, **settings: Any) -> None:
        """Takes what `Loop` takes, what guesses tokens, and how many of them before each check."""
        super().__init__(*given, **settings)
        self._guesser, self._window = guesser, window
        self._apart = self._sampler.reads_scores_alone
        device = self._batch.ids.device
        self._offsets = torch.arange(WIDEST, device=device)
        # Drafts of live rows so far: how many were checked, how many were kept, and how many were the first
        # wrong ones of a check. Then the live rows of all passes.
        self._tally = torch.zeros(4, dtype=torch.int64, device=device)
        self._read = Flags(device)
        self._seen = [0, 0, 0, 0]  # the tally when the host last read it
        # The tokens that a row may still get, at most, as far as the host knows.
        self._most = self._batch.capacity - self._batch.prompt_length - 1

    def _decode(self) -> None:
        generated, over = 1, False
        while not over:
            if self._late is not None:
                self._late.look()
            asked = self._window.next()
            window = _fitting(asked, self._most)
            began = self._now()
            columns = self._columns(generated)
            drafts = self._batch.ids[:, :0]
            if window:
                drafts = self._guesser.guess(self._batch, columns, window)
            drafted = self._now()
            planned, logits = self._checked(columns, drafts)
            if self._apart:
                kept, over = self._keep_apart(drafts, logits), self._all_done()
            else:
                before = generated
                generated, over = self._keep_together(drafts, logits, generated)
                self._most = self._batch.capacity - self._batch.prompt_length - generated
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
            if self._window.measures and window == asked:
                self._window.took(window, drafted - began, self._now() - drafted)
        counters = self._session.counters
        counters.drafted, counters.drafts_kept, _, counters.sample_passes = self._tally.tolist()
        if self._window.costs is not None:
            counters.draft_costs = self._window.costs.to_dict()

    def _now(self) -> float:
        """Returns the time in seconds; while windows are measured, only once the device has caught up."""
        if self._window.measures and self._tally.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _columns(self, generated: int) -> Tensor:
        """Returns the columns [B] of the last tokens."""
        lengths = self._batch.lengths
        return (
            self._batch.prompt_length - 1 + (lengths if self._apart else torch.full_like(lengths, generated))
        )

    def _checked(self, columns: Tensor, drafts: Tensor) -> tuple[Pass, Tensor]:
        """Runs the check of the drafts [B, w]. Returns the pass and the dense logits [B, w + 1, V].

        Without drafts it is a dense step. A method that drafts then selects no mask, which would cost time
        while none is used, unless drafts follow.
        """
        batch, width = self._batch, drafts.shape[1] + 1
        role = Role.VERIFY if width > 1 or self._window.explores else Role.DENSE
        fed = batch.known(torch.cat([batch.ids.gather(1, columns[:, None]), drafts], dim=1))
        position = batch.within(batch.position_of(columns)[:, None] + self._offsets[:width])
        slot = torch.where(batch.room > 0, batch.rows, -1).repeat_interleave(width)
        planned = self._session.plan(slot, position, role=role)
        length, alone = batch.reach(columns, width), width == 1
        with native(self._natively and alone), self._session.running(planned) as key:
            logits = self._network.forward(planned, fed, length=length, key=key, every=True)
        return planned, logits.to(copy=True, dtype=torch.float32)

    def _keep_apart(self, drafts: Tensor, logits: Tensor) -> Tensor:
        """Appends to every row the drafts that agree and one token more, up to the row's end.

        Returns the number of new tokens [B].
        """
        batch, offsets = self._batch, self._offsets[: logits.shape[1]]
        chosen = self._sampler.pick(logits.flatten(0, 1)).view(len(batch), -1)
        agreed = (chosen[:, :-1] == drafts).cumprod(dim=1).sum(dim=1)
        self._count(agreed, drafts.shape[1])
        eos = self._sampler.is_eos(chosen)
        until_eos = torch.where(eos, offsets, len(offsets)).min(dim=1).values + 1
        count = torch.minimum(torch.minimum(agreed + 1, until_eos), batch.room)
        batch.append(chosen, count)
        batch.by_eos.logical_or_(count == until_eos)
        batch.ended.logical_or_(batch.by_eos)
        return count

    def _count(self, agreed: Tensor, window: int) -> None:
        """Counts drafts, of which `agreed` [B] are right before the first wrong one.

        Drafts for which a row has no room are left out.
        """
        room = self._batch.room
        checked = room.clamp(max=window)
        right = torch.minimum(agreed, checked)
        self._tally += torch.stack([checked.sum(), right.sum(), (right < checked).sum(), (room > 0).sum()])

    def _all_done(self) -> bool:
        """Returns True if no row needs another token, as far as the host knows."""
        batch = self._batch
        read = self._read.read(torch.cat([batch.room, self._tally]), now=False)
        if read is not None:
            self._most = max(read[: len(batch)])
            self._saw(read[len(batch) :])
        if self._watch is not None:
            step, start = int(batch.lengths.max()), batch.prompt_length
            self._watch(Progress(step, batch.ended.tolist(), batch.ids[:, start : start + step]))
        return self._most == 0

    def _saw(self, tally: list[int]) -> None:
        """Tells the window what became of the drafts since the last call."""
        _, kept, rejected, _ = (now - before for now, before in zip(tally, self._seen, strict=True))
        self._window.saw(kept, rejected)
        self._seen = tally

    def _keep_together(self, drafts: Tensor, logits: Tensor, generated: int) -> tuple[int, bool]:
        """Appends tokens to all rows, until one of them is not what was drafted.

        `generated` are the new tokens so far. Returns their new number, and True if they are the last.
        """
        batch, over, window, agreed = self._batch, False, drafts.shape[1], 0
        checked, live = batch.room.clamp(max=window), (batch.room > 0).sum()
        for number in range(window + 1):
            column = batch.prompt_length + generated
            self._sampler.choose(batch, logits[:, number], column)
            generated += 1
            over = self._look(generated)
            if number == window:
                break
            same = batch.ids[:, column] == drafts[:, number]
            if self._sampler.pads_ended_rows:
                same |= batch.ended
            right = bool(same.all())
            agreed += right
            if over or not right:
                break
        kept = checked.clamp(max=agreed)
        self._tally += torch.stack([checked.sum(), kept.sum(), (kept < checked).sum(), live])
        self._saw(self._tally.tolist())
        return generated, over


def _fitting(window: int, most: int) -> int:
    """Returns the window, or the largest usual one whose check gives at most `most` tokens.

    0 stands for a dense step, which gives one.
    """
    return window if window < most else max(usual for usual in (0, *WINDOWS) if usual < max(most, 1))


@final
@dataclass(frozen=True)
class Lossless:
    """Decodes with the tokens of the dense model, in fewer dense passes.

    In bfloat16 and float16, a pass over several tokens may round otherwise than one over a single token, so
    that tokens which are almost equally likely can differ.

    Args:
        draft: What guesses the next tokens: `FourBit()`, `NGram()`, `Masked()` or a `Cascade`. By default
            the method guesses if it prunes (`Masked`). Otherwise it is the 4-bit copy where there are kernels
            for it that were measured (a CPU with AVX-512 VNNI), and else `NGram()`.
        window: Tokens that are guessed for every row before each check, from 1 to 16. By default the window
            is chosen from 1, 2, 4, 8 and 16 while decoding, by measured costs and by how many guesses are
            kept. Steps are dense while no window is faster by 3 %.
        costs: Costs that an earlier run has measured (`report.draft_costs`), so that windows are chosen by
            the same costs. By default they are measured by the first passes of a batch size.

    Raises:
        UsageError: If a parameter has the wrong type, or the window is not from 1 to 16.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, prompts, lossless=regrow.Lossless(window=4))
        ```
    """

    draft: Draft | None = None
    window: int | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        if self.draft is not None and not callable(getattr(self.draft, "guesser", None)):
            raise UsageError(
                f"draft is a FourBit, an NGram, a Masked, a Cascade or None, not {type(self.draft).__name__}"
            )
        if self.window is not None and (type(self.window) is not int or not 1 <= self.window < WIDEST):
            raise UsageError(f"window is a whole number from 1 to {WIDEST - 1}, not {self.window}")
        if self.costs is not None and not isinstance(self.costs, Costs):
            raise UsageError(f"costs are a regrow.Costs or None, not {type(self.costs).__name__}")

    def draft_for(self, session: Session, device: torch.device, dtype: torch.dtype) -> Draft:
        """Returns the draft for a model of this device and dtype, whose method is that of `session`."""
        if self.draft is not None:
            return self.draft
        if session.schedule.prunes:
            return Masked()
        return FourBit() if multiplies_codes(device, dtype) else NGram()


def lossless_loop(
    lossless: Lossless,
    draft: Draft,
    measurement: Measurement,
    session: Session,
    network: Network,
    *given: Any,
    **settings: Any,
) -> LosslessLoop:
    """Returns the loop for one batch. Raises UsageError for a network whose rows share a length."""
    if not isinstance(network, FusedNetwork):
        raise UsageError(
            "lossless decoding needs a model that Regrow runs by its parts, and this one runs through "
            "its own forward; leave lossless out"
        )
    window: Window
    if lossless.window is not None:
        window = FixedWindow(lossless.window)
    else:
        window = AdaptiveWindow(measurement if lossless.costs is None else Measurement.of(lossless.costs))
    guesser = draft.guesser(session, network)
    return LosslessLoop(session, network, *given, guesser=guesser, window=window, **settings)
