"""Settings of a server, and what Regrow refuses to serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import regrow
from fakes import given_blocks
from regrow.errors import UsageError
from regrow.hosts.vllm.plugin import prepare
from regrow.hosts.vllm.served import Served
from regrow.hosts.vllm.settings import ServeSettings
from regrow.hosts.vllm.supported import check_config, check_version


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
        ({"method": "teal"}, "method 'teal' cannot be served: a server takes methods that keep a mask"),
        ({"method": "wanda"}, "method 'wanda' cannot be served"),
        ({"method": "cats"}, "method 'cats' cannot be served"),
    ],
)
def test_wrong_settings_are_refused(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ServeSettings.of(given)


def test_only_the_tested_series_of_vllm_is_accepted() -> None:
    for version in ("0.32.0", "0.32.1+cpu"):
        check_version(version)
    for version in ("0.31.0", "0.33.0", "0.320.0", "1.32.0"):
        with pytest.raises(UsageError, match=f"Regrow serves with vLLM 0.32, and this is vLLM {version}"):
            check_version(version)


def config(**changes: Any) -> Any:
    parallel = {
        "pipeline_parallel_size": 1, "tensor_parallel_size": 1, "data_parallel_size": 1, "enable_dbo": False,
    }  # fmt: skip
    whole = {
        "speculative_config": None, "lora_config": None, "kv_transfer_config": None, "quant_config": None,
        "model_config": SimpleNamespace(architecture="Qwen2ForCausalLM", runner_type="generate"),
        "weight_transfer_config": None,
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
    with pytest.raises(UsageError, match="on a CPU only so far, and this is cuda"):
        check_config(config(), "cuda")


def test_an_engine_that_does_not_name_regrow_is_left_alone() -> None:
    for given in ({}, {"other": 1}, None):
        other = SimpleNamespace(additional_config=given)
        prepare(other, "cuda")
        assert vars(other) == {"additional_config": given}


def test_memory_for_scores_is_bounded() -> None:
    """One request takes 3 float64 scores and one activation for each of 2 x 7 neurons."""
    blocks, one = given_blocks(2, 7), 2 * 7 * 4 * 8
    assert blocks.ffns[0].weights.gate.dtype is torch.float64
    fits = ServeSettings(regrow.BatchwiseAdaptive(), memory_gib=5 * one / 2**30)
    Served(fits, blocks, 5)
    with pytest.raises(UsageError, match="start vLLM with --max-num-seqs 5, or raise memory_gib"):
        Served(fits, blocks, 6)
