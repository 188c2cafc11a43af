"""Runs engines of vLLM through schedules of arrivals, and writes what came out as JSON.

Every line on standard input names two files, PLAN.json and OUT.json, and is answered by "done". PLAN holds
`engine` (arguments of EngineArgs), `arrivals` (a list of objects with `step`, `name`, `prompt`, a list of
ids, and `new`) and `aborts` (name -> step). Steps are those of the engine. OUT holds the tokens by name, the
masks of every worker, the passes, and what Regrow counted. With tensor parallelism, passes and counters are
missing, because the workers are processes of their own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from vllm_environment import IN_PROCESS

os.environ |= IN_PROCESS


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints
    for line in sys.stdin:
        plan, out = line.split()
        Path(out).write_text(json.dumps(_driven(json.loads(Path(plan).read_text()))))
        print("done", file=answers, flush=True)


def _driven(plan: dict[str, Any]) -> dict[str, Any]:
    from vllm import EngineArgs, LLMEngine, SamplingParams

    engine = LLMEngine.from_engine_args(EngineArgs(**plan["engine"]))
    runner = _runner(engine)
    served = hasattr(runner, "served")
    assert runner is None or served == ("additional_config" in plan["engine"]), "the plugin was not loaded"
    passes = _recorded(runner) if served else []
    engine.collective_rpc(_keep_masks)
    tokens: dict[str, list[int]] = {}
    waiting = sorted(plan["arrivals"], key=lambda one: one["step"])
    aborts = dict(plan.get("aborts", {}))
    step = 0
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[0]["step"] <= step:
            one = waiting.pop(0)
            asked = SamplingParams(temperature=0, max_tokens=one["new"], ignore_eos=True, detokenize=False)
            engine.add_request(one["name"], {"prompt_token_ids": one["prompt"]}, asked)
        for name in [name for name, when in aborts.items() if when <= step]:
            engine.abort_request([name])
            del aborts[name]
        for output in engine.step():
            tokens[output.request_id] = list(output.outputs[0].token_ids)
        step += 1
    engine.step()  # lets the workers know what has ended
    found = {"tokens": tokens, "passes": passes, "masks": engine.collective_rpc(_masks)}
    if served:
        found["report"] = runner.served.session.report().to_dict()
        found["running"] = runner.served.running
    engine.engine_core.shutdown()
    return found


def _runner(engine: Any) -> Any:
    """Returns the model runner, or None if it is not in this process."""
    executor = engine.engine_core.engine_core.model_executor
    return executor.driver_worker.worker.model_runner if hasattr(executor, "driver_worker") else None


def _recorded(runner: Any) -> list[dict[str, Any]]:
    """Records every pass: who has left before it, and the tokens of every request in it."""
    passes: list[dict[str, Any]] = []
    served, left = runner.served, []
    leave, passing = served.leave, served.passing

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


def _keep_masks(worker: Any) -> None:
    if hasattr(worker.model_runner, "served"):
        worker.model_runner.served.session._record_masks = True


def _masks(worker: Any) -> list[tuple[int, list[list[int]]]]:
    """Returns the decode step and the neurons by layer of every selection, numbered as in the worker."""
    if not hasattr(worker.model_runner, "served"):
        return []
    return [(when, index.tolist()) for when, index in worker.model_runner.served.session.masks]


def _given(name: str) -> str:
    """Returns the name that a request was given, to which vLLM appends random letters."""
    return name.rpartition("-")[0]


if __name__ == "__main__":
    main()
