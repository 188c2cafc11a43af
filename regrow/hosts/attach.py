"""Puts a session in charge of a model, follows its weights, and leaves it without a trace."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from regrow.adapter.inside import check_inside, made_of
from regrow.adapter.patch import Patch
from regrow.adapter.survey import survey
from regrow.adapter.weights_state import Place, checksums
from regrow.calibration.calibration import Calibration, fingerprint, fitting
from regrow.core import Blocks, Surface
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.session import Session


@final
class Attachment:
    """A session that runs what the method changes of the model, for as long as the context lasts."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        skip_layers: Collection[int] = (),
        calibration: Calibration | None = None,
        *,
        record_masks: bool = False,
    ) -> None:
        """Raises UsageError for a model, layers or a calibration that do not fit; nothing is changed then."""
        self._model, self._method, self._skipped, self._calibration = model, method, skip_layers, calibration
        self._patch, self._forwards = Patch(), dict[nn.Module, partial[Tensor]]()
        blocks, modules = self._surveyed()
        with self._patched_or_not():
            blocks = self._with_weights(blocks)
            with (
                torch.inference_mode(mode=False),
                torch.no_grad(),
            ):  # its buffers outlive the caller's inference mode
                self.session = Session(method, blocks, self._tensors, record_masks=record_masks)
            self._take(blocks, modules)

    def changed(self) -> bool:
        """Before a batch: whether the weights, or the modules, are no longer those that copies, norms or masks were made of."""
        self.check()
        return self._state() != self._seen

    def renew(self) -> None:
        """Makes all of it anew, of the weights and modules that the model has now.

        Raises UsageError for weights that the method cannot follow; nothing is patched then until they fit again.
        """
        if self._stands_in:
            raise UsageError(
                f"the model's weights were changed while those that {self._method.name} had pruned stood in for them; leave the `with`, "
                "change the weights there, and calibrate again"
            )
        self._patch.restore()
        self._forwards = {}  # until the model fits again
        blocks, modules = self._surveyed()
        with self._patched_or_not(), torch.inference_mode(mode=False), torch.no_grad():
            self.session.bind(blocks, self._tensors)
            self._take(blocks, modules)

    def moved(self) -> None:
        """Weights were laid out elsewhere, or came back; their values are the same."""
        self._seen = self._state()

    def check(self) -> None:
        """Raises UsageError where a hook, or a forward of somebody else's, would hold in some steps and not in others."""
        check_inside(self._model, self._forwards)

    def _surveyed(self) -> tuple[Blocks, list[nn.Module]]:
        self._tensors = fitting(self._calibration, self._model, self._method)
        return survey(self._model, self._method.surface, self._method.sites, self._skipped)

    def _take(self, blocks: Blocks, modules: list[nn.Module]) -> None:
        patched = modules[: self.session.pruner.places]
        self._forwards = {module: partial(self.session.run, place) for place, module in enumerate(patched)}
        for module, forward in self._forwards.items():
            self._patch.replace(module, "forward", forward)
        self._stand_ins = [f"{place.name}.weight" for place in blocks.linears] if self._stands_in else []
        self._seen = self._state()

    def _state(self) -> Hashable:
        """What tells that nothing derived from the weights is stale: where they lie, how often they were written, and the contents of
        those that there are copies or norms of, since writes to `.data` leave no other trace. Of a calibration, the fingerprint."""
        parameters = list(self._model.parameters())
        homes = frozenset((parameter.device, parameter.dtype) for parameter in parameters)
        if not self.session.pruner.places and not self._stands_in:
            return homes
        calibrated = self._calibration is not None and not any(parameter.is_meta for parameter in parameters)
        print_of = fingerprint(self._model) if calibrated else None
        modules = made_of(self._model, self._forwards)
        if self._stands_in:  # they may lie elsewhere, as long as they are the same
            stand_ins = [self._model.get_parameter(name) for name in self._stand_ins]
            return modules, homes, checksums(tensor for tensor in stand_ins if not tensor.is_meta), print_of
        return modules, tuple(map(Place.of, parameters)), checksums(self.session.pruner.sources), print_of

    @property
    def _stands_in(self) -> bool:
        """Whether weights of a calibration are in the place of the model's own."""
        return self._method.surface is Surface.WEIGHTS and bool(self._tensors)

    @contextmanager
    def _patched_or_not(self) -> Iterator[None]:
        """Nothing stays patched after an error."""
        try:
            yield
        except BaseException:
            self._patch.restore()
            raise

    def _with_weights(self, blocks: Blocks) -> Blocks:
        """Puts the weights of a calibration in the place of the model's own for as long as the patch lasts; the blocks then count what is
        not zero."""
        if not self._stands_in:
            return blocks
        filled = {site: list(row) for site, row in blocks.sizes.items()}
        for place in blocks.linears:
            new = self._tensors[f"{place.name}.weight"].to(place.weight.device, place.weight.dtype)
            self._patch.replace_parameter(
                self._model.get_submodule(place.name), "weight", nn.Parameter(new, requires_grad=False)
            )
            filled[place.site][place.layer] -= int((new == 0).sum())
        return replace(blocks, filled=filled)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.restore()
