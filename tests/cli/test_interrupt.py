"""Ctrl-C, and readers that go away: finished work is kept, and the command says so in one line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from command import lines, run, start
from regrow.cli.bar import Bar
from regrow.cli.views import JsonLines
from regrow.record_file import read

KEPT = "the {} of complete batches are kept in {}; the same command continues from there"
MANY = 1000  # prompts, one per batch; far more than are answered before the signal arrives


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("A add 1 2\n" * MANY)
    return path


def test_finished_samples_are_kept_and_counted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, show = tmp_path / "out.jsonl", JsonLines.sample
    left = [3]

    def sample(view: JsonLines, sample: object) -> None:
        show(view, sample)  # type: ignore[arg-type]
        left[0] -= 1

    def step(bar: Bar, done: float, note: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(JsonLines, "sample", sample)
    monkeypatch.setattr(Bar, "show", step)  # called from `watch`, at every step
    options = [part for number in range(5) for part in ("-p", f"A add {number} 2")]
    result = run(
        "generate", tiny, *options, "--batch-size", 1, "--max-new-tokens", 30, "--json", "--output", path
    )
    assert result.exit_code == 130
    *batches, last = result.stderr.splitlines()
    assert [line.partition(" complete")[0] for line in batches] == [
        f"regrow: decoding: batch {number} of 5" for number in (1, 2)
    ]
    assert last == f"regrow: interrupted: 3 of 5 samples had finished, and {KEPT.format(2, path)}"
    assert lines(path.read_text())[1:] == lines(result.stdout)[:2]  # the batch of the third was not complete
    assert [sample["index"] for sample in lines(result.stdout)] == [0, 1, 2]


def test_before_anything_is_finished(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "show", step)
    result = run("generate", tiny, "-p", "A add 1 2", "--max-new-tokens", 30)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "regrow: interrupted: 0 of 1 samples had finished\n"


def test_while_loading(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("regrow.models.load", stop)
    result = run("generate", tiny, "-p", "A add 1 2")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "regrow: interrupted\n")


def test_an_interrupted_evaluation_goes_on_where_it_was(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    command = [
        "evaluate",
        tiny,
        "--task",
        "tiny_reasoner",
        "--limit",
        6,
        "--batch-size",
        2,
        "--max-new-tokens",
        4,
        "--no-chat",
        "--out",
        path,
    ]

    def stopped(after: int) -> list[str]:
        """Returns what the command says if it is stopped after so many batches in all."""

        def stop(bar: Bar, done: float, note: str) -> None:
            if done > after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Bar, "show", stop)
            result = run(*command)
        assert (result.exit_code, result.stdout) == (130, "")
        said: list[str] = result.stderr.splitlines()
        return said

    assert stopped(0) == [
        "regrow: interrupted: no batch of this run is complete; the same command begins it again"
    ]
    batch, last = stopped(1)
    title = "tiny_reasoner, bap (sparsity=0.5), batch size 2"
    assert batch.startswith(f"regrow: {title}: 1 of 3 batches, the last at ")
    holds = f"regrow: interrupted: {path} holds {{}} of this run; the same command continues from there"
    assert last == holds.format("1 batch")
    resumed, batch, last = stopped(2)
    assert resumed == f"regrow: {title}: found 1 of 3 batches in {path}; the run goes on from there"
    assert batch.startswith(f"regrow: {title}: 2 of 3 batches, the last at ")
    assert last == holds.format("2 batches")
    kept = read(path)
    assert run(*command).exit_code == 0
    assert [record.batch for record in read(path)] == [0, 1, 2]
    assert read(path)[:2] == kept


def test_sigint_to_the_process(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = [
        "generate",
        tiny,
        "--prompts",
        prompts,
        "--batch-size",
        1,
        "--max-new-tokens",
        8,
        "--json",
        "--output",
        path,
    ]
    with start(*command) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    *progress, last = err.splitlines()
    assert all(line.startswith("regrow: decoding: batch ") for line in progress)
    assert last.startswith("regrow: interrupted: ")
    assert last.endswith(f" kept in {path}; the same command continues from there")
    counted, written = int(last.split()[2]), lines(path.read_text())[1:]
    assert [sample["index"] for sample in written] == list(range(len(written)))
    # A sample is shown and then written. The signal may arrive in between.
    assert lines("".join(first))[: len(written)] == written[:2]
    assert 1 <= len(written) <= counted <= len(written) + 1


def test_a_reader_that_goes_away_is_no_error_message(tiny: Path, prompts: Path) -> None:
    with start(
        "generate", tiny, "--prompts", prompts, "--batch-size", 1, "--max-new-tokens", 1, "--json"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().splitlines()
        assert all(line.startswith("regrow: decoding: batch ") for line in said)
        assert process.wait(timeout=120) == 1
