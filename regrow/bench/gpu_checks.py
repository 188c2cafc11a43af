"""Kernels against their references on a GPU, and recorded steps against plain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from regrow.core import FFNWeights
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.same_logits import attends_alike
from regrow.hosts.engine import Engine
from regrow.kernels import decode_reference, reference
from regrow.method.base import Method
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.dense import Dense
from regrow.method.griffin import Griffin

WIDTH, NEURONS, KEEP = 3584, 18944, 9472
ATTENTION: Final = (
    (1, 1, 28, 4, 4096),
    (4, 5, 28, 4, 1024),
    (16, 1, 32, 8, 2048),
    (3, 17, 32, 8, 512),
)  # rows, width, heads, kv heads, capacity
SIZES: Final = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}
METHODS: Final[Sequence[Method]] = Dense(), Griffin(), BatchwiseAdaptive(init_steps=5)
BATCHES: Final = 5, 5, 3, 5  # rows
KINDS: Final = "llama", "qwen2", "qwen3"
NEW: Final = 200  # tokens
HALVES: Final = (torch.bfloat16, torch.float16)


@final
@dataclass(frozen=True)
class Check:
    """What has to hold; `run` says whether it does, and what was found."""

    name: str
    run: Callable[[torch.device], dict[str, Any]]


def _error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def _within(errors: Sequence[tuple[torch.dtype, float]], roundings: float) -> dict[str, Any]:
    """Each error is below so many roundings to its type."""
    worst = {str(dtype): max(error for kind, error in errors if kind == dtype) for dtype, _ in errors}
    holds = all(error <= roundings * torch.finfo(dtype).eps for dtype, error in errors)
    return {"holds": holds, "found": ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())}


def _random(device: torch.device, dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, device=device).mul_(scale).to(dtype)


def _sparse_ffn(device: torch.device) -> dict[str, Any]:
    """Inputs of M = 1 to 64 rows. The hidden values are rounded once on the way, as they are in the reference."""
    from regrow.kernels.gather import GatherFFN

    found = []
    for dtype in HALVES:
        gate, up = (_random(device, dtype, NEURONS, WIDTH, scale=WIDTH**-0.5) for _ in range(2))
        weights = FFNWeights(gate, up, _random(device, dtype, WIDTH, NEURONS, scale=NEURONS**-0.5), silu)
        wide = FFNWeights(weights.gate.float(), weights.up.float(), weights.down.float(), silu)
        index = torch.randperm(NEURONS, device=device)[:KEEP].sort().values
        ffn = GatherFFN(weights, "silu", KEEP)
        ffn.load(index)
        for rows in (1, 2, 7, 16, 33, 64, 100):
            x = _random(device, dtype, rows, WIDTH)
            ours = ffn(x)
            found.append((dtype, _error(ours, reference.sparse_ffn(wide, index, x.float()))))
            if not torch.equal(ours, ffn(x)):
                return {"holds": False, "found": f"two runs with {rows} rows differ"}
    return _within(found, 4)


def _masked_linear(device: torch.device) -> dict[str, Any]:
    from regrow.kernels.masked import InputMajorLinear

    found = []
    for dtype in HALVES:
        weight, bias = _random(device, dtype, NEURONS, WIDTH, scale=WIDTH**-0.5), _random(device, dtype, NEURONS)
        keep = torch.rand(WIDTH, device=device) > 0.5
        ours = InputMajorLinear(weight, bias)
        for rows in (1, 3, 16, 64):
            x = _random(device, dtype, rows, WIDTH)
            theirs = reference.masked_linear(x.float(), weight.t().float(), keep, bias.float())
            found.append((dtype, _error(ours(x, keep), theirs)))
    return _within(found, 2)


def _observe(device: torch.device) -> dict[str, Any]:
    from regrow.kernels.triton.score import observe, observe_workspace

    found = []
    for dtype in HALVES:
        for tokens in (1, 4, 64, 1000):
            z, slot = _random(device, dtype, tokens, NEURONS), torch.randint(-1, 4, (tokens,), device=device)
            ours, again, theirs = torch.zeros(3, 4, NEURONS, device=device)
            decode_reference.observe(z, slot, theirs)
            for total in (ours, again):
                observe(z, slot, total, torch.full(observe_workspace(1, tokens, NEURONS), torch.nan, device=device))
            if not torch.equal(ours, again):
                return {"holds": False, "found": f"two runs with {tokens} tokens differ"}
            found.append((torch.float32, _error(ours, theirs) if bool(theirs.any()) else 0.0))
    return _within(found, 64)  # sums of up to a thousand terms, in another order


def _exceeding(device: torch.device) -> dict[str, Any]:
    """The same inputs are kept, but for those at the threshold itself."""
    from regrow.kernels.triton.retain import exceeding

    odd, threshold = 0, 0.8
    for dtype in HALVES:
        for tokens in (1, 4, 64, 200):
            x, slot = _random(device, dtype, tokens, NEURONS), torch.randint(-1, 4, (tokens,), device=device)
            norms = torch.rand(NEURONS, device=device) + 0.5
            score = decode_reference.magnitude(x, slot, abs_mean=False) * norms
            keep, measured = torch.zeros(NEURONS, dtype=torch.bool, device=device), torch.zeros(2, dtype=torch.int64, device=device)
            exceeding(x, slot, norms, threshold, False, 7, measured[1], keep)
            odd += int(((keep != (score > threshold)) & ((score - threshold).abs() > 1e-5)).sum())
            if measured.tolist() != [0, 7 * int(keep.sum())]:
                return {"holds": False, "found": f"{measured.tolist()} weights counted for {int(keep.sum())} inputs"}
    return {"holds": not odd, "found": f"{odd} inputs differ"}


def _attention(device: torch.device) -> dict[str, Any]:
    from regrow.kernels.triton.attention import attention_workspace, decode_attention

    found = []
    for dtype in HALVES:
        for rows, width, heads, kv_heads, capacity in ATTENTION:
            q = _random(device, dtype, rows, width, heads, 128)
            keys, values = (_random(device, dtype, rows, kv_heads, capacity, 128) for _ in range(2))
            length = torch.randint(0, capacity - width, (rows,), device=device)
            start = torch.zeros_like(length)
            out = torch.full_like(q, torch.nan)
            shapes = attention_workspace(rows, width, heads, kv_heads, 128, capacity)
            workspaces = [torch.full(shape, torch.nan, device=device) for shape in shapes]
            decode_attention(q, keys, values, start, length, 128**-0.5, out, *workspaces)
            theirs = torch.empty_like(q, dtype=torch.float32)
            decode_reference.decode_attention(q.float(), keys.float(), values.float(), start, length, 128**-0.5, theirs)
            found.append((dtype, _error(out, theirs)))
    return _within(found, 4)


def _tiny(kind: str, device: torch.device) -> PreTrainedModel:
    tokens = {"vocab_size": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(kind, head_dim=32, initializer_range=0.1, max_position_embeddings=1024, **SIZES, **tokens)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device)  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    model.generation_config.eos_token_id = None
    return model


def _ragged(device: torch.device, rows: int = 5) -> dict[str, Any]:
    ids = torch.randint(3, 500, (rows, 40), device=device)
    mask = (torch.arange(40, device=device) >= torch.tensor([[0], [7], [19], [30], [39]], device=device)[:rows]).long()
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}


@final
class _Dictated(LogitsProcessor):
    """Chooses the same tokens whatever the logits [B, V], and keeps those."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores.clone())
        token = (7 * input_ids[:, -1:] + len(self.seen)) % scores.shape[1]
        chosen: Tensor = torch.zeros_like(scores).scatter_(1, token, 1.0)
        return chosen


def _logits(engine: Engine, prompt: dict[str, Any]) -> Tensor:
    """[N, B, V]"""
    dictated = _Dictated()
    engine.generate(**prompt, logits_processor=LogitsProcessorList([dictated]))
    return torch.stack(dictated.seen)


def _recorded_steps(device: torch.device) -> dict[str, Any]:
    """Logits of recorded kernels are those of plain torch, in float32, along the same tokens of ragged batches. The second batch replays
    what the first left; the third and the fourth are of another size."""
    found = []
    for kind in KINDS:
        model = _tiny(kind, device)
        for method in METHODS:
            prompts = [_ragged(device, rows) for rows in BATCHES]
            with patch.object(FusedNetwork, "forward", _plain_forward), Engine(model, method) as engine:
                plain = [_logits(engine, prompt) for prompt in prompts]
            with Engine(model, method) as engine:
                errors = [_step_errors(_logits(engine, prompt), theirs) for prompt, theirs in zip(prompts, plain, strict=True)]
            found.append((f"{kind}, {method.name}", torch.cat(errors)))
    return _alike(found)


def _step_errors(ours: Tensor, theirs: Tensor) -> Tensor:
    """[N], relative."""
    errors: Tensor = torch.linalg.vector_norm(ours - theirs, dim=(1, 2)) / torch.linalg.vector_norm(theirs, dim=(1, 2))
    return errors


def _alike(found: Sequence[tuple[str, Tensor]]) -> dict[str, Any]:
    """Sums in another order change a logit by some roundings, and may swap two neurons at the border of a mask: seldom, and by little."""
    usual, worst = max(float(errors.median()) for _, errors in found), max(float(errors.max()) for _, errors in found)
    wrong = [name for name, errors in found if not (float(errors.median()) < 1e-4 and float(errors.max()) < 0.1)]
    steps = sum(len(errors) for _, errors in found)
    text = f"{steps} steps, relative error {usual:.1e} in the median, at most {worst:.1e}"
    return {"holds": not wrong, "found": f"{'; '.join(wrong)}: {text}" if wrong else text}


def _own_forward(device: torch.device) -> dict[str, Any]:
    """Of a family that is not run by its parts."""
    with torch.inference_mode():
        holds = attends_alike(_tiny("olmo2", device))
    return {"holds": holds, "found": f"olmo2: {'the same' if holds else 'other'} logits after a ragged prompt"}


def _plain_forward(network: FusedNetwork, ids: Tensor, position: Tensor, length: int, **_: Any) -> Tensor:
    return network._plain(ids, position, length)


def _no_stop(device: torch.device) -> dict[str, Any]:
    """Two periods after everything is recorded, with torch told to fail where the host waits for the device."""
    model, steps = _tiny("qwen2", device), 0

    def mark(_: str) -> None:
        nonlocal steps
        steps += 1
        if steps in (90, 140):
            torch.cuda.set_sync_debug_mode("error" if steps == 90 else "default")

    try:
        with Engine(model, BatchwiseAdaptive(init_steps=5)):
            model.generate(**_ragged(device), mark=mark)  # type: ignore[operator]
    except RuntimeError as error:
        return {"holds": False, "found": str(error).splitlines()[0]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"holds": True, "found": "50 steps and their refreshes without a stop"}


CHECKS: Final = (
    Check("sparse FFN through an index", _sparse_ffn),
    Check("masked linear", _masked_linear),
    Check("scores", _observe),
    Check("inputs above a threshold", _exceeding),
    Check("decode attention", _attention),
    Check("recorded steps give the logits of plain ones", _recorded_steps),
    Check("decode attention inside a model's own forward", _own_forward),
    Check("no stop of the host in a period", _no_stop),
)
