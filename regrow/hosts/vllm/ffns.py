"""The gated FFNs of a model that vLLM has loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

from torch import Tensor, nn
from torch.nn.functional import silu
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.models.llama import LlamaMLP
from vllm.model_executor.models.mistral import MistralMLP
from vllm.model_executor.models.qwen2 import Qwen2MLP

from regrow.adapter.patch import Patch
from regrow.adapter.probe import mismatch
from regrow.core import Blocks, FFNWeights, Site
from regrow.errors import UsageError

_MLPS: Final = (Qwen2MLP, LlamaMLP, MistralMLP)


@final
@dataclass(frozen=True)
class ServedFFN:
    """One gated FFN of a vLLM model; see `regrow.core.FFN`. Its dense output is that of vLLM's own layers.

    With tensor parallelism, it holds this worker's neurons, and `output` sums over the workers.
    """

    name: str
    module: Any
    weights: FFNWeights

    def hidden(self, x: Tensor) -> Tensor:
        """Returns z [..., F] of x [..., D]."""
        gate_up, _ = self.module.gate_up_proj(x)
        z: Tensor = self.module.act_fn(gate_up)
        return z

    def output(self, z: Tensor) -> Tensor:
        """Returns y [..., D] of z [..., F], where every worker has its own z."""
        y: Tensor
        y, _ = self.module.down_proj(z)
        return y


@contextmanager
def kept_weights() -> Iterator[Mapping[nn.Module, Tensor]]:
    """Keeps the weights of the linear layers that are loaded inside, by module.

    On a CPU, vLLM repacks weights after loading and drops the originals, which a mask selects rows of.
    """
    kept: dict[nn.Module, Tensor] = {}
    process = UnquantizedLinearMethod.process_weights_after_loading

    def keep(method: UnquantizedLinearMethod, layer: Any) -> None:
        kept[layer] = layer.weight.detach()
        process(method, layer)

    UnquantizedLinearMethod.process_weights_after_loading = keep
    try:
        yield kept
    finally:
        UnquantizedLinearMethod.process_weights_after_loading = process


def find_served(model: nn.Module, kept: Mapping[nn.Module, Tensor]) -> list[ServedFFN]:
    """Returns the FFNs of `model` in layer order, one per decoder layer.

    Raises UsageError for a model whose FFNs are not all gated ones that Regrow knows.
    """
    found = [_resolve(name, module, kept) for name, module in model.named_modules() if type(module) in _MLPS]
    layers = int(model.config.num_hidden_layers)  # type: ignore[arg-type, union-attr]
    if len(found) != layers:
        raise UsageError(
            f"{type(model).__name__} has {len(found)} FFNs that Regrow knows in {layers} layers; "
            "serve a Llama, Mistral, Qwen2 or Qwen3 model, or serve it without Regrow"
        )
    return found


def _resolve(name: str, module: Any, kept: Mapping[nn.Module, Tensor]) -> ServedFFN:
    for linear in (module.gate_up_proj, module.down_proj):
        if linear not in kept or type(linear.quant_method) is not UnquantizedLinearMethod:
            raise UsageError(
                f"{name} has quantised weights, from which Regrow cannot leave out rows; "
                "serve the unquantised model, or serve this one without Regrow"
            )
    gate, up = kept[module.gate_up_proj].tensor_split(2)
    gate_bias, up_bias = (
        (None, None) if module.gate_up_proj.bias is None else module.gate_up_proj.bias.tensor_split(2)
    )
    down = module.down_proj
    down_bias = down.bias if down.tp_rank == 0 else None  # the sum over the workers holds it once
    weights = FFNWeights(gate, up, kept[down], silu, gate_bias, up_bias, down_bias)
    ffn = ServedFFN(name, module, weights)
    if reason := mismatch(module, weights, ffn.hidden, ffn.output):
        raise UsageError(f"{name} ({type(module).__name__}) {reason}")
    return ffn


def blocks(ffns: list[ServedFFN]) -> Blocks:
    """Returns the FFNs as the parts of a model that a method may change: with tensor parallelism, a shard."""
    gate_up = [ffn.weights.gate.numel() + ffn.weights.up.numel() for ffn in ffns]
    sizes = {Site.GATE_UP: gate_up, Site.DOWN: [ffn.weights.down.numel() for ffn in ffns]}
    reduce = tensor_model_parallel_all_reduce if get_tensor_model_parallel_world_size() > 1 else None
    return Blocks(range(len(ffns)), ffns, [], sizes, sizes, reduce)


def patched(ffns: list[ServedFFN], forward: Callable[[str], Callable[[Tensor], Tensor]]) -> Patch:
    """Makes every FFN run `forward(name)`. Restoring the patch undoes it."""
    patch = Patch()
    for ffn in ffns:
        patch.replace(ffn.module, "forward", forward(ffn.name))
    return patch
