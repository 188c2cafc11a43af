"""vLLM's entry point to Regrow. It changes nothing unless additional-config names Regrow."""

from __future__ import annotations

import logging
from typing import Any, Final

from regrow.errors import UsageError

_LOG: Final = logging.getLogger("vllm.regrow")
WORKER: Final = "regrow.hosts.vllm.worker.ServingCPUWorker"


def register() -> None:
    """Makes vLLM look for "regrow" in the additional config of every engine. Called in all of its processes.

    A second call does nothing.
    """
    from vllm.platforms import current_platform

    platform: Any = type(current_platform)
    check = platform.check_and_update_config
    if getattr(check, "of_regrow", False):
        return

    def checked(config: Any) -> None:
        prepare(config, current_platform.device_type)
        check(config)

    checked.of_regrow = True  # type: ignore[attr-defined]
    platform.check_and_update_config = staticmethod(checked)


def prepare(config: Any, device: str) -> None:
    """Adapts a configuration of vLLM (`VllmConfig`) that names Regrow, and leaves any other as it is.

    Raises UsageError if Regrow cannot serve it, or if its settings are wrong.
    """
    from regrow.hosts.vllm.settings import KEY, ServeSettings

    given = config.additional_config
    if not isinstance(given, dict) or KEY not in given:
        return
    import vllm

    from regrow.hosts.vllm.supported import check_config, check_version

    check_version(vllm.__version__)
    ServeSettings.of(given[KEY])
    check_config(config, device)
    if config.cache_config.enable_prefix_caching:
        _LOG.warning(
            "prefix caching is off under Regrow: keys and values of sparse steps differ from dense ones, and "
            "a prompt that is not computed has no scores"
        )
        config.cache_config.enable_prefix_caching = False
    config.scheduler_config.async_scheduling = False
    if config.parallel_config.worker_cls not in ("auto", WORKER):
        raise UsageError(
            f"Regrow brings its own worker class, and worker_cls is {config.parallel_config.worker_cls}; "
            "leave --worker-cls out"
        )
    config.parallel_config.worker_cls = WORKER
