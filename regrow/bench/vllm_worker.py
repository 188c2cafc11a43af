"""vLLM's side of a benchmark. It runs in vLLM's own environment, so it imports no other module of Regrow.

    PYTHON vllm_worker.py '{"model": DIR, "dtype": "bfloat16", "rows": 16, "tokens": 128, "eager": true}'

The worker prints "ready" when the engine is loaded. Then it answers each line {"ids": [[...], ...], "new": N}
on standard input with one line on standard output: [["prompt", seconds], ["dense", seconds], ...]. The first
pair is the whole prompt. Each following pair is one step of the engine.
"""

import json
import os
import sys
import time
from typing import Any, TextIO


def spans(engine: Any, request: dict[str, Any], number: int) -> list[tuple[str, float]]:
    """Runs one batch and returns (phase, seconds) pairs: "prompt" once, then "dense" for every decode step.

    `number` makes the request ids unique.
    """
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=request["new"], temperature=0, ignore_eos=True, detokenize=False)
    waiting = {f"{number}-{row}" for row in range(len(request["ids"]))}
    for name, ids in zip(sorted(waiting), request["ids"], strict=True):
        engine.add_request(name, {"prompt_token_ids": ids}, sampling)
    found, before = [], time.perf_counter()
    while engine.has_unfinished_requests():
        phase = "prompt" if waiting else "dense"
        waiting -= {output.request_id for output in engine.step() if output.outputs[0].token_ids}
        if waiting:
            continue  # prompts that take several steps are one phase
        now = time.perf_counter()
        found.append((phase, now - before))
        before = now
    return found


def main(settings: dict[str, Any], answers: TextIO) -> None:
    """Loads the engine and answers requests until standard input ends."""
    from vllm import LLM

    llm = LLM(
        settings["model"],
        skip_tokenizer_init=True,
        dtype=settings["dtype"],
        enforce_eager=settings["eager"],
        max_model_len=settings["tokens"],
        max_num_seqs=settings["rows"],
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    print("ready", file=answers, flush=True)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(spans(llm.llm_engine, json.loads(line), number)), file=answers, flush=True)


if __name__ == "__main__":
    # Libraries also print to standard output. Their text goes to standard error, so that only answers remain.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]), own)
