"""The kernels of a decode step, at the sizes of Qwen2-7B and Llama-8B.

Steps have one token per row, or the 5 or 17 tokens of a step that verifies 4 or 16 drafted tokens.
"""

from collections.abc import Mapping
from typing import Any

from kernels.ahead_of_time import Variant
from regrow.kernels.attention import triton as attention
from regrow.kernels.norm import triton as norm
from regrow.kernels.rotary import triton as rotary
from regrow.kernels.scores import triton as score

# D, F, query heads, key-value heads.
SHAPES = {
    "qwen2-7b": (3584, 18944, 28, 4),
    "llama-8b": (4096, 14336, 32, 8),
}
HEAD, CAPACITY, BATCH = 128, 4096, 16
WIDTHS = 1, 5, 17


def variant(
    name: str,
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    warps: int,
    stages: int = 2,
) -> Variant:
    """Creates a variant whose addresses and strides are multiples of 16, as those of a model are."""
    aligned = {
        key: value if key in ("tokens", "splits", "eps", "scale") else f"{value}:16"
        for key, value in types.items()
    }
    return Variant(name, kernel, aligned, constants, {"num_warps": warps, "num_stages": stages})


def strides(kernel: Any, *prefixes: str) -> dict[str, str]:
    names = ("row", "token", "head", "position", "layer", "slot")
    return {
        name: "i32"
        for name in kernel.arg_names
        if name in {f"{prefix}_{axis}" for prefix in prefixes for axis in names}
    }


def observe(shape: str, dtype: str) -> list[Variant]:
    _, neurons, _, _ = SHAPES[shape]
    parts = score.observe_workspace(1, 1, neurons)[-1]
    square_types = {"z": f"*{dtype}", "partial": "*fp32", **strides(score.square, "z")}
    types = {
        **square_types,
        "slot": "*i64",
        "total": "*fp32",
        "tokens": "i32",
        **strides(score.add_tokens, "total"),
    }
    constants = {"F": neurons, "SUMS": parts, "PARTS": 1 << (parts - 1).bit_length()}
    found = [
        variant(
            f"square {shape} {dtype}",
            score.square,
            square_types,
            {"F": neurons, "PART": score.PART},
            score.SQUARE_WARPS,
        )
    ]
    for tokens in (BATCH, 5 * BATCH, 2048 * BATCH):
        seen, apiece, width = score.block(tokens, BATCH)
        name, sizes = f"{tokens} tokens {shape} {dtype}", constants | {"NEURONS": width}
        if apiece > 1:
            sizes |= {"SLOTS": seen, "TOKENS": apiece}
            found.append(variant(f"add {name}", score.add_tokens, types, sizes, score.ADD_WARPS))
        else:
            search = {"slot": "*i64", "span": "*i32", "tokens": "i32"}
            found.append(variant(f"find {name}", score.find, search, {"SLOTS": seen}, score.FIND_WARPS))
            found.append(variant(f"add {name}", score.add_one_by_one, types | search, sizes, score.ADD_WARPS))
    return found


def attend(name: str, groups: int, head: int, width: int, dtype: str) -> Variant:
    tile = attention.attention_tile(width * groups, head)
    types = dict.fromkeys("qkv", f"*{dtype}") | dict.fromkeys(("start", "length"), "*i64") | {"scale": "fp32"}
    types |= dict.fromkeys(("partial", "mass"), "*fp32") | strides(attention.attend, "q", "k", "v")
    sizes = {"WIDTH": width, "GROUPS": groups, "HEAD": head, "BLOCKS": -(-width * groups // tile.queries)}
    padded = {
        "QUERIES": tile.queries,
        "CHANNELS": tile.channels,
        "POSITIONS": tile.positions,
        "LEAST": tile.least,
    }
    return variant(
        f"attend {name} {width} {dtype}",
        attention.attend,
        types,
        sizes | padded,
        tile.warps,
        attention.STAGES,
    )


def merge(name: str, groups: int, kv_heads: int, head: int, dtype: str) -> Variant:
    tile, splits = attention.attention_tile(groups, head), attention.split_count(BATCH, kv_heads, CAPACITY)
    types = (
        dict.fromkeys(("partial", "mass"), "*fp32")
        | dict.fromkeys(("start", "length"), "*i64")
        | {"out": f"*{dtype}"}
    )
    sizes = {"WIDTH": 1, "GROUPS": groups, "HEAD": head, "CHANNELS": tile.channels, "LEAST": tile.least}
    types |= {"splits": "i32", **strides(attention.merge, "out")}
    sizes["SPLITS"] = 1 << (splits - 1).bit_length()
    return variant(f"merge {name} {dtype}", attention.merge, types, sizes, attention.MERGE_WARPS)


def add_rms_norm(shape: str, dtype: str, add: bool) -> Variant:
    width = SHAPES[shape][0]
    types = dict.fromkeys(("x", "residual", "weight", "out"), f"*{dtype}") | strides(
        norm.norm_token, "x", "residual", "out"
    )
    sizes = {"ADD": add, "WIDTH": width, "PADDED": 1 << (width - 1).bit_length()}
    return variant(
        f"{'add ' * add}norm {shape} {dtype}",
        norm.norm_token,
        {**types, "eps": "fp32"},
        sizes,
        norm.norm_warps(width),
    )


def rope_cache(shape: str, dtype: str, normed: bool) -> Variant:
    _, _, heads, kv_heads = SHAPES[shape]
    kernel, pointer = rotary.turn_heads, f"*{dtype}"
    weights = dict.fromkeys(("q_weight", "k_weight"), pointer if normed else "*fp32")
    types = (
        dict.fromkeys(("qkv", "k_cache", "v_cache", "out"), pointer)
        | dict.fromkeys(("cos", "sin"), "*fp32")
        | weights
    )
    types |= (
        dict.fromkeys(("position", "at"), "*i64") | {"eps": "fp32"} | strides(kernel, "qkv", "k", "v", "out")
    )
    sizes = {
        "NORM": normed,
        "QUERIES": heads,
        "KEYS": kv_heads,
        "HALF": HEAD // 2,
        "PADDED": HEAD // 2,
        "HEADS": rotary.HEADS,
    }
    return variant(f"{'norm ' * normed}turn {shape} {dtype}", kernel, types, sizes, rotary.TURN_WARPS)


QWEN, LLAMA = SHAPES
GROUPS = {name: heads // kv_heads for name, (_, _, heads, kv_heads) in SHAPES.items()}
MODELS = (QWEN, "bf16"), (QWEN, "fp16"), (LLAMA, "bf16")

VARIANTS: list[Variant] = [
    *[made for model in MODELS for made in observe(*model)],
    *[attend(shape, GROUPS[shape], HEAD, width, dtype) for shape, dtype in MODELS for width in WIDTHS],
    # A head width that is padded; wide heads with one query, and with more queries than a program holds.
    *[
        attend(f"head of {head}", groups, head, width, "bf16")
        for head, groups, width in ((80, 1, 1), (256, 2, 1), (256, 8, 17))
    ],
    *[merge(shape, GROUPS[shape], SHAPES[shape][3], HEAD, dtype) for shape, dtype in MODELS],
    merge("head of 80", 1, 1, 80, "bf16"),
    *[add_rms_norm(*model, add) for model in MODELS for add in (False, True)],
    *[rope_cache(*model, normed) for model in MODELS for normed in (False, True)],
]
