from __future__ import annotations

from random import Random

import pytest

from regrow.bundled.problems import FAMILIES, Exercise, exercise, heldout


def _checked(question: str) -> str:
    """Return the answer to a question, computed without the generator's own arithmetic."""
    kind, *words = question.split()
    if kind == "add":
        return str(int(words[0]) + int(words[1]))
    if kind == "mul":
        return str(int(words[0]) * int(words[1]))
    if kind == "rem":
        return str(int(words[0]) % int(words[1]))
    if kind == "sort":
        return "".join(sorted(words[0]))
    if kind == "rev":
        return "".join(reversed(words[0]))
    if kind == "par":
        return "odd" if words[0].count("1") % 2 else "even"
    if kind == "count":
        return str(words[1].count(words[0]))
    if kind == "bin":
        return str(int(words[0], 2))
    if kind == "var":
        values: dict[str, int] = {}
        for equation in words[:-2]:
            name, expression = equation.split("=")
            values[name] = eval(expression, {"__builtins__": {}}, dict(values)) % 10
        return str(values[name])
    total = 0
    for event in question.partition(".")[0].split(", "):
        match event.split():
            case [_, "has", amount, _]:
                total = int(amount)
            case ["finds" | "buys" | "gets" | "wins", amount]:
                total += int(amount)
            case ["loses" | "gives" | "sells" | "eats", amount]:
                total -= int(amount)
            case ["doubles", "it"]:
                total *= 2
    return str(total)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_right(family: str) -> None:
    rng = Random(family)
    for _ in range(200):
        problem = FAMILIES[family](rng)
        assert problem.answer == _checked(problem.question), problem


def test_a_solution_earns_every_mark_and_nothing_earns_none() -> None:
    for e in heldout(50):
        assert e.marks(e.solution) == (True,) * len(e.problems)
        assert e.marks("") == (False,) * len(e.problems)


def test_a_wrong_final_answer_loses_its_own_mark_only() -> None:
    e = exercise("heldout-0")
    lines = e.solution.splitlines()
    lines[1] = lines[1].rpartition("=")[0] + "=wrong"
    assert e.marks("\n".join(lines)) == tuple(i != 1 for i in range(len(e.problems)))


def test_an_answer_counts_for_its_label_and_the_first_time_only() -> None:
    e = exercise("heldout-0")
    swapped = e.solution.replace("A ", "Z ", 1)
    assert not e.marks(swapped)[0]
    answer = e.problems[0].answer
    assert not Exercise(e.problems[:1]).marks(f"A =no{answer}\nA ={answer}")[0]


def test_a_seed_is_an_exercise_and_prompts_do_not_recur() -> None:
    assert exercise("heldout-7") == exercise("heldout-7")
    train = {exercise(f"train-0-0-{i}").prompt for i in range(2000)}
    held = {e.prompt for e in heldout(500)}
    assert len(held) == 500
    assert not held & train
