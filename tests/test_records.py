from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from regrow.records import Record
from regrow.run_config import RunConfig
from samples import CONFIG, COUNTED, FORMAT_3, record

RESULTS = Path(__file__).parents[1] / "results"

OTHER: dict[str, Any] = {
    "model": "other",
    "fingerprint": "0" * 64,
    "dtype": "bfloat16",
    "device": "cuda (H100)",
    "method": "bap",
    "params": {"sparsity": 0.6},
    "skip_layers": (),
    "task": "other",
    "task_sha256": "1" * 64,
    "order": "length",
    "limit": 4,
    "batch_size": 3,
    "max_new_tokens": 9,
    "sampling": "temperature 0.6",
    "chat": True,
    "tokenizer_sha256": "2" * 64,
    "chat_template_sha256": "3" * 64,
    "prompts_sha256": "4" * 64,
    "padding": "right",
    "attention": "eager",
    "generation_config": {"eos_token_id": 2, "repetition_penalty": 1.3},
    "grader": "math",
    "prompt_template": "Q: {question}",
    "system": "Be brief.",
    "data_sha256": "5" * 64,
    "samples": 2,
}


@pytest.mark.parametrize("name", [field.name for field in fields(RunConfig)])
def test_every_setting_is_part_of_the_key_and_named_when_it_differs(name: str) -> None:
    other = replace(CONFIG, **{name: OTHER[name]})
    assert other.key != CONFIG.key
    shown = "sparsity" if name == "params" else name  # parameters have names of their own
    assert CONFIG.differences(other).startswith(f"{shown} ")
    assert CONFIG.differences(replace(CONFIG)) == ""


def test_the_key_does_not_depend_on_the_order_of_parameters() -> None:
    one, two = (replace(CONFIG, params=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert one.key == two.key


def test_settings_within_settings_are_named() -> None:
    other = replace(
        CONFIG, generation_config={"suppress_tokens": [4]}, params={"sparsity": 0.5, "init_steps": 3}
    )
    assert CONFIG.differences(other) == (
        "init_steps is none there and 3 here, generation_config eos_token_id is 2 there and none here, "
        "generation_config suppress_tokens is none there and [4] here"
    )


def test_options_come_first_and_explain_what_follows_from_them() -> None:
    digests = {name: OTHER[name] for name in ("task_sha256", "prompts_sha256", "chat_template_sha256")}
    other = replace(CONFIG, **digests, max_new_tokens=9, limit=4)
    assert CONFIG.differences(other) == (
        "limit is 3 there and 4 here, max_new_tokens is 8 there and 9 here, "
        'chat_template_sha256 is "" there and 333333333333… here'
    )
    assert CONFIG.differences(replace(other, method="dense", params={}, chat=True)) == (
        'method is "griffin" there and "dense" here, limit is 3 there and 4 here, '
        "max_new_tokens is 8 there and 9 here, chat is false there and true here"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 2.0),
        ("limit", 0),
        ("limit", 2**70),
        ("batch_size", True),
        ("skip_layers", ("0",)),
        ("params", None),
        ("chat", 1),
        ("model", 3),
        ("generation_config", []),
        ("tokenizer_sha256", None),  # the other fields that format 2 lacks are present
        ("grader", None),  # the other fields that format 3 lacks are present
        ("samples", 0),
    ],
)
def test_settings_that_no_run_could_have_had_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        replace(CONFIG, **{name: value})


def test_a_record_of_format_2_keeps_its_key_and_its_line() -> None:
    with (RESULTS / "heldout-dense.jsonl").open("rb") as file:
        line = file.readline()
    found = Record.parse(line)
    assert found.config.format == 2
    assert found.config.tokenizer_sha256 is None
    assert found.line() == line


@pytest.mark.parametrize(("limit", "batch_size", "batches"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (3, 1, 3)])
def test_the_last_batch_may_be_smaller(limit: int, batch_size: int, batches: int) -> None:
    assert replace(CONFIG, limit=limit, batch_size=batch_size).batches == batches


def test_a_record_of_format_3_keeps_its_key_and_its_line() -> None:
    made = record(1, FORMAT_3)
    assert made.config.format == 3
    assert b"golds" not in made.line()
    assert Record.parse(made.line()) == made


@pytest.mark.parametrize(("config", "golds"), [(FORMAT_3, ("3",)), (CONFIG, None), (CONFIG, ("3", "4"))])
def test_golds_belong_to_every_prompt_of_the_newest_format(config: RunConfig, golds: Any) -> None:
    with pytest.raises(ValueError, match="golds"):
        replace(record(1, config), golds=golds)


def test_a_record_is_one_line_and_comes_back_as_it_was() -> None:
    made = record(1)
    line = made.line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert Record.parse(line) == made


def _changed(**values: Any) -> bytes:
    body = json.loads(record().line())
    return json.dumps({**body, **values}).encode()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "Expecting value"),
        (b'{"\xff', "decode"),
        (record().line()[:-9], "line 1 column"),
        (b"[]", "format"),
        (b"{}", "format"),
        (_changed(format=1), "format"),
        (_changed(key="0" * 64), "key"),
        (_changed(config={"model": "tiny"}), "fields"),
        (_changed(mood="good"), "fields"),
        (_changed(tokens=7), "fields"),
        (_changed(batch=2), "batch 2 of 2"),
        (_changed(batch=-1), "batch -1 of 2"),
        (_changed(texts=["one"]), "length"),
        (_changed(texts=[1, 2]), "text"),
        (_changed(tokens=[["a"], ["b"]]), "integers"),
        (_changed(ids=[], tokens=[], texts=[], finish_reasons=[]), "length"),
        (_changed(counters={}), "decode_steps"),
        (_changed(counters={**COUNTED, "refresh_bytes": "many"}), "refresh_bytes"),
        (_changed(counters={**COUNTED, "decode_steps": -1}), "decode_steps"),
        (_changed(counters={**COUNTED, "decode_seconds": float("nan")}), "NaN"),
        (_changed().replace(b'"decode_seconds": 2.0', b'"decode_seconds": 1e999'), "decode_seconds"),
        (_changed(counters={**COUNTED, "weights_kept": 101}), "more was counted"),
        (_changed(counters={**COUNTED, "sites": []}), "sites"),
        (_changed(counters={**COUNTED, "sites": {"down": {"kept": [1], "dense": []}}}), "down"),
        (_changed(counters={**COUNTED, "turnover": 3}), "turnover"),
        (_changed(counters=[]), "counters"),
        (_changed(versions=["2.13"]), "versions"),
        (_changed(seconds="long"), "seconds"),
        (_changed(prompts_sha256=None), "prompts_sha256"),
        (_changed(batch=0.5), "batch 0.5"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_anything_but_a_whole_record_is_a_value_error(line: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Record.parse(line)


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        record(seconds=float("nan")).line()
