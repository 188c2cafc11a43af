"""Hugging Face models: `prune` intercepts `model.generate`, `generate` is the direct way in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from regrow.adapter.lay_out import Layout
from regrow.adapter.patch import Patch
from regrow.calibration.calibration import Calibration
from regrow.decoding.batch import Batch
from regrow.decoding.choose_network import Networks
from regrow.decoding.late_hooks import LateHooks
from regrow.decoding.loop import Loop, Progress
from regrow.decoding.memory import out_of_memory
from regrow.decoding.network import Network
from regrow.decoding.sampler import Sampler, Streamer
from regrow.errors import UsageError
from regrow.hosts.arguments import (
    Choice,
    Prompts,
    causal_model,
    chosen_method,
    embeddings,
    encoded,
    fits,
    layer_numbers,
)
from regrow.hosts.attach import Attachment
from regrow.hosts.saved_settings import without_saved
from regrow.hosts.supported import supported, with_tokenizer
from regrow.hosts.turns import Turn, turn_of
from regrow.kernels import MatmulChoice
from regrow.method.dense import Dense
from regrow.report import Report
from regrow.session import Session


@final
@dataclass(frozen=True)
class Generation:
    sequences: Tensor  # [B, P + N], prompt first, padded after a row's end
    tokens: list[list[int]]  # the new tokens of each row, its EOS included
    report: Report


@final
class _Generate:
    """Stands in for `model.generate` while a session is attached."""

    def __init__(self, model: PreTrainedModel, attachment: Attachment, layout: Layout) -> None:
        self.model, self.session = model, attachment.session
        self._attachment, self._layout, self._networks = attachment, layout, Networks(model, layout)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.model, "generate")  # copies of a pruned model are not pruned

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | GenerateDecoderOnlyOutput:
        with turn_of(self.model).take("model.generate"):
            now: Any = self.model.generate  # its context may have ended while the call waited
            made: Tensor | GenerateDecoderOnlyOutput = (now.run if isinstance(now, _Generate) else now)(
                *args, **kwargs
            )
            return made

    def run(
        self,
        *args: Any,
        streamer: Streamer | None = None,
        watch: Callable[[Progress], None] | None = None,
        mark: Callable[[str], None] | None = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        for name in ("assistant_model", "custom_generate"):
            if kwargs.get(name) is not None:
                raise UsageError(
                    f"{name} cannot be used while a model is pruned: Regrow brings its own decode loop; leave it out"
                )

        def decode(
            _: PreTrainedModel,
            input_ids: Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            tokenizer: object = None,  # noqa: ARG001 (transformers has made stop strings and healed prompts of it)
            **inputs: Any,
        ) -> Tensor | GenerateDecoderOnlyOutput:
            supported(self.model, generation_config, input_ids, inputs, prunes=self.session.schedule.prunes)
            returned = generation_config.return_dict_in_generate or kwargs.get("past_key_values") is not None
            sampler = Sampler(
                generation_config, logits_processor, stopping_criteria, streamer, input_ids.device
            )
            room = max(sampler.limit - input_ids.shape[1], 1)
            with out_of_memory(f"{len(input_ids)} rows of {sampler.limit} tokens beside the model"):
                # Buffers outlive the batch: made in the caller's inference mode, they could not be written outside of it.
                with torch.inference_mode(mode=False), torch.no_grad():
                    network = self._begin(input_ids, input_ids.shape[1] + room, inputs, returned=returned)
                vocabulary = embeddings(self.model)
                batch = Batch.of(
                    input_ids,
                    inputs.get("attention_mask"),
                    inputs.get("position_ids"),
                    room,
                    sampler.pad,
                    vocabulary,
                )
                chunk = generation_config.prefill_chunk_size
                late = LateHooks(partial(self._check, network))
                natively = self.matmul.native(len(input_ids))
                loop = Loop(
                    self.session,
                    network,
                    batch,
                    sampler,
                    chunk=chunk,
                    watch=watch,
                    mark=mark,
                    every_step=returned,
                    late=late,
                    natively=natively,
                )
                try:
                    sequences = loop.run()
                finally:
                    self._networks.rest()
            if not generation_config.return_dict_in_generate:
                return sequences
            output: dict[str, Any] = {
                "sequences": sequences,
                "scores": sampler.scores,
                "logits": sampler.logits,
            }
            return GenerateDecoderOnlyOutput(**output, past_key_values=inputs["past_key_values"])

        generate: Callable[..., Tensor | GenerateDecoderOnlyOutput] = type(self.model).generate  # type: ignore[attr-defined]
        placed = signature(generate).bind_partial(self.model, *args).arguments
        if twice := sorted(placed.keys() & kwargs.keys()):
            raise UsageError(f"{twice[0]} was passed twice, once by its place; leave one out")
        given = without_saved(self.model, placed | kwargs)
        return generate(**given, streamer=streamer, custom_generate=decode)

    def _begin(self, ids: Tensor, capacity: int, inputs: dict[str, Any], *, returned: bool) -> Network:
        """What a batch of prompts ids [B, P] runs through, after everything derived has followed the model's weights."""
        if (
            self._attachment.changed()
        ):  # captured steps know the addresses of what was derived from the weights
            self.close()
            self._attachment.renew()
            self._networks = Networks(self.model, self._layout)
        self.session.start(len(ids))
        before = self._networks.moves
        network = self._networks.for_batch(ids, capacity, inputs, returned=returned)
        if self._networks.moves != before:
            self._attachment.moved()
        self.session.counters.state_bytes = self._networks.nbytes
        return network

    @property
    def matmul(self) -> MatmulChoice:
        return self._networks.matmul

    def close(self) -> None:
        """The model has its weights again, where they were given up."""
        self._networks.close()

    def _check(self, network: Network) -> None:
        self._attachment.check()
        self._networks.check(network)


@contextmanager
def prune(
    model: PreTrainedModel,
    method: Choice,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
    *,
    record_masks: bool = False,
    lay_out: bool = False,
) -> Iterator[Session]:
    """Prunes a causal language model while the context lasts: `model.generate` decodes through Regrow's loop.

    `method` may also be a name, or a class that needs no arguments. `skip_layers` stay dense. `calibration`
    is what `regrow calibrate` made of this model for this method, where it needs one. With `record_masks`,
    `session.masks` lists (decode step, retained indices [L, k]) of the latest batch. With `lay_out`, a CPU runs
    batches of several rows through a second copy of the linears' weights in oneDNN's layout, where that is
    faster; `session.report().state_bytes` holds its size.

    Calls of the model outside `generate` compute densely, and so do copies of it. Several threads may call
    `model.generate`: they take turns. Leaving waits for a generation that another thread still runs. The
    model is restored exactly, however the context ends. Raises UsageError for a model or a method that does
    not fit.
    """
    layout = Layout.COPIED if lay_out else Layout.STORED
    with taken(
        model,
        method,
        skip_layers,
        "regrow.prune",
        calibration=calibration,
        record_masks=record_masks,
        layout=layout,
    ) as session:
        yield session


@contextmanager
def taken(
    model: PreTrainedModel, method: Choice, skip_layers: Collection[int], what: str, **how: Any
) -> Iterator[Session]:
    """As `prune`, for the caller named `what`: entering and leaving take turns with calls of the model."""
    turn, context = _turn(model), ExitStack()
    with turn.take(what):
        session = context.enter_context(_pruned(model, method, skip_layers, **how))
    try:
        yield session
    finally:
        turn.leave(context.close, f"leaving {what}")


@contextmanager
def _pruned(
    model: PreTrainedModel,
    method: Choice,
    skip_layers: Collection[int] = (),
    *,
    layout: Layout = Layout.STORED,
    **how: Any,
) -> Iterator[Session]:
    """As `prune`, for a caller that has the model to itself."""
    if active_session(model) is not None:
        raise UsageError(
            "this model is already pruned; leave the first `with regrow.prune(...)` before entering another"
        )
    chosen, skipped = chosen_method(method), layer_numbers(skip_layers)
    with Attachment(model, chosen, skipped, **how) as attachment, Patch() as patch:
        generate = _Generate(model, attachment, layout)
        patch.replace(model, "generate", generate)
        extract: Any = model._extract_generation_mode_kwargs
        patch.replace(model, "_extract_generation_mode_kwargs", partial(with_tokenizer, extract))
        try:
            yield attachment.session
        finally:
            generate.close()


def active_session(model: PreTrainedModel) -> Session | None:
    """The session of the `prune` context around us, if there is one."""
    session: Session | None = getattr(vars(model).get("generate"), "session", None)
    return session


def generate(
    model: PreTrainedModel,
    input_ids: Prompts,
    attention_mask: Tensor | None = None,
    *,
    method: Choice | None = None,
    calibration: Calibration | None = None,
    watch: Callable[[Progress], None] | None = None,
    **generation: Any,
) -> Generation:
    """Decodes one left-padded batch, in the `prune` context around us or, for this call, with `method` (default: dense).

    `input_ids` [B, P] may also be lists of one length, one prompt [P], or what a tokenizer gives, with its
    mask. `calibration` is what the method needs, if anything. `watch` is told the progress after every step
    (on a GPU every 8); `generation` are transformers' own arguments (max_new_tokens, do_sample, temperature,
    top_p, eos_token_id, ...).

    Calls from several threads take turns, each as a whole: a call's report is of its own batch, and a method
    that is given here is never seen by another call.
    """
    with _turn(model).take("regrow.generate"), ExitStack() as context:
        session = active_session(model)
        if session is None:
            session = context.enter_context(
                _pruned(model, Dense() if method is None else method, calibration=calibration)
            )
        elif method is not None or calibration is not None:
            raise UsageError(
                "this model is already pruned; leave out `method` and `calibration`, or call regrow.generate outside of the `with`"
            )
        return generate_alone(model, session, input_ids, attention_mask, watch, generation)


def generate_alone(
    model: PreTrainedModel,
    session: Session,
    input_ids: Prompts,
    attention_mask: Tensor | None,
    watch: Callable[[Progress], None] | None,
    generation: dict[str, Any],
) -> Generation:
    """As `generate`, for a caller that has the pruned model to itself."""
    ids, mask = encoded(input_ids, attention_mask, model.device)
    if ids.device != model.device:
        raise UsageError(
            f"the prompts are on {ids.device} and the model on {model.device}; move the prompts with .to(model.device)"
        )
    fits(ids, mask, model)
    if generation.pop("return_dict_in_generate", None) is not None:
        raise UsageError("regrow.generate always returns a Generation; leave out return_dict_in_generate")
    decode: Callable[..., Tensor] = vars(model)["generate"].run
    sequences = decode(ids, attention_mask=mask, watch=watch, return_dict_in_generate=False, **generation)
    report = session.report()
    rows = sequences[:, ids.shape[1] :].tolist()
    return Generation(
        sequences, [row[:count] for row, count in zip(rows, report.tokens, strict=True)], report
    )


def _turn(model: PreTrainedModel) -> Turn:
    causal_model(model)
    return turn_of(model)
