"""Multiple choice: the answer is a letter."""

from __future__ import annotations

import re
from typing import ClassVar, Final, final

from regrow.evaluation.graders.grader import OneMark
from regrow.evaluation.graders.stated_answer import after_thinking, last_boxed

_MOST: Final = "ABCDEFGHIJ"
_USUAL: Final = "ABCD"

_OPEN = r"(?:[ \t(\[{*_$\"'`<:]|\\\(|\\\[|\\(?:boxed|text|textbf|mathbf|mathrm|rm)(?![a-zA-Z]))*"
# "A" and "I" before a word in lower case are an article and a pronoun, unless the word gives a reason.
_WORD_AFTER = r"(?!(?<=[AI])\s+(?!(?:because|since|as|is|and|or|due|with|for)\b)[a-z])(?!(?<=I)')"
_ANSWER = re.compile(r"\banswer\s*[*_]*:", re.IGNORECASE)
_WITHIN: Final = 50  # characters after "Answer:"


def _letter(letters: str) -> str:
    """Returns the pattern of a letter that stands alone."""
    return rf"(?<![\w\\'\u2019^-])(?P<letter>[{letters}])(?![\w'\u2019^=-]){_WORD_AFTER}"


_AFTER_ANSWER = re.compile(_letter(_MOST))
_BOXED = re.compile(rf"{_OPEN}(?P<letter>[{_MOST}])(?![\w])")
_LINE_START = {
    letters: re.compile(rf"^{_OPEN}{_letter(letters)}", re.MULTILINE) for letters in (_USUAL, _MOST)
}
_ALONE = {letters: re.compile(_letter(letters)) for letters in (_USUAL, _MOST)}


@final
class Choice(OneMark):
    r"""Reads one letter, by the rule for GPQA: the rightmost match of the first rule that matches.

    The rules are: "Answer:" followed within 50 characters by a letter; a line that starts with the letter; a
    letter that stands alone. The strict score reads the part after `</think>`, and takes the last `\boxed`
    before it looks for lines and lone letters. The lenient score reads the whole text and no boxes.
    """

    name: ClassVar[str] = "choice"
    summary: ClassVar[str] = (
        "multiple choice: the letter after 'Answer:', in a box, at a line start, or alone"
    )

    def strict(self, gold: str, text: str) -> bool:
        answer = after_thinking(text)
        letters = _letters(gold)
        found = _after_answer(answer) or _boxed(answer) or _last(_LINE_START[letters], answer)
        return (found or _last(_ALONE[letters], answer)) == gold.strip().upper()

    def paper(self, gold: str, text: str) -> bool:
        letters = _letters(gold)
        found = _after_answer(text) or _last(_LINE_START[letters], text) or _last(_ALONE[letters], text)
        return found == gold.strip().upper()

    def check_gold(self, gold: str) -> str | None:
        if len(gold.strip()) == 1 and gold.strip().upper() in _MOST:
            return None
        return f"the gold answer {gold!r} is not a letter from A to J"

    def restate(self, gold: str) -> str:
        return f"Answer: {gold.strip().upper()}"


def _letters(gold: str) -> str:
    """Returns the letters that lines and lone letters may name: with few choices, E may be an energy."""
    return _USUAL if gold.strip().upper() in _USUAL else _MOST


def _after_answer(text: str) -> str | None:
    """Returns the letter that follows the last "Answer:" which a letter follows."""
    for found in reversed(list(_ANSWER.finditer(text))):
        letter = _AFTER_ANSWER.search(text[: found.end() + _WITHIN + 2], found.end())
        if letter and letter.start() <= found.end() + _WITHIN:
            return letter["letter"]
    return None


def _boxed(text: str) -> str | None:
    boxed = last_boxed(text)
    found = boxed and _BOXED.match(boxed)
    return found["letter"] if found else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    letters = [found["letter"] for found in pattern.finditer(text)]
    return letters[-1] if letters else None
