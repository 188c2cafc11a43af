"""Checks benchmark files and their gold answers: `python scripts/check_data.py DIR`.

For each file DIR/<benchmark>/test.jsonl that exists, the script checks the number of rows and their fields,
and that the grader finds every gold answer equal to itself, boxed (strict score) and as a final answer in a
sentence (lenient score). It prints one line a file, then every gold answer that fails, and exits 1 if one
does, or if no file exists.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from regrow.evaluation.graders.judge import Judge
from regrow.evaluation.graders.stated_answer import last_boxed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark file must hold, and where its gold answers are."""

    rows: int
    fields: frozenset[str]
    gold: Callable[[Row], str]


def _after_hashes(row: Row) -> str:
    return str(row["answer"].rpartition("####")[2].strip().replace(",", ""))


def _boxed_solution(row: Row) -> str:
    return last_boxed(row["solution"]) or ""


def _integer(row: Row) -> str:
    answer = float(row["answer"])
    return str(int(answer)) if answer.is_integer() else ""


BENCHMARKS: Final = {
    "amc23": Benchmark(40, frozenset({"question", "answer"}), _integer),
    "gsm8k": Benchmark(1319, frozenset({"question", "answer"}), _after_hashes),
    "math500": Benchmark(500, frozenset({"problem", "answer"}), lambda row: str(row["answer"])),
    "minerva_math": Benchmark(272, frozenset({"problem", "solution"}), _boxed_solution),
    "tinygsm8k": Benchmark(100, frozenset({"question", "answer"}), _after_hashes),
}


def golds(directory: Path, name: str) -> list[str]:
    """Returns the gold answers of a benchmark file. Raises ValueError for rows that it should not have."""
    rows = [json.loads(line) for line in (directory / name / "test.jsonl").read_text("utf-8").splitlines()]
    benchmark = BENCHMARKS[name]
    if len(rows) != benchmark.rows:
        raise ValueError(f"{name} has {len(rows)} rows, not {benchmark.rows}")
    for number, row in enumerate(rows, 1):
        if missing := benchmark.fields - row.keys():
            raise ValueError(f"{name}, row {number}: it has no {', '.join(sorted(missing))}")
    return [benchmark.gold(row) for row in rows]


def check(directory: Path, name: str, judge: Judge) -> list[str]:
    """Checks one benchmark file, prints its line and returns what is wrong, a sentence each."""
    start, problems, strict, paper = time.monotonic(), [], 0, 0
    try:
        found = golds(directory, name)
    except ValueError as error:
        print(f"{name}: {error}")
        return [str(error)]
    for number, gold in enumerate(found, 1):
        boxed = judge.grade("math", gold, f"so x is \\boxed{{{gold}}}.").right
        stated = judge.grade("math", gold, f"The final answer is ${gold}$. I hope it is correct.").paper
        strict, paper = strict + boxed, paper + stated
        failed = [score for score, right in (("strict", boxed), ("paper", stated)) if not right]
        if failed:
            problems.append(f"{name}, row {number}: {gold!r} does not equal itself ({', '.join(failed)})")
    seconds = time.monotonic() - start
    print(f"{name}: {len(found)} rows, {strict} golds verified strict, {paper} paper, {seconds:.1f} s")
    return problems


def main() -> int:
    """Checks every benchmark file of the directory that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python scripts/check_data.py DIR", file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    present = [name for name in BENCHMARKS if (directory / name / "test.jsonl").is_file()]
    if not present:
        print(f"{directory} holds no <benchmark>/test.jsonl of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 1
    with Judge() as judge:
        problems = [problem for name in present for problem in check(directory, name, judge)]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
