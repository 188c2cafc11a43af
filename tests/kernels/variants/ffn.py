from kernels.ahead_of_time import Variant

VARIANTS: list[Variant] = []
