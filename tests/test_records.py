from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from regrow.records import Record, RunConfig
from samples import CONFIG, COUNTED, record

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
}


@pytest.mark.parametrize("name", [field.name for field in fields(RunConfig)])
def test_every_setting_is_part_of_the_key_and_named_when_it_differs(name: str) -> None:
    other = replace(CONFIG, **{name: OTHER[name]})
    assert other.key != CONFIG.key
    assert CONFIG.differences(other).split()[0] == name
    assert CONFIG.differences(replace(CONFIG)) == ""


def test_the_key_does_not_depend_on_the_order_of_parameters() -> None:
    one, two = (replace(CONFIG, params=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert one.key == two.key


@pytest.mark.parametrize(("limit", "batch_size", "batches"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (3, 1, 3)])
def test_the_last_batch_may_be_smaller(limit: int, batch_size: int, batches: int) -> None:
    assert replace(CONFIG, limit=limit, batch_size=batch_size).batches == batches


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
    ],
)
def test_anything_but_a_whole_record_is_a_value_error(line: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Record.parse(line)


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        record(seconds=float("nan")).line()
