from __future__ import annotations

from dataclasses import replace

import pytest

from regrow.bundled.problems import FAMILIES, exercise
from regrow.errors import UsageError
from regrow.evaluation.tasks import TASKS, find
from regrow.evaluation.tasks.task import Task, batches, fingerprint


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def test_a_limit_takes_the_first_prompts(task: Task) -> None:
    everything = task.load(None)
    assert len(everything) == task.size
    assert task.load(3) == everything[:3]
    assert task.load(task.size) == everything
    assert len({item.id for item in everything}) == task.size


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_limits_a_task_cannot_meet(task: Task, limit: int) -> None:
    with pytest.raises(UsageError, match=rf"from 1 to {task.size}.*not {limit}"):
        task.load(limit)


def test_an_empty_answer_has_every_problem_wrong(task: Task) -> None:
    grade = task.grade(task.load(1)[0], "")
    assert grade.right == 0
    assert grade.total > 0


def test_an_unknown_task_is_named_beside_the_known_ones() -> None:
    assert find("tiny_reasoner") is TASKS["tiny_reasoner"]
    with pytest.raises(UsageError, match=r"unknown task 'chess'; choose one of .*tiny_reasoner"):
        find("chess")


def test_the_fingerprint_covers_ids_prompts_golds_and_order() -> None:
    one, two = find("tiny_reasoner").load(2)
    changed = [
        [two, one],
        [one],
        [replace(one, id="x"), two],
        [replace(one, prompt="x"), two],
        [one, replace(two, gold="x")],
    ]
    assert len({fingerprint(items) for items in [[one, two], *changed]}) == 6
    assert fingerprint([one, two]) == fingerprint(find("tiny_reasoner").load(2))


def test_batches_keep_the_order_and_the_last_is_smaller() -> None:
    items = find("tiny_reasoner").load(5)
    assert batches(items, 2) == [items[:2], items[2:4], items[4:]]
    assert batches(items, 8) == [items]


def test_every_worked_solution_gets_full_marks_under_its_family() -> None:
    task = find("tiny_reasoner")
    met = set()
    for item in task.load(64):
        held = exercise(item.id)
        grade = task.grade(item, held.solution)
        assert item.prompt == held.prompt
        assert grade.right == grade.total == len(held.problems)
        assert [
            f"{mark.family} {problem.answer}"
            for mark, problem in zip(grade.marks, held.problems, strict=True)
        ] == item.gold.splitlines()
        met |= {mark.family for mark in grade.marks}
    assert met == set(FAMILIES)


def test_a_wrong_answer_costs_its_own_problem_only() -> None:
    task = find("tiny_reasoner")
    item = task.load(1)[0]
    lines = exercise(item.id).solution.splitlines()
    lines[1] = lines[1].rpartition("=")[0] + "=no"
    assert [mark.right for mark in task.grade(item, "\n".join(lines)).marks] == [
        index != 1 for index in range(len(lines))
    ]
