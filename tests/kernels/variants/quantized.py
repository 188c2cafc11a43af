"""Linear layers and FFNs over rounded weights, at the sizes of Qwen2.5-7B."""

from dataclasses import replace

from kernels.ahead_of_time import Variant
from kernels.variants.ffn import KEEP, NEURONS, WIDTH, integers, variant
from regrow.kernels.quantized.triton import GROUPS, Block, block, dot_rows
from regrow.kernels.quantized.triton_down import NEURONS as STEP
from regrow.kernels.quantized.triton_down import WARPS, down_block, partial_down
from regrow.kernels.split_sums import PROCESSORS, RESIDENT

ROWS = 1, 16  # 1 to 8 rows share one compiled kernel, and 9 to 64
QKV, HEAD = 4608, 152064
DTYPES = "bf16", "fp16"


def linear(rows: int, columns: int, dtype: str, bits: int = 4, biased: bool = False) -> Variant:
    size = block(rows, columns, 1, bits)
    types = dict.fromkeys(("x", "out"), f"*{dtype}") | {"codes": "*u8", "factors": "*i32"}
    types |= {"bias": f"*{dtype}"} if biased else {}
    return products(
        f"quantised small linear {rows} {columns} {bits} bits{' biased' * biased} {dtype}",
        types,
        size,
        "",
        bits,
    )


def gated(
    rows: int, columns: int, dtype: str, index: bool, act: str = "silu", biased: bool = False
) -> Variant:
    size = block(rows, columns, 2, 4)
    types = dict.fromkeys(("x", "out"), f"*{dtype}")
    types |= {"codes": "*u8", "factors": "*i32", "up_codes": "*u8", "up_factors": "*i32"}
    types |= dict.fromkeys(("bias", "up_bias"), f"*{dtype}") if biased else {}
    types |= {"index": "*i64"} if index else {}
    name = f"quantised small gated {rows} {columns} {act}{' index' * index}{' biased' * biased} {dtype}"
    return products(name, types, size, act, 4)


def products(name: str, types: dict[str, str], size: Block, act: str, bits: int) -> Variant:
    rows, outputs, stages = size
    types |= integers("rows", "width", "groups", "keep", "columns", "x_stride", "out_stride")
    constants = {
        "ACT": act,
        "BITS": bits,
        "ROWS": rows,
        "OUTPUTS": outputs,
        "GROUPS": GROUPS,
        "STAGES": stages,
    }
    programs = 3 if rows <= 8 else 2
    made = variant(name, dot_rows, types, constants, GROUPS, ("groups", "keep"), programs)
    return replace(made, options=size.options)


def down(rows: int, dtype: str, index: bool) -> Variant:
    padded, outputs, stages = down_block(rows)
    types = {"h": f"*{dtype}", "codes": "*u8", "factors": "*i32", "partial": "*fp32", "unit": "fp32"}
    types |= {"index": "*i64"} if index else {}
    types |= integers("rows", "neurons", "groups", "outputs", "share", "h_stride")
    constants = {
        "ROWS": padded,
        "GROUPS": outputs // 128,
        "WARPS": WARPS,
        "NEURONS": STEP,
        "STAGES": stages,
    }
    name = f"quantised small down {rows}{' index' * index} {dtype}"
    return variant(name, partial_down, types, constants, WARPS, ("groups", "unit"), RESIDENT // PROCESSORS)


VARIANTS: list[Variant] = [
    *[linear(rows, QKV, dtype, biased=True) for rows in ROWS for dtype in DTYPES],
    *[linear(rows, HEAD, dtype, bits) for rows in ROWS for dtype in DTYPES for bits in (4, 8)],
    *[gated(rows, NEURONS, dtype, False) for rows in ROWS for dtype in DTYPES],
    *[gated(rows, KEEP, dtype, True) for rows in ROWS for dtype in DTYPES],
    *[gated(rows, KEEP, "bf16", True, "gelu", biased=True) for rows in ROWS],
    gated(1, WIDTH, "bf16", True),  # so few neurons that a program computes 16
    *[down(rows, dtype, index) for rows in ROWS for dtype in DTYPES for index in (False, True)],
]
