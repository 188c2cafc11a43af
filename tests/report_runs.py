"""Results on disk for reports: record files of made-up runs, divergences and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regrow.run_config import RunConfig
from samples import CONFIG, COUNTED, record

PROMPTS = 4
BAP = {"sparsity": 0.5, "init_steps": 64, "explore_steps": 2, "period": 20, "aggregate": "max"} | {
    "memory": "max",
    "decay": 0.9,
    "forget_finished": False,
    "selection": "topk",
}


def config(method: str = "dense", batch_size: int = 2, task: str = "math500", **params: Any) -> RunConfig:
    """Returns the settings of a run of PROMPTS prompts; `params` are those of the method."""
    own = {**BAP, **params} if method == "bap" else {"sparsity": 0.5, **params} if method != "dense" else {}
    return replace(
        CONFIG,
        task=task,
        method=method,
        params=own,
        batch_size=batch_size,
        limit=PROMPTS,
        skip_layers=(),
        grader="exact",
    )


def write_run(
    path: Path,
    settings: RunConfig,
    right: int = PROMPTS,
    batches: Sequence[int] | None = None,
    **counted: Any,
) -> Path:
    """Writes a run in which the first `right` prompts are answered right; `counted` changes counters."""
    kept = 100 if settings.method == "dense" else 60
    counters = {**COUNTED, "weights_kept": kept, "ffn_bytes_read": 10 * kept, **counted}
    lines = []
    for batch in range(settings.batches) if batches is None else batches:
        made = record(batch, settings, counters=counters)
        first = batch * settings.batch_size
        texts = ["yes" if first + row < right else "no" for row in range(len(made.ids))]
        lines.append(replace(made, golds=("yes",) * len(texts), texts=tuple(texts)).line())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    return path


def write_divergence(path: Path, settings: RunConfig, mean_kl: float = 0.25) -> Path:
    """Writes a divergence that was measured along the dense answers to fewer prompts."""
    content = {
        "settings": replace(settings, limit=2, task_sha256="e" * 64).to_dict(),
        "tokens": 8,
        "kl": 8 * mean_kl,
        "agreeing": 6,
        "weights_kept": 60,
        "weights_dense": 100,
        "mean_kl": mean_kl,
        "agreement": 0.75,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_bench(path: Path, model: str = "qwen-7b", sizes: Sequence[int] = (2, 4), **made: Any) -> Path:
    """Writes a benchmark: GRIFFIN is twice and Batch-wise Adaptive Pruning 1.5 times as fast as dense."""
    rows = [
        {
            "model": model,
            "label": label,
            "rows": size,
            "prompt": 8,
            "new": 16,
            "tokens_per_second": _spread(100 * size * ratio),
            "ratio": _spread(ratio),
            "ms": {},
            "bytes_per_step": 1.0,
            "bound": 2.0,
            "bandwidth_share": 0.5,
            "turnover": None,
        }
        for size in sizes
        for label, ratio in (("dense", 1.0), ("griffin", 2.0), ("bap", 1.5))
    ]
    content = {
        "made_with": {"device": "a GPU", "torch": "2.13"},
        "bandwidth": {"read": 1.0, "copy": 1.0},
        "settings": {"sparsity": 0.5, "dtype": "bfloat16"},
        "rows": rows,
        "lost": [],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | made))
    return path


def _spread(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value}


def write_everything(folder: Path) -> None:
    """Writes results that every section of a report has something to show of."""
    for size in (2, 4):
        for task in ("math500", "amc23"):
            own = folder / task
            write_run(own / f"dense-b{size}.jsonl", config(batch_size=size, task=task))
            write_run(own / f"griffin-b{size}.jsonl", config("griffin", size, task), right=1)
            write_run(own / f"bap-b{size}.jsonl", config("bap", size, task), right=3)
    low = config("griffin", 4, sparsity=0.3)
    write_run(folder / "math500" / "griffin-s0.3-b4.jsonl", low, right=1)
    write_run(folder / "math500" / "bap-t-init-0.jsonl", config("bap", 4, init_steps=0), right=2)
    write_divergence(folder / "math500" / "divergence" / "bap.json", config("bap", 4))
    write_bench(folder / "bench" / "decode.json")
