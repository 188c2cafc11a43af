"""Runs the linear layers of a decoder from weights in oneDNN's layout (CPU).

While a batch runs, the forwards of the linear layers use the laid-out weights. These are a second copy, or
they take the place of the model's own weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from regrow.adapter.llama_like import DecoderWeights
from regrow.adapter.patch import Patch
from regrow.adapter.plain import OwnForward, odd_linear
from regrow.adapter.projection import SideBySide
from regrow.adapter.weights_state import Place, checksums
from regrow.errors import NoMemoryError, UsageError
from regrow.kernels import LaidOutGate, LaidOutWeight, MatmulChoice

LARGEST_SHARE: Final = 0.05  # share of the given-up weights that is laid out at any one time


@final
class Layout(Enum):
    """The weights that the linear layers of a model run with on a CPU."""

    STORED = auto()  # the model's weights as they are stored
    COPIED = auto()  # a second, laid-out copy
    MOVED = auto()  # laid-out weights in place of the model's own, where nothing else reads those


@final
class _Laid(OwnForward):
    """Replaces the forward of a linear layer."""

    def __init__(self, module: nn.Linear, matmul: MatmulChoice) -> None:
        self._module, self.weight = module, LaidOutWeight(module.weight, matmul.fewest, matmul.most)
        # For a gate projection while a batch runs: its up projection, and both in one pass.
        self.beside: tuple[nn.Module, LaidOutGate] | None = None

    def gating(self, up: nn.Module) -> LaidOutGate | None:
        return self.beside[1] if self.beside is not None and self.beside[0] is up else None

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the argument in nn.Linear)
        return self.weight(input, self._module.bias)

    def plain(self) -> Tensor:
        return self.weight.plain()


@final
class _LaidFFN(OwnForward):
    """Replaces the forward of a whole FFN, down(act(gate x) * up x), unless a method has patched it."""

    def __init__(self, hidden: LaidOutGate, down: _Laid) -> None:
        self._hidden, self._down = hidden, down

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self._hidden(x))


@final
class _LaidBeside(OwnForward):
    """Replaces the forward of a linear layer whose weight is joined with others.

    It serves calls from outside the decode loop, which itself runs the joint weight.
    """

    def __init__(self, joint: SideBySide, weight: LaidOutWeight, number: int) -> None:
        self._joint, self._weight, self._number = joint, weight, number

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._joint(input).split_with_sizes(self._joint.sizes, dim=-1)[self._number]

    def plain(self) -> Tensor:
        return self._weight.plain().split_with_sizes(self._joint.sizes)[self._number].clone()


@final
class LaidOut:
    """The linear layers of the blocks and the head of one decoder.

    Weights start as stored and are laid out for batches that run faster that way. A linear layer whose
    forward a method has patched stays as it is, and so does one that the decoder does not call, because it
    has codes instead. With `Layout.MOVED`, a placeholder replaces each weight that is given up. A placeholder
    has the weight's shape, takes no memory, holds NaN and cannot be written to. Weights that a method reads,
    or that several modules share (a tied head), are never given up.
    """

    def __init__(
        self, model: PreTrainedModel, decoder: DecoderWeights, matmul: MatmulChoice, layout: Layout
    ) -> None:
        self._model, self._matmul, self._layout = model, matmul, layout
        layers: list[Any] = list(model.model.layers)
        self._joints = [block.qkv for block in decoder.blocks if isinstance(block.qkv, SideBySide)]
        blocks: list[tuple[Any, Any]] = list(zip(layers, decoder.blocks, strict=True))
        owned = [layer.self_attn.o_proj for layer, block in blocks if block.output is layer.self_attn.o_proj]
        read: list[nn.Linear] = []  # a method reads these as well
        self._ffns = [layer.mlp for layer, block in blocks if block.ffn is layer.mlp]
        for mlp in self._ffns:
            (read if "forward" in vars(mlp) else owned).extend(_linears(mlp))
        owned.append(model.lm_head)
        once = dict.fromkeys((*owned, *read))  # layers may share a module
        self._linears: list[nn.Linear] = [module for module in once if not odd_linear(module)]
        moved = [*owned, *(module for joint in self._joints for module in joint.linears)]
        users = Counter(
            id(module.weight)
            for module in model.modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
        )
        self._gives_up = (
            {module for module in moved if users[id(module.weight)] == 1} if layout is Layout.MOVED else set()
        )
        self._forwards: dict[nn.Linear, _Laid | _LaidBeside] = {}
        # The state of the weights that were laid out.
        self._sources: tuple[tuple[Place, ...], tuple[int, ...]] = ((), ())
        self._placeholders: dict[nn.Linear, int] = {}  # module -> address of its placeholder
        self._patch, self._ffn_patch = Patch(), Patch()  # of linear layers, and of whole FFNs
        self.moves = 0  # how often weights were given up or given back
        self.layouts = 0  # how often weights were laid out, each time at new addresses

    @property
    def nbytes(self) -> int:
        """Memory taken beside the model's own weights, in bytes."""
        return sum(module.weight.nbytes for module in self._forwards if module not in self._gives_up)

    @property
    def gave_up(self) -> bool:
        """True while placeholders stand for some of the model's weights."""
        return bool(self._placeholders)

    def suit(self, rows: int) -> bool:
        """Switches to the form in which batches of `rows` rows run fastest.

        The model's current weights are used. Returns True if decode steps then multiply as the model's own
        forward does. Raises NoMemoryError if a second copy is asked for and does not fit.
        """
        if not self._matmul.lays_out(rows):
            self.stop()
            if self._layout is Layout.MOVED:
                self.give_back()
            return not self._matmul.native(rows)
        if self._forwards and self._state() != self._sources:
            self.give_back()
        if not self._forwards and not self._lay_out():
            return True
        self._stand_in()
        return False

    def stop(self) -> None:
        """Restores the modules' own forwards, except where weights were given up.

        FFNs are always called layer by layer afterwards, because a call from outside may meet a hook or a
        replaced part inside an FFN.
        """
        self._take_apart()
        if not self._placeholders:
            self._patch.restore()

    def give_back(self) -> None:
        """Drops everything laid out and gives the model its weights back.

        Weights that were replaced meanwhile stay as they are.
        """
        self._take_apart()
        self._patch.restore()
        laid_out = bool(self._forwards)
        self.moves += bool(self._placeholders)
        for module, address in self._placeholders.items():
            forward = self._forwards.pop(module)  # freed before the next one is converted
            weight = module.weight
            # Either the placeholder itself, or what `model.to` has made of it.
            if weight.data_ptr() == address or bool(weight.isnan().all()):
                weight.data = forward.plain().to(weight.device, weight.dtype)
        for joint in self._joints if laid_out else ():
            joint.lay_back()
        self._forwards, self._placeholders = {}, {}

    def _lay_out(self) -> bool:
        if not self._has_room():
            return False
        self._sources = ((), ())
        self.layouts += 1
        state = self._state()  # read before a weight is given up
        for module in self._linears:
            self._forwards[module] = _Laid(module, self._matmul)
            self._give_up(module)
        for joint in self._joints:
            weight = joint.lay_out(self._matmul)
            for number, module in enumerate(joint.linears):
                self._forwards[module] = _LaidBeside(joint, weight, number)
                self._give_up(module)
        self.moves += bool(self._placeholders)
        self._sources = self._state() if self._placeholders else state
        return True

    def _give_up(self, module: nn.Linear) -> None:
        if module in self._gives_up:
            like = module.weight
            module.weight.data = torch.full((), float("nan"), dtype=like.dtype).expand(like.shape)
            self._placeholders[module] = module.weight.data_ptr()

    def _take_apart(self) -> None:
        """Lets FFNs run as their separate linear layers again."""
        self._ffn_patch.restore()
        for forward in self._forwards.values():
            if isinstance(forward, _Laid):
                forward.beside = None

    def _stand_in(self) -> None:
        self._take_apart()
        self._patch.restore()
        for module, forward in self._forwards.items():
            self._patch.replace(module, "forward", forward)
        for mlp in self._ffns:
            laid = [
                found for module in _linears(mlp) if isinstance(found := self._forwards.get(module), _Laid)
            ]
            if len(laid) < 3:
                continue
            gate, up, down = laid
            hidden = LaidOutGate(gate.weight, up.weight, (mlp.gate_proj.bias, mlp.up_proj.bias), mlp.act_fn)
            gate.beside = mlp.up_proj, hidden
            if "forward" not in vars(mlp):
                self._ffn_patch.replace(mlp, "forward", _LaidFFN(hidden, down))
        if self._placeholders:
            self._patch.replace(self._model, "save_pretrained", _Refused())
            for part in self._model.modules():
                self._patch.replace(part, "state_dict", _Refused())
                self._patch.replace_copying(part, _Refused())

    def _state(self) -> tuple[tuple[Place, ...], tuple[int, ...]]:
        """Returns the places and checksums of all weights that are or will be laid out.

        A place holds the address and the version of a weight. Writes to `.data` change neither, so the values
        are read as well.
        """
        weights = [module.weight for module in self._all_linears()]
        # One value stands for a whole placeholder.
        values = (
            weight.as_strided((1,), (1,)) if weight.stride() == (0, 0) else weight for weight in weights
        )
        return tuple(map(Place.of, weights)), checksums(values)

    def _all_linears(self) -> Iterator[nn.Linear]:
        yield from self._linears
        for joint in self._joints:
            yield from joint.linears

    def _has_room(self) -> bool:
        """Returns False if moved weights do not fit. Raises NoMemoryError if a second copy does not fit."""
        copies = [module.weight.nbytes for module in self._all_linears() if module not in self._gives_up]
        transient = LARGEST_SHARE * sum(module.weight.nbytes for module in self._gives_up)
        needed, free = sum(copies) + transient, available_memory()
        if free is None or needed <= free:
            return True
        if self._layout is Layout.MOVED:
            return False
        raise NoMemoryError(
            f"a second copy of the weights, laid out for oneDNN, takes {needed / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB are free; "
            "leave out lay_out, or let an Engine own the model (owns_model=True)"
        )


def _linears(mlp: Any) -> list[nn.Linear]:
    return [mlp.gate_proj, mlp.up_proj, mlp.down_proj]


@final
class _Refused:
    """Replaces `state_dict`, `save_pretrained` and copying while weights are moved, and refuses the calls."""

    def __call__(self, *_: object, **__: object) -> Any:
        raise UsageError(
            "an Engine that owns the model holds its weights in another layout; "
            "close the engine before you save or copy the model"
        )


def available_memory() -> int | None:
    """Returns the bytes that can be allocated without swapping; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
