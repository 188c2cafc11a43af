"""Real models, methods and decoding. Only the tokenizer is a stand-in, with one token for each character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from families import build
from regrow.errors import RegrowError, UsageError
from regrow.evaluation import run_task
from regrow.evaluation.grading import grade
from regrow.evaluation.run_task import evaluate
from regrow.evaluation.tasks import load as load_task
from regrow.evaluation.tasks.task import Item
from regrow.method.dense import Dense
from regrow.method.griffin import Griffin
from regrow.models import Loaded
from regrow.record_file import read
from regrow.records import Record
from regrow.run_config import digest
from regrow.sampling import Sampling
from timeless import timeless

TASK = load_task("tiny_reasoner")
FIRST = 3  # lowest token of a character; below are padding, start and end


class Characters:
    def decode(self, row: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(chr(33 + token - FIRST) for token in row if token >= FIRST)


def _tokens(prompt: str) -> list[int]:
    return [FIRST + ord(character) % 93 for character in prompt]


def _encode(loaded: Loaded, prompts: Sequence[str], chat: bool, system: str) -> tuple[Tensor, Tensor]:
    rows = [_tokens(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_task, "encode", _encode)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    tokenizer: Any = Characters()
    model = build("qwen2")
    model.save_pretrained(tmp_path / "model")
    return Loaded(model=model, tokenizer=tokenizer, name="tiny", directory=tmp_path / "model")


def _evaluate(loaded: Loaded, path: Path, **changes: Any) -> None:
    settings = {"batch_size": 2, "max_new_tokens": 6, "path": path, "chat": False}
    task = changes.pop("task", TASK).first(changes.pop("limit", 5))
    evaluate(loaded, task, changes.pop("method", Griffin()), **settings | changes)


def _timeless(records: Sequence[Record]) -> list[Record]:
    return [timeless(record) for record in records]


def test_a_run_leaves_one_record_a_batch_with_what_happened(loaded: Loaded, tmp_path: Path) -> None:
    path, told = tmp_path / "run.jsonl", []
    _evaluate(loaded, path, progress=lambda *news: told.append(news), skip_layers=[1])
    records, items = read(path), TASK.first(5).items
    assert [record.ids for record in records] == [
        ("heldout-0", "heldout-1"),
        ("heldout-2", "heldout-3"),
        ("heldout-4",),
    ]
    assert told == [(1, 3, records[0]), (2, 3, records[1]), (3, 3, records[2])]
    for record, start in zip(records, (0, 2, 4), strict=True):
        assert record.prompts_sha256 == digest([_tokens(item.prompt) for item in items[start : start + 2]])
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
    _evaluate(loaded, path, method=Griffin(sparsity=0.25), skip_layers=[1, 1], limit=3)
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
        "prompts_sha256": digest([_tokens(item.prompt) for item in TASK.first(3).items]),
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
    _evaluate(loaded, whole)

    def die(done: int, planned: int, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _evaluate(loaded, killed, progress=die)
    assert "generate" not in vars(loaded.model)  # the model is as it was
    if torn:
        with killed.open("ab") as file:
            file.write(read(whole)[1].line()[:200])
    _evaluate(loaded, killed, progress=lambda done, planned, record: decoded.append((done, record.batch)))
    assert decoded == [(2, 1), (3, 2)]  # the complete batch is not decoded again
    assert _timeless(read(killed)) == _timeless(read(whole))


def test_a_complete_run_is_not_touched_again(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    before = path.read_bytes()
    monkeypatch.delattr(run_task, "generate")
    _evaluate(loaded, path)
    assert path.read_bytes() == before


def test_a_file_of_another_run_is_refused_before_anything_is_decoded(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path, method=Dense())
    monkeypatch.delattr(run_task, "generate")
    with pytest.raises(RegrowError, match='method "dense"/"griffin"'):
        _evaluate(loaded, path)


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
    _evaluate(loaded, path)
    setattr(loaded.model.generation_config, name, value)
    with pytest.raises(
        RegrowError, match=rf"other settings \(generation_config \({name} .*/.*\), there/asked\)"
    ):
        _evaluate(_again(loaded), path)


def test_settings_that_greedy_decoding_ignores_may_change(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    loaded.model.generation_config.update(
        do_sample=True, temperature=0.6, top_p=0.9, min_p=0.1, output_scores=True
    )
    _evaluate(_again(loaded), path)


@pytest.mark.parametrize(
    ("file", "setting"), [("tokenizer.json", "tokenizer_sha256"), ("vocab.txt", "tokenizer_sha256")]
)
def test_tokenizer_files_changed_since_are_refused(
    loaded: Loaded, tmp_path: Path, file: str, setting: str
) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    (loaded.directory / file).write_text("{}")
    with pytest.raises(RegrowError, match=rf"other settings \({setting} "):
        _evaluate(_again(loaded), path)


def test_other_tokens_of_the_same_prompts_are_refused(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    monkeypatch.setattr(
        run_task,
        "encode",
        lambda loaded, prompts, chat, system: _encode(
            loaded, [prompt + "." for prompt in prompts], chat, system
        ),
    )
    with pytest.raises(RegrowError, match=r"other settings \(prompts_sha256 "):
        _evaluate(loaded, path)


def test_another_attention_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    loaded.model.set_attn_implementation("eager")
    with pytest.raises(RegrowError, match=r'other settings \(attention "sdpa"/"eager", there/asked\)'):
        _evaluate(loaded, path)


def test_greedy_means_greedy_whatever_the_model_prefers(loaded: Loaded, tmp_path: Path) -> None:
    _evaluate(loaded, tmp_path / "one.jsonl")
    loaded.model.generation_config.do_sample = True
    loaded.model.generation_config.temperature = 5.0
    _evaluate(loaded, tmp_path / "two.jsonl")
    one, two = (read(tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    assert [record.tokens for record in one] == [record.tokens for record in two]


def test_steps_can_be_watched(loaded: Loaded, tmp_path: Path) -> None:
    steps: list[int] = []
    _evaluate(loaded, tmp_path / "run.jsonl", limit=1, watch=lambda progress: steps.append(progress.step))
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
        _evaluate(loaded, path, max_new_tokens=room)
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"system": "Be brief."}, 'system ""/"Be brief."'),
        ({"template": "Q: {question}"}, r'prompt_template "\{question\}"/"Q: \{question\}"'),
        ({"data_sha256": "e" * 64}, 'data_sha256 ""/"eeeeeeeeeee…'),
        ({"grader": "math"}, 'grader "exercises"/"math"'),
        ({"items": (Item("1", "A add 1 2", "add 3"),) * 5}, "task_sha256 .*, prompts_sha256 "),
    ],
)
def test_questions_put_in_another_way_are_refused_and_named(
    loaded: Loaded, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path)
    with pytest.raises(RegrowError, match=rf"other settings \({named}.*there/asked\)"):
        _evaluate(loaded, path, task=replace(TASK, **changes))


SAMPLED = Sampling(temperature=1.5, seed=7)


def test_samples_answer_all_prompts_again_each_time_with_other_seeds(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    _evaluate(loaded, path, sampling=SAMPLED, samples=2, limit=3)
    records = read(path)
    assert [record.ids for record in records] == [("heldout-0", "heldout-1"), ("heldout-2",)] * 2
    assert records[0].config.sampling == "temperature=1.5, seed=7"
    assert (records[0].config.samples, records[0].config.batches) == (2, 4)
    assert records[0].tokens != records[2].tokens
    graded = grade(path)
    assert [len(batch) for batch in graded.batches] == [4, 2]
    assert [len(prompt) for prompt in graded.prompts] == [2, 2, 2]


def test_a_sample_depends_on_its_seed_and_its_batch_alone(loaded: Loaded, tmp_path: Path) -> None:
    _evaluate(loaded, tmp_path / "whole.jsonl", sampling=SAMPLED, samples=2, limit=3)
    path = tmp_path / "parts.jsonl"
    for shard in ((2, 3), (1, 3), (3, 3)):
        torch.rand(3)  # draws in between change nothing
        _evaluate(loaded, path, sampling=SAMPLED, samples=2, limit=3, shard=shard)
    assert _timeless(read(path)) == _timeless(read(tmp_path / "whole.jsonl"))
    _evaluate(loaded, tmp_path / "other.jsonl", sampling=replace(SAMPLED, seed=8), samples=2, limit=3)
    assert read(tmp_path / "other.jsonl")[0].tokens != read(path)[0].tokens


def test_samples_of_greedy_decoding_are_refused(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 samples of greedy decoding would be equal"):
        _evaluate(loaded, tmp_path / "run.jsonl", samples=2)


def test_shards_are_disjoint_and_merge_by_concatenation(loaded: Loaded, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for part in (1, 2):
        _evaluate(
            loaded,
            tmp_path / f"{part}.jsonl",
            shard=(part, 2),
            progress=lambda done, planned, _: told.append((done, planned)),
        )
    assert told == [(1, 2), (2, 2), (1, 1)]
    _evaluate(loaded, tmp_path / "whole.jsonl")
    merged = tmp_path / "merged.jsonl"
    merged.write_bytes((tmp_path / "2.jsonl").read_bytes() + (tmp_path / "1.jsonl").read_bytes())
    assert _timeless(read(merged)) == _timeless(read(tmp_path / "whole.jsonl"))


def test_without_a_limit_an_answer_may_fill_the_context_up_to_the_papers(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(item.prompt) for item in TASK.first(2).items)
    assert loaded.context is not None
    loaded.model.generation_config.eos_token_id = list(range(96))  # every answer ends at once
    _evaluate(loaded, tmp_path / "a.jsonl", limit=2, max_new_tokens=None)
    assert read(tmp_path / "a.jsonl")[0].config.max_new_tokens == loaded.context - longest
    monkeypatch.setattr(run_task, "LONGEST_ANSWER", 50)
    _evaluate(loaded, tmp_path / "b.jsonl", limit=2, max_new_tokens=None)
    assert read(tmp_path / "b.jsonl")[0].config.max_new_tokens == 50


@pytest.mark.parametrize("size", ["batch_size", "max_new_tokens", "limit", "samples"])
def test_sizes_below_one_are_usage_errors_and_leave_no_file(
    loaded: Loaded, tmp_path: Path, size: str
) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(UsageError, match=size):
        _evaluate(loaded, path, **{size: 0})
    assert not path.exists()
