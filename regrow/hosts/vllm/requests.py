"""The requests of a continuously batched server: who is in the batch, in which slot, and how far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Scheduled:
    """The share of one request in a forward pass."""

    request: str
    tokens: int  # that the pass computes
    computed: int  # tokens before them, whose keys and values exist
    known: int  # tokens of prompt and answer so far

    @property
    def follows(self) -> bool:
        """True if the pass computes the latest token alone, as a decode step does."""
        return self.tokens == 1 and self.computed == self.known - 1

    @property
    def completes(self) -> bool:
        """True if no known token is left to compute after the pass."""
        return self.computed + self.tokens == self.known


@final
@dataclass(frozen=True)
class Arranged:
    """A forward pass by slots."""

    slots: list[int]  # slot of each token, request after request
    joined: list[int]  # slots that new requests have taken
    left: list[int]  # slots that were given up before that
    completed: list[int]  # slots whose prompt is complete with the pass
    prompt: bool  # some tokens are of a prompt
    decode: bool  # some tokens are decode steps


@final
class Requests:
    """Assigns slots to the requests of a batch.

    A request holds a slot from its first pass until it ends or is preempted. A preempted request that comes
    back computes its tokens again, as a prompt that includes the answer so far, and joins as a new one.
    """

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))[::-1]
        self._slots: dict[str, int] = {}
        self._decoding: set[str] = set()

    def __len__(self) -> int:
        """Number of requests in the batch."""
        return len(self._slots)

    def leave(self, requests: Iterable[str]) -> list[int]:
        """Removes requests, and returns the slots that they had. Unknown ones are ignored."""
        left = []
        for request in requests:
            if request in self._slots:
                left.append(self._slots.pop(request))
                self._decoding.discard(request)
        self._free = sorted([*self._free, *left], reverse=True)  # the lowest is taken first
        return left

    def arrange(self, scheduled: Sequence[Scheduled]) -> Arranged:
        """Returns the next pass. Requests that are seen for the first time join.

        Raises RuntimeError if there are more requests than slots.
        """
        # A request that computes earlier tokens again has lost its keys and values.
        again = [one.request for one in scheduled if one.request in self._decoding and not one.follows]
        left = self.leave(again)
        joined, slots, completed, prompt = [], [], [], False
        for one in scheduled:
            if one.request not in self._slots:
                if not self._free:
                    raise RuntimeError(f"there are more requests at a time than {len(self._slots)} slots")
                self._slots[one.request] = self._free.pop()
                joined.append(self._slots[one.request])
            slot = self._slots[one.request]
            slots += [slot] * one.tokens
            if one.request not in self._decoding:
                prompt = True
                if one.completes:
                    completed.append(slot)
        decode = any(one.request in self._decoding for one in scheduled)
        return Arranged(slots, joined, left, completed, prompt, decode)

    def complete(self, scheduled: Sequence[Scheduled]) -> None:
        """Notes that a pass has run: the requests whose prompt it completed decode from now on."""
        self._decoding |= {one.request for one in scheduled if one.completes}
