"""Checks that a checkpoint's weight files are complete and match the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from regrow.errors import RegrowError, UsageError, said
from regrow.models.configuration import quantised
from regrow.models.json_object import read_object

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATING = ("F64", "F32", "BF16", "F16")
_PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale(_inv)?|absmax|quant_state\..*)$")
# Buffers that older checkpoints store and that newer code computes.
_COMPUTED = re.compile(r"(inv_freq|masked_bias|(attn|attention)\.bias|causal_mask|position_ids)$")


def check_files(directory: Path, name: str) -> None:
    """Reads the headers of all weight files, before any of the weights are loaded.

    Raises UsageError if there are no safetensors files or the weights are quantised, RegrowError if a file is
    damaged or missing.
    """
    if not list(directory.glob("*.safetensors")):
        raise UsageError(
            f"{directory} holds no safetensors files, and Regrow loads no other format; "
            "convert the weights to safetensors"
        )
    held = {path.name: _header(path, name) for path in sorted(directory.glob("*.safetensors"))}
    if _WHOLE in held:
        return
    if not (directory / _INDEX).exists():
        raise RegrowError(
            f"{directory} holds neither {_WHOLE} nor {_INDEX}, which says what lies where; "
            "download or copy it again"
        )
    for tensor, shard in _index(directory / _INDEX).items():
        if shard not in held:
            raise RegrowError(
                f"{name} is incomplete: {shard}, which {_INDEX} names, is not there; "
                "download or copy it again"
            )
        if tensor not in held[shard]:
            raise RegrowError(
                f"{name} is incomplete: {shard} lacks {tensor}, which {_INDEX} places there; "
                "download or copy it again"
            )


def check_loaded(network: PreTrainedModel, info: dict[str, Any], name: str) -> None:
    """Raises RegrowError if weights are missing, have other shapes, or belong to another architecture.

    transformers would fill missing weights with random numbers, and ignore the others. `info` is its loading
    report (`output_loading_info=True`), which already takes renamed and tied weights into account. `name` is
    what the message calls the model.
    """
    missing, unexpected = (
        sorted(info["missing_keys"]),
        sorted(_of_the_network(network, info["unexpected_keys"])),
    )
    other = sorted(info["unexpected_keys"])
    if info["mismatched_keys"]:
        tensor, stored, asked = min(info["mismatched_keys"])
        raise RegrowError(
            f"the weights of {name} do not match its config.json: "
            f"{tensor} has the shape {list(stored)}, not {list(asked)}; "
            "restore the files that belong together"
        )
    if missing:
        instead = f", and there is {other[0]} instead" if other else ""
        raise RegrowError(
            f"{name} is incomplete: {_some(missing)} missing from its safetensors files{instead}; "
            "download or copy it again"
        )
    if unexpected:
        raise RegrowError(
            f"the weights of {name} do not match its config.json: "
            f"{_some(unexpected)} unknown to {type(network).__name__}; "
            "restore the files that belong together"
        )


def _some(tensors: list[str]) -> str:
    return (
        f"{tensors[0]} is" if len(tensors) == 1 else f"{tensors[0]} and {len(tensors) - 1} more tensors are"
    )


def _of_the_network(network: PreTrainedModel, tensors: Iterable[str]) -> Iterator[str]:
    """Selects the tensors that belong to the network's own modules and are not recomputed buffers.

    The others belong to parts that the network leaves out, such as a value head or a vision tower.
    """
    parts = {child for child, _ in network.named_children()}
    return (tensor for tensor in tensors if tensor.split(".")[0] in parts and not _COMPUTED.search(tensor))


def _header(path: Path, name: str) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = set(file.keys())
            for tensor in tensors:
                if _PACKED.search(tensor) or (
                    tensor.endswith(".weight") and file.get_slice(tensor).get_dtype() not in _FLOATING
                ):
                    raise quantised(name, f" (see {tensor})")
            return tensors
    except (SafetensorError, OSError) as error:
        raise RegrowError(f"{path} is damaged ({said(error)}); download or copy it again") from error


def _index(path: Path) -> dict[str, str]:
    places = read_object(path).get("weight_map")
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(shard, str) for shard in places.values())
    ):
        raise RegrowError(
            f"{path} is damaged, its weight_map does not say which tensor lies in which file; "
            "download or copy it again"
        )
    return places
