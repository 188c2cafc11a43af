"""A model and a method, ready for one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, final

from torch import Tensor
from transformers import PreTrainedModel

from regrow.calibration.result import Calibration
from regrow.decoding.loop import Progress
from regrow.errors import UsageError
from regrow.hosts.arguments import Choice, Prompts
from regrow.hosts.hugging_face import Generation, active_session, generate_alone, prune
from regrow.hosts.turns import turn_of
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
    ) -> None:
        """As `regrow.prune`; dense without a method."""
        self._model = model
        with ExitStack() as stack:
            pruned = prune(model, Dense() if method is None else method, skip_layers, calibration, record_masks=record_masks)
            self.session: Session = stack.enter_context(pruned)
            self._open = stack.pop_all()

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
