from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread, main_thread

import pytest

from regrow.errors import RegrowError, UsageError
from regrow.evaluation.graders import judge as module
from regrow.evaluation.graders.judge import Judge
from regrow.records import Grade, Mark

WRONG, RIGHT = Mark("", right=False, paper=False), Mark("", right=True, paper=True)
ENDLESS = [r"9^{9^{9^{9}}}", r"100000000!", r"\sum_{n=1}^{10000000} \frac{1}{n^2}"]


def test_threads_share_a_judge_outside_the_main_thread() -> None:
    def grade(number: int) -> Grade:
        assert current_thread() is not main_thread()
        return judge.grade("math", str(number), f"\\boxed{{{number % 3}}}")

    with Judge() as judge, ThreadPoolExecutor(4) as threads:
        grades = list(threads.map(grade, range(12)))
    assert grades == [Grade((RIGHT if number < 3 else WRONG,)) for number in range(12)]


@pytest.mark.parametrize("answer", ENDLESS)
def test_an_endless_comparison_is_wrong_within_the_limit(answer: str) -> None:
    with Judge(seconds=0.5) as judge, ThreadPoolExecutor(1) as threads:
        made = threads.submit(judge.grade, "math", "5", f"\\boxed{{{answer}}}").result(timeout=120)
        assert made == Grade((WRONG,), timed_out=True)
        assert judge.grade("math", "5", r"\boxed{5}") == Grade((RIGHT,))


def test_only_the_score_that_did_not_finish_is_wrong() -> None:
    text = r"The final answer is $5$. I hope it is not \boxed{9^{9^{9^{9}}}}."
    with Judge(seconds=0.5) as judge:
        assert judge.grade("math", "5", text) == Grade((Mark("", right=False, paper=True),), timed_out=True)


def test_a_child_that_dies_makes_one_answer_wrong() -> None:
    with Judge() as judge:
        assert judge.grade("math", "5", r"\boxed{5}").right == 1
        assert judge._child
        os.kill(judge._child._process.pid, signal.SIGSEGV)
        judge._child._process.wait()
        assert judge.grade("math", "5", r"\boxed{5}") == Grade((Mark("", right=False, paper=True),), True)
        assert judge.grade("math", "5", r"\boxed{5}") == Grade((RIGHT,))


def test_no_child_outlives_the_judge() -> None:
    with Judge() as judge:
        judge.grade("math", "5", r"\boxed{5}")
        assert judge._child
        process = judge._child._process
        assert process.poll() is None
    assert process.poll() is not None
    assert judge._child is None


def test_other_graders_need_no_child() -> None:
    with Judge() as judge:
        assert judge.grade("number", "5", "5").right == 1
        assert judge.grade("none", "", "5") == Grade(())
        assert judge.check_gold("choice", "B") is None
        assert judge._child is None


def test_long_texts_are_fast() -> None:
    with Judge() as judge:
        judge.grade("math", "5", r"\boxed{5}")
        start = time.process_time()
        for grader in ("math", "number", "choice", "exact"):
            judge.grade(grader, "B" if grader == "choice" else "5", "the answer: x = 12, \\boxed{7 " * 3000)
        assert time.process_time() - start < 5


def test_libraries_that_print_do_not_disturb_the_replies(tmp_path: Path) -> None:
    worker = [sys.executable, "-P", "-m", "regrow.evaluation.graders.worker"]
    request = {"grader": "math", "score": "strict", "gold": "5", "text": r"\boxed{@5}", "seconds": 30}
    done = subprocess.run(
        worker,
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)},
        cwd=tmp_path,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"ready": True}, {"right": False}]
    assert done.stderr == ""


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORKER", "regrow.no_such_module")
    with Judge() as judge, pytest.raises(RegrowError, match="the process that grades cannot be started"):
        judge.grade("math", "5", r"\boxed{5}")


def test_an_unknown_grader_is_a_usage_error() -> None:
    with Judge() as judge, pytest.raises(UsageError, match="unknown grader 'best'"):
        judge.grade("best", "5", "5")
