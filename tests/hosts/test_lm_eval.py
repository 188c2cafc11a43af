"""`regrow lm-eval`, offline: the answers are those of `regrow.generate` in the same batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

import lm_eval.tasks
import lm_eval.utils
from lm_eval.api.instance import Instance

import regrow
from command import run
from regrow.bundled.problems import heldout
from regrow.hosts.lm_eval.generation import Generating, groups
from regrow.hosts.lm_eval.model import RegrowLM
from regrow.models import Loaded, encode, load

PROMPTS = [exercise.prompt for exercise in heldout(5)]
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=8)
ARGUMENTS = "method=bap,sparsity=0.5,init_steps=8,dtype=float32"
STOP, NEW = "B ", 60


@pytest.fixture(autouse=True)
def _in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index no task but the local ones, and leave the logging of the process as it is."""
    own = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", own)
    monkeypatch.setattr(lm_eval.utils, "_LOGGING_CONFIGURED", True)


@pytest.fixture(scope="module")
def bundled() -> Loaded:
    return load(dtype="float32")


@pytest.fixture(scope="module")
def dense() -> RegrowLM:
    return RegrowLM(method="dense", batch_size=2, dtype="float32")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the tasks `local_task`, which generates, and `choices`, which does not."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": prompt, "answer": "A", "choices": ["A", "B"]} for prompt in PROMPTS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
    }
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    generates: dict[str, Any] = {
        "task": "local_task",
        "output_type": "generate_until",
        "generation_kwargs": {"until": [STOP], "max_gen_toks": NEW, "do_sample": False},
        "metric_list": [exact],
    }
    chooses = {"task": "choices", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    for own in (generates, chooses):
        (folder / f"{own['task']}.yaml").write_text(json.dumps(common | own))  # JSON is YAML
    return folder


def _requests(prompts: Sequence[str], task: str = "local_task", **arguments: Any) -> list[Instance]:
    given = {"max_gen_toks": NEW, "do_sample": False} | arguments
    return [
        Instance("generate_until", {}, (prompt, given), 0, (task, number, 1))
        for number, prompt in enumerate(prompts)
    ]


def _directly(loaded: Loaded, prompts: Sequence[str], size: int, **arguments: Any) -> list[str]:
    """Return the answers of `regrow.generate` in batches of `size`, in order, with METHOD."""
    texts: list[str] = []
    for start in range(0, len(prompts), size):
        ids, mask = encode(loaded, prompts[start : start + size], chat=False)
        done = regrow.generate(loaded.model, ids, mask, method=METHOD, max_new_tokens=NEW, **arguments)
        texts += [loaded.tokenizer.decode(row, skip_special_tokens=True) for row in done.tokens]
    return texts


def test_the_answers_are_those_of_regrow_generate_in_the_same_batches(
    task: Path, tmp_path: Path, bundled: Loaded
) -> None:
    out = tmp_path / "out"
    result = run(
        "lm-eval", "--model_args", ARGUMENTS, "--tasks", "local_task", "--include_path", task,
        "--batch_size", 2, "--output_path", out, "--log_samples",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    samples = next(out.rglob("samples_*.jsonl")).read_text().splitlines()
    answers = [json.loads(line)["resps"][0][0] for line in samples]
    want = [text.split(STOP)[0] for text in _directly(bundled, PROMPTS, 2)]
    assert answers == want
    assert answers != [text.split(STOP)[0] for text in _directly(bundled, PROMPTS, 1)]  # batches matter

    about = json.loads(next(out.rglob("results_*.json")).read_text())["config"]["regrow"]
    assert about["method"] == METHOD.describe()
    assert "batches of 2 requests in the order of the task; a mask is shared" in about["batches"]
    assert 0 < about["actual_sparsity"] < 0.5
    assert f"actual sparsity {100 * about['actual_sparsity']:.1f} %" in result.stdout
    assert f"({100 * about['sparse_share']:.1f} %)" in result.stdout
    assert about["batches"] in result.stdout


def test_without_sparsity_the_answers_are_those_of_the_model_of_lm_eval() -> None:
    """In float32, because lm-eval batches by length, and bfloat16 rounds differently in another batch."""
    pytest.importorskip("accelerate", reason="lm-eval's own model needs accelerate")
    from lm_eval.models.huggingface import HFLM

    loaded = load(dtype="float32")
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2)
    ours = RegrowLM(method="bap", sparsity=0, init_steps=8, dtype="float32", batch_size="2")
    for arguments in ({}, {"until": [STOP]}, {"until": STOP, "max_gen_toks": 20}):
        want = theirs.generate_until(_requests(PROMPTS, **arguments), disable_tqdm=True)
        assert ours.generate_until(_requests(PROMPTS, **arguments), disable_tqdm=True) == want
        assert len(set(want)) == len(want)


def test_each_row_ends_at_its_own_stop_string(dense: RegrowLM) -> None:
    whole = dense.generate_until(_requests(PROMPTS[:2]), disable_tqdm=True)
    stop = next(
        whole[0][start : start + 3] for start in range(9, 40) if whole[0][start : start + 3] not in whole[1]
    )
    answers = dense.generate_until(_requests(PROMPTS[:2], until=[stop]), disable_tqdm=True)
    report = dense.reports[-1]
    assert answers == [whole[0].split(stop)[0], whole[1]]
    assert report.finish_reasons[0] == "stop"
    # The row ends with the token that completes the string, while the other one goes on.
    own = dense.tokenizer(whole[0], add_special_tokens=False)["input_ids"][: report.tokens[0]]
    assert dense.tokenizer.decode(own).endswith(stop)
    assert stop not in dense.tokenizer.decode(own[:-1])
    assert report.finish_reasons[1] == "length"
    assert report.tokens[1] == NEW > report.tokens[0]


def test_a_stop_string_that_begins_in_the_prompt_does_not_count(dense: RegrowLM) -> None:
    [whole] = dense.generate_until(_requests(PROMPTS[:1]), disable_tqdm=True)
    across = PROMPTS[0][-2:] + whole[:1]
    assert across not in whole
    assert dense.generate_until(_requests(PROMPTS[:1], until=[across]), disable_tqdm=True) == [whole]


def test_the_limit_is_that_of_the_task_and_not_of_the_checkpoint(
    dense: RegrowLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense.loaded.model.generation_config, "max_new_tokens", 3)
    dense.generate_until(_requests(PROMPTS[:2], max_gen_toks=7), disable_tqdm=True)
    assert dense.reports[-1].tokens == [7, 7]


def test_sampling_follows_the_arguments_of_the_task(bundled: Loaded) -> None:
    model = RegrowLM(method="bap", sparsity=0.5, init_steps=8, batch_size=3, dtype="float32")
    torch.manual_seed(1)
    got = model.generate_until(_requests(PROMPTS[:3], do_sample=True, temperature=1.5), disable_tqdm=True)
    torch.manual_seed(1)
    assert got == _directly(bundled, PROMPTS[:3], 3, do_sample=True, temperature=1.5)
    assert got != _directly(bundled, PROMPTS[:3], 3, do_sample=False)


def test_requests_share_a_batch_only_within_a_task_and_with_equal_arguments() -> None:
    greedy = _requests(["a", "b"])
    other, short = _requests(["c"], task="another"), _requests(["d"], max_gen_toks=5)
    assert groups([greedy[0], *other, *short, greedy[1]]) == [[0, 3], [1], [2]]


def test_a_chat_template_applies_as_it_is_written(dense: RegrowLM, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": PROMPTS[0]}]
    written = dense.apply_chat_template(messages)
    ids, _ = encode(dense.loaded, [written], chat=False)
    assert ids.tolist() == encode(dense.loaded, PROMPTS[:1], chat=True)[0].tolist()
    begun = dense.apply_chat_template([*messages, {"role": "assistant", "content": "A "}], False)
    assert begun == written + "A "
    assert dense.chat_template(True) == dense.tokenizer.chat_template
    with pytest.raises(regrow.UsageError, match="cannot be chosen by name"):
        dense.chat_template("short")
    monkeypatch.setattr(dense.tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(regrow.RegrowError, match="no system role; leave out --system_instruction"):
        dense.apply_chat_template(messages)


def test_the_answer_begins_after_the_thoughts() -> None:
    model = RegrowLM(method="dense", think_end_token="=", dtype="float32")
    [answer] = model.generate_until(_requests(PROMPTS[:1]), disable_tqdm=True)
    assert "=" not in answer
    assert answer


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"beams": 2}, "'beams' is unknown to transformers"),
        ({"max_length": 9}, "use max_gen_toks"),
        ({"stop_strings": ["a"]}, "use until"),
        ({"until": [7]}, "until takes a text"),
        ({"do_sample": True, "temperature": 0.0}, "temperature above 0"),
        ({"max_gen_toks": 0}, "at least 1"),
        ({"max_gen_toks": 10**6}, "do not fit the context"),
        ({"num_beams": 2}, "num_beams=1"),
        ({"do_sample": True, "temperature": -1.0}, "temperature=-1.0 cannot be followed"),
    ],
)
def test_a_generation_argument_that_cannot_be_followed_is_refused(
    dense: RegrowLM, arguments: dict[str, Any], says: str
) -> None:
    before = len(dense.reports)
    with pytest.raises(regrow.RegrowError, match=says):
        dense.generate_until(_requests(PROMPTS[:1], **arguments), disable_tqdm=True)
    assert len(dense.reports) == before


def test_the_eos_is_a_stop_string_and_empty_ones_are_dropped() -> None:
    assert Generating.of({"until": ["", "x"]}, "<eos>").until == ("x", "<eos>")
    assert Generating.of({}, None) == Generating(256, (), {"do_sample": False})
    assert Generating.of({"temperature": 0.7}, None).arguments == {"do_sample": True, "temperature": 0.7}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model_args", "method=nope"], "unknown method 'nope'; choose one of dense"),
        (["--model_args", "method=bap,sparsity=1.5"], "sparsity must be a number in [0, 1), not 1.5"),
        (["--model_args", "methd=bap"], "model argument 'methd' is unknown; Regrow takes pretrained"),
        (["--model_args", "method=griffin,period=3"], "'period' is unknown"),
        (["--model_args", "method=teal"], "add calibration=FILE to the model arguments"),
        (["--model_args", "method=teal,calibration=nowhere"], "nowhere cannot be read"),
        (["--model_args", "skip_layers=x"], "skip_layers takes a list of layer numbers"),
        (["--model_args", "dtype=int3"], "unknown dtype 'int3'"),
        (["--model_args", "weights=int3"], "unknown weights 'int3'"),
        (["--model_args", "think_end_token=7"], "think_end_token takes the text of the token, not 7"),
        (["--batch_size", "auto"], "an automatic batch size is not supported"),
        (["--batch_size", "0"], "whole number from 1 on"),
        (["--model", "hf"], "leave out --model"),
        (["--use_cache", "answers"], "leave out --use_cache"),
    ],
)
def test_a_wrong_request_is_refused_before_a_task_is_read(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("lm-eval", *options, "--tasks", "there_is_no_such_task")
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_config_file_is_checked_too(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("tasks: none\nmodel_args: method=bap,sparsity=2\n")
    result = run("lm-eval", "run", "--config", config)
    assert result.exit_code == 2
    assert "sparsity must be a number in [0, 1), not 2" in result.stderr


def test_an_unknown_task_is_one_sentence(task: Path) -> None:
    result = run("lm-eval", "--tasks", "there_is_no_such_task", "--include_path", task)
    assert result.exit_code == 2
    said = result.stderr.splitlines()[-1]
    assert "Tasks not found: there_is_no_such_task" in said
    assert said.endswith(f"and in {task}")


def test_data_that_cannot_be_loaded_are_one_sentence(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub")

    monkeypatch.setattr("lm_eval._cli.HarnessCLI.execute", unreachable)
    result = run("lm-eval", "--tasks", "adding", "--include_path", task)
    assert result.exit_code == 1
    assert "the data of the tasks cannot be loaded from the hub (Couldn't reach 'a/b'" in result.stderr


def test_a_task_that_takes_no_decode_step_is_refused(task: Path) -> None:
    result = run("lm-eval", "--model_args", ARGUMENTS, "--tasks", "choices", "--include_path", task)
    assert result.exit_code == 2
    assert "choices asks for the likelihood of given texts" in result.stderr.splitlines()[-1]
    assert "choices|" not in result.stdout


def test_the_help_is_that_of_lm_eval_with_a_line_of_ours() -> None:
    for arguments in ([], ["--help"], ["run", "-h"]):
        result = run("lm-eval", *arguments)
        assert result.exit_code == 0
        assert result.stdout.startswith("The options below are those of lm-evaluation-harness.")
        assert "--include_path" in result.stdout


def test_weights_of_4_bits_are_named_in_the_results_and_in_the_summary() -> None:
    ours = RegrowLM(method="dense", weights="int4")
    own = load(weights="int4")
    info = ours.get_model_info()
    assert info["regrow"]["weights"] == "int4"
    assert info["model_sha"] == own.fingerprint != load().fingerprint
    assert ", weights int4, batches of 1" in ours.summary
    assert "weights int4" not in RegrowLM(method="dense").summary
