from __future__ import annotations

import pytest

from regrow.evaluation.graders.stated_answer import LONGEST, after_answer_is, after_thinking, last_boxed


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{ 5 }", "5"),
        (r"\boxed{4} and \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}} }", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.} }", r"\left\{ x \right."),
        (r"\boxed{a \\} }", r"a \\"),
        (r"\boxed{{{5}}}", "{{5}}"),
        (r"\boxed{5", None),
        (r"\boxed{4} \boxed{\frac{1}{2}", None),
        (r"\boxed{5\}", None),
        (r"\boxed{}", ""),
        (r"\boxed 5", "5"),
        (r"$\boxed5$", "5"),
        (r"\(\boxed 5\).", "5"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed", None),
        (r"\fbox{5}", "5"),
        (r"\boxedness{5}", None),
        ("5", None),
        ("", None),
        (r"\boxed{" + "1" * LONGEST + "}", "1" * LONGEST),
        (r"\boxed{" + "1" * (LONGEST + 1) + "}", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


def test_the_answer_follows_the_last_end_of_thinking() -> None:
    assert after_thinking("a</think>b</think>c") == "c"
    assert after_thinking("a<think>b") == "a<think>b"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5.", "5"),
        ("So the answer is: $x = 5$, of course.", "x = 5"),
        ("answer is 4. The final answer is 3.5 cm\nnot 4", "3.5 cm"),
        ("The answer is ", None),
        ("The answers", None),
    ],
)
def test_after_answer_is(text: str, answer: str | None) -> None:
    assert after_answer_is(text) == answer
