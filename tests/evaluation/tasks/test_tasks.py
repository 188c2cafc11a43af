"""What every task must do. Benchmarks read a made file with as many rows as the real one has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark_files import write_benchmark
from regrow.bundled.problems import FAMILIES, exercise
from regrow.errors import UsageError
from regrow.evaluation.graders import GRADERS
from regrow.evaluation.tasks import TASKS, load
from regrow.evaluation.tasks.benchmark import Benchmark
from regrow.evaluation.tasks.task import Task, TaskRequest, batches, fingerprint


@pytest.fixture(params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def request_(name: str, tmp_path: Path) -> TaskRequest:
    source = TASKS[name]
    if isinstance(source, Benchmark):
        write_benchmark(source, tmp_path)
    return TaskRequest(data_dir=str(tmp_path))


@pytest.fixture
def task(name: str, request_: TaskRequest) -> Task:
    return load(name, request_)


def test_it_has_the_questions_it_says(name: str, task: Task) -> None:
    source = TASKS[name]
    assert task.name == source.name == name
    assert source.summary
    assert len(task.items) == (source.count if isinstance(source, Benchmark) else 500)
    assert len({item.id for item in task.items}) == len(task.items)


def test_it_is_the_same_whenever_it_is_loaded(name: str, task: Task, request_: TaskRequest) -> None:
    assert load(name, request_) == task


def test_its_golds_can_be_graded(task: Task) -> None:
    grader = GRADERS[task.grader]
    for item in task.items[:3]:
        assert grader.check_gold(item.gold) is None
        assert grader.grade(item.gold, "").right == 0


def test_a_template_and_a_system_message_replace_its_own(
    name: str, task: Task, request_: TaskRequest
) -> None:
    asked = replace(request_, template="Q: {question} {x}\nA:", system="Be brief.")
    other = load(name, asked)
    assert other.system == "Be brief."
    assert task.system == ""
    question = task.items[0].prompt.removeprefix(task.template.split("{question}")[0])
    question = question.removesuffix(task.template.split("{question}")[1])
    assert other.items[0].prompt == f"Q: {question} {{x}}\nA:"
    assert [item.gold for item in other.items] == [item.gold for item in task.items]


def test_a_limit_takes_the_first_prompts(task: Task) -> None:
    assert task.first(3).items == task.items[:3]
    assert task.first(None) == task == task.first(len(task.items))


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_limits_a_task_cannot_meet(task: Task, limit: int) -> None:
    with pytest.raises(UsageError, match=rf"from 1 to {len(task.items)}.*not {limit}"):
        task.first(limit)


def test_an_unknown_task_is_named_beside_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown task 'chess'; choose one of gsm8k, .*tiny_reasoner"):
        load("chess")


def test_a_template_without_a_question_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"'Solve:' does not say where the question goes; write \{question\}"
    ):
        TaskRequest(template="Solve:")


def test_the_fingerprint_covers_ids_prompts_golds_and_order() -> None:
    one, two = load("tiny_reasoner").first(2).items
    changed = [
        [two, one],
        [one],
        [replace(one, id="x"), two],
        [replace(one, prompt="x"), two],
        [one, replace(two, gold="x")],
    ]
    assert len({fingerprint(items) for items in [[one, two], *changed]}) == 6
    assert fingerprint([one, two]) == fingerprint(load("tiny_reasoner").first(2).items)


def test_batches_keep_the_order_and_the_last_is_smaller() -> None:
    items = load("tiny_reasoner").first(5).items
    assert batches(items, 2) == [items[:2], items[2:4], items[4:]]
    assert batches(items, 8) == [items]


def test_the_exercises_are_right_by_their_solutions() -> None:
    task = load("tiny_reasoner").first(64)
    families = set()
    for item in task.items:
        grade = GRADERS[task.grader].grade(item.gold, exercise(item.id).solution)
        assert grade.right == grade.total == len(exercise(item.id).problems)
        families |= {mark.family for mark in grade.marks}
    assert families == set(FAMILIES)


def test_a_wrong_line_of_an_exercise_costs_one_mark() -> None:
    item = load("tiny_reasoner").items[0]
    lines = exercise(item.id).solution.split("\n")
    lines[1] = lines[1].rpartition("=")[0] + "=x"
    marks = GRADERS["exercises"].grade(item.gold, "\n".join(lines)).marks
    assert [mark.right for mark in marks] == [True, False] + [True] * (len(lines) - 2)
