"""Every Triton kernel with the types and constants that it is launched with."""

from kernels.variants import decode, ffn, quantized

VARIANTS = [*ffn.VARIANTS, *decode.VARIANTS, *quantized.VARIANTS]
