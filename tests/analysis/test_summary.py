from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.analysis.summary import Share, summarize
from regrow.records import Grade, Graded, Mark
from samples import CONFIG, COUNTED, record

RIGHT, WRONG = Mark("add", True, True), Mark("sort", False, False)

# The second batch has another size and other proportions, so that every mean of ratios differs from the ratio
# of sums.
SECOND = {
    "decode_steps": 6,
    "sparse_steps": 1,
    "weights_kept": 290,
    "weights_dense": 300,
    "bytes_read": 6000,
    "ffn_bytes_read": 5000,
    "refresh_bytes": 20,
    "prefill_seconds": 9.0,
    "decode_seconds": 3.0,
}


def _graded(**changes: object) -> Graded:
    second = record(1, tokens=((1, 2, 3, 4, 5, 6, 7),), finish_reasons=("length",), counters=SECOND)
    made = Graded((record(0), second), (Grade((RIGHT, RIGHT)), Grade((RIGHT, WRONG)), Grade((WRONG,))), ())
    return replace(made, **changes)


def test_counters_are_summed_before_any_ratio_is_taken() -> None:
    summary = summarize(_graded())
    counters = summary.counters
    assert counters.new_tokens == 5 + 5 + 7
    assert counters.decode_steps == 10
    assert counters.sparse_share == 4 / 10
    assert counters.actual_sparsity == 1 - 350 / 400
    assert counters.ffn_bytes_per_token == 6000 / 17
    assert counters.refresh_bytes_per_token == 120 / 17
    assert counters.ffn_bytes_per_step == 6000 / 10
    # The first token of each of the three rows comes from the prompt.
    assert counters.decode_tokens_per_second == (17 - 3) / 5
    assert summary.median_tokens == 5
    assert summary.at_cap == Share(1, 3)


def test_samples_of_a_prompt_are_one_trial() -> None:
    """Four prompts in one batch, each right in all of its three samples or in none: four trials."""
    config = replace(CONFIG, limit=4, batch_size=4, samples=3, sampling="temperature=1, seed=0")
    records = tuple(record(sample, config) for sample in range(3))
    grades = (Grade((RIGHT,)), Grade((WRONG,)), Grade((RIGHT,)), Grade((WRONG,))) * 3
    problems = summarize(Graded(records, grades, ())).problems
    assert (problems.right, problems.total) == (6, 12)
    # Four groups of three, each off by 1.5, where independent answers would have a variance of 12 / 4.
    assert problems.inflation == pytest.approx(4 * 1.5**2 * 4 / 3 / 3)


def test_both_scores_and_answers_that_were_not_graded_in_time() -> None:
    lenient = Grade((Mark("add", False, True),), timed_out=True)
    summary = summarize(_graded(grades=(Grade((RIGHT,)), lenient, Grade((WRONG,)))))
    assert (summary.problems.right, summary.paper.right, summary.timed_out) == (1, 2, 1)
    assert "1 answer could not be graded in time and counts as wrong" in summary.notes


def test_nine_rows_of_ten_are_no_longer_than_the_90th_percentile() -> None:
    config = replace(CONFIG, limit=10, batch_size=10)
    rows = tuple((1,) * length for length in (3, 10, 1, 9, 2, 8, 4, 7, 5, 6))
    made = record(0, config, tokens=rows, golds=("",) * 10)
    graded = Graded((made,), (Grade((RIGHT,)),) * 10, ())
    assert summarize(graded).p90_tokens == 9


def test_problems_prompts_and_families_are_counted() -> None:
    summary = summarize(_graded())
    assert (summary.problems.right, summary.problems.total) == (3, 5)
    assert summary.prompts == Share(1, 3)
    assert summary.families == {"add": Share(3, 3), "sort": Share(0, 2)}


def test_batches_are_the_independent_trials() -> None:
    """One batch has three of four right, the other none of one.

    At 60 % right, 2.4 and 0.6 are expected, so both batches are off by 0.6. The variance of independent
    problems would be 5 * 0.6 * 0.4.
    """
    assert summarize(_graded()).problems.inflation == pytest.approx((0.6**2 + 0.6**2) * 2 / 1 / 1.2)
    even = (Grade((RIGHT, WRONG)), Grade((RIGHT, WRONG)), Grade((RIGHT, WRONG)))
    assert summarize(_graded(grades=even)).problems.inflation == 1
    assert summarize(_graded(grades=(Grade((RIGHT,)),) * 3)).problems.inflation == 1


@given(st.integers(0, 50), st.integers(51, 99), st.integers(1, 9))
def test_an_inflated_interval_is_that_of_fewer_trials(right: int, total: int, inflation: int) -> None:
    wide, few = Share(right * inflation, total * inflation, inflation), Share(right, total)
    assert wide.interval() == pytest.approx(few.interval())


def test_a_run_without_decode_steps_has_no_rates() -> None:
    none = {
        **COUNTED,
        "decode_steps": 0,
        "sparse_steps": 0,
        "weights_kept": 0,
        "weights_dense": 0,
        "decode_seconds": 0.0,
    }
    summary = summarize(Graded((record(0, tokens=((2,), (2,)), counters=none),), (), (1,)))
    counters = summary.counters
    rates = (
        counters.sparse_share,
        counters.actual_sparsity,
        counters.ffn_bytes_per_step,
        counters.decode_tokens_per_second,
    )
    assert rates == (None,) * 4
    assert summary.missing == (1,)
    assert summary.problems.value is None


def test_a_change_of_versions_within_a_run_is_kept() -> None:
    old, new = {"torch": "2.12"}, {"torch": "2.13"}
    records = (record(0, versions=old), record(1, versions=new))
    assert summarize(_graded(records=records)).versions == (old, new)
    assert summarize(_graded()).versions == ({"regrow": "0.1.0", "torch": "2.13"},)
    assert summarize(_graded()).config == CONFIG


# Published values of the Wilson score interval without continuity correction, to the digits shown
# (R: prop.test(correct = FALSE)).
@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_known_intervals(right: int, total: int, low: float, high: float) -> None:
    assert Share(right, total).interval() == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_nothing_has_no_interval() -> None:
    assert Share(0, 0).interval() is None
    assert Share(0, 0).to_dict()["interval_95"] is None


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_ends_of_an_interval_are_as_far_from_the_share_as_95_percent_allows(
    counts: tuple[int, int],
) -> None:
    """The ends p of Wilson's interval solve (share - p)^2 = z^2 p (1 - p) / n."""
    right, total = counts
    interval = Share(right, total).interval()
    assert interval is not None
    low, high = interval
    assert 0 <= low <= right / total <= high <= 1
    for end in (low, high):
        # Numbers are at most 1, so 1e-12 allows for some thousand float64 roundings.
        assert (right / total - end) ** 2 == pytest.approx(
            1.959963984540054**2 * end * (1 - end) / total, abs=1e-12
        )
