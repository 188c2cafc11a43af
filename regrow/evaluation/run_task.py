"""Runs a task in fixed batches and records each batch as it ends. Recorded batches are not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regrow.calibration.calibration import Calibration
from regrow.decoding.loop import Progress
from regrow.errors import RegrowError, UsageError, said
from regrow.evaluation.tasks.task import Item, Task, batches, fingerprint
from regrow.hosts.engine import Engine
from regrow.hosts.generate import generate
from regrow.method.base import Method
from regrow.models import Loaded, encode
from regrow.record_file import RecordFile
from regrow.records import Record
from regrow.run_config import RunConfig, digest
from regrow.versions import versions

OnBatch = Callable[[int, int, Record], None]  # batches recorded, batches planned, the newest record
# Generation settings that greedy decoding ignores.
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
# Generation settings of a model that do not affect a run, because they are ignored or overruled.
_OVERRULED = _SAMPLING | {"do_sample", "max_new_tokens", "max_length"}


def evaluate(
    loaded: Loaded,
    task: Task,
    method: Method,
    *,
    batch_size: int,
    limit: int | None,
    max_new_tokens: int,
    path: Path,
    chat: bool,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
    progress: OnBatch | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> None:
    """Records the greedy answers to the first `limit` prompts (None: all) at `path`.

    Batches that the file already holds are skipped. `progress` is called after each batch with the number of
    batches recorded, the number planned, and the newest record. `watch` is called during a batch.
    Raises UsageError if the settings do not fit, RegrowError if records cannot be written (see `RecordFile`).
    """
    items = task.load(limit)
    sizes = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    config = configure(
        loaded, task, items, method, **sizes, chat=chat, skip_layers=skip_layers, calibration=calibration
    )
    planned = batches(items, batch_size)
    with RecordFile(path, config) as file:
        todo = [index for index in range(len(planned)) if index not in file.done]
        if not todo:
            return
        with Engine(loaded.model, method, config.skip_layers, calibration, owns_model=True) as engine:
            made_with = {**versions(), **engine.matmul.to_text()}
            for index in todo:
                record = _run(loaded, config, index, planned[index], made_with, watch)
                file.append(record)
                if progress is not None:
                    progress(len(file.done), len(planned), record)


def configure(
    loaded: Loaded,
    task: Task,
    items: list[Item],
    method: Method,
    *,
    batch_size: int,
    max_new_tokens: int,
    chat: bool,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
) -> RunConfig:
    """Returns the settings of a run over `items`.

    Raises UsageError for sizes below 1, and for answers that do not fit the context.
    """
    for name, size in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if size < 1:
            raise UsageError(f"{name} must be at least 1, not {size}")
    prompts = _unpadded(*encode(loaded, [item.prompt for item in items], chat=chat))
    _refuse_beyond_context(loaded, max(map(len, prompts)), max_new_tokens)
    params = describe(method, calibration)
    return RunConfig(
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=_device(loaded.model.device),
        method=params.pop("name"),
        params=params,
        skip_layers=tuple(sorted(set(skip_layers))),
        task=task.name,
        task_sha256=fingerprint(items),
        order="dataset",
        limit=len(items),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        sampling="greedy",
        chat=chat,
        tokenizer_sha256=loaded.tokenizer_sha256,
        chat_template_sha256=(loaded.chat_template_sha256 or "") if chat else "",
        prompts_sha256=digest(prompts),
        padding="left",
        attention=str(loaded.model.config._attn_implementation),
        generation_config=_in_force(loaded.generation_settings),
    )


def describe(method: Method, calibration: Calibration | None) -> dict[str, Any]:
    """Returns a method's name and parameters for the settings, with the digest of its calibration."""
    return method.describe() | ({} if calibration is None else {"calibration": calibration.digest[:12]})


def _refuse_beyond_context(loaded: Loaded, longest: int, max_new_tokens: int) -> None:
    if loaded.context is not None and longest + max_new_tokens > loaded.context:
        raise UsageError(
            f"the longest prompt has {longest} tokens, "
            f"so {max_new_tokens} new ones do not fit the context of {loaded.context}; "
            f"at most {loaded.context - longest} do"
        )


def _in_force(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the model's generation_config.json that affect a greedy run."""
    return {name: value for name, value in settings.items() if name not in _OVERRULED}


def _device(device: torch.device) -> str:
    """Returns the device type. A GPU's name is added, because another GPU rounds differently."""
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _run(
    loaded: Loaded,
    config: RunConfig,
    index: int,
    items: Sequence[Item],
    made_with: dict[str, str],
    watch: Callable[[Progress], None] | None,
) -> Record:
    began = time.perf_counter()
    input_ids, mask = encode(loaded, [item.prompt for item in items], chat=config.chat)
    limits = {"max_new_tokens": config.max_new_tokens, "do_sample": False, **loaded.beside_prompts}
    try:
        done = generate(loaded.model, input_ids, mask, watch=watch, **limits)
    except (ValueError, TypeError) as error:
        if isinstance(error, RegrowError) or not config.generation_config:
            raise
        raise RegrowError(
            f"the generation_config.json of {loaded.name} cannot be followed "
            f"({', '.join(config.generation_config)}): {said(error)}; correct that file"
        ) from error
    return Record(
        config=config,
        batch=index,
        ids=tuple(item.id for item in items),
        prompts_sha256=digest(_unpadded(input_ids, mask)),
        tokens=tuple(tuple(row) for row in done.tokens),
        texts=tuple(map(loaded.decode, done.tokens)),
        finish_reasons=tuple(done.report.finish_reasons),
        counters=done.report.to_dict(),
        versions=made_with,
        seconds=time.perf_counter() - began,
    )


def _unpadded(input_ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Returns the token ids of the prompts [B, P] without their padding."""
    return [row[seen.bool()].tolist() for row, seen in zip(input_ids, mask, strict=True)]
