"""Which linear layers share an input, and that sharing changes no output, count or mask."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from torch import Tensor

from regrow import kernels
from regrow.core import Blocks, Linear, Mode, Pass, Site
from regrow.kernels.pruned_linear import reference
from regrow.pruning import inputs
from regrow.pruning.input_groups import InputGroup, share_an_input
from regrow.pruning.inputs import InputPruner, InputRule
from regrow.pruning.meter import Meter

WIDTH = 24
SITES = {
    "q_proj": Site.QKV,
    "k_proj": Site.QKV,
    "v_proj": Site.QKV,
    "o_proj": Site.O,
    "gate_proj": Site.GATE_UP,
    "up_proj": Site.GATE_UP,
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linears(layers: int = 1, home: str = "attn") -> list[Linear]:
    return [
        Linear(
            f"layers.{layer}.{home}.{name}",
            layer,
            site,
            normal(place, 5 + 2 * place, WIDTH),
            normal(place, 5 + 2 * place),
        )
        for layer in range(layers)
        for place, (name, site) in enumerate(SITES.items())
    ]


def test_linears_of_a_site_with_one_threshold_share_their_inputs() -> None:
    assert share_an_input(linears(2), [0.5] * 12, weighed=False) == [
        [0, 1, 2],
        [3],
        [4, 5],
        [6, 7, 8],
        [9],
        [10, 11],
    ]


def test_other_thresholds_mean_other_inputs() -> None:
    """For example, if keys and values were calibrated on another text than queries."""
    assert share_an_input(linears(), [0.5, 0.4, 0.4, 0.4, 0.3, 0.2], weighed=False) == [
        [0],
        [1, 2],
        [3],
        [4],
        [5],
    ]


@pytest.mark.parametrize(("thresholds", "weighed"), [([0.5] * 6, True), (None, False), (None, True)])
def test_inputs_that_are_a_linears_own_are_not_shared(thresholds: list[float] | None, weighed: bool) -> None:
    assert share_an_input(linears(), thresholds, weighed=weighed) == [[0], [1], [2], [3], [4], [5]]


@pytest.mark.parametrize("on_gpu", [False, True], ids=["all weights", "kernels"])
@pytest.mark.parametrize("biased", [(False, False, False), (True, False, True)])
def test_the_first_of_a_group_runs_all_and_another_tensor_is_run_anew(
    on_gpu: bool, biased: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_on_gpu", lambda _: on_gpu)
    members = [
        Linear(of.name, 0, of.site, of.weight, of.bias if has else None)
        for of, has in zip(linears(), biased, strict=False)
    ]
    group, keep, asked = InputGroup([0, 1, 2], members), normal(9, WIDTH) > 0, []

    def choose() -> Tensor:
        asked.append(1)
        return keep

    for number, x in enumerate((normal(7, 3, 1, WIDTH), normal(8, 2, 1, WIDTH)), 1):
        for place, of in enumerate(members):
            y = group.run(place, x, choose)
            want = reference.masked_linear(x[:, 0], of.weight.t(), keep, of.bias)
            # Both sum a dozen terms of about one, in different orders.
            torch.testing.assert_close(y[:, 0], want, rtol=1e-5, atol=1e-5)
        assert len(asked) == number
    # The same tensor again: its outputs were already returned, so they are computed anew.
    group.run(0, x, choose)
    assert len(asked) == 3
    group.run(1, x.clone(), choose)
    assert len(asked) == 4


def step(pruner: InputPruner, xs: list[Tensor]) -> tuple[list[Tensor], dict[Site, list[int]]]:
    """Return the outputs of a decode step and the weights counted."""
    meter = Meter(1, torch.device("cpu"))
    pruner.start(3, meter)
    now = Pass(
        Mode.SPARSE, torch.tensor([0, -1, 1]), torch.zeros(3, 1, dtype=torch.int64), prompt=False, decode=True
    )
    pruner.prepare(now)
    outputs = [pruner.run(place, x, now) for place, x in enumerate(xs)]
    pruner.commit(now, now.slot)
    return outputs, meter.kept()


def test_a_step_is_the_same_bit_for_bit_as_without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and counts are equal, and groups need fewer decisions."""
    blocks, decisions, real = Blocks([0], [], linears(), {}, {}), [], inputs.AboveThreshold
    monkeypatch.setattr(inputs, "AboveThreshold", lambda *given: decisions.append(1) or real(*given))
    rule, threshold = InputRule(Decimal("0.5"), False, "mean_abs", True), torch.full((6,), 0.7)
    shared = {site: normal(place, 3, 1, WIDTH) for place, site in enumerate(Site)}
    xs = [shared[of.site] for of in blocks.linears]
    ours = step(InputPruner(rule, blocks, threshold), xs)
    assert len(decisions) == 3
    monkeypatch.setattr(
        inputs, "share_an_input", lambda found, *_, **__: [[place] for place in range(len(found))]
    )
    theirs = step(InputPruner(rule, blocks, threshold), xs)
    assert len(decisions) == 3 + 6
    assert ours[1] == theirs[1]
    assert any(map(any, ours[1].values()))
    assert all(torch.equal(one, other) for one, other in zip(ours[0], theirs[0], strict=True))
