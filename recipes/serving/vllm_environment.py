"""Environment variables to set before vLLM is imported: no hub, no usage statistics, a KV cache of 1 GiB."""

from __future__ import annotations

from typing import Final

SERVER: Final = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
}  # fmt: skip
# For an engine in the process of its caller.
IN_PROCESS: Final = SERVER | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
