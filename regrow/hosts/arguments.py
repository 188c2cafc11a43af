"""Converts what callers pass to what the other modules expect; ambiguous arguments raise UsageError."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from regrow.decoding.lossless import Lossless
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.method.presets import METHODS, PRESETS, make

Choice: TypeAlias = Method | type[Method] | str
Prompts: TypeAlias = Tensor | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Any]

ENCODED: Final = "pass what `tokenizer(prompts, padding=True, return_tensors='pt')` gives"
# Keys of an encoding that are dropped, because no decoder takes them.
IGNORED: Final = {"token_type_ids", "special_tokens_mask", "length"}


def chosen_method(method: object) -> Method:
    """Returns the method for an instance, a name or a class.

    Raises UsageError for anything else, and for a class that cannot be created without arguments.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return make(method)
    if isinstance(method, type) and issubclass(method, Method):
        try:
            return method()
        except TypeError as error:
            raise UsageError(
                f"method {method.__name__} cannot be made without arguments ({error}); pass an instance of it"
            ) from None
    raise UsageError(
        f"method {method!r} is not a method; pass one such as regrow.BatchwiseAdaptive(), "
        f"or a name: {', '.join(PRESETS)}"
    )


def chosen_lossless(lossless: object) -> Lossless | None:
    """Returns the setting: `Lossless()` for True, and None for False.

    Raises UsageError for anything but True, False and a `Lossless`.
    """
    if isinstance(lossless, bool):
        return Lossless() if lossless else None
    if not isinstance(lossless, Lossless):
        raise UsageError(f"lossless is True, False or a regrow.Lossless, not {type(lossless).__name__}")
    return lossless


def without_method_parameters(generation: Mapping[str, object]) -> None:
    """Raises UsageError if parameters of a method are among the generation arguments."""
    for name, method in METHODS.items():
        own = sorted({field.name for field in fields(method)} & generation.keys())  # type: ignore[arg-type]
        if own:
            raise UsageError(
                f"{own[0]} is a parameter of the method, not of the generation; pass it to the method, "
                f"as in method=regrow.{method.__name__}({own[0]}=...), whose name is {name!r}"
            )


def layer_numbers(skip_layers: object) -> tuple[int, ...]:
    """Returns the layers to skip as integers. Raises UsageError for anything but a list of layer numbers."""
    given = _listed(skip_layers)
    listed = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
    layers = tuple(_listed(layer) for layer in given) if listed else ()
    if not listed or any(type(layer) is not int for layer in layers):
        raise UsageError(f"skip_layers takes a list of layer numbers such as [0, 1], not {skip_layers!r}")
    return layers


def _listed(value: Any) -> Any:
    """Converts a tensor or a NumPy value to plain lists and numbers; returns anything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def causal_model(model: object) -> None:
    """Raises UsageError unless `model` is an nn.Module with a `generate` method."""
    if not isinstance(model, nn.Module) or not callable(getattr(type(model), "generate", None)):
        raise UsageError(
            f"{type(model).__name__} is not a model that can generate; "
            "pass what transformers.AutoModelForCausalLM.from_pretrained gives"
        )


def encoded(input_ids: object, attention_mask: object, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Returns input_ids [B, P] int64 and attention_mask [B, P]; the mask is None if none was given.

    Accepts tensors, NumPy arrays, lists, or an encoding that holds both. A single prompt may be
    one-dimensional. Raises UsageError for anything else, for empty prompts, and if the shapes differ.
    """
    if isinstance(input_ids, Mapping) or (hasattr(input_ids, "data") and isinstance(input_ids.data, Mapping)):
        input_ids, attention_mask = _unpacked(input_ids, attention_mask)
    ids = _rows("input_ids", input_ids, device)
    if ids.shape[0] and not ids.shape[1]:
        raise UsageError("the prompts are empty; give every sample at least one token")
    if attention_mask is None:
        return ids, None
    mask = _rows("attention_mask", attention_mask, device)
    if mask.shape != ids.shape:
        raise UsageError(
            f"attention_mask is {list(mask.shape)} and input_ids {list(ids.shape)}; both must have one "
            f"shape; {ENCODED}"
        )
    return ids, mask


def _unpacked(encoding: Any, attention_mask: object) -> tuple[object, object]:
    held = dict(encoding.items())
    other = sorted(held.keys() - IGNORED - {"input_ids", "attention_mask"})
    if "input_ids" not in held or other:
        wrong = f"also holds {other[0]!r}" if other else "holds no 'input_ids'"
        raise UsageError(f"the encoding {wrong}; Regrow takes input_ids and attention_mask: {ENCODED}")
    if attention_mask is not None and "attention_mask" in held:
        raise UsageError("the encoding holds an attention_mask and another was passed; leave one of them out")
    return held["input_ids"], held.get("attention_mask", attention_mask)


def _rows(name: str, given: object, device: torch.device) -> Tensor:
    """Returns `given` as integers [B, P]. A tensor stays on its device; other values go to `device`."""
    values = given if isinstance(given, Tensor) else _tensor(name, given, device)
    if values.dim() == 1 and len(values):
        values = values[None]
    if values.dim() == 1:
        values = values.new_empty(0, 1)
    ints = not values.is_floating_point() and not values.is_complex()
    if values.dim() != 2 or not ints or (values.dtype is torch.bool and name == "input_ids"):
        raise UsageError(
            f"{name} must be integers [batch, tokens], not {values.dtype} of shape {list(values.shape)}; "
            f"{ENCODED}"
        )
    return values.long() if name == "input_ids" else values


def _tensor(name: str, given: object, device: torch.device) -> Tensor:
    listed = _listed(given)
    if not isinstance(listed, (list, tuple)):
        raise UsageError(f"{name} must be token ids, not {type(given).__name__}; {ENCODED}")
    try:
        values = torch.tensor([_listed(row) for row in listed], device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UsageError(
            f"{name} are not rows of token ids of one length; {ENCODED} (padding on the left)"
        ) from None
    return values if values.numel() else values.long()


def fits(ids: Tensor, mask: Tensor | None, model: Any) -> None:
    """Raises UsageError if the model lacks a token id of `ids` [B, P], or if a prompt fills its context.

    Padding counts for neither.
    """
    if not ids.numel():
        return
    known(ids, mask, model)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return
    lengths = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(dim=1).cpu()
    if int(lengths.max()) >= limit:
        raise UsageError(
            f"a prompt of {int(lengths.max())} tokens leaves no room in the model's context of {limit}; "
            "shorten it"
        )


def known(ids: Tensor, mask: Tensor | None, model: Any) -> None:
    """Raises UsageError if the model has no embedding for a token id in `ids` [B, P].

    Ids that the mask hides are not checked. The mask may be wider than `ids`: its last P columns count.
    """
    size = embeddings(model)
    strange = (ids < 0) | (ids >= size)
    outside = ids[strange if mask is None else strange & mask[:, -ids.shape[1] :].bool()]
    if len(outside):
        raise UsageError(
            f"token id {int(outside[0])} is not one of the model's 0 to {size - 1}; "
            "use the tokenizer of this model"
        )


def embeddings(model: Any) -> int:
    """Returns the number of token ids that the model has embeddings for."""
    return len(model.get_input_embeddings().weight)
