"""Several sampled answers to each prompt, and runs that are shared between processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from characters import evaluate_task, timeless_all
from regrow.errors import RegrowError, UsageError
from regrow.evaluation.grading import grade
from regrow.models import Loaded
from regrow.record_file import read
from regrow.sampling import Sampling

SAMPLED = Sampling(temperature=1.5, seed=7)


def test_samples_answer_all_prompts_again_each_time_with_other_seeds(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    evaluate_task(loaded, path, sampling=SAMPLED, samples=2, limit=3)
    records = read(path)
    assert [record.ids for record in records] == [("heldout-0", "heldout-1"), ("heldout-2",)] * 2
    assert records[0].config.sampling == "temperature=1.5, seed=7"
    assert (records[0].config.samples, records[0].config.batches) == (2, 4)
    assert records[0].tokens != records[2].tokens
    graded = grade(path)
    assert [len(batch) for batch in graded.batches] == [4, 2]
    assert [len(prompt) for prompt in graded.prompts] == [2, 2, 2]


def test_a_sample_depends_on_its_seed_and_its_batch_alone(loaded: Loaded, tmp_path: Path) -> None:
    evaluate_task(loaded, tmp_path / "whole.jsonl", sampling=SAMPLED, samples=2, limit=3)
    path = tmp_path / "parts.jsonl"
    for shard in ((2, 3), (1, 3), (3, 3)):
        torch.rand(3)  # draws in between change nothing
        evaluate_task(loaded, path, sampling=SAMPLED, samples=2, limit=3, shard=shard)
    assert timeless_all(read(path)) == timeless_all(read(tmp_path / "whole.jsonl"))
    evaluate_task(loaded, tmp_path / "other.jsonl", sampling=replace(SAMPLED, seed=8), samples=2, limit=3)
    assert read(tmp_path / "other.jsonl")[0].tokens != read(path)[0].tokens


def test_settings_that_sampling_obeys_are_part_of_the_run(loaded: Loaded, tmp_path: Path) -> None:
    path, settings = tmp_path / "run.jsonl", {"sampling": SAMPLED, "limit": 3}
    evaluate_task(loaded, path, **settings)
    again = Loaded(loaded.model, loaded.tokenizer, loaded.name, loaded.directory)
    again.model.generation_config.update(temperature=0.3)  # the run's own temperature replaces it
    evaluate_task(again, path, **settings)
    again = Loaded(loaded.model, loaded.tokenizer, loaded.name, loaded.directory)
    again.model.generation_config.update(top_k=3)
    with pytest.raises(RegrowError, match=r"other settings \(generation_config top_k is none there and 3 "):
        evaluate_task(again, path, **settings)


def test_samples_of_greedy_decoding_are_refused(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 samples of greedy decoding would be equal"):
        evaluate_task(loaded, tmp_path / "run.jsonl", samples=2)


def test_shards_are_disjoint_and_merge_by_concatenation(loaded: Loaded, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for part in (1, 2):
        evaluate_task(
            loaded,
            tmp_path / f"{part}.jsonl",
            shard=(part, 2),
            progress=lambda done, planned, _: told.append((done, planned)),
        )
    assert told == [(1, 2), (2, 2), (1, 1)]
    evaluate_task(loaded, tmp_path / "whole.jsonl")
    merged = tmp_path / "merged.jsonl"
    merged.write_bytes((tmp_path / "2.jsonl").read_bytes() + (tmp_path / "1.jsonl").read_bytes())
    assert timeless_all(read(merged)) == timeless_all(read(tmp_path / "whole.jsonl"))
