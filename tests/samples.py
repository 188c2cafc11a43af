"""Records of a run of three prompts in batches of two, with counters that are easy to add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regrow.evaluation.tasks import load
from regrow.records import Record
from regrow.run_config import FORMAT, RunConfig

TASK = load("tiny_reasoner").first(16)

CONFIG = RunConfig(
    model="tiny",
    fingerprint="f" * 64,
    dtype="float32",
    device="cpu",
    method="griffin",
    params={"sparsity": 0.5},
    skip_layers=(0,),
    task="tiny_reasoner",
    task_sha256="a" * 64,
    order="dataset",
    limit=3,
    batch_size=2,
    max_new_tokens=8,
    sampling="greedy",
    chat=False,
    tokenizer_sha256="c" * 64,
    chat_template_sha256="",
    prompts_sha256="d" * 64,
    padding="left",
    attention="sdpa",
    generation_config={"eos_token_id": 2},
    grader="exercises",
    prompt_template="{question}",
    system="",
    data_sha256="",
    samples=1,
)

# What records of format 3 say, which do not hold gold answers.
FORMAT_3 = replace(CONFIG, grader=None, prompt_template=None, system=None, data_sha256=None, samples=None)

COUNTED: dict[str, Any] = {
    "decode_steps": 4,
    "sparse_steps": 3,
    "weights_kept": 60,
    "weights_dense": 100,
    "bytes_read": 1500,
    "ffn_bytes_read": 1000,
    "refresh_bytes": 100,
    "prefill_seconds": 0.5,
    "decode_seconds": 2.0,
    "turnover": [0.25, 0.0],
}


def gold_of(start: int, rows: int) -> list[str]:
    return [item.gold for item in TASK.items[start : start + rows]]


def record(batch: int = 0, config: RunConfig = CONFIG, **changes: Any) -> Record:
    first = batch % config.batches_of_a_sample * config.batch_size
    rows = min(config.batch_size, config.limit - first)
    made = Record(
        config=config,
        batch=batch,
        ids=tuple(f"heldout-{first + row}" for row in range(rows)),
        prompts_sha256="b" * 64,
        tokens=((5, 6, 7, 8, 2),) * rows,
        texts=("A 1+2 1+2+0:03 3 =3\nü ",) * rows,
        finish_reasons=("eos",) * rows,
        counters=COUNTED,
        versions={"regrow": "0.1.0", "torch": "2.13"},
        seconds=2.75,
        golds=None if config.format < FORMAT else tuple(gold_of(first, rows)),
    )
    return replace(made, **changes)
