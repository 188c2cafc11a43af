"""The engine: one model and one method for many batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, final, overload

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from regrow.adapter.lay_out import Layout
from regrow.calibration.calibration import Calibration
from regrow.core import Surface
from regrow.decoding.loop import Progress
from regrow.decoding.lossless import Lossless
from regrow.errors import UsageError
from regrow.hosts.arguments import Choice, Prompts, chosen_lossless, chosen_method
from regrow.hosts.generate import Generation, generate_alone
from regrow.hosts.hugging_face import active_session, taken
from regrow.hosts.turns import turn_of
from regrow.kernels import MatmulChoice
from regrow.method.dense import Dense
from regrow.session import Session


@final
class Engine:
    """A model and a method, kept ready for one batch after another.

    KV caches, compact weight copies and captured decode steps stay from batch to batch, so an engine is
    faster than calling `regrow.generate` several times. While it is open, the model is pruned, as in
    `with regrow.prune(...)`; `close`, or the end of a `with`, restores the model exactly.

    Example:
        ```python
        with regrow.Engine(model, "bap") as engine:
            for prompts in batches:
                print(engine.generate(tokenizer, prompts, max_new_tokens=256).texts)
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: Choice | None = None,
        skip_layers: Collection[int] = (),
        calibration: Calibration | None = None,
        *,
        record_masks: bool = False,
        lay_out: bool = False,
        owns_model: bool = False,
        lossless: Lossless | bool = False,
    ) -> None:
        """Prunes the model until `close`.

        Args:
            model: A causal language model of transformers with gated FFNs.
            method: A method such as `regrow.BatchwiseAdaptive(0.5)`, its class, or its name. Default: dense.
            skip_layers: Layers that stay dense, counted from 0.
            calibration: The calibration, for a method that needs one.
            record_masks: Whether `session.masks` lists every mask of the latest batch.
            lay_out: Whether a CPU may copy the weights to a layout that is faster to read.
            owns_model: Whether nobody else uses the model until `close`. On a CPU the engine then replaces
                the weights by copies in the faster layout, unless the method has a calibration or changes
                weights. Until `close`, reading the weights gives NaN, and the model can be neither saved nor
                copied.
            lossless: `True` or a `regrow.Lossless`: what `generate` uses unless its own argument says
                otherwise. By default False.

        Raises:
            UsageError: if the model, the method, the layers, the calibration or `lossless` does not fit.
        """
        self._model, self._lossless = model, chosen_lossless(lossless)
        layout = Layout.COPIED if lay_out else Layout.STORED
        chosen = chosen_method(Dense() if method is None else method)
        # A method that changes or calibrates weights reads them, so they stay in place.
        if owns_model and calibration is None and chosen.surface is not Surface.WEIGHTS:
            layout = Layout.MOVED
        how = {"calibration": calibration, "record_masks": record_masks, "layout": layout}
        with ExitStack() as stack:
            self.session: Session = stack.enter_context(
                taken(model, chosen, skip_layers, "regrow.Engine", **how)
            )
            self._matmul: MatmulChoice = vars(model)["generate"].matmul
            self._open = stack.pop_all()

    @property
    def matmul(self) -> MatmulChoice:
        """The matmul that decode steps use on this CPU, as measured when the engine was made."""
        return self._matmul

    @overload
    def generate(
        self,
        input_ids: Prompts,
        attention_mask: Tensor | None = None,
        *,
        watch: Callable[[Progress], None] | None = None,
        lossless: Lossless | bool | None = None,
        rounding: Callable[[int, int], None] | None = None,
        **generation: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        input_ids: PreTrainedTokenizerBase,
        attention_mask: str | Sequence[str],
        *,
        chat: bool | None = None,
        watch: Callable[[Progress], None] | None = None,
        lossless: Lossless | bool | None = None,
        rounding: Callable[[int, int], None] | None = None,
        **generation: Any,
    ) -> Generation: ...

    def generate(
        self,
        input_ids: Prompts | PreTrainedTokenizerBase,
        attention_mask: Tensor | str | Sequence[str] | None = None,
        *,
        chat: bool | None = None,
        watch: Callable[[Progress], None] | None = None,
        lossless: Lossless | bool | None = None,
        rounding: Callable[[int, int], None] | None = None,
        **generation: Any,
    ) -> Generation:
        """Decodes one batch of prompts. The arguments are those of `regrow.generate`.

        Calls from several threads take turns.

        Args:
            input_ids: Token ids [B, P] or what a tokenizer returns. For prompts as text, the tokenizer.
            attention_mask: [B, P], 1 for tokens and 0 for padding. For prompts as text, the texts.
            chat: With texts: whether each one is a user message in the tokenizer's chat template.
            watch: A callback that gets the `regrow.Progress` after every decode step (every 8 on a GPU).
            lossless: True, False or a `regrow.Lossless` for this batch. By default (None) that of the engine.
            rounding: A callback that gets (layers done, layers) while weights are rounded to 4 bits.
            **generation: The generation arguments of transformers.

        Raises:
            UsageError: if the engine is closed, or if the prompts or an argument do not fit.
            RegrowError: if memory runs out.
        """
        with turn_of(self._model).take("Engine.generate"):
            if active_session(self._model) is not self.session:
                raise UsageError("this engine is closed; make another")
            own = self._lossless or False
            given = {**generation, "lossless": own if lossless is None else lossless, "rounding": rounding}
            return generate_alone(self._model, self.session, input_ids, attention_mask, chat, watch, given)

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError("an engine cannot be copied or pickled; make one of a copy of the model")

    def close(self) -> None:
        """Restores the model. Waits for a generation in another thread. A second call does nothing."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
