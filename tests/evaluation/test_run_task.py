"""Real models, methods and decoding. Only the tokenizer is a stand-in, with one token for each character."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from characters import TASK, Characters, encode, evaluate_task, timeless_all, tokens_of
from regrow.errors import RegrowError, UsageError
from regrow.evaluation import run_task
from regrow.evaluation.grading import grade
from regrow.evaluation.tasks.task import Item
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.dense import Dense
from regrow.method.griffin import Griffin
from regrow.models import Loaded
from regrow.record_file import read
from regrow.records import Record
from regrow.run_config import digest


def test_a_run_leaves_one_record_a_batch_with_what_happened(loaded: Loaded, tmp_path: Path) -> None:
    path, told = tmp_path / "run.jsonl", []
    evaluate_task(loaded, path, progress=lambda *news: told.append(news), skip_layers=[1])
    records, items = read(path), TASK.first(5).items
    assert [record.ids for record in records] == [
        ("heldout-0", "heldout-1"),
        ("heldout-2", "heldout-3"),
        ("heldout-4",),
    ]
    assert told == [(1, 3, records[0]), (2, 3, records[1]), (3, 3, records[2])]
    for record, start in zip(records, (0, 2, 4), strict=True):
        assert record.prompts_sha256 == digest([tokens_of(item.prompt) for item in items[start : start + 2]])
        assert record.texts == tuple(Characters().decode(list(row), True, False) for row in record.tokens)
        assert record.counters["tokens"] == [len(row) for row in record.tokens]
        assert (
            record.counters["sparse_steps"]
            == record.counters["decode_steps"]
            == max(map(len, record.tokens)) - 1
        )
        assert 0.2 < record.counters["actual_sparsity"] < 0.3  # half of one of two layers
        assert set(record.finish_reasons) <= {"eos", "length"}
        assert {"regrow", "torch", "transformers", "python"} <= set(record.versions)
        assert record.seconds > 0
    assert len(grade(path).grades) == 5


def test_the_configuration_says_what_was_run(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path, method=Griffin(sparsity=0.25), skip_layers=[1, 1], limit=3)
    config = asdict(read(path)[0].config)
    assert config.pop("task_sha256")
    assert config == {
        "model": "tiny",
        "fingerprint": loaded.fingerprint,
        "dtype": "float32",
        "device": "cpu",
        "method": "griffin",
        "params": {"sparsity": 0.25, "aggregate": "max"},
        "skip_layers": (1,),
        "task": "tiny_reasoner",
        "order": "dataset",
        "limit": 3,
        "batch_size": 2,
        "max_new_tokens": 6,
        "sampling": "greedy",
        "chat": False,
        "tokenizer_sha256": loaded.tokenizer_sha256,
        "chat_template_sha256": "",
        "prompts_sha256": digest([tokens_of(item.prompt) for item in TASK.first(3).items]),
        "padding": "left",
        "attention": "sdpa",
        "generation_config": loaded.generation_settings,
        "grader": "exercises",
        "prompt_template": "{question}",
        "system": "",
        "data_sha256": "",
        "samples": 1,
    }


@pytest.mark.parametrize("torn", [False, True])
def test_a_run_killed_in_the_middle_and_taken_up_again_equals_one_that_was_not(
    loaded: Loaded, tmp_path: Path, torn: bool
) -> None:
    whole, killed, decoded = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl", []
    evaluate_task(loaded, whole)

    def die(done: int, planned: int, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_task(loaded, killed, progress=die)
    assert "generate" not in vars(loaded.model)  # the model is as it was
    if torn:
        with killed.open("ab") as file:
            file.write(read(whole)[1].line()[:200])
    evaluate_task(loaded, killed, progress=lambda done, planned, record: decoded.append((done, record.batch)))
    assert decoded == [(2, 1), (3, 2)]  # the complete batch is not decoded again
    assert timeless_all(read(killed)) == timeless_all(read(whole))


def test_a_complete_run_is_not_touched_again(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    before = path.read_bytes()
    monkeypatch.delattr(run_task, "generate")
    evaluate_task(loaded, path)
    assert path.read_bytes() == before


def test_a_file_of_another_run_is_refused_before_anything_is_decoded(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path, method=Dense())
    monkeypatch.delattr(run_task, "generate")
    with pytest.raises(RegrowError, match='method is "dense" there and "griffin" here\\)'):
        evaluate_task(loaded, path)


def _again(loaded: Loaded) -> Loaded:
    """Return the model as if loaded again, because `Loaded` caches its digests."""
    return Loaded(loaded.model, loaded.tokenizer, loaded.name, loaded.directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 1.3),
        ("no_repeat_ngram_size", 2),
        ("suppress_tokens", [4, 5]),
        ("begin_suppress_tokens", [4]),
        ("forced_eos_token_id", 2),
        ("eos_token_id", [2, 3]),
        ("min_new_tokens", 3),
    ],
)
def test_a_generation_config_changed_since_is_refused_and_named(
    loaded: Loaded, tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    setattr(loaded.model.generation_config, name, value)
    with pytest.raises(
        RegrowError, match=rf"other settings \(generation_config {name} is .* there and .* here\)"
    ):
        evaluate_task(_again(loaded), path)


def test_settings_that_greedy_decoding_ignores_may_change(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    loaded.model.generation_config.update(
        do_sample=True, temperature=0.6, top_p=0.9, min_p=0.1, output_scores=True
    )
    evaluate_task(_again(loaded), path)


@pytest.mark.parametrize(
    ("file", "setting"), [("tokenizer.json", "tokenizer_sha256"), ("vocab.txt", "tokenizer_sha256")]
)
def test_tokenizer_files_changed_since_are_refused(
    loaded: Loaded, tmp_path: Path, file: str, setting: str
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    (loaded.directory / file).write_text("{}")
    with pytest.raises(RegrowError, match=rf"other settings \({setting} "):
        evaluate_task(_again(loaded), path)


def test_other_tokens_of_the_same_prompts_are_refused(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    monkeypatch.setattr(
        run_task,
        "encode",
        lambda loaded, prompts, chat, system: encode(
            loaded, [prompt + "." for prompt in prompts], chat, system
        ),
    )
    with pytest.raises(RegrowError, match=r"other settings \(prompts_sha256 "):
        evaluate_task(loaded, path)


def test_another_attention_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    loaded.model.set_attn_implementation("eager")
    with pytest.raises(RegrowError, match=r'other settings \(attention is "sdpa" there and "eager" here\)'):
        evaluate_task(loaded, path)


def test_greedy_means_greedy_whatever_the_model_prefers(loaded: Loaded, tmp_path: Path) -> None:
    evaluate_task(loaded, tmp_path / "one.jsonl")
    loaded.model.generation_config.do_sample = True
    loaded.model.generation_config.temperature = 5.0
    evaluate_task(loaded, tmp_path / "two.jsonl")
    one, two = (read(tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    assert [record.tokens for record in one] == [record.tokens for record in two]


def test_no_matmul_is_measured_because_two_measurements_need_not_agree(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.kernels.laid_out.choose_matmul.SMALL", 0)
    monkeypatch.setattr("regrow.kernels.laid_out.choose_matmul._measured", None)
    evaluate_task(loaded, tmp_path / "run.jsonl", method=BatchwiseAdaptive(init_steps=2), limit=2)
    assert read(tmp_path / "run.jsonl")[0].counters["sparse_steps"] > 0


def test_steps_can_be_watched(loaded: Loaded, tmp_path: Path) -> None:
    steps: list[int] = []
    evaluate_task(loaded, tmp_path / "run.jsonl", limit=1, watch=lambda progress: steps.append(progress.step))
    assert steps == list(range(1, len(steps) + 1))
    assert steps


def test_answers_that_do_not_fit_the_context_are_refused_before_any_is_decoded(
    loaded: Loaded, tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    room = loaded.context
    assert room is not None
    with pytest.raises(
        UsageError,
        match=rf"^the longest prompt has \d+ tokens, "
        rf"so {room} new ones do not fit the context of {room}; at most",
    ):
        evaluate_task(loaded, path, max_new_tokens=room)
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"system": "Be brief."}, 'system is "" there and "Be brief." here'),
        (
            {"template": "Q: {question}"},
            r'prompt_template is "\{question\}" there and "Q: \{question\}" here',
        ),
        ({"data_sha256": "e" * 64}, 'data_sha256 is "" there and e{12}… here'),
        ({"grader": "math"}, 'grader is "exercises" there and "math" here'),
        ({"items": (Item("1", "A add 1 2", "add 3"),) * 5}, "task_sha256 is [0-9a-f]{12}… there and .* here"),
    ],
)
def test_questions_put_in_another_way_are_refused_and_named(
    loaded: Loaded, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path)
    with pytest.raises(RegrowError, match=rf"other settings \({named}\): ask for"):
        evaluate_task(loaded, path, task=replace(TASK, **changes))


def test_without_a_limit_an_answer_may_fill_the_context_up_to_the_papers(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(item.prompt) for item in TASK.first(2).items)
    assert loaded.context is not None
    loaded.model.generation_config.eos_token_id = list(range(96))  # every answer ends at once
    evaluate_task(loaded, tmp_path / "a.jsonl", limit=2, max_new_tokens=None)
    assert read(tmp_path / "a.jsonl")[0].config.max_new_tokens == loaded.context - longest
    monkeypatch.setattr(run_task, "LONGEST_ANSWER", 50)
    evaluate_task(loaded, tmp_path / "b.jsonl", limit=2, max_new_tokens=None)
    assert read(tmp_path / "b.jsonl")[0].config.max_new_tokens == 50


@pytest.mark.parametrize("size", ["batch_size", "max_new_tokens", "limit", "samples"])
def test_sizes_below_one_are_usage_errors_and_leave_no_file(
    loaded: Loaded, tmp_path: Path, size: str
) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(UsageError, match=size):
        evaluate_task(loaded, path, **{size: 0})
    assert not path.exists()
