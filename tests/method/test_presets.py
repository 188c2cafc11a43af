"""Names with defaults of their own, and what records say of parameters that were added later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import regrow
from batches import arguments, prompts
from command import run
from families import build
from regrow.cli.method_options import several_chosen
from regrow.evaluation.grid import grid
from regrow.evaluation.labels import label, labels
from regrow.evaluation.task_grid import Run
from regrow.evaluation.tasks import load
from regrow.hosts.lm_eval.settings import Settings
from regrow.method.presets import METHODS, PRESETS, make, parameters
from regrow.record_file import read
from regrow.reporting import sources
from regrow.reporting.cost import ablation
from regrow.reporting.groups import groups
from report_runs import config, write_divergence, write_run

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = RESULTS / "real_model" / "tinygsm8k" / "bap-s0.5-b16.jsonl"
WEIGHED = regrow.BatchwiseAdaptive(weigh="down")


def test_every_method_has_its_own_name_with_its_own_defaults() -> None:
    for name, method in METHODS.items():
        assert make(name) == method()
        assert (PRESETS[name].method, PRESETS[name].changes) == (method, {})
    assert regrow.BatchwiseAdaptive() == make("bap", weigh="none")


def test_a_preset_is_its_method_with_other_defaults() -> None:
    assert make("bap-weighed") == WEIGHED
    assert parameters("bap-weighed") == parameters("bap") | {"weigh": "down"}
    assert make("bap-weighed", sparsity="0.3", weigh="none") == regrow.BatchwiseAdaptive("0.3")
    assert WEIGHED.describe() == regrow.BatchwiseAdaptive().describe() | {"weigh": "down"}


def test_a_preset_is_accepted_where_a_method_name_is() -> None:
    model, given = build("llama"), arguments(prompts(2))
    with regrow.prune(model, "bap-weighed") as session:
        assert session.method == WEIGHED
    assert regrow.generate(model, method="bap-weighed", **given).report.method["weigh"] == "down"
    with regrow.Engine(model, "bap-weighed") as engine:
        assert engine.generate(given["input_ids"], max_new_tokens=2).report.method["weigh"] == "down"
    assert several_chosen(["bap-weighed"], ["period=9"], {}) == [replace(WEIGHED, period=9)]
    assert Settings.of({"method": "bap-weighed", "sparsity": "0.3"}).method == replace(
        WEIGHED, sparsity="0.3"
    )
    assert [cell.label for cell in grid((8,), methods=["bap-weighed"])] == ["dense", "BAP, weighed"]
    shown = json.loads(run("methods", "--json").stdout)
    assert [own["parameters"]["weigh"] for own in shown if own["name"].startswith("bap")] == ["none", "down"]


def test_runs_of_a_preset_have_files_and_labels_of_their_own(tmp_path: Path) -> None:
    (record, *_) = read(COMMITTED)
    files, configs = [], []
    for name in ("bap", "bap-weighed"):
        made = make(name)
        files.append(Run(load("tiny_reasoner"), made, 8).file(tmp_path, (1, 1)).name)
        params = made.describe()
        configs.append(replace(record.config, method=params.pop("name"), params=params))
    assert files == ["bap-s0.5-b8.jsonl", "bap-weigh-down-s0.5-b8.jsonl"]
    assert labels(configs) == ["BAP", "BAP, weighed"]
    assert configs[0].differences(configs[1]) == 'weigh is none there and "down" here'


# Records that were made before a parameter was added


def test_a_committed_record_is_of_the_method_as_it_is_described_today() -> None:
    """`read` also checks the key that the file holds."""
    records = read(COMMITTED)
    recorded = records[0].config
    assert "weigh" not in recorded.params
    described = make("bap", sparsity="0.5").describe()
    today = replace(recorded, method=described.pop("name"), params=described)
    assert today.key == recorded.key
    assert records[0].counters["method"] == {"name": "bap", **described}
    assert label(recorded) == "BAP"


def test_a_committed_divergence_belongs_to_the_method_as_it_is_described_today() -> None:
    settings = json.loads((RESULTS / "comparison" / "divergence" / "bap-s0.5-b4.json").read_text())[
        "settings"
    ]
    assert {"name": settings["method"], **settings["params"]} == make("bap").describe()


def test_old_and_new_runs_are_one_row_and_weighed_ones_another(tmp_path: Path) -> None:
    """A divergence that was measured today is beside the answers that were recorded before."""
    params = make("bap").describe()
    params.pop("name")
    write_run(tmp_path / "dense.jsonl", config())
    write_run(tmp_path / "old.jsonl", config("bap"), right=2)
    write_divergence(tmp_path / "divergence.json", replace(config("bap"), params=params))
    write_run(tmp_path / "new.jsonl", config("bap", weigh="down"), right=3)
    (group,) = groups(sources.read([tmp_path]))
    assert [row.label for row in group.rows] == ["dense", "BAP", "BAP, weighed"]
    assert [row.measured is not None for row in group.rows] == [False, True, False]
    (table,) = ablation([group]).parts
    place = [column.header for column in table.columns].index("weighed by")
    assert [row[place] for row in table.rows] == ["none", "down"]


@pytest.mark.parametrize("weigh", ["none", "down"])
def test_a_description_makes_the_method_again(weigh: str) -> None:
    method = regrow.BatchwiseAdaptive(weigh=weigh)
    described = method.describe()
    assert ("weigh" in described) == (weigh == "down")
    assert make(described.pop("name"), **described) == method
