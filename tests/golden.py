"""A fixed set of generations: tiny models, every method and ragged batches.

All run in float64, so that rounding on another CPU does not change a token. `python tests/golden.py` writes
`tests/golden.json`. Refactoring must leave every entry unchanged. An entry may change only if the method
itself was wrong, and the commit must say so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from families import build
from regrow.method.presets import METHODS, make, parameters

FILE = Path(__file__).with_name("golden.json")
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "olmo2")
SETTINGS: dict[str, Any] = {"sparsity": "0.6", "init_steps": 3, "explore_steps": 1, "period": 4}
METHODS_OF: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "wanda": ("wanda", {"sparsity": "0.5"}),
    "sparsegpt": ("sparsegpt", {"sparsity": "0.5"}),
    "bap defaults": ("bap", {"sparsity": "0.5", "init_steps": 6, "explore_steps": 2, "period": 7}),
    "bap mean": ("bap", {"aggregate": "mean"}),
    "bap ema": ("bap", {"memory": "ema"}),
    "bap none": ("bap", {"memory": "none"}),
    "bap threshold": ("bap", {"selection": "threshold"}),
    "bap forget": ("bap", {"forget_finished": True}),
    "bap at once": ("bap", {"init_steps": 0}),
    "griffin sum": ("griffin", {"aggregate": "sum"}),
    "teal ffn": ("teal", {"ffn_only": True}),
    "teal abs_mean": ("teal", {"share": "abs_mean"}),
    "wina topk": ("wina", {"selection": "topk"}),
    "cats rows": ("cats", {"share": "none"}),
}
# Further arguments beside the prompts, for llama and gemma2 only.
WAYS: dict[str, dict[str, Any]] = {
    "chunks": {"prefill_chunk_size": 3},
    "one row": {"rows": 1},
    "ends": {"eos_token_id": list(range(3, 20))},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0},
    "penalty": {"repetition_penalty": 1.3},
}


def entries() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Return (name, family, method, settings) of every generation."""
    for family in FAMILIES:
        for method in METHODS_OF:
            yield f"{family} | {method}", family, method, {}
    for family in ("llama", "gemma2"):
        for method in ("dense", "bap", "griffin", "teal"):
            for way, settings in WAYS.items():
                yield f"{family} | {method} | {way}", family, method, settings


def generation(model: PreTrainedModel, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return tokens, masks and counters of one generation of 24 tokens."""
    name, differing = METHODS_OF[method]
    made = make(
        name, **{key: value for key, value in (SETTINGS | differing).items() if key in parameters(name)}
    )
    batch = prompts(settings.get("rows", 4), seed=5)
    given = arguments(
        batch, **{"max_new_tokens": 24, **{key: value for key, value in settings.items() if key != "rows"}}
    )
    with regrow.prune(model, made, calibration=calibration_for(model, made), record_masks=True) as session:
        torch.manual_seed(3)
        sequences = model.generate(**given)
        report, masks = session.report(), [(step, index.tolist()) for step, index in session.masks]
    return {
        "tokens": sequences[:, given["input_ids"].shape[1] :].tolist(),
        "masks": hashlib.sha256(json.dumps(masks).encode()).hexdigest(),
        "updates": len(masks),
        "steps": [report.decode_steps, report.sparse_steps],
        "weights": [report.weights_kept, report.weights_dense],
        "bytes": [report.bytes_read, report.ffn_bytes_read, report.refresh_bytes],
        "ends": report.finish_reasons,
    }


def main() -> None:
    models = {family: build(family, torch.float64) for family in FAMILIES}
    found = {
        name: generation(models[family], method, settings) for name, family, method, settings in entries()
    }
    FILE.write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
        + "\n}\n"
    )


if __name__ == "__main__":
    main()
