"""Names of runs in tables for a terminal, and the width of these tables."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from regrow.analysis.summary import Summary, summarize
from regrow.cli.summaries import names, print_tables
from regrow.records import Grade, Graded, Mark
from regrow.run_config import RunConfig
from samples import CONFIG, record

BAP = replace(
    CONFIG,
    method="bap",
    params={"sparsity": 0.5, "init_steps": 16, "explore_steps": 2, "period": 20, "memory": "max"},
)


@pytest.mark.parametrize(
    ("method", "params", "shown"),
    [
        ("dense", {}, "dense"),
        ("griffin", {"sparsity": 0.5}, "griffin (sparsity=0.5)"),
        (
            "bap",
            {"sparsity": 0.7, "init_steps": 16, "period": 20, "memory": "max"},
            "bap (sparsity=0.7, init_steps=16)",
        ),
        (
            "teal",
            {"sparsity": 0.5, "ffn_only": True, "prompt": "dense"},
            "teal (sparsity=0.5, ffn_only=True)",
        ),
        ("wina", {"sparsity": 0.5, "prompt": "second_half"}, "wina (sparsity=0.5, prompt=second_half)"),
        ("of another version", {"sparsity": 0.5, "x": 1}, "of another version (sparsity=0.5, x=1)"),
    ],
)
def test_a_run_is_named_by_what_is_not_the_default(
    method: str, params: dict[str, object], shown: str
) -> None:
    assert names([replace(CONFIG, method=method, params=params)]) == [shown]


def _bap(**changed: object) -> RunConfig:
    return replace(BAP, params={**BAP.params, **changed})


@pytest.mark.parametrize(
    ("configs", "shown"),
    [
        (
            [_bap(sparsity=0.3), _bap(), _bap(sparsity=0.7)],
            ["bap (sparsity=0.3)", "bap (sparsity=0.5)", "bap (sparsity=0.7)"],
        ),
        ([_bap(init_steps=8), _bap()], ["bap (init_steps=8)", "bap (init_steps=16)"]),
        (
            [_bap(), replace(CONFIG, method="dense", params={})],
            ["bap (sparsity=0.5, init_steps=16)", "dense"],
        ),
        ([_bap(), replace(BAP, batch_size=8)], ["bap", "bap"]),  # it has a column
        ([BAP, replace(BAP, max_new_tokens=9)], ["bap (max_new_tokens=8)", "bap (max_new_tokens=9)"]),
        (
            [BAP, replace(BAP, fingerprint="9" * 64)],
            ["bap (fingerprint=ffffffffffff)", "bap (fingerprint=999999999999)"],
        ),
        (
            [BAP, replace(BAP, generation_config={"eos_token_id": 2, "repetition_penalty": 1.3})],
            ["bap (repetition_penalty=none)", "bap (repetition_penalty=1.3)"],
        ),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(configs: list[RunConfig], shown: list[str]) -> None:
    assert names(configs) == shown


def _summary(config: RunConfig) -> Summary:
    return summarize(Graded((record(0, config),), (Grade((Mark("add", True, True),)),) * 2, ()))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_name_is_cut_off(width: int) -> None:
    shown = StringIO()
    configs = [
        _bap(sparsity=sparsity, init_steps=steps) for sparsity, steps in ((0.3, 16), (0.5, 64), (0.7, 128))
    ]
    print_tables(Console(file=shown, width=width), [_summary(config) for config in configs])
    text = shown.getvalue()
    column = "".join(line.split("│")[2].strip() for line in text.splitlines() if line.count("│") > 4)
    assert (
        "bap(sparsity=0.3,init_steps=16)bap(sparsity=0.5,init_steps=64)bap(sparsity=0.7,init_steps=128)"
        in column.replace(" ", "")
    )
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
