"""Runs a task in fixed batches and records each batch as it ends. Recorded batches are not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from regrow.adapter.rounded import packed_blocks
from regrow.calibration.calibration import Calibration
from regrow.decoding.loop import Progress
from regrow.errors import RegrowError, UsageError, said
from regrow.evaluation.tasks.task import Item, Task, batches, fingerprint
from regrow.hosts.engine import Engine
from regrow.hosts.generate import generate
from regrow.hosts.hugging_face import prune
from regrow.kernels import repeatable_matmul
from regrow.method.base import Method
from regrow.models import Loaded, encode, labelled
from regrow.record_file import RecordFile, refuse_other
from regrow.records import Record
from regrow.run_config import RunConfig, digest
from regrow.sampling import Sampling
from regrow.versions import versions

LONGEST_ANSWER: Final = 16_000  # new tokens, as in the paper, where the context has room for them
GREEDY: Final = Sampling()

OnBegin = Callable[[RunConfig, int, int], None]  # settings, batches recorded before, batches planned
OnBatch = Callable[[int, int, Record], None]  # batches recorded, batches planned, the newest record
# Generation settings that greedy decoding ignores.
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
# Generation settings of a model that do not affect a run, because they are overruled.
_OVERRULED = {"do_sample", "max_new_tokens", "max_length"}


def evaluate(
    loaded: Loaded,
    task: Task,
    method: Method,
    *,
    batch_size: int,
    path: Path,
    chat: bool,
    max_new_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    samples: int = 1,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
    shard: tuple[int, int] = (1, 1),
    begin: OnBegin | None = None,
    progress: OnBatch | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> None:
    """Records the answers to the prompts of a task at `path`.

    Batches that the file already holds are skipped. `max_new_tokens`: None means LONGEST_ANSWER, or what the
    context leaves if that is less. `samples`: answers to each prompt. `shard` (i, n) runs every n-th batch
    from batch i on, counted from 1. `begin` is called once with the settings and the numbers of batches that
    are recorded and planned, `progress` after each batch with these numbers and the newest record, and
    `watch` during a batch.
    Raises UsageError if the settings do not fit, RegrowError if records cannot be written (see `RecordFile`).
    """
    config = configure(
        loaded,
        task,
        method,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        chat=chat,
        sampling=sampling,
        samples=samples,
        skip_layers=skip_layers,
        calibration=calibration,
    )
    planned = batches(task.items, batch_size)
    mine = range(config.batches)[shard[0] - 1 :: shard[1]]
    with RecordFile(path, config) as file:
        todo = [index for index in mine if index not in file.done]
        if begin is not None:
            begin(config, len(mine) - len(todo), len(mine))
        if not todo:
            return
        own = loaded.model, method, config.skip_layers, calibration
        with repeatable_matmul(), Engine(*own, owns_model=True) as engine:
            made_with = {**versions(), **engine.matmul.to_text()}
            if loaded.rounded is not None:
                made_with["int4"] = _products(loaded)
            for done, index in enumerate(todo, len(mine) - len(todo) + 1):
                items = planned[index % len(planned)]
                if sampling.temperature:
                    torch.manual_seed(sampling.batch_seed(index * batch_size))
                record = _run(loaded, config, index, items, sampling, made_with, watch)
                file.append(record)
                if progress is not None:
                    progress(done, len(mine), record)


def _products(loaded: Loaded) -> str:
    """Returns what decode steps of a rounded model multiply, because it decides the last bits of results."""
    return "codes" if packed_blocks(loaded.model) else "rounded weights"


def check(
    loaded: Loaded,
    task: Task,
    method: Method,
    *,
    path: Path,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
    **settings: Any,
) -> None:
    """Raises what `evaluate` would raise with these arguments before it decodes anything.

    `settings` are the further arguments of `configure`. Several runs are checked before the first one begins,
    so that none of them is refused hours later.
    """
    config = configure(loaded, task, method, skip_layers=skip_layers, calibration=calibration, **settings)
    refuse_other(path, config)
    with repeatable_matmul(), prune(loaded.model, method, config.skip_layers, calibration):
        pass


def configure(
    loaded: Loaded,
    task: Task,
    method: Method,
    *,
    batch_size: int,
    max_new_tokens: int | None,
    chat: bool,
    sampling: Sampling = GREEDY,
    samples: int = 1,
    skip_layers: Collection[int] = (),
    calibration: Calibration | None = None,
) -> RunConfig:
    """Returns the settings of a run.

    Raises UsageError for sizes below 1, for several samples of greedy decoding, which would be equal, and for
    answers that do not fit the context.
    """
    for name, size in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens), ("samples", samples)):
        if size is not None and size < 1:
            raise UsageError(f"{name} must be at least 1, not {size}")
    if samples > 1 and not sampling.temperature:
        raise UsageError(f"{samples} samples of greedy decoding would be equal; give a temperature above 0")
    prompts = _prompts(loaded, task, chat)
    params = describe(method, calibration)
    return RunConfig(
        model=_model_name(loaded),
        fingerprint=loaded.fingerprint,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=_device(loaded.model.device),
        method=params.pop("name"),
        params=params,
        skip_layers=tuple(sorted(set(skip_layers))),
        task=task.name,
        task_sha256=fingerprint(task.items),
        order="dataset",
        limit=len(task.items),
        batch_size=batch_size,
        max_new_tokens=_room(loaded, max(map(len, prompts)), max_new_tokens),
        sampling=sampling.text,
        chat=chat,
        tokenizer_sha256=loaded.tokenizer_sha256,
        chat_template_sha256=(loaded.chat_template_sha256 or "") if chat else "",
        prompts_sha256=digest(prompts),
        padding="left",
        attention=str(loaded.model.config._attn_implementation),
        generation_config=_in_force(loaded.generation_settings, sampling),
        grader=task.grader,
        prompt_template=task.template,
        system=task.system,
        data_sha256=task.data_sha256,
        samples=samples,
    )


def describe(method: Method, calibration: Calibration | None) -> dict[str, Any]:
    """Returns a method's name and parameters for the settings, with the digest of its calibration."""
    return method.describe() | ({} if calibration is None else {"calibration": calibration.digest[:12]})


def _model_name(loaded: Loaded) -> str:
    """Returns what the records call the model: its id on the hub, or the last part of its local path.

    Rounded weights are named after it.
    """
    local = Path(loaded.name).expanduser().is_dir()
    name = loaded.directory.resolve().name if local else loaded.name
    return labelled(name, loaded.weights)


def longest_answer(loaded: Loaded, task: Task, chat: bool) -> int:
    """Returns how many tokens an answer may have if the user sets no limit."""
    return _room(loaded, max(map(len, _prompts(loaded, task, chat))), None)


def _prompts(loaded: Loaded, task: Task, chat: bool) -> list[list[int]]:
    """Returns the token ids of all prompts."""
    encoded = encode(loaded, [item.prompt for item in task.items], chat=chat, system=task.system)
    return _unpadded(*encoded)


def _room(loaded: Loaded, longest: int, max_new_tokens: int | None) -> int:
    """Returns how many tokens an answer may have. `longest`: tokens of the longest prompt."""
    room = None if loaded.context is None else loaded.context - longest
    if max_new_tokens is None:
        return LONGEST_ANSWER if room is None else min(LONGEST_ANSWER, room)
    if room is not None and max_new_tokens > room:
        raise UsageError(
            f"the longest prompt has {longest} tokens, so {max_new_tokens} new ones do not fit "
            f"the context of {loaded.context}; at most {room} do"
        )
    return max_new_tokens


def _in_force(settings: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """Returns the settings of the model's generation_config.json that affect a run."""
    without = _OVERRULED | (sampling.given if sampling.temperature else _SAMPLING)
    return {name: value for name, value in settings.items() if name not in without}


def _device(device: torch.device) -> str:
    """Returns the device type. A GPU's name is added, because another GPU rounds differently."""
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _run(
    loaded: Loaded,
    config: RunConfig,
    index: int,
    items: Sequence[Item],
    sampling: Sampling,
    made_with: dict[str, str],
    watch: Callable[[Progress], None] | None,
) -> Record:
    began = time.perf_counter()
    prompts = [item.prompt for item in items]
    input_ids, mask = encode(loaded, prompts, chat=config.chat, system=config.system or "")
    arguments = sampling.arguments(loaded.model.generation_config.top_k)
    limits = {"max_new_tokens": config.max_new_tokens, **arguments, **loaded.beside_prompts}
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
        golds=tuple(item.gold for item in items),
    )


def _unpadded(input_ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Returns the token ids of the prompts [B, P] without their padding."""
    return [row[seen.bool()].tolist() for row, seen in zip(input_ids, mask, strict=True)]
