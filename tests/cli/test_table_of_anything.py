"""`regrow table` on changed and damaged files prints a table or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import run
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import fingerprint
from regrow.run_config import digest
from samples import CONFIG, COUNTED, record

TASK = load("tiny_reasoner")
SITES = {"down": {"kept": [30, 30], "dense": [50, 50]}}


def _whole() -> dict[str, Any]:
    """Returns a record that can be graded, because it has the prompts of the task."""
    config = {**CONFIG.to_dict(), "task_sha256": fingerprint(TASK.first(3).items)}
    made = json.loads(record(counters={**COUNTED, "updates": 2, "sites": SITES}).line())
    return _keyed({**made, "config": json.loads(json.dumps(config))})


def _keyed(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the record with the right key for its settings, so that the settings are read."""
    try:
        return {**values, "key": digest(values["config"])}
    except (KeyError, ValueError, RecursionError):
        return values


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value in a JSON value, the value itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, within in inner for place in _places(within, (*path, name)))]


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _changed(value[path[0]], path[1:], new)
    return copy


numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**400, 1e308])
texts = st.text(max_size=5) | st.sampled_from(["\ud800", "a|b\nc", "[bold]", "0" * 64])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def _one_sentence_or_a_table(*arguments: object) -> None:
    result = run("table", *arguments)
    if result.exit_code:
        assert result.exit_code in (1, 2)
        assert result.stdout == ""
        assert result.stderr.startswith("regrow: error: ")
        assert result.stderr.count("\n") == 1
    else:
        assert result.stdout
        assert result.stderr == ""


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--json"]], ids=["terminal", "markdown", "json"])
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_record_changed_anywhere_is_a_sentence_or_a_table(
    tmp_path: Path, form: list[str], data: st.DataObject
) -> None:
    whole = _whole()
    place = data.draw(st.sampled_from(_places(whole)))
    changed = _changed(whole, place, data.draw(values))
    made = _keyed(changed) if isinstance(changed, dict) and data.draw(st.booleans()) else changed
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(made) + "\n")
    _one_sentence_or_a_table(path, *form)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_bytes_changed_anywhere_are_a_sentence_or_a_table(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(json.dumps(_whole()).encode() + b"\n")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(whole)))
        whole[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path = tmp_path / "run.jsonl"
    path.write_bytes(bytes(whole))
    _one_sentence_or_a_table(path)


def test_the_record_that_is_changed_is_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(_whole()) + "\n")
    assert run("table", path).exit_code == 0


def test_a_name_that_cannot_be_written_is_shown_all_the_same(tmp_path: Path) -> None:
    """The name of a folder in another encoding contains lone surrogates."""
    path = tmp_path / "run.jsonl"
    whole = _whole()
    path.write_text(
        json.dumps(
            _keyed({**whole, "config": {**whole["config"], "model": "tiny-\udce9", "method": "\ud800"}})
        )
        + "\n"
    )
    for form in ([], ["--markdown"], ["--json"]):
        result = run("table", path, *form)
        assert result.exit_code == 0, result.output
        result.stdout.encode()


def test_every_layer_left_out_is_no_division_by_zero(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    none = {**COUNTED, "sites": {"down": {"kept": [0], "dense": [0]}, "o": {"kept": [], "dense": []}}}
    path.write_text(json.dumps({**_whole(), "counters": none}) + "\n")
    for form in ([], ["--markdown"], ["--json"]):
        assert run("table", path, *form).exit_code == 0
