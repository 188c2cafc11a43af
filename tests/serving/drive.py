"""Runs vLLM's engine through a schedule of arrivals, and writes what came out as JSON.

    python tests/serving/drive.py PLAN.json OUT.json

PLAN holds `engine` (arguments of EngineArgs), `arrivals` (a list of objects with `step`, `name`, `prompt`, a
list of ids, and `new`) and `aborts` (name -> step). Steps are those of the engine. OUT holds the tokens by
name, the passes, and what Regrow counted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def main() -> None:
    from vllm import EngineArgs, LLMEngine, SamplingParams

    plan = json.loads(Path(sys.argv[1]).read_text())
    engine = LLMEngine.from_engine_args(EngineArgs(**plan["engine"]))
    runner = _runner(engine)
    passes = _recorded(runner) if hasattr(runner, "served") else []
    tokens: dict[str, list[int]] = {}
    waiting = sorted(plan["arrivals"], key=lambda one: one["step"])
    aborts = dict(plan.get("aborts", {}))
    step = 0
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[0]["step"] <= step:
            one = waiting.pop(0)
            asked = SamplingParams(temperature=0, max_tokens=one["new"], ignore_eos=True)
            engine.add_request(one["name"], {"prompt_token_ids": one["prompt"]}, asked)
        for name in [name for name, when in aborts.items() if when <= step]:
            engine.abort_request([name])
            del aborts[name]
        for output in engine.step():
            tokens[output.request_id] = list(output.outputs[0].token_ids)
        step += 1
    engine.step()  # lets the workers know what has ended
    found: dict[str, Any] = {"tokens": tokens, "passes": passes}
    if hasattr(runner, "served"):
        session = runner.served.session
        found["report"] = session.report().to_dict()
        found["masks"] = [(when, index.tolist()) for when, index in session.masks]
        found["running"] = runner.served.running
    Path(sys.argv[2]).write_text(json.dumps(found))


def _runner(engine: Any) -> Any:
    return engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def _recorded(runner: Any) -> list[dict[str, Any]]:
    """Records every pass: who has left before it, and the tokens of every request in it."""
    passes: list[dict[str, Any]] = []
    served, left = runner.served, []
    leave, passing = served.leave, served.passing
    served.session._record_masks = True

    def leaving(names: Any) -> None:
        left.extend(map(_given, names))
        leave(names)

    def runs(scheduled: Any, position: Any) -> Any:
        known = {
            _given(one.request): runner.input_batch.token_ids_cpu[place, : one.known].tolist()
            for place, one in enumerate(scheduled)
            if not one.follows
        }
        tokens = {_given(one.request): one.tokens for one in scheduled}
        passes.append({"left": sorted(left), "scheduled": tokens, "known": known})
        left.clear()
        return passing(scheduled, position)

    served.leave, served.passing = leaving, runs
    return passes


def _given(name: str) -> str:
    """Returns the name that a request was given, to which vLLM appends random letters."""
    return name.rpartition("-")[0]


if __name__ == "__main__":
    main()
