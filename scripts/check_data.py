"""Checks benchmark files and their gold answers: `python scripts/check_data.py DIR`.

For each benchmark whose file is in DIR, the script checks the number of rows and their fields, and that the
grader finds every gold answer equal to itself: boxed (strict score), and as a final answer in a sentence
(lenient score). For mathematics, math-verify alone must find so too, without Regrow's own reading of answers.
The script prints one line a file, then every gold answer that fails, and exits 1 if one does, or if no file
exists.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from math_verify import parse, verify

from regrow.errors import UsageError
from regrow.evaluation.graders import find
from regrow.evaluation.graders.judge import Judge
from regrow.evaluation.tasks import TASKS
from regrow.evaluation.tasks.benchmark import Benchmark
from regrow.evaluation.tasks.task import Task, TaskRequest


def check(task: Task, judge: Judge) -> list[str]:
    """Checks the gold answers of a task, prints its line and returns what is wrong, a sentence each."""
    start, problems, right = time.monotonic(), [], Counter[str]()
    for item in task.items:
        found = _equal_to_itself(item.gold, task.grader, judge)
        right.update(score for score, equal in found.items() if equal)
        failed = [score for score, equal in found.items() if not equal]
        if failed:
            problems.append(f"{item.id}: {item.gold!r} does not equal itself ({', '.join(failed)})")
    counts = ", ".join(f"{count} {score}" for score, count in right.items())
    print(f"{task.name}: {len(task.items)} rows, golds verified: {counts}; {time.monotonic() - start:.1f} s")
    return problems


def _equal_to_itself(gold: str, grader: str, judge: Judge) -> dict[str, bool]:
    """Returns whether a gold answer is right by each score."""
    restated = find(grader).restate(gold)
    if grader != "math":
        return {"strict": bool(judge.grade(grader, gold, restated).right)}
    sentence = f"The final answer is ${gold}$. I hope it is correct."
    return {
        "strict": bool(judge.grade(grader, gold, restated).right),
        "paper": bool(judge.grade(grader, gold, sentence).paper),
        "math-verify alone": bool(verify(parse(restated), parse(restated))),
    }


def main() -> int:
    """Checks every benchmark file of the directory that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python scripts/check_data.py DIR", file=sys.stderr)
        return 2
    directory, problems = Path(sys.argv[1]), []
    benchmarks = [source for source in TASKS.values() if isinstance(source, Benchmark)]
    present = [benchmark for benchmark in benchmarks if (directory / benchmark.file).is_file()]
    if not present:
        files = ", ".join(benchmark.file for benchmark in benchmarks)
        print(f"{directory} holds none of {files}", file=sys.stderr)
        return 1
    with Judge() as judge:
        for benchmark in present:
            try:
                task = benchmark.load(TaskRequest(data_dir=str(directory)))
            except UsageError as error:
                problems.append(str(error))
                continue
            if task.warning:
                print(f"note: {task.warning}")
            problems += check(task, judge)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
