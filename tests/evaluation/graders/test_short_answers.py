"""Graders that read a letter, a number or a text, and those of exercises and of prompts without gold answers."""

from __future__ import annotations

import pytest

from regrow.bundled.problems import heldout
from regrow.errors import UsageError
from regrow.evaluation.graders import GRADERS, find
from regrow.records import Grade, Mark

CHOICES = [  # gold, completion, strict, lenient
    ("B", "Answer: B", 1, 1),
    ("B", "thinking</think>\nAnswer: B", 1, 1),
    ("B", "**Answer:** B", 1, 1),
    ("B", "**Answer: B**", 1, 1),
    ("B", "Answer: $B$", 1, 1),
    ("B", "Answer: $\\text{B}$", 1, 1),
    ("B", "Answer: $\\boxed{B}$", 1, 1),
    ("B", "ANSWER: (B)", 1, 1),
    ("B", "Answer:\nB", 1, 1),
    ("B", "Answer: [B].", 1, 1),
    ("B", "Answer: B) 4.2 eV", 1, 1),
    ("B", "Answer: the correct choice is B", 1, 1),
    ("B", "Answer: A\nNo.\nAnswer: B", 1, 1),
    ("A", "Answer: A\nNo.\nAnswer: B", 0, 0),
    ("B", "Answer: A thorough look gives B", 1, 1),
    ("A", "Answer: A thorough look gives B", 0, 0),
    ("A", "Answer: A", 1, 1),
    ("A", "Answer: A because it decays", 1, 1),
    ("A", "Answer: A.", 1, 1),
    ("B", "Answer: I think B", 1, 1),
    ("B", "Answer: " + "well, " * 20 + "B", 1, 1),  # too far away, and a lone letter
    ("B", "Answer: " + "well, " * 20 + "B. Not C", 0, 0),
    ("B", "The best is \\boxed{B}", 1, 0),
    ("B", "The best is \\boxed{\\text{B}}", 1, 0),
    ("B", "The best is \\boxed{\\textbf{(B)}}, not C", 1, 0),
    ("B", "\\boxed{B: 5 eV}", 1, 0),
    ("C", "The best is \\boxed{B}, not C", 0, 1),
    ("B", "Answer: C, so \\boxed{B}", 0, 0),
    ("B", "B) the second\nbecause of C", 1, 1),
    ("B", "**B** is it, not C", 1, 1),
    ("B", "- none\n(B) it is\nfor A", 1, 1),
    ("A", "A common mistake is C", 0, 0),
    ("C", "A common mistake is C", 1, 1),
    ("B", "So it must be (B).", 1, 1),
    ("B", "So it must be **B**.", 1, 1),
    ("B", "So it must be B, although a car is a car", 1, 1),
    ("B", "C, then B", 0, 0),
    ("B", "", 0, 0),
    ("B", "Bananas", 0, 0),
    ("B", "no letter", 0, 0),
    ("D", "The energy E is conserved, so D. Then E = 5.", 1, 1),
    ("E", "Answer: E", 1, 1),
    ("B", "Answer: E, not B", 0, 0),
    ("J", "Answer: J", 1, 1),
    ("b", "Answer: B", 1, 1),
    ("B", "Answer: b", 0, 0),
    ("B", "Answer: A</think>I choose B.", 1, 0),
]
NUMBERS = [  # gold, completion, right
    ("18", "\\boxed{18}", 1),
    ("18", "She has \\boxed{18 \\text{ eggs}}", 1),
    ("18", "\\boxed{9 + 9 = 18}", 1),
    ("18", "\\boxed{17}, or 18", 0),
    ("18", "x = 18</think> I am done: 17", 0),
    ("18", "17</think> The answer is 18, as 20 - 2 = 18 and not 3", 1),
    ("18", "The answer is $18.", 1),
    ("18", "The answer is: 18 eggs out of 20.", 1),
    ("18", "she sells 20 and keeps 18.", 1),
    ("18", "18 eggs, 20 hens", 0),
    ("1800", "It costs $1,800.", 1),
    ("1800", "It costs \\$1{,}800.00 a day", 1),
    ("1,800", "1800", 1),
    ("1800", "\\boxed{1\\,800}", 1),
    ("-3", "It is -3", 1),
    ("-3", "It is −3", 1),
    ("3", "It is 5-3", 1),
    ("3", "It is -3", 0),
    ("0.75", "It is 3/4", 1),
    ("0.75", "\\boxed{\\frac{3}{4}}", 1),
    ("3/4", "0.75", 1),
    ("1.5", "1 1/2", 1),
    ("50", "50%", 1),
    ("0.5", "50\\%", 1),
    ("50%", "0.5", 1),
    ("50%", "0.5%", 0),
    ("4.5e33", "4.5 \\times 10^{33}", 1),
    ("4.5e33", "\\boxed{4.5 × 10^33}", 1),
    ("2e-19", "2 \\times 10^{-18}", 0),
    ("2e-19", "0", 0),
    ("0.3333333", "\\frac{1}{3}", 1),
    ("0.333", "\\frac{1}{3}", 0),
    ("1000000", "1000001", 1),  # 1e-6
    ("100000", "100001", 0),
    ("0", "0", 1),
    ("0", "0.000001", 0),
    ("5", "", 0),
    ("5", "five", 0),
    ("5", "\\boxed{}", 0),
    ("5", "x5y", 0),
    ("5", "\\boxed{1/0}", 0),
]
TEXTS = [  # gold, completion, right
    ("Paris", "\\boxed{Paris}", 1),
    ("Paris", "\\boxed{\\text{paris}}", 1),
    ("Paris", "Answer: Paris.", 1),
    ("Paris", "Answer: Rome\nAnswer: **Paris**", 1),
    ("Paris", "Answer: Paris\nAnswer: Rome", 0),
    ("Paris", 'It is\n\n"Paris"\n\n', 1),
    ("Paris", "Paris\nor not", 0),
    ("Paris", "Rome</think>Paris", 1),
    ("Paris", "Paris</think>Rome", 0),
    ("New  York", "answer:  new york ", 1),
    ("'x'.", "$x$", 1),
    ("Paris", "in Paris", 0),
    ("Paris", "", 0),
]


@pytest.mark.parametrize(("gold", "text", "strict", "paper"), CHOICES)
def test_choices(gold: str, text: str, strict: int, paper: int) -> None:
    assert find("choice").grade(gold, text) == Grade((Mark("", bool(strict), bool(paper)),))


@pytest.mark.parametrize(
    ("name", "gold", "text", "right"),
    [("number", *row) for row in NUMBERS] + [("exact", *row) for row in TEXTS],
)
def test_numbers_and_texts_have_one_score(name: str, gold: str, text: str, right: int) -> None:
    assert find(name).grade(gold, text) == Grade((Mark("", bool(right), bool(right)),))


def test_exercises_have_one_mark_a_problem() -> None:
    grader = find("exercises")
    for exercise in heldout(30):
        gold = "\n".join(f"{problem.family} {problem.answer}" for problem in exercise.problems)
        solved = grader.grade(gold, exercise.solution)
        assert [mark.family for mark in solved.marks] == [problem.family for problem in exercise.problems]
        assert solved.right == solved.paper == solved.total == len(exercise.problems)
        last = exercise.solution.rpartition("\n")[0]
        assert grader.grade(gold, last).right == solved.total - 1
        assert grader.check_gold(gold) is None


def test_no_grader_gives_no_marks() -> None:
    assert find("none").grade("", "Answer: 5") == Grade(())
    assert find("none").check_gold("") is None


@pytest.mark.parametrize(
    ("name", "gold", "problem"),
    [
        ("choice", "K", "'K' is not a letter from A to J"),
        ("choice", "AB", "not a letter"),
        ("choice", "", "not a letter"),
        ("number", "five", "'five' is not a number"),
        ("number", " ", "is empty"),
        ("exact", "", "is empty"),
        ("exact", "'.'", "nothing but quotes"),
        ("exercises", "", "0 lines"),
        ("exercises", "add 5\nsort", "a family and an answer"),
    ],
)
def test_golds_that_cannot_be_used_are_named(name: str, gold: str, problem: str) -> None:
    assert problem in (find(name).check_gold(gold) or "")


@pytest.mark.parametrize(
    ("name", "gold"), [("choice", "c"), ("number", "-1,234.5"), ("exact", "a 'b' c"), ("exercises", "add 5")]
)
def test_a_restated_gold_is_right(name: str, gold: str) -> None:
    grader = find(name)
    assert grader.check_gold(gold) is None
    assert grader.grade(gold, grader.restate(gold)).right == 1


def test_graders_are_found_by_name() -> None:
    assert list(GRADERS) == ["exercises", "number", "choice", "exact", "none", "math"]
    assert all(grader.name == name and grader.summary for name, grader in GRADERS.items())
    with pytest.raises(UsageError, match="unknown grader 'best'; choose one of exercises, number"):
        find("best")
