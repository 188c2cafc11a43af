"""Decodes one batch in one call: `generate`, and the part that `Engine.generate` shares with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final, overload

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from regrow.calibration.calibration import Calibration
from regrow.decoding.loop import Progress
from regrow.decoding.lossless import Lossless
from regrow.errors import UsageError
from regrow.hosts.arguments import Choice, Prompts, encoded, fits, without_method_parameters
from regrow.hosts.hugging_face import active_session, prune_alone, turn
from regrow.hosts.texts import Texts, without_texts
from regrow.method.dense import Dense
from regrow.report import Report
from regrow.session import Session


@final
@dataclass(frozen=True)
class Generation:
    """One decoded batch of B rows: P prompt positions each, then up to N new tokens."""

    sequences: Tensor
    """[B, P + N] int64, the prompt first, padded after a row's end."""
    tokens: list[list[int]]
    """The new tokens of each row, its EOS included."""
    report: Report
    """What the method did, such as actual sparsity and speed. `print(report)` shows it in a few lines."""
    texts: list[str] | None = None
    """The answers without special tokens; None if the prompts were token ids."""


@overload
def generate(
    model: PreTrainedModel,
    input_ids: Prompts,
    attention_mask: Tensor | None = None,
    *,
    method: Choice | None = None,
    calibration: Calibration | None = None,
    watch: Callable[[Progress], None] | None = None,
    lossless: Lossless | bool = False,
    rounding: Callable[[int, int], None] | None = None,
    **generation: Any,
) -> Generation: ...


@overload
def generate(
    model: PreTrainedModel,
    input_ids: PreTrainedTokenizerBase,
    attention_mask: str | Sequence[str],
    *,
    chat: bool | None = None,
    method: Choice | None = None,
    calibration: Calibration | None = None,
    watch: Callable[[Progress], None] | None = None,
    lossless: Lossless | bool = False,
    rounding: Callable[[int, int], None] | None = None,
    **generation: Any,
) -> Generation: ...


def generate(
    model: PreTrainedModel,
    input_ids: Prompts | PreTrainedTokenizerBase,
    attention_mask: Tensor | str | Sequence[str] | None = None,
    *,
    chat: bool | None = None,
    method: Choice | None = None,
    calibration: Calibration | None = None,
    watch: Callable[[Progress], None] | None = None,
    lossless: Lossless | bool = False,
    rounding: Callable[[int, int], None] | None = None,
    **generation: Any,
) -> Generation:
    """Decodes one batch of prompts, given as texts or as token ids, and returns answers and report together.

    There are two ways to call it: `generate(model, tokenizer, ["What is 2 + 2?", ...])` with texts, which
    are tokenised, padded and decoded for you, and `generate(model, input_ids, attention_mask)` with ids.

    Within `with regrow.prune(model, ...)` the batch runs with the method of that context. Several threads may
    call `generate` on one model: the calls take turns, and each report is of its own batch.

    Args:
        model: A causal language model of transformers with gated FFNs.
        input_ids: Token ids [B, P], padded on the left: a tensor, nested lists of one length, one prompt [P],
            or what a tokenizer returns (which holds the mask too). For prompts as text, the tokenizer.
        attention_mask: [B, P], 1 for tokens and 0 for padding. For prompts as text, the texts.
        chat: With texts: whether each one is a user message in the tokenizer's chat template. By default it
            is, if the tokenizer has a template.
        method: The pruning method for this call: a method such as `regrow.BatchwiseAdaptive(0.5)`, or a name
            such as `"griffin"`. By default dense, or the method of the context.
        calibration: The calibration, for a method that needs one (`regrow.Calibration.load(path)`).
        watch: A callback that gets the `regrow.Progress` after every decode step (every 8 steps on a GPU).
        lossless: `True` or a `regrow.Lossless`: the tokens of the dense model in fewer dense passes, each of
            which checks several guessed tokens. By default False.
        rounding: A callback that gets (layers done, layers) of this model while lossless decoding rounds its
            weights to 4 bits. Only the first batch that drafts with such a copy makes it.
        **generation: The generation arguments of transformers: `max_new_tokens`, `do_sample`, `temperature`,
            `top_p`, `stop_strings`, `eos_token_id`, ...

    Returns:
        A `Generation`: `texts` (for prompts as text), `tokens`, `sequences` and `report`.

    Raises:
        UsageError: if the model, the method, the prompts or an argument does not fit; the message says what
            to do.
        RegrowError: if memory runs out.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, ["What is 17 * 23?"], method="bap", max_new_tokens=256)
        print(done.texts[0])
        print(done.report)
        ```
    """
    with turn(model).take("regrow.generate"), ExitStack() as context:
        session = active_session(model)
        if session is None:
            chosen = Dense() if method is None else method
            session = context.enter_context(prune_alone(model, chosen, calibration=calibration))
        elif method is not None or calibration is not None:
            raise UsageError(
                "this model is already pruned; leave out `method` and `calibration`, or call regrow.generate "
                "outside of the `with`"
            )
        given = {**generation, "lossless": lossless, "rounding": rounding}
        return generate_alone(model, session, input_ids, attention_mask, chat, watch, given)


def generate_alone(
    model: PreTrainedModel,
    session: Session,
    first: Prompts | PreTrainedTokenizerBase,
    second: Tensor | str | Sequence[str] | None,
    chat: bool | None,
    watch: Callable[[Progress], None] | None,
    generation: dict[str, Any],
) -> Generation:
    """Does what `generate` does, for a caller that holds the lock of the pruned model.

    `first` and `second` are the first two arguments of `generate` after the model.
    """
    without_method_parameters(generation)
    tokenizer = first if isinstance(first, PreTrainedTokenizerBase) else None
    if tokenizer is None:
        without_texts(first, chat)
        ids, mask = encoded(first, second, model.device)
        if ids.device != model.device:
            raise UsageError(
                f"the prompts are on {ids.device} and the model on {model.device}; "
                "move the prompts with .to(model.device)"
            )
        fits(ids, mask, model)
    else:
        texts = Texts(model, tokenizer)
        ids, mask = texts.encode(second, chat)
        generation = {"tokenizer": tokenizer, **generation}
    if generation.pop("return_dict_in_generate", None) is not None:
        raise UsageError("regrow.generate always returns a Generation; leave out return_dict_in_generate")
    decode: Callable[..., Tensor] = vars(model)["generate"].run
    sequences = decode(ids, attention_mask=mask, watch=watch, return_dict_in_generate=False, **generation)
    report = session.report()
    rows = sequences[:, ids.shape[1] :].tolist()
    tokens = [row[:count] for row, count in zip(rows, report.tokens, strict=True)]
    return Generation(sequences, tokens, report, None if tokenizer is None else texts.decode(tokens))
