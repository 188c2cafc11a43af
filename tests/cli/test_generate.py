"""`regrow generate` on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import regrow
from command import lines, run
from regrow.cli.bar import Bar
from regrow.cli.generate_plan import Sample
from regrow.cli.views import JsonLines
from regrow.models import encode, load

PROMPTS = ["A add 12 34", "A rev hello", "A sort 52016", "A par 010011\nB add 1 2", "A bin 10110"]
NEW = 48


def _options(prompts: list[str] = PROMPTS) -> list[object]:
    return [*(part for prompt in prompts for part in ("--prompt", prompt)), "--max-new-tokens", NEW]


def _json(
    model: Path, *options: object, prompts: list[str] = PROMPTS, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the samples, in the order in which they are printed, and the summary."""
    result = run("generate", model, "--json", *_options(prompts), *options, **settings)
    assert result.exit_code == 0, result.output
    *samples, summary = lines(result.stdout)
    assert {sample["type"] for sample in samples} == {"sample"}
    assert summary["type"] == "summary"
    return samples, summary


def _tokens(samples: list[dict[str, Any]]) -> list[list[int]]:
    return [sample["tokens"] for sample in sorted(samples, key=lambda sample: sample["index"])]


def test_samples_come_as_they_finish_and_are_those_of_the_api(tiny: Path) -> None:
    samples, summary = _json(tiny, "--init-steps", 4, "--period", 10)
    loaded = load(tiny)
    ids, mask = encode(loaded, PROMPTS)
    method = regrow.BatchwiseAdaptive(init_steps=4, period=10)
    done = regrow.generate(loaded.model, ids, mask, method=method, max_new_tokens=NEW, do_sample=False)
    assert _tokens(samples) == done.tokens
    order = [sample["index"] for sample in samples]
    assert order == sorted(order, key=lambda index: (len(done.tokens[index]), index))
    assert order != sorted(order)  # otherwise the line above proves nothing
    assert {sample["index"]: sample["finish_reason"] for sample in samples} == dict(
        enumerate(done.report.finish_reasons)
    )
    assert all(sample["prompt"] == PROMPTS[sample["index"]] for sample in samples)
    assert all("<|" not in sample["text"] for sample in samples)
    assert summary["actual_sparsity"] == done.report.actual_sparsity
    assert summary["method"] == done.report.method
    assert {"regrow", "torch", "transformers", "python"} <= set(summary["versions"])


def test_a_sample_is_printed_before_the_batch_is_over(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_sample, show_bar = JsonLines.sample, Bar.show
    seen, steps = [], [0]

    def sample(view: JsonLines, sample: Sample) -> None:
        seen.append(steps[-1])
        show_sample(view, sample)

    def step(bar: Bar, done: float, note: str) -> None:
        steps.append(int(done))
        show_bar(bar, done, note)

    monkeypatch.setattr(JsonLines, "sample", sample)
    monkeypatch.setattr(Bar, "show", step)
    samples, _ = _json(tiny)
    # The bar shows a step after the samples that ended in it. Samples cut at the limit come at the very end.
    ended = [len(sample["tokens"]) - 1 for sample in samples if sample["finish_reason"] == "eos"]
    assert seen[: len(ended)] == ended
    assert ended[0] < steps[-1] - 1


@pytest.mark.parametrize("method", ["bap", "griffin"])
def test_sparsity_0_gives_the_dense_tokens(tiny: Path, method: str) -> None:
    dense, plain = _json(tiny, "--method", "dense")
    samples, summary = _json(tiny, "--method", method, "--sparsity", 0)
    assert samples == dense
    assert summary["actual_sparsity"] == plain["actual_sparsity"] == 0


@pytest.mark.parametrize(("sparsity", "keep"), [("0.5", 32), ("0.7", 19), ("0.9", 6)])
def test_actual_sparsity_is_the_closed_form_of_the_schedule(tiny: Path, sparsity: str, keep: int) -> None:
    samples, summary = _json(
        tiny, "--sparsity", sparsity, "--init-steps", 5, "--explore-steps", 3, "--period", 8
    )
    steps = max(len(sample["tokens"]) for sample in samples) - 1
    sparse = sum(step > 5 and (step - 6) % 8 < 5 for step in range(1, steps + 1))
    assert (summary["decode_steps"], summary["sparse_steps"]) == (steps, sparse)
    assert sparse > 0
    assert summary["actual_sparsity"] == pytest.approx(sparse * (64 - keep) / (64 * steps), abs=1e-12)


def test_batches_are_those_of_the_prompts_in_order(tiny: Path) -> None:
    """Each batch gives what it gives in a run of its own: no state or padding passes to the next batch."""
    together, summary = _json(tiny, "--batch-size", 2, "--init-steps", 4)
    apart = [_json(tiny, "--init-steps", 4, prompts=PROMPTS[start : start + 2]) for start in (0, 2, 4)]
    assert _tokens(together) == [tokens for samples, _ in apart for tokens in _tokens(samples)]
    for name in (
        "decode_steps",
        "sparse_steps",
        "weights_kept",
        "weights_dense",
        "bytes_read",
        "ffn_bytes_read",
        "refresh_bytes",
        "updates",
        "tokens",
    ):
        assert summary[name] == sum(part[name] for _, part in apart)
    assert summary["actual_sparsity"] == 1 - summary["weights_kept"] / summary["weights_dense"]
    assert summary["samples"] == sum(summary["finish_reasons"].values()) == len(PROMPTS)


def test_skipped_layers_stay_dense(tiny: Path) -> None:
    _, whole = _json(tiny, "--method", "griffin")
    _, half = _json(tiny, "--method", "griffin", "--skip-layers", "1")
    assert whole["actual_sparsity"] == 0.5
    assert half["actual_sparsity"] == 0.25


def test_the_screen_shows_answers_and_a_summary(tiny: Path) -> None:
    samples, summary = _json(tiny, "--init-steps", 4)
    shown = run("generate", tiny, *_options(), "--init-steps", 4)
    assert shown.exit_code == 0
    for sample in samples:
        assert sample["text"] in shown.stdout
        assert f"sample {sample['index'] + 1}: {len(sample['tokens'])} tokens" in shown.stdout
    assert f"{100 * summary['actual_sparsity']:.1f} % of the weights it prunes" in shown.stdout
    assert f"{summary['sparse_steps']} of {summary['decode_steps']}" in shown.stdout
    assert "tokens/s" in shown.stdout


def test_markup_in_prompts_and_options_is_text(tiny: Path) -> None:
    shown = run("generate", tiny, "--prompt", "[bold]A[/bold] [/nothing]", "--max-new-tokens", 2)
    assert shown.exit_code == 0
    assert "[bold]A[/bold] [/nothing]" in shown.stdout


def test_sampling_repeats_with_its_seed_and_reports_the_one_it_drew(tiny: Path) -> None:
    first, summary = _json(tiny, "--temperature", 1.5)
    seed = summary["sampling"]["seed"]
    again, named = _json(tiny, "--temperature", 1.5, "--seed", seed)
    other, _ = _json(tiny, "--temperature", 1.5, "--seed", seed + 1)
    assert named["sampling"] == {"temperature": 1.5, "top_p": 1.0, "seed": seed}
    assert first == again
    assert first != other


def test_temperature_0_and_a_tiny_top_p_are_greedy(tiny: Path) -> None:
    greedy, summary = _json(tiny)
    assert summary["sampling"] == {"temperature": 0.0}
    assert _json(tiny, "--temperature", 0)[0] == greedy
    assert _json(tiny, "--temperature", 1, "--top-p", 1e-6)[0] == greedy


def test_the_answer_fills_what_the_context_leaves(tiny: Path) -> None:
    """The chat template adds two tokens, and the context is 512 tokens."""
    result = run("generate", tiny, "--json", "-m", "dense", "-p", "A" * 500, "-p", "B" * 509)
    assert result.exit_code == 0
    samples = {sample["index"]: sample for sample in lines(result.stdout)[:-1]}
    assert len(samples[1]["tokens"]) == 1


def test_chat_is_the_default_where_there_is_a_template(tiny: Path) -> None:
    default, _ = _json(tiny)
    assert _json(tiny, "--chat")[0] == default
    assert _json(tiny, "--no-chat")[0] != default


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (
            ["--init-steps", 48],
            "every decode step was dense: pruning begins after 48 of them (init_steps), "
            "and the longest answer has 48 tokens",
        ),
        (
            ["--explore-steps", 9, "--period", 9],
            "every decode step was dense: a period of nothing but exploration steps prunes none",
        ),
        (["--init-steps", 4], None),
        (["-m", "griffin"], None),
        (["--sparsity", 0], None),
        (["-m", "dense"], None),
    ],
)
def test_a_run_that_pruned_nothing_says_why(tiny: Path, options: list[object], note: str | None) -> None:
    _, summary = _json(tiny, *options)
    assert summary.get("note") == note
    assert (summary["actual_sparsity"] == 0) == (note is not None or options[-1] in (0, "dense"))
    shown = " ".join(run("generate", tiny, *_options(), *options).stdout.split())
    assert (f"note {note}" in shown) if note else (" note " not in shown)


def test_answers_of_one_token_have_no_decode_step(tiny: Path) -> None:
    result = run("generate", tiny, "--json", "-p", "A", "--max-new-tokens", 1)
    assert lines(result.stdout)[-1]["note"].startswith("there was no decode step")
