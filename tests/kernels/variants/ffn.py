"""The sparse FFN and the masked linear layer, at the sizes of Qwen2.5-7B with half of its neurons."""

from collections.abc import Mapping, Sequence
from typing import Any

from kernels.ahead_of_time import SMALL_SHARED, Variant
from regrow.kernels.pruned_ffn.triton import gated_dot, gated_tile, gated_vector
from regrow.kernels.pruned_linear import triton as inputs
from regrow.kernels.split_sums import (
    ADD,
    H100_SHARED,
    PROCESSORS,
    RESIDENT,
    add_partials,
    blocks,
    partial_dot,
    partial_tile,
    workspace_shape,
)

WIDTH, NEURONS, KEEP = 3584, 18944, 9472
ROWS = 1, 16, 64  # 2 to 16 rows share one compiled kernel
SUM_ROWS = 1, 32, 64  # rows of `partial_dot`; 1 to 16 rows share one compiled kernel
DTYPES = "bf16", "fp16"
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}


def variant(
    name: str,
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    warps: int,
    odd: Sequence[str] = (),
    programs: int = 1,
) -> Variant:
    """Creates a variant whose buffers and sizes are multiples of 16, except for those named in `odd`.

    The number of rows is never specialised.
    """
    aligned = {key: value if key in ("rows", *odd) else f"{value}:16" for key, value in types.items()}
    absent = {key: None for key in kernel.arg_names if key not in types and key not in constants}
    return Variant(name, kernel, aligned, {**constants, **absent}, {"num_warps": warps}, programs)


def integers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def gated(
    rows: int,
    dtype: str,
    act: str = "silu",
    biased: bool = False,
    index: str = "i64",
    odd: Sequence[str] = (),
    shared: int = H100_SHARED,
) -> Variant:
    (tile, share), kernel = (
        gated_tile(rows, WIDTH, KEEP, SIZES[dtype], shared),
        gated_vector if rows == 1 else gated_dot,
    )
    types = dict.fromkeys(("x", "gate", "up", "out"), f"*{dtype}") | {"index": f"*{index}"}
    types |= dict.fromkeys(("gate_bias", "up_bias"), f"*{dtype}") if biased else {}
    types |= integers("width", "keep", "columns", "gate_stride", "up_stride")
    constants = {
        "ACT": act,
        "WIDTH": tile.inputs,
        "NEURONS": tile.outputs,
        "SHARE": share,
        "STAGES": tile.stages,
    }
    if rows > 1:
        types |= integers("rows", "x_stride", "out_stride")
        constants |= {"ROWS": tile.rows}
    name = f"gated {rows} {dtype} {act} {index}"
    name += f"{' biased' * biased}{' odd' * bool(odd)}{' small' * (shared < H100_SHARED)}"
    return variant(name, kernel, types, constants, tile.warps, odd, RESIDENT // PROCESSORS)


def partial(
    rows: int, dtype: str, index: str = "i64", shared: int = H100_SHARED, counted: bool = False
) -> Variant:
    """With `counted`, it is the variant of the masked linear layer, over gathered inputs."""
    tile = partial_tile(rows, KEEP, WIDTH, SIZES[dtype], shared)
    types = dict.fromkeys(("x", "weight"), f"*{dtype}") | {"index": f"*{index}", "partial": "*fp32"}
    types |= {"count": "*i32"} if counted else {}
    types |= integers("rows", "inputs", "outputs", "share", "x_stride", "weight_stride")
    constants = {"ROWS": tile.rows, "INPUTS": tile.inputs, "OUTPUTS": tile.outputs, "STAGES": tile.stages}
    name = f"partial {rows} {dtype} {index}{' counted' * counted}{' small' * (shared < H100_SHARED)}"
    return variant(name, partial_dot, types, constants, tile.warps, programs=RESIDENT // PROCESSORS)


def gather_inputs(dtype: str, count: int, masked: bool = False, weighed: bool = False) -> Variant:
    """Gathers the kept ones of `count` inputs, given by a mask or by a threshold of scores."""
    types = {"x": f"*{dtype}", "kept": f"*{dtype}", "index": "*i32", "count": "*i32", "counts": "*i32"}
    types |= integers("inputs", "x_token", "kept_token") | {"tokens": "i32"}
    types |= {"keep": "*i1"} if masked else {"slot": "*i64", "measured": "*i64"}
    types |= {"norms": "*fp32"} if weighed else {}
    scalars = {"threshold": "fp32", "weights": "i32"}
    programs = blocks(count, inputs.INPUTS)
    constants = {
        "ABS_MEAN": weighed,
        "ROWS": inputs.ROWS,
        "INPUTS": inputs.INPUTS,
        "BLOCKS": 1 << (programs - 1).bit_length(),
        "COUNTS": inputs.COUNTS,
        "LAUNCHES": inputs.LAUNCHES,
    }
    name = f"gather inputs {dtype} {count}{' masked' * masked}{' weighed' * weighed}"
    odd = ("tokens", "measured", *scalars)
    return variant(name, inputs.side_by_side, types | scalars, constants, inputs.WARPS, odd)


def add(rows: int, dtype: str, biased: bool) -> Variant:
    types = {"partial": "*fp32", "out": f"*{dtype}"} | ({"bias": f"*{dtype}"} if biased else {})
    types |= integers("rows", "outputs", "out_stride")
    splits, _, _ = workspace_shape(rows, KEEP, WIDTH)
    return variant(
        f"add {rows} {dtype}{' biased' * biased}", add_partials, types, {"SPLITS": splits, "OUTPUTS": ADD}, 2
    )


VARIANTS: list[Variant] = [
    *[gated(rows, dtype) for rows in ROWS for dtype in DTYPES],
    *[gated(rows, dtype, biased=True) for rows, dtype in ((1, "bf16"), (16, "fp16"), (64, "bf16"))],
    *[gated(rows, "bf16", act) for rows, act in ((1, "gelu"), (16, "gelu_tanh"), (16, "relu"))],
    gated(16, "bf16", index="i32"),
    *[gated(rows, "bf16", odd=("keep",)) for rows in ROWS],  # k is not a multiple of 16
    *[gated(rows, "bf16", shared=SMALL_SHARED) for rows in ROWS],
    *[partial(rows, "bf16", shared=SMALL_SHARED) for rows in SUM_ROWS],
    *[gated(rows, "fp32") for rows in (1, 16)],
    *[partial(rows, dtype) for rows in SUM_ROWS for dtype in DTYPES],
    partial(1, "bf16", "i32"),
    *[partial(rows, dtype, "i32", counted=True) for rows in SUM_ROWS for dtype in DTYPES],
    *[partial(rows, "bf16", "i32", SMALL_SHARED, counted=True) for rows in SUM_ROWS],
    *[gather_inputs(dtype, count) for dtype in DTYPES for count in (WIDTH, NEURONS)],
    gather_inputs("bf16", WIDTH, masked=True),
    gather_inputs("bf16", NEURONS, weighed=True),
    *[partial(rows, "fp32") for rows in SUM_ROWS],
    *[add(rows, dtype, biased) for rows, dtype in ((16, "bf16"), (64, "fp16")) for biased in (False, True)],
]
