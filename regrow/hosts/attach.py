"""Attaches a session to a model: patches it, follows changes of its weights, and restores it exactly."""

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
    """A session that runs the modules a method prunes. Leaving the context restores the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        skip_layers: Collection[int] = (),
        calibration: Calibration | None = None,
        *,
        record_masks: bool = False,
    ) -> None:
        """Patches the model.

        Raises UsageError, and changes nothing, if the model, the layers or the calibration do not fit.
        """
        self._model, self._method, self._skipped, self._calibration = model, method, skip_layers, calibration
        self._patch, self._forwards = Patch(), dict[nn.Module, partial[Tensor]]()
        blocks, modules = self._surveyed()
        with self._restored_on_error():
            blocks = self._with_pruned_weights(blocks)
            # The session's buffers outlive the caller's inference mode, so they are allocated outside of it.
            with torch.inference_mode(mode=False), torch.no_grad():
                self.session = Session(method, blocks, self._tensors, record_masks=record_masks)
            self._patch_modules(blocks, modules)

    def changed(self) -> bool:
        """Returns True if weights or modules changed since copies, norms or masks were derived from them.

        Called before each batch. Raises UsageError as `check` does.
        """
        self.check()
        return self._state() != self._seen

    def renew(self) -> None:
        """Derives everything again from the model's current weights and modules.

        Raises UsageError if the model no longer fits; nothing stays patched then until it fits again. Also
        raises UsageError if the method replaced the weights before the run: these patches stay until the
        context ends.
        """
        if self._replaces_weights:
            raise UsageError(
                f"the model's weights were changed while weights pruned by {self._method.name} were in their "
                "place; leave the `with`, change the weights there, and calibrate again"
            )
        self._patch.restore()
        self._forwards = {}  # until the model fits again
        blocks, modules = self._surveyed()
        with self._restored_on_error(), torch.inference_mode(mode=False), torch.no_grad():
            self.session.bind(blocks, self._tensors)
            self._patch_modules(blocks, modules)

    def moved(self) -> None:
        """Records the current state after weights were laid out or moved back with equal values."""
        self._seen = self._state()

    def check(self) -> None:
        """Raises UsageError if a foreign hook or forward would apply in some steps and not in others."""
        check_inside(self._model, self._forwards)

    def _surveyed(self) -> tuple[Blocks, list[nn.Module]]:
        self._tensors = fitting(self._calibration, self._model, self._method)
        return survey(self._model, self._method.surface, self._method.sites, self._skipped)

    def _patch_modules(self, blocks: Blocks, modules: list[nn.Module]) -> None:
        patched = modules[: self.session.pruner.places]
        self._forwards = {module: partial(self.session.run, place) for place, module in enumerate(patched)}
        for module, forward in self._forwards.items():
            self._patch.replace(module, "forward", forward)
        self._replaced = (
            [f"{place.name}.weight" for place in blocks.linears] if self._replaces_weights else []
        )
        self._seen = self._state()

    def _state(self) -> Hashable:
        """Returns a value that changes when something derived from the weights becomes stale.

        For patched modules, it holds the address and the version of every parameter, and checksums of the
        weights that copies or norms were made from, because writes to `.data` leave no other trace. For
        replaced weights, it holds their checksums. With a calibration, it also holds the model's fingerprint.
        If nothing is patched or replaced, it holds only the parameters' devices and dtypes.
        """
        parameters = list(self._model.parameters())
        placements = frozenset((parameter.device, parameter.dtype) for parameter in parameters)
        if not self.session.pruner.places and not self._replaces_weights:
            return placements
        calibrated = self._calibration is not None and not any(parameter.is_meta for parameter in parameters)
        digest = fingerprint(self._model) if calibrated else None
        modules = made_of(self._model, self._forwards)
        if self._replaces_weights:  # the replacing weights may move as long as their values stay the same
            replaced = [self._model.get_parameter(name) for name in self._replaced]
            return (
                modules,
                placements,
                checksums(tensor for tensor in replaced if not tensor.is_meta),
                digest,
            )
        return (
            modules,
            tuple(map(Place.of, parameters)),
            checksums(self.session.pruner.sources),
            digest,
        )

    @property
    def _replaces_weights(self) -> bool:
        """True if the calibration's weights replace the model's own."""
        return self._method.surface is Surface.WEIGHTS and bool(self._tensors)

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Restores the model if the block raises."""
        try:
            yield
        except BaseException:
            self._patch.restore()
            raise

    def _with_pruned_weights(self, blocks: Blocks) -> Blocks:
        """Replaces the model's weights by the calibration's until the patch is restored.

        Returns the blocks with `filled` reduced by the number of zeros in the new weights.
        """
        if not self._replaces_weights:
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
