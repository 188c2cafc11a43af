"""Hugging Face models: while a model is pruned, `model.generate` decodes through Regrow's loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
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
from regrow.decoding.lossless import Lossless, lossless_loop
from regrow.decoding.memory import out_of_memory
from regrow.decoding.network import Network
from regrow.decoding.sampler import Sampler, Streamer
from regrow.errors import UsageError
from regrow.hosts.arguments import (
    Choice,
    causal_model,
    chosen_lossless,
    chosen_method,
    embeddings,
    layer_numbers,
)
from regrow.hosts.attach import Attachment
from regrow.hosts.saved_settings import without_saved
from regrow.hosts.supported import supported, with_tokenizer
from regrow.hosts.turns import Turn, turn_of
from regrow.kernels import MatmulChoice
from regrow.session import Session


@final
class _Generate:
    """Replaces `model.generate` while a session is attached."""

    def __init__(self, model: PreTrainedModel, attachment: Attachment, layout: Layout) -> None:
        self.model, self.session = model, attachment.session
        self._attachment, self._layout, self._networks = attachment, layout, Networks(model, layout)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.model, "generate")  # copies of a pruned model are not pruned

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | GenerateDecoderOnlyOutput:
        with turn_of(self.model).take("model.generate"):
            # The context may have ended while the call waited, so `model.generate` is looked up again.
            now: Any = self.model.generate
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
        lossless: Lossless | bool = False,
        rounding: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Decodes one batch through Regrow's loop, for a caller that holds the lock of the model.

        The arguments are those of `model.generate`, with the callbacks `watch` and `mark` of `Loop`, and
        `lossless`: True for `Lossless()`. `rounding(layers done, layers)` is called while a 4-bit copy is
        made.
        """
        chosen = chosen_lossless(lossless)
        draft = (
            None if chosen is None else chosen.draft_for(self.session, self.model.device, self.model.dtype)
        )
        for name in ("assistant_model", "custom_generate"):
            if kwargs.get(name) is not None:
                raise UsageError(
                    f"{name} cannot be used while a model is pruned: Regrow brings its own decode loop; "
                    "leave it out"
                )

        def decode(
            _: PreTrainedModel,
            input_ids: Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            tokenizer: object = None,  # noqa: ARG001 (transformers has used it before this call)
            **inputs: Any,
        ) -> Tensor | GenerateDecoderOnlyOutput:
            supported(self.model, generation_config, input_ids, inputs, prunes=self.session.schedule.prunes)
            returned = generation_config.return_dict_in_generate or kwargs.get("past_key_values") is not None
            sampler = Sampler(
                generation_config, logits_processor, stopping_criteria, streamer, input_ids.device
            )
            room = max(sampler.limit - input_ids.shape[1], 1)
            with out_of_memory(f"{len(input_ids)} rows of {sampler.limit} tokens beside the model"):
                # Buffers outlive the batch. If they were made in the caller's inference mode, they could not
                # be written outside of it.
                with torch.inference_mode(mode=False), torch.no_grad():
                    network = self._begin(
                        input_ids,
                        input_ids.shape[1] + room,
                        inputs,
                        returned=returned,
                        group=None if draft is None else draft.group,
                        rounding=rounding,
                        several=draft is not None,
                    )
                mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
                vocabulary = embeddings(self.model)
                batch = Batch.of(input_ids, mask, positions, room, sampler.pad, vocabulary)
                settings = {
                    "chunk": generation_config.prefill_chunk_size,
                    "watch": watch,
                    "mark": mark,
                    "every_step": returned,
                    "late": LateHooks(partial(self._check, network)),
                    "natively": self.matmul.native(len(input_ids)),
                }
                loop: Loop
                if chosen is None or draft is None:
                    loop = Loop(self.session, network, batch, sampler, **settings)
                else:
                    measured = self._networks.measurement(len(input_ids), draft)
                    loop = lossless_loop(
                        chosen, draft, measured, self.session, network, batch, sampler, **settings
                    )
                try:
                    sequences = loop.run()
                finally:
                    self._networks.end_batch()
            if not generation_config.return_dict_in_generate:
                return sequences
            output: dict[str, Any] = {
                "sequences": sequences,
                "scores": sampler.scores,
                "logits": sampler.logits,
            }
            return GenerateDecoderOnlyOutput(**output, past_key_values=inputs["past_key_values"])

        kind: Any = type(self.model)
        generate: Callable[..., Tensor | GenerateDecoderOnlyOutput] = kind.generate
        placed = signature(generate).bind_partial(self.model, *args).arguments
        if twice := sorted(placed.keys() & kwargs.keys()):
            raise UsageError(f"{twice[0]} was passed twice, once by its place; leave one out")
        given = without_saved(self.model, placed | kwargs)
        return generate(**given, streamer=streamer, custom_generate=decode)

    def _begin(self, ids: Tensor, capacity: int, inputs: dict[str, Any], **how: Any) -> Network:
        """Starts a batch of prompts ids [B, P] in the session, and returns the network that runs it.

        If the weights changed, everything derived from them is made anew first. `how` is what
        `Networks.for_batch` takes.
        """
        if self._attachment.changed():
            # Captured steps hold the addresses of what was derived from the old weights.
            self.close()
            self._attachment.renew()
            self._networks = Networks(self.model, self._layout)
        self.session.start(len(ids))
        before = self._networks.moves
        network = self._networks.for_batch(ids, capacity, inputs, **how)
        if self._networks.moves != before:
            self._attachment.moved()
        self.session.counters.state_bytes = self._networks.nbytes
        return network

    @property
    def matmul(self) -> MatmulChoice:
        """The matmul that decode steps use on this CPU, as measured when the model was pruned."""
        return self._networks.matmul

    def close(self) -> None:
        """Gives the model its own weights back, if they were moved."""
        self._networks.close()

    def _check(self, network: Network) -> None:
        """Raises UsageError if hooks were registered during the batch that some steps would bypass."""
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
    """Prunes a causal language model while the context lasts.

    `model.generate` then decodes through Regrow's loop. Only `model.generate` and `regrow.generate` are
    pruned; other calls of the model compute densely, and so do copies of it. Several threads may call
    `model.generate`: the calls take turns. Leaving the context waits for a generation in another thread, and
    restores the model exactly, also after an exception.

    Args:
        model: A causal language model of transformers with gated FFNs.
        method: A method such as `regrow.BatchwiseAdaptive(0.5)`, its class, or its name (`"bap"`).
        skip_layers: Layers that stay dense, counted from 0.
        calibration: The calibration, for a method that needs one (`regrow.Calibration.load(path)`; the
            command `regrow calibrate` makes it).
        record_masks: Whether `session.masks` lists every mask of the latest batch, as pairs of a decode step
            and the indices [L, k] of the retained neurons.
        lay_out: Whether a CPU may run batches through a second copy of the weights, in the layout of oneDNN,
            if that is faster. `session.report().state_bytes` says how many bytes the copy takes.

    Yields:
        The session; `session.report()` describes the latest batch.

    Raises:
        UsageError: if the model, the method, the layers or the calibration does not fit.

    Example:
        ```python
        with regrow.prune(model, regrow.BatchwiseAdaptive(sparsity=0.5)) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        print(session.report())
        ```
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
    """Does what `prune` does, and waits for its turn with other calls, both to enter and to leave.

    `what` is the name of the call in error messages.
    """
    own, context = turn(model), ExitStack()
    with own.take(what):
        session = context.enter_context(prune_alone(model, method, skip_layers, **how))
    try:
        yield session
    finally:
        own.leave(context.close, f"leaving {what}")


@contextmanager
def prune_alone(
    model: PreTrainedModel,
    method: Choice,
    skip_layers: Collection[int] = (),
    *,
    layout: Layout = Layout.STORED,
    **how: Any,
) -> Iterator[Session]:
    """Does what `prune` does, for a caller that holds the lock of the model."""
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
    """Returns the session of the `prune` context that is open on this model, or None."""
    session: Session | None = getattr(vars(model).get("generate"), "session", None)
    return session


def turn(model: PreTrainedModel) -> Turn:
    """Returns the lock of this model. Raises UsageError if `model` is not a module that can generate."""
    causal_model(model)
    return turn_of(model)
