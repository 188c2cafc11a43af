"""A model and a method, ready for one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, final

from torch import Tensor
from transformers import PreTrainedModel

from regrow.adapter.lay_out import Layout
from regrow.calibration.calibration import Calibration
from regrow.core import Surface
from regrow.decoding.loop import Progress
from regrow.errors import UsageError
from regrow.hosts.arguments import Choice, Prompts, chosen_method
from regrow.hosts.hugging_face import Generation, active_session, generate_alone, taken
from regrow.hosts.turns import turn_of
from regrow.kernels import MatmulChoice
from regrow.method.dense import Dense
from regrow.session import Session


@final
class Engine:
    """Caches, compact copies and recorded steps stay from one batch to the next; `close`, or the end of a `with`, restores the model."""

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
    ) -> None:
        """As `regrow.prune`; dense without a method.

        `owns_model`: nobody else uses the model until `close`. On a CPU its weights may then be laid out for
        oneDNN in their own place: read meanwhile, they are NaN, and the model cannot be saved or copied.
        """
        self._model = model
        layout = Layout.COPIED if lay_out else Layout.STORED
        chosen = chosen_method(Dense() if method is None else method)
        if (
            owns_model and calibration is None and chosen.surface is not Surface.WEIGHTS
        ):  # otherwise the model's weights are looked at
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
        """What rows are multiplied by weights with on this CPU, as it was measured when the engine was made."""
        return self._matmul

    def generate(
        self,
        input_ids: Prompts,
        attention_mask: Tensor | None = None,
        *,
        watch: Callable[[Progress], None] | None = None,
        **generation: Any,
    ) -> Generation:
        """Decodes one left-padded batch input_ids [B, P], as `regrow.generate`; calls from several threads take turns.

        Raises UsageError once the engine is closed."""
        with turn_of(self._model).take("Engine.generate"):
            if active_session(self._model) is not self.session:
                raise UsageError("this engine is closed; make another")
            return generate_alone(self._model, self.session, input_ids, attention_mask, watch, generation)

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError("an engine cannot be copied or pickled; make one of a copy of the model")

    def close(self) -> None:
        """Restores the model, after a generation that another thread still runs; a second call does nothing."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
