"""Reasoning problems for the bundled model, in ten families.

A problem is answered by a chain of steps, in which each step restates what the next one needs. A prompt holds
one labelled problem per line (`A add 4826 957`). A solution answers the problems in turn, one line each, with
the final answer after the last `=` of the line. Everything is a pure function of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

LABELS = "ABCDEFGH"


@dataclass(frozen=True)
class Problem:
    """One problem with its worked solution."""

    family: str
    question: str  # one line, without its label
    chain: str  # the worked steps, without the final answer
    answer: str


@dataclass(frozen=True)
class Exercise:
    """Several problems to be answered in turn."""

    problems: tuple[Problem, ...]

    @property
    def prompt(self) -> str:
        """One line per problem, with its label."""
        return "\n".join(f"{label} {p.question}" for label, p in zip(LABELS, self.problems, strict=False))

    @property
    def solution(self) -> str:
        """One line per problem: label, chain and final answer."""
        return "\n".join(
            f"{label} {p.chain} ={p.answer}" for label, p in zip(LABELS, self.problems, strict=False)
        )

    def marks(self, text: str) -> tuple[bool, ...]:
        """Grades a completion: returns for each problem whether its answer is right."""
        given = answers(text)
        return tuple(given.get(label) == p.answer for label, p in zip(LABELS, self.problems, strict=False))


def answers(text: str) -> dict[str, str]:
    """Returns the answers of a completion by label.

    An answer is read from the first line that has its label and an `=`: the text after the last `=` of that
    line.
    """
    given: dict[str, str] = {}
    for line in text.splitlines():
        label, _, rest = line.partition(" ")
        if "=" in rest:
            given.setdefault(label, rest.rpartition("=")[2].strip())
    return given


def _number(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _add(rng: Random) -> Problem:
    x, y = _number(rng, rng.randint(2, 4)), _number(rng, rng.randint(2, 4))
    left, right, carry, done, steps = str(x), str(y), 0, "", []
    while left or right or carry:
        a, b = int(left[-1:] or 0), int(right[-1:] or 0)
        total = a + b + carry
        done = str(total % 10) + done
        steps.append(f"{left}+{right} {a}+{b}+{carry}:{total:02} {done}")
        left, right, carry = left[:-1], right[:-1], total // 10
    return Problem("add", f"add {x} {y}", ";".join(steps), str(x + y))


def _multiply(rng: Random) -> Problem:
    x, y = _number(rng, rng.randint(2, 4)), rng.randint(2, 9)
    left, carry, done, steps = str(x), 0, "", []
    while left or carry:
        a = int(left[-1:] or 0)
        total = a * y + carry
        done = str(total % 10) + done
        steps.append(f"{left}*{y} {a}*{y}+{carry}:{total:02} {done}")
        left, carry = left[:-1], total // 10
    return Problem("multiply", f"mul {x} {y}", ";".join(steps), str(x * y))


def _sort(rng: Random) -> Problem:
    items = rng.sample("0123456789", rng.randint(5, 8))
    rest, steps = list(items), ["".join(items)]
    for item in sorted(items):
        rest.remove(item)
        steps.append(f"{item}|{''.join(rest)}")
    return Problem("sort", f"sort {''.join(items)}", " ".join(steps), "".join(sorted(items)))


def _reverse(rng: Random) -> Problem:
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 7)))
    steps = [f"{word[i:]}|{word[:i][::-1]}" for i in range(len(word))]
    return Problem("reverse", f"rev {word}", " ".join(steps), word[::-1])


def _parity(rng: Random) -> Problem:
    bits = "".join(rng.choice("01") for _ in range(rng.randint(6, 10)))
    steps = [f"{bits[i:]}>{bits[:i].count('1') % 2}" for i in range(len(bits) + 1)]
    return Problem("parity", f"par {bits}", " ".join(steps), "odd" if bits.count("1") % 2 else "even")


def _count(rng: Random) -> Problem:
    letter = rng.choice("abcdefghij")
    others = rng.sample([c for c in "abcdefghij" if c != letter], 2)
    word = "".join(rng.choice([letter, *others]) for _ in range(rng.randint(6, 9)))
    count, steps = 0, [f"0|{word}"]
    for i, seen in enumerate(word):
        before, count = count, count + (seen == letter)
        steps.append(f"{before}{letter}{seen}{count}|{word[i + 1 :]}")
    return Problem("count", f"count {letter} {word}", " ".join(steps), str(count))


def _variables(rng: Random) -> Problem:
    names = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(3, 5))
    values = {names[0]: rng.randint(0, 9)}
    rest, steps = [(names[0], str(values[names[0]]))], []
    for before, name in pairwise(names):
        source = rng.choice([before, rng.choice(list(values))])
        operand = rng.choice([str(rng.randint(1, 9)), rng.choice(list(values))])
        sign = rng.choice("+-")
        known = values.get(operand)
        values[name] = (
            values[source] + (1 if sign == "+" else -1) * (int(operand) if known is None else known)
        ) % 10
        rest.append((name, f"{source}{sign}{operand}"))
    question = _equations(rest)
    while rest:
        (name, expression), *rest = rest
        value = str(values[name])
        rest = [(other, right.replace(name, value)) for other, right in rest]
        steps.append(f"{name}={expression}{'' if expression == value else ':' + value}|{_equations(rest)}")
    return Problem("variables", f"var {question} mod 10", ";".join(steps), str(values[names[-1]]))


def _equations(pairs: list[tuple[str, str]]) -> str:
    return " ".join(f"{name}={expression}" for name, expression in pairs)


_GAINS = ("finds", "buys", "gets", "wins")
_LOSSES = ("loses", "gives", "sells", "eats")


def _word(rng: Random) -> Problem:
    total = rng.randint(5, 40)
    who, what = (
        rng.choice(("ann", "bob", "eve", "tom", "joe", "kim")),
        rng.choice(("pens", "figs", "nuts", "eggs", "pies", "buns")),
    )
    question, events, steps = f"{who} has {total} {what}", list[str](), [f"has {total}"]
    for _ in range(rng.randint(2, 4)):
        amount, before = rng.randint(2, 9), total
        if total >= 10 and rng.random() < 0.5:
            total -= amount
            events.append(f"{rng.choice(_LOSSES)} {amount}")
            steps.append(f"{before}-{amount}:{total}")
        elif total <= 30 and rng.random() < 0.25:
            total *= 2
            events.append("doubles it")
            steps.append(f"{before}*2:{total}")
        else:
            total += amount
            events.append(f"{rng.choice(_GAINS)} {amount}")
            steps.append(f"{before}+{amount}:{total}")
    chain = ";".join(f"{step}|{', '.join(events[done:])}" for done, step in enumerate(steps))
    return Problem("word", f"{', '.join([question, *events])}. how many {what}?", chain, str(total))


def _remainder(rng: Random) -> Problem:
    x, d = _number(rng, rng.randint(4, 7)), rng.randint(2, 9)
    rest, r, steps = str(x), 0, [f"0|{x}"]
    while rest:
        n = 10 * r + int(rest[0])
        rest, r = rest[1:], n % d
        steps.append(f"{n:02}%{d}:{r}|{rest}")
    return Problem("remainder", f"rem {x} {d}", " ".join(steps), str(r))


def _binary(rng: Random) -> Problem:
    bits = "1" + "".join(rng.choice("01") for _ in range(rng.randint(4, 6)))
    value, steps = 0, [f"0|{bits}"]
    for i, bit in enumerate(bits):
        steps.append(f"{value}*2+{bit}:{2 * value + int(bit)}|{bits[i + 1 :]}")
        value = 2 * value + int(bit)
    return Problem("binary", f"bin {bits}", " ".join(steps), str(value))


FAMILIES: dict[str, Callable[[Random], Problem]] = {
    "add": _add,
    "multiply": _multiply,
    "sort": _sort,
    "reverse": _reverse,
    "parity": _parity,
    "count": _count,
    "variables": _variables,
    "word": _word,
    "remainder": _remainder,
    "binary": _binary,
}


def exercise(seed: str, sizes: Sequence[int] = (3, 3, 4, 4, 5, 6)) -> Exercise:
    """Returns the exercise of a seed.

    Its problems come from at most three families, so the prompts of a batch differ in what they ask for. By
    convention, the seed names the split: `train-17` is for training, `heldout-17` for every committed number.
    """
    rng = Random(seed)
    families = rng.sample(sorted(FAMILIES), rng.randint(1, 3))
    return Exercise(tuple(FAMILIES[rng.choice(families)](rng) for _ in range(rng.choice(sizes))))


def heldout(count: int, start: int = 0) -> list[Exercise]:
    """Returns the held-out exercises number `start` to `start + count - 1`."""
    return [exercise(f"heldout-{i}") for i in range(start, start + count)]
