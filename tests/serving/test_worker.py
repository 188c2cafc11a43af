"""The worker with Regrow inside, over a stand-in for vLLM's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.worker import cpu_worker

import regrow
from fakes import given_blocks
from regrow.errors import UsageError
from regrow.hosts.vllm.served import Served
from regrow.hosts.vllm.settings import ServeSettings
from regrow.hosts.vllm.worker import ServingCPUModelRunner, ServingCPUWorker


def worker(monkeypatch: pytest.MonkeyPatch, **replaced: Any) -> Any:
    """Return a worker on top of these methods of vLLM's."""
    for name, method in replaced.items():
        monkeypatch.setattr(cpu_worker.CPUWorker, name, method)
    return object.__new__(ServingCPUWorker)


def test_a_model_runner_of_vllms_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM builds if it chooses its second one."""
    theirs = worker(monkeypatch, init_device=lambda self: setattr(self, "model_runner", SimpleNamespace()))
    with pytest.raises(UsageError, match=r"built a SimpleNamespace.*; set VLLM_USE_V2_MODEL_RUNNER=0"):
        theirs.init_device()


def test_our_model_runner_is_built_where_vllm_builds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def builds(self: Any) -> None:
        self.model_runner = object.__new__(cpu_worker.CPUModelRunner)

    ours, theirs = worker(monkeypatch, init_device=builds), cpu_worker.CPUModelRunner
    ours.init_device()
    assert type(ours.model_runner) is ServingCPUModelRunner
    assert cpu_worker.CPUModelRunner is theirs


def test_a_prompt_that_goes_on_after_it_began_is_refused() -> None:
    """vLLM schedules a request of streaming input as a new one, again and again."""
    runner: Any = object.__new__(ServingCPUModelRunner)
    runner.requests = {"a": None, "b": None}
    scheduled = SimpleNamespace(finished_req_ids={"b"}, scheduled_new_reqs=[SimpleNamespace(req_id="a")])
    with pytest.raises(UsageError, match="does not serve streaming input; send the whole prompt at once"):
        runner._update_states(scheduled)
    scheduled.scheduled_new_reqs = [SimpleNamespace(req_id="b")]  # it has ended, and its name is free again
    with pytest.raises(AttributeError, match="served"):
        runner._update_states(scheduled)


@pytest.mark.parametrize(("given", "taken"), [(None, True), (1000, False)])
def test_an_automatic_kv_cache_leaves_room_for_scores(
    given: int | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(ServeSettings(regrow.BatchwiseAdaptive()), given_blocks(2, 7), 4)
    measured = worker(monkeypatch, determine_available_memory=lambda self: 10_000)
    measured.cache_config = SimpleNamespace(kv_cache_memory_bytes=given)
    measured.model_runner = SimpleNamespace(served=served)
    assert served.later_bytes > 0
    assert measured.determine_available_memory() == 10_000 - taken * served.later_bytes
