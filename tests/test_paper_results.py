"""The numbers of the paper, as the package holds them."""

from __future__ import annotations

from regrow.bench.bench_result import PAPER
from regrow.evaluation.grid import ABLATIONS, ENTRIES
from regrow.evaluation.tasks import TASKS
from regrow.paper_results import accuracies, shape_of, speeds

QWEN = "DeepSeek-R1-Distill-Qwen-7B"


def test_cells_are_those_of_the_tables() -> None:
    found = {(a.model, a.task, a.method, a.target, a.batch_size): a.percent for a in accuracies()}
    assert found[QWEN, "math500", "BAP", 0.5, 4] == 71.0
    assert found[QWEN, "tinygsm8k", "dense", 0.0, 8] == 92.0
    assert found[QWEN, "gpqa-diamond", "GRIFFIN", 0.5, None] == 15.2
    assert found[QWEN, "math500", "BAP, T_e 4", 0.5, 4] == 77.2
    assert found[QWEN, "math500", "TEAL", 0.6, 4] == 2.4
    # 2 models x 5 tasks x 11 rows of table 4, 7 further rows of table 3, 2 further targets of figure 5
    assert len(found) == len(accuracies()) == 2 * 5 * 11 + 7 + 2


def test_tasks_and_methods_are_called_as_in_our_own_tables() -> None:
    assert {a.task for a in accuracies()} <= set(TASKS)
    assert {a.method for a in accuracies()} <= {*ENTRIES, *ABLATIONS}
    assert {s.method for s in speeds()} <= set(ENTRIES)


def test_ratios_are_to_dense_at_the_same_batch_size() -> None:
    assert PAPER.ratios["qwen-7b", "bap", 16, None] == 3331.8 / 3040.5
    assert len(PAPER.ratios) == 2 * 4 * 4


def test_a_model_of_the_paper_has_its_shape_by_whatever_path() -> None:
    for given in (QWEN, f"deepseek-ai/{QWEN}", f"/models/{QWEN}/", "qwen-7b"):
        assert shape_of(given) == "qwen-7b"
    assert shape_of("org/other") == "org/other"
