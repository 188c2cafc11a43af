"""The generation arguments of lm-eval's requests, and the fixed batches that the requests run in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from transformers import GenerationConfig

from regrow.errors import UsageError

MAX_NEW_TOKENS: Final = 256  # of a request that sets no limit, as for lm-eval's own models
# Arguments that lm-eval's own names replace.
_REPLACED: Final = {"max_length": "max_gen_toks", "stop_strings": "until"}


@final
@dataclass(frozen=True)
class Generating:
    """How the requests of a batch are continued."""

    max_new_tokens: int
    until: tuple[str, ...]  # stop strings, the EOS among them
    arguments: Mapping[str, Any]  # further arguments of transformers' `generate`

    @classmethod
    def of(cls, given: Mapping[str, Any], eos: str | None) -> Generating:
        """Reads the arguments of a request. Raises UsageError for one that cannot be followed.

        `eos` is the text of the EOS token. Decoding is greedy, unless `do_sample` or a temperature is given.
        """
        _check(given)
        arguments: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), MAX_NEW_TOKENS))
        until = handle_stop_sequences([text for text in arguments.pop("until") if text], eos or None)
        limit = arguments.pop("max_gen_toks")
        if limit < 1:
            raise UsageError(f"max_gen_toks must be at least 1, not {limit}; see --gen_kwargs")
        if not arguments["do_sample"]:
            arguments.pop("temperature", None)
        elif arguments.get("temperature") == 0:
            raise UsageError("do_sample needs a temperature above 0; leave out do_sample to decode greedily")
        return cls(limit, tuple(until), arguments)


def _check(given: Mapping[str, Any]) -> None:
    """Raises UsageError for generation arguments that Regrow does not take, and for wrong stop strings."""
    plain: Any = GenerationConfig  # has no types
    known = {"until", "max_gen_toks", "max_tokens", "max_completion_tokens", *vars(plain())}
    for name in given:
        if name in _REPLACED:
            raise UsageError(f"{name} is not a generation argument of lm-eval; use {_REPLACED[name]}")
        if name not in known:
            raise UsageError(
                f"generation argument {name!r} is unknown to transformers; correct it in the task, "
                "or in --gen_kwargs"
            )
    until = given.get("until")
    strings = until if isinstance(until, list) else [until]
    if not all(isinstance(text, str) or text is None for text in strings):
        raise UsageError(f"until takes a text or a list of texts, not {until!r}; see --gen_kwargs")


def groups(requests: Sequence[Instance]) -> list[list[int]]:
    """Returns the places of the requests that may share a batch, in their order.

    Requests of different tasks do not share batches, so the result of a task does not depend on the other
    tasks of the run. Neither do requests with different generation arguments.
    """
    found: dict[tuple[str | None, str], list[int]] = {}
    for place, request in enumerate(requests):
        key = request.task_name, json.dumps(request.args[1], sort_keys=True, default=str)
        found.setdefault(key, []).append(place)
    return list(found.values())
