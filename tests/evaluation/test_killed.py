"""A run that is killed again and again, at random moments, equals one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from regrow.record_file import read
from regrow.records import Record
from timeless import timeless

# Forked children start at once, because this process has answered a problem: everything is imported, loaded
# and compared.
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
from regrow.evaluation.run_task import evaluate
from regrow.evaluation.tasks import load as load_task
from regrow.method.presets import make
from regrow.models import load

loaded, task = load(dtype="float32"), load_task("tiny_reasoner").first(7)
method = make("bap", init_steps=2, explore_steps=1, period=4)


def run(task, path):
    evaluate(loaded, task, method, batch_size=2, max_new_tokens=12, path=Path(path), chat=True)


def start(path):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run(task, path)
        code = 0
    finally:
        os._exit(code)


whole, killed, warm = sys.argv[1:]
run(task.first(1), warm)
began = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
duration, moments = time.monotonic() - began, random.Random(5)
for _ in range(8):
    child = start(killed)
    time.sleep(moments.uniform(0, 0.7 * duration))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(Path(killed).stat().st_size if Path(killed).exists() else 0)
assert os.waitpid(start(killed), 0)[1] == 0
"""


def test_a_run_killed_at_random_moments_equals_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, whole, killed, tmp_path / "warm.jsonl"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in done.stdout.split()]
    assert len(set(sizes)) > 1  # it was killed at different places
    assert sizes == sorted(sizes)  # and never lost a complete batch
    assert [record.batch for record in read(killed)] == list(range(4))
    assert _lines(killed) == _lines(whole)


def _lines(path: Path) -> list[bytes]:
    return [timeless(Record.parse(line)).line() for line in path.read_bytes().splitlines()]
