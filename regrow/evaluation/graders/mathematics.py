"""Mathematical answers, by a strict and a lenient score."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar, Final, final

from regrow.evaluation.graders.answer_list import AnswerList, answer_list
from regrow.evaluation.graders.grader import OneMark
from regrow.evaluation.graders.plain_number import PlainNumber, plain_number
from regrow.evaluation.graders.same_number import close_number, same_number
from regrow.evaluation.graders.stated_answer import LONGEST, after_answer_is, after_thinking, last_boxed
from regrow.evaluation.graders.symbolic import close, equivalent
from regrow.evaluation.graders.tidy_latex import tidy, words

_E_NOTATION = re.compile(r"(?<![\w.\\])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?![\w.])")
_LITERAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_FINAL_ANSWER = re.compile(r"final answer is \$(.{1,2000}?)\$\. I hope", re.DOTALL)
_NUMBER = re.compile(r"-?\d*\.?\d+", re.ASCII)
_LETTER = re.compile(r"\\text\s*\{\s*\(?\s*([A-Z])\s*\)?\s*\}|\(?([A-Z])\)?")
_LEADING_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?\s*([A-Z])\s*\)")
_CHOSEN = re.compile(r"(?:option |choice |answer )?([A-Z])", re.IGNORECASE)
_FORMATTING = re.compile(r"\\[a-zA-Z]+|\\.|[{}()$\s.~*]+")
_TWO_LETTERS = re.compile(r"\b[A-Z]\b.*(?:,|;|\bor\b|\band\b)[^a-zA-Z]*[A-Z]\b", re.DOTALL)
_NAMES = re.compile(r"([A-Z]{2,})=([A-Z]{2,})")
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|\\lor(?![a-zA-Z])|\\cup(?![a-zA-Z])")
_TAIL = re.compile(r"\s*(?P<unit>(?<![\\a-zA-Z])[a-zA-Z°%$][a-zA-Z°/\\. -]*(?:\^?\{?-?\d\}?[a-zA-Z/ .-]*)*)$")
_UNIT = re.compile(r"[a-zA-Z°%$\\]+(?:-[a-zA-Z]+)*(?:\^?\{?-?\d\}?)?")
_ONE_LETTER_UNITS: Final = frozenset("mgslhJKNWVACFTLHcdy")
_NO_UNITS: Final = frozenset(
    {
        "million",
        "billion",
        "trillion",
        "thousand",
        "hundred",
        "dozen",
        "pi",
        "or",
        "and",
        "times",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
    }
)
_MOST_PARTS: Final = 20  # of a list whose parts are compared with each other
_PAPER_SHARE: Final = Fraction(1, 10_000)  # relative tolerance of the paper's framework


@final
class Mathematics(OneMark):
    r"""Compares the last boxed answer with the gold one as mathematics.

    The strict score takes the last `\boxed` after `</think>`, and nothing else counts. The golds of Minerva
    in e-notation (`4.5e33`) are read as numbers. The lenient score follows the framework of the paper: it
    also finds answers that are not boxed, allows a relative difference of 1e-4 and a factor of 100, and
    takes golds as they are: of those in e-notation, only the same notation or the plain digits match.

    Decided for both scores: units, words around an answer and degree signs do not count; a percent sign
    counts neither if the other side has none; brackets of intervals count; the parts of sets, unions and
    bare lists may come in any order, those of tuples may not; a tuple is no set. Of a multiple choice, an
    answer that names several letters is wrong.
    """

    name: ClassVar[str] = "math"
    summary: ClassVar[str] = "mathematics: the last \\boxed answer after </think>, compared by math-verify"

    def strict(self, gold: str, text: str) -> bool:
        answer = last_boxed(after_thinking(text))
        return bool(answer) and _same(_powers(gold), _powers(answer or ""), _strictly)

    def paper(self, gold: str, text: str) -> bool:
        answer = _lenient_answer(text)
        return bool(answer) and _same(gold, answer, _leniently)

    def check_gold(self, gold: str) -> str | None:
        if len(gold) > LONGEST:
            return f"the gold answer has {len(gold)} characters, more than {LONGEST}"
        if gold.strip() and last_boxed(self.restate(gold)) != gold.strip():
            return "the braces of the gold answer do not match"
        return super().check_gold(gold)


def _powers(answer: str) -> str:
    r"""Writes numbers in e-notation as powers of ten: `4.5e33` as `4.5 \times 10^{33}`."""
    return _E_NOTATION.sub(lambda found: rf"{found[1]} \times 10^{{{int(found[2])}}}", answer)


def _lenient_answer(text: str) -> str:
    """Returns the answer that the framework of the paper reads, empty if there is none."""
    template = _FINAL_ANSWER.search(text)
    if template:
        return template[1].strip()
    answer = last_boxed(text)
    if answer is None:
        answer = after_answer_is(text)
    if answer is None:
        numbers = _NUMBER.findall(text.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    return answer


Comparison = Callable[[str, str], bool]


def _same(gold: str, given: str, compare: Comparison) -> bool:
    """Compares two answers: words with words, lists part by part, and everything else by `compare`."""
    letter = _LETTER.fullmatch(gold.strip())
    if letter and (choice := _choice(given)) is not None:
        return choice == (letter[1] or letter[2])
    if names := _names(gold):
        return names == _names(given)
    gold_words = words(gold)
    if gold_words and (letter or "\\text" in gold or all(len(word) > 2 for word in gold_words.split())):
        return gold_words == words(given)
    gold, given = tidy(gold), tidy(given)
    if not gold or not given:
        return False
    if gold.replace(" ", "") == given.replace(" ", ""):
        return True
    if not _bases_agree(gold, given):
        return False
    if "\\cup" in gold and _same_union(gold, given, compare):
        return True
    golds, answers = answer_list(gold), answer_list(given)
    if golds and golds.ordered and (answers.opening == r"\{" if answers else r"\pm" in given):
        return False  # math-verify takes a set of two numbers for the interval between them
    if golds and answers and golds.ordered and answers.ordered:
        return _same_sequence(golds, answers, compare)
    # Of a bare list and a tuple, for instance, math-verify decides.
    return (golds and answers and _same_set(golds, answers, compare)) or compare(gold, given)


def _choice(given: str) -> str | None:
    """Returns the letter that an answer chooses: empty if it names several, None if it names none."""
    plain = _FORMATTING.sub(" ", given).strip()
    if chosen := _CHOSEN.fullmatch(plain):
        return chosen[1].upper()
    if _TWO_LETTERS.match(plain):
        return ""
    lead = _LEADING_LETTER.match(given.strip())
    return lead[1] if lead else None


def _names(answer: str) -> frozenset[str] | None:
    r"""Returns both sides of an equation between names of capitals, such as `\text{MR} = \text{MC}`."""
    found = _NAMES.fullmatch(_FORMATTING.sub("", answer))
    return frozenset(found.groups()) if found else None


def _same_union(gold: str, given: str, compare: Comparison) -> bool:
    """Compares unions part by part, in any order; the parts may be intervals or inequalities."""
    golds, answers = (AnswerList("", tuple(_OR.split(text)), "") for text in (gold, given))
    return len(golds.parts) > 1 and _same_set(golds, answers, compare)


def _same_sequence(golds: AnswerList, answers: AnswerList, compare: Comparison) -> bool:
    """Compares tuples or intervals: brackets, and then part by part."""
    if (golds.opening, golds.closing) != (answers.opening, answers.closing):
        return False
    if len(golds.parts) != len(answers.parts):
        return False
    return all(_same(one, other, compare) for one, other in zip(golds.parts, answers.parts, strict=True))


def _same_set(golds: AnswerList, answers: AnswerList, compare: Comparison) -> bool:
    """Compares sets or bare lists, in any order."""
    if golds.ordered or answers.ordered or len(golds.parts) != len(answers.parts):
        return False
    if len(golds.parts) > _MOST_PARTS:
        return False
    left = list(answers.parts)
    for part in golds.parts:
        match = next((index for index, other in enumerate(left) if _same(part, other, compare)), None)
        if match is None:
            return False
        del left[match]
    return True


def _strictly(gold: str, given: str) -> bool:
    number = plain_number(gold)
    if number is not None:
        given = _without_unit(given)
        answer = plain_number(given.rpartition("=")[2])
        if answer is not None:
            return same_number(number, answer)
    return equivalent(gold, given)


def _leniently(gold: str, given: str) -> bool:
    number, answer = _literal(gold), _literal(_without_unit(given))
    if number is not None and answer is not None:
        shares = (Fraction(1), Fraction(1, 100), Fraction(100))
        return any(close_number(PlainNumber(number.value * share), answer, _PAPER_SHARE) for share in shares)
    if number is not None:
        given = _without_unit(given)
    if close(gold, given, float(_PAPER_SHARE)):
        return True
    # Golds in e-notation are taken as they are: as numbers, they would also equal powers of ten.
    return equivalent(gold, given) if _E_NOTATION.search(gold) else _strictly(gold, given)


def _literal(text: str) -> PlainNumber | None:
    """Returns a number that is written as a literal of Python; commas and a percent sign are dropped."""
    body = text.replace(",", "").strip().removesuffix("%").removesuffix("\\").strip()
    return plain_number(body) if _LITERAL.fullmatch(body) else None


def _without_unit(given: str) -> str:
    """Removes bare words after a number (`5 apples`, `1.6cm`), unless they change its value."""
    found = _TAIL.search(given)
    if not found or plain_number(given) is not None or plain_number(given[: found.start()]) is None:
        return given
    unit = found["unit"].strip(" .")
    if unit in ("%", "\\%") or any(word in _NO_UNITS for word in unit.split()):
        return given
    words_of_unit = re.split(r"[\s/.]+", unit)
    # In `15x - 80` and `6r^2 - 4`, what follows the number is no unit.
    if not all(_UNIT.fullmatch(word) for word in words_of_unit):
        return given
    first = re.sub(r"[^a-zA-Z]", "", words_of_unit[0])
    if set(first) & set("xyz") and len(first) < 3:
        return given
    known = len(first) != 1 or first in _ONE_LETTER_UNITS or re.match(r"[a-zA-Z]\.[a-zA-Z]|a ", unit)
    return given[: found.start()] if known else given


def _bases_agree(gold: str, given: str) -> bool:
    """Returns False for numbers in different bases, whose base math-verify drops.

    A number without a base is decimal, but a gold answer in another base may be given without it.
    """
    one, other = (re.fullmatch(r"[\dA-F]+_\{?(\d+)\}?", text.replace(" ", "")) for text in (gold, given))
    if other and plain_number(gold) is not None:
        return other[1] == "10"
    return not (one and other) or one[1] == other[1]
