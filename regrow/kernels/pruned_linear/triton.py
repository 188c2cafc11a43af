"""Linears that read only the inputs that are kept (TEAL, arXiv 2408.14690; WINA, arXiv 2505.19427), from input-major weights.

Input-major, [in, out], because what an input contributes is then one contiguous row, and an input that is dropped a row that is not read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.split_sums import sum_rows


@torch.library.custom_op("regrow::masked_linear", mutates_args=("workspace", "out"))
def masked_linear(x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None, workspace: Tensor, out: Tensor) -> None:
    """out [M, out] = sum over inputs i with keep[i] of x[:, i] weight_t[i] + bias, for x [M, in], weight_t [in, out] and keep [in] bool.

    `workspace` is float32 of `workspace_shape(M, in, out)`. Sums are float32, the result is rounded once; the same input gives the same
    output bit for bit. 1 <= M <= 64. Rows may have any stride; 16-byte loads need row strides, `in` and `out` that are multiples of 16.
    """
    assert keep.dtype == torch.bool, f"masked_linear: keep is bool, not {keep.dtype}"
    assert len(keep) == len(weight_t), f"masked_linear: keep is [{len(weight_t)}], not {list(keep.shape)}"
    sum_rows("masked_linear", x, weight_t, keep, bias, workspace, out, indexed=False)
