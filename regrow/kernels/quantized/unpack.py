"""Parts of the Triton kernels that turn packed codes, scales and offsets into numbers."""

from __future__ import annotations

from typing import Final

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

INTERPRETED: Final = tl.constexpr(triton.knobs.runtime.interpret)


def ptx(shift: int, kind: str, exponent: int, one: int, minus: int) -> str:
    """Returns PTX that converts four halves of bytes to four numbers of 16 bits.

    With a fitting exponent, a code in the last bits of the mantissa reads as 2^n + code. One permutation
    writes the exponent to the upper bytes of two numbers, and one multiply-add subtracts 2^n exactly.
    """
    return f"""{{
        .reg .b32 codes, first, second, exponent, one, minus;
        shr.u32 codes, $2, {shift};
        and.b32 codes, codes, 0x0f0f0f0f;
        mov.b32 exponent, {exponent:#010x};
        prmt.b32 first, codes, exponent, 0x4140;
        prmt.b32 second, codes, exponent, 0x4342;
        mov.b32 one, {one:#010x};
        mov.b32 minus, {minus:#010x};
        fma.rn.{kind}x2 $0, first, one, minus;
        fma.rn.{kind}x2 $1, second, one, minus;
    }}"""


BF16: Final = "bf16", 0x43434343, 0x3F803F80, 0xC300C300  # 0x4300 is 128, 0xC300 is -128
FP16: Final = "f16", 0x64646464, 0x3C003C00, 0xE400E400  # 0x6400 is 1024, 0xE400 is -1024
LOW_BF16: Final = tl.constexpr(ptx(0, *BF16))
HIGH_BF16: Final = tl.constexpr(ptx(4, *BF16))
LOW_FP16: Final = tl.constexpr(ptx(0, *FP16))
HIGH_FP16: Final = tl.constexpr(ptx(4, *FP16))


@triton.jit  # type: ignore[untyped-decorator]
def half(packed: tl.tensor, HIGH: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Returns the codes in the low or high halves of bytes as numbers of dtype.

    The compiled loops take about three instructions a weight, and would take five with plain casts. Triton's
    interpreter knows casts alone.
    """
    if INTERPRETED or dtype == tl.float32:
        return (packed >> 4).to(dtype) if HIGH else (packed & 15).to(dtype)
    elif dtype == tl.bfloat16:  # noqa: RET505 (Triton would also compile code after the return)
        return tl.inline_asm_elementwise(
            HIGH_BF16 if HIGH else LOW_BF16, "=r,=r,r", [packed], tl.bfloat16, is_pure=True, pack=4
        )
    else:
        return tl.inline_asm_elementwise(
            HIGH_FP16 if HIGH else LOW_FP16, "=r,=r,r", [packed], tl.float16, is_pure=True, pack=4
        )


@triton.jit  # type: ignore[untyped-decorator]
def scale_and_offset(pair: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Returns the two bfloat16 numbers in each word of `pair` int32 as float32."""
    return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)
