"""Every Triton kernel with the types and constants it is used with."""

from kernels.variants import decode, ffn

VARIANTS = [*ffn.VARIANTS, *decode.VARIANTS]
