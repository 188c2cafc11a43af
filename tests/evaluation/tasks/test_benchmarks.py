"""Benchmarks: what is read from their rows, and which files are refused."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmark_files import made_row, write_benchmark
from regrow.errors import UsageError
from regrow.evaluation.tasks import TASKS, benchmark, load, rows
from regrow.evaluation.tasks.benchmark import Benchmark
from regrow.evaluation.tasks.rows import Rows
from regrow.evaluation.tasks.task import TaskRequest

REAL = {"gsm8k", "tinygsm8k", "math500", "minerva", "amc23"}
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


def _benchmark(name: str) -> Benchmark:
    found = TASKS[name]
    assert isinstance(found, Benchmark)
    return found


def _load(name: str, directory: Path) -> Any:
    return load(name, TaskRequest(data_dir=str(directory)))


@pytest.mark.parametrize(
    ("name", "prompt", "gold"),
    [
        ("gsm8k", f"What is 1 + 1?\n{BOXED}", "1001"),
        ("tinygsm8k", f"What is 1 + 1?\n{BOXED}", "1"),
        ("math500", f"Halve $1$.\n{BOXED}", "\\frac{1}{2}"),
        ("minerva", f"Weigh star 1.\n{BOXED}", "1.5e30"),
        ("amc23", f"Find $1$.\n{BOXED}", "1"),
        ("aime24", f"Find $1$.\n{BOXED}", "1"),
        ("aime25", f"Find $1$.\n{BOXED}", "1"),
    ],
)
def test_prompt_and_gold_of_a_row(name: str, prompt: str, gold: str, tmp_path: Path) -> None:
    write_benchmark(_benchmark(name), tmp_path)
    item = _load(name, tmp_path).items[0]
    assert (item.id, item.prompt, item.gold) == (f"{name}-0", prompt, gold)


def test_gpqa_inserts_the_right_choice_where_the_protocol_does(tmp_path: Path) -> None:
    """The places are those of `random.seed(1234)` and `random.randint(0, 3)`, in the order of the dataset."""
    write_benchmark(_benchmark("gpqa-diamond"), tmp_path)
    items = _load("gpqa-diamond", tmp_path).items
    places = Random(1234)
    for number, item in enumerate(items, 1):
        place = places.randint(0, 3)
        choices = [f"-{number}", f"{number}, and more", "none"]
        choices.insert(place, str(number))
        assert item.gold == "ABCD"[place]
        lettered = "\n".join(f"{letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
        assert item.prompt == (
            "Answer the following multiple choice question. The last line of your response should be of the "
            "following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by "
            f"step before answering.\n\nWhich is {number}?\n\n{lettered}"
        )
    assert "".join(item.gold for item in items[:12]) == "DAAAAAACBAAA"


@pytest.mark.parametrize("name", [name for name in TASKS if isinstance(TASKS[name], Benchmark)])
def test_too_few_rows_and_missing_fields_are_refused(name: str, tmp_path: Path) -> None:
    found = _benchmark(name)
    path = write_benchmark(found, tmp_path, found.count - 1)
    with pytest.raises(
        UsageError, match=f"holds {found.count - 1} rows, and {name} has {found.count} questions"
    ):
        _load(name, tmp_path)
    path.write_text(path.read_text() * 2)
    with pytest.raises(UsageError, match=r"holds \d+ rows, and"):
        _load(name, tmp_path)
    write_benchmark(found, tmp_path)
    field = next(iter(set(made_row(name, 1)) & {"question", "problem", "Question"}))
    path.write_text(path.read_text().replace(field, "prompt"))
    with pytest.raises(UsageError, match=rf"row 1 has no field '{field}'; its fields are .*prompt"):
        _load(name, tmp_path)


def test_a_row_without_a_gold_answer_is_refused(tmp_path: Path) -> None:
    for name, there, other in (
        ("tinygsm8k", '#### 7"', '## 7"'),
        ("minerva", "boxed{7.5e30}", "box{7.5e30}"),
        ("aime24", '"answer": "7"', '"answer": "7.5"'),
    ):
        path = write_benchmark(_benchmark(name), tmp_path)
        text = path.read_text()
        assert there in text
        path.write_text(text.replace(there, other))
        with pytest.raises(UsageError, match=r"row 7: .* holds no gold answer"):
            _load(name, tmp_path)


def test_a_file_that_is_not_there_and_one_that_is_not_the_usual_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"math500 is not in .*: there is no math500/test.jsonl"):
        _load("math500", tmp_path)
    write_benchmark(_benchmark("math500"), tmp_path)
    task = _load("math500", tmp_path)
    assert "is not the usual file of math500: its sha256 is " in task.warning
    assert len(task.data_sha256) == 64


def test_without_a_folder_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def hub(dataset: str, configuration: str | None, split: str) -> Rows:
        asked.append((dataset, configuration, split))
        return Rows(dataset, [made_row("tinygsm8k", number) for number in range(100)], "a" * 64)

    monkeypatch.setattr(benchmark, "read_hub", hub)
    task = load("tinygsm8k")
    assert asked == [("tinyBenchmarks/tinyGSM8k", "main", "test")]
    assert (len(task.items), task.warning, task.data_sha256) == (100, "", "a" * 64)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route. Traceback follows")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UsageError, match=r"^org/name cannot be loaded from the hub \(no route\); give --data-dir "
    ):
        rows.read_hub("org/name", None, "test")


def test_what_the_hub_gives_is_identified_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    content: list[dict[str, Any]] = [{"b": 1, "a": "x"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: content)
    first = rows.read_hub("org/name", None, "test")
    assert list(first.rows) == content
    content = [{"a": "x", "b": 1}]
    assert rows.read_hub("org/name", None, "test").sha256 == first.sha256
    content = [{"a": "y", "b": 1}]
    assert rows.read_hub("org/name", None, "test").sha256 != first.sha256


@pytest.mark.skipif("REGROW_DATA" not in os.environ, reason="REGROW_DATA names no folder of real files")
@pytest.mark.parametrize("name", sorted(REAL))
def test_the_real_file_is_the_usual_one(name: str) -> None:
    task = _load(name, Path(os.environ["REGROW_DATA"]))
    assert task.warning == ""
    assert len({item.prompt for item in task.items}) == len(task.items)
    expected = {"gsm8k": "18", "tinygsm8k": "29", "minerva": "1.6", "amc23": "27"}
    assert task.items[0].gold == expected.get(name, "\\left( 3, \\frac{\\pi}{2} \\right)")
