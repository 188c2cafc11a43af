from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from evaluation.graders.variants import right, wrong
from regrow.evaluation.graders.judge import Judge
from regrow.evaluation.graders.plain_number import plain_number
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import TaskRequest
from regrow.records import Grade, Mark

TABLE = Path(__file__).with_name("awkward_answers.tsv")
ROWS = [line.split("\t") for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
DATA = os.environ.get("REGROW_DATA")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as made:
        yield made


def boxed(judge: Judge, gold: str, answer: str) -> tuple[int, int]:
    """Return the strict and the lenient score of a boxed answer."""
    grade = judge.grade(
        "math", gold, f"Some thoughts, \\boxed{{1}}.</think>\n\nSo it is \\boxed{{{answer}}}."
    )
    assert not grade.timed_out
    return grade.right, grade.paper


def test_the_table_is_long_and_says_right_and_wrong() -> None:
    assert len(ROWS) >= 150
    assert {tuple(row[:2]) for row in ROWS if row[0] == "4.5e33"} >= {("4.5e33", r"4.5 \times 10^{33}")}
    assert {row[2] for row in ROWS} == {row[3] for row in ROWS} == {"right", "wrong"}


@pytest.mark.parametrize(("gold", "answer", "strict", "paper"), ROWS)
def test_awkward_answers(judge: Judge, gold: str, answer: str, strict: str, paper: str) -> None:
    assert boxed(judge, gold, answer) == (strict == "right", paper == "right")


@pytest.mark.parametrize(
    ("text", "strict", "paper"),
    [
        (r"so \boxed{5}", 1, 1),
        (r"so \boxed{4}, no: \boxed{5}", 1, 1),
        (r"so \boxed{5}, no: \boxed{4}", 0, 0),
        (r"<think>\boxed{4}</think>\boxed{5}", 1, 1),
        (r"<think>\boxed{5}</think>\boxed{4}", 0, 0),
        # Nothing after the thinking is boxed: the lenient score looks into the thinking.
        (r"I think \boxed{5}</think> It is done.", 0, 1),
        # The thinking did not end, or there was none.
        (r"I think \boxed{5}, but let me check", 1, 1),
        (r"<think>I think \boxed{5}, but let me check", 1, 1),
        (r"so \boxed{5", 0, 1),
        (r"so \boxed{4}. Or \boxed{5", 0, 1),
        (r"so \boxed 5", 1, 1),
        (r"so $\boxed 5$.", 1, 1),
        (r"so \fbox{5}", 1, 1),
        (r"so \boxed{\boxed{5}}", 1, 1),
        (r"so \boxed{\text{the answer is }5}", 1, 1),
        (r"so \boxed{}", 0, 0),
        ("The answer is 5.", 0, 1),
        ("The answer is 4, not 5.", 0, 0),
        ("The final answer is $5$. I hope it is correct. Or 4.", 0, 1),
        (r"The final answer is $5$. I hope it is not \boxed{4}.", 0, 1),
        ("That makes 3 and 5", 0, 1),
        ("That makes 5 and 3", 0, 0),
        ("", 0, 0),
        ("no number at all", 0, 0),
    ],
)
def test_where_the_answer_is_read(judge: Judge, text: str, strict: int, paper: int) -> None:
    grade = judge.grade("math", "5", text)
    assert (grade.right, grade.paper) == (strict, paper)


def test_a_grade_has_one_mark_with_both_scores(judge: Judge) -> None:
    made = judge.grade("math", "4.5e33", r"\boxed{4.5 \times 10^{33}}")
    assert made == Grade((Mark("", right=True, paper=False),))


@pytest.mark.parametrize(
    ("gold", "problem"),
    [("", "is empty"), ("}", "braces"), (r"\frac{1}{2", "braces"), ("1" * 2001, "2001 characters")],
)
def test_golds_that_cannot_be_used_are_named(judge: Judge, gold: str, problem: str) -> None:
    assert problem in (judge.check_gold("math", gold) or "")
    assert judge.check_gold("math", r"\frac{1}{2}") is None


def _equal(one: str, other: str) -> bool:
    numbers = plain_number(one), plain_number(other.replace(r"^\circ", ""))
    return one == other or (None not in numbers and len({number and number.value for number in numbers}) == 1)


# The right variants of an e-notation gold are wrong by the lenient score, so only the strict one is checked.
@pytest.mark.skipif(DATA is None, reason="REGROW_DATA does not name the folder of the benchmark files")
@pytest.mark.parametrize(("name", "share"), [("amc23", 4), ("math500", 25), ("minerva", 20)])
def test_variants_of_the_golds_of_benchmarks(judge: Judge, name: str, share: int) -> None:
    """One gold in `share`; REGROW_EVERY_GOLD=1 takes them all, which takes long."""
    rng, failed, graded = Random(0), [], 0
    found = [item.gold for item in load(name, TaskRequest(data_dir=DATA)).items]
    chosen = found[:: 1 if "REGROW_EVERY_GOLD" in os.environ else share]
    for gold in chosen:
        others = [other for other in dict.fromkeys(found) if not _equal(gold, other)]
        cases = [(answer, True) for answer in right(gold, rng)]
        cases += [(answer, False) for answer in wrong(gold, others, rng) if not _equal(gold, answer)]
        for answer, expected in cases:
            graded += 1
            if bool(judge.grade("math", gold, f"\\boxed{{{answer}}}").right) != expected:
                failed.append((gold, answer, expected))
    assert graded > 10 * len(chosen)
    assert not failed
