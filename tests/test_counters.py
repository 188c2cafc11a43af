from __future__ import annotations

import json
from typing import Any

import pytest

from regrow.counters import Counters, SiteCount
from regrow.report import Report, why_dense
from samples import COUNTED

ONE = Counters(
    decode_steps=4,
    sparse_steps=3,
    weights_kept=60,
    weights_dense=100,
    sites={"down": SiteCount([10, 20], [40, 40])},
    bytes_read=1500,
    ffn_bytes_read=1000,
    updates=3,
    replaced=2,
    left=[0.5, 0.25],
    refresh_bytes=100,
    tokens=[5, 2],
    finish_reasons=["eos", "length"],
    prefill_seconds=0.5,
    decode_seconds=2.0,
    state_bytes=7,
)
# Its proportions differ from ONE, so that a mean of ratios differs from the ratio of sums. It has one
# selection, which replaced no mask.
OTHER = Counters(
    decode_steps=6,
    sparse_steps=1,
    weights_kept=290,
    weights_dense=300,
    sites={"down": SiteCount([100, 100], [120, 120])},
    updates=1,
    left=[0.0, 0.0],
    tokens=[7],
    finish_reasons=["length"],
    decode_seconds=3.0,
    state_bytes=9,
)


def test_ratios_are_taken_of_the_sums() -> None:
    both = ONE + OTHER
    assert (both.decode_steps, both.updates, both.state_bytes) == (10, 4, 9)
    assert both.actual_sparsity == 1 - 350 / 400
    assert both.sparse_share == 4 / 10
    assert both.sites == {"down": SiteCount([110, 120], [160, 160])}
    assert both.sites["down"].layers == [1 - 110 / 160, 1 - 120 / 160]
    assert (both.tokens, both.finish_reasons) == ([5, 2, 7], ["eos", "length", "length"])
    assert both.decode_tokens_per_second == (14 - 3) / 5


def test_turnover_is_weighted_by_the_updates_that_replaced_a_mask() -> None:
    four = Counters(updates=5, replaced=4, left=[2.0, 0.4])
    assert ONE.turnover == [0.25, 0.125]
    assert (ONE + OTHER).turnover == [0.25, 0.125]
    assert (ONE + four).turnover == pytest.approx([(0.5 + 2) / 6, (0.25 + 0.4) / 6])


def test_any_number_of_counters_can_be_summed() -> None:
    assert sum([ONE], Counters()) == ONE
    assert sum([ONE, OTHER, ONE], Counters()) == ONE + (OTHER + ONE)
    assert sum([], Counters()) == Counters()


def test_where_nothing_was_counted_there_is_no_ratio() -> None:
    none = Counters()
    assert (none.actual_sparsity, none.sparse_share, none.bytes_per_token, none.decode_tokens_per_second) == (
        None,
    ) * 4
    assert none.turnover == []


def test_tokens_of_a_lossless_pass_are_taken_of_the_sums() -> None:
    one = Counters(tokens=[9, 5], drafted=20, drafts_kept=8, sample_passes=4, draft_costs={"dense": 1.0})
    other = Counters(tokens=[3], drafted=6, sample_passes=2)
    both = one + other
    assert (both.drafted, both.drafts_kept, both.sample_passes) == (26, 8, 6)
    assert both.tokens_per_pass == 14 / 6
    assert both.draft_costs == one.draft_costs
    assert ONE.tokens_per_pass is None
    assert not {"drafted", "drafts_kept", "sample_passes", "draft_costs"} & ONE.to_dict().keys()
    none = Counters(sample_passes=3).to_dict()
    assert (none["drafted"], none["sample_passes"]) == (0, 3)


def test_counters_come_back_from_json() -> None:
    back = Counters.from_dict(json.loads(json.dumps(ONE.to_dict())))
    assert back.turnover == ONE.turnover
    assert (back.sites, back.updates, back.tokens) == (ONE.sites, 3, [5, 2])
    assert back.to_dict() == ONE.to_dict() | {"finish_reasons": []}  # a record holds them itself


def test_counters_of_other_layers_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="other layers"):
        _ = ONE + Counters(sites={"down": SiteCount([1], [2])})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decode_steps": None}, "decode_steps"),
        ({"decode_steps": True}, "decode_steps"),
        ({"bytes_read": -1}, "bytes_read"),
        ({"bytes_read": 2**64}, "bytes_read"),
        ({"decode_seconds": float("inf")}, "decode_seconds"),
        ({"updates": "two"}, "updates"),
        ({"sparse_steps": 5}, "more was counted"),
        ({"sites": {"down": {"kept": [1]}}}, "down"),
        ({"tokens": [1, "2"]}, "tokens"),
    ],
)
def test_what_cannot_have_been_counted_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Counters.from_dict({**COUNTED, **changes})


def _report(target: float = 0.5, **counted: Any) -> Report:
    method = {"name": "bap", "sparsity": target, "init_steps": 64}
    return Report(
        method, target, Counters(**{"tokens": [41, 12], "finish_reasons": ["eos", "length"], **counted})
    )


def test_a_report_is_printed_as_a_few_lines() -> None:
    lines = str(Report({"name": "bap", "sparsity": 0.5}, 0.5, ONE)).splitlines()
    assert lines[0].split(maxsplit=1) == ["method", "bap: sparsity=0.5"]
    assert lines[1].split(maxsplit=1) == ["samples", "2: 1 ended by itself, 1 cut at the limit"]
    assert lines[2].startswith("actual sparsity  40.0 % of the weights it prunes")
    assert lines[3].startswith("sparse steps     3 of 4 (75.0 %)")
    assert len(lines) == 6
    assert max(map(len, lines)) < 100


def test_a_report_that_pruned_nothing_says_why() -> None:
    dense = _report(decode_steps=40, weights_kept=100, weights_dense=100)
    assert str(dense).splitlines()[-1] == (
        "note             every decode step was dense: pruning begins after 64 of them (init_steps), "
        "and the longest answer has 41 tokens"
    )
    assert "no decode step" in str(_report(tokens=[1, 1]))
    skipped = _report(decode_steps=90, sparse_steps=9, weights_kept=100, weights_dense=100)
    assert str(skipped).splitlines()[-1].endswith("no decode step left any weight out")


def test_a_run_that_is_meant_to_be_dense_needs_no_reason() -> None:
    assert "note" not in str(_report(0.0, decode_steps=40, weights_kept=100, weights_dense=100))
    assert why_dense({"init_steps": 64}, 0.5, ONE) is None
    lossless = _report(decode_steps=40, weights_kept=100, weights_dense=100, sample_passes=60, drafted=90)
    assert "note" not in str(lossless)
    assert "drafts kept      0 of 90 (0.0 %); a dense pass gave a sample 0.8 tokens on avera" in str(lossless)


def test_a_report_tells_what_steps_take_and_when_pruning_does_not_pay() -> None:
    """30 steps take 3 s: 10 dense steps and 20 sparse steps of 90 ms each, and new masks the rest."""
    seconds = {"decode_seconds": 3.0, "sparse_seconds": 1.8, "refresh_seconds": 0.3}
    slow = _report(
        decode_steps=30,
        sparse_steps=20,
        weights_kept=1,
        weights_dense=2,
        updates=4,
        replaced=3,
        state_bytes=2 * 10**9,
        **seconds,
    )
    assert slow.counters.step_seconds == pytest.approx((0.09, 0.09, 0.1))
    assert "sparse 90.0 ms, dense 90.0 ms, on average 100.0 ms with 10.0 ms for new masks" in str(slow)
    assert "2.00 GB beside the model's weights" in str(slow)
    assert "pruning costs more than it saves" in str(slow)
    assert "took 100.0 ms on average, a dense one 90.0 ms" in str(slow)
    fast = _report(decode_steps=30, sparse_steps=20, **{**seconds, "sparse_seconds": 0.9})
    assert "steps" in str(fast)
    assert "costs more" not in str(fast)
    assert "costs more" not in str(
        _report(decode_steps=3, sparse_steps=2, **{name: value / 10 for name, value in seconds.items()})
    )
    untimed = _report(decode_steps=30, sparse_steps=20, decode_seconds=3.0)
    assert untimed.counters.step_seconds is None
    assert "memory" not in str(untimed)


def test_names_of_a_report_are_those_of_its_json() -> None:
    report = Report({"name": "bap"}, 0.5, ONE)
    for name, value in report.to_dict().items():
        assert json.dumps(getattr(report, name), default=vars) == json.dumps(value)
