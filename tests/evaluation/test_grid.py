from __future__ import annotations

import pytest

from regrow.errors import UsageError
from regrow.evaluation.comparison import parts
from regrow.evaluation.grid import ABLATIONS, BATCH_SIZES, ENTRIES, grid
from regrow.method.presets import METHODS, PRESETS, make


def test_every_method_is_in_it() -> None:
    assert {cell.method.name for cell in grid()} == set(METHODS)
    assert {cell.method.name for cell in grid((4,), others=False)} == set(METHODS)


def test_a_cell_is_there_once_and_has_a_file_of_its_own() -> None:
    cells = grid()
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({(str(cell.method.describe()), cell.batch_size) for cell in cells}) == len(cells)


def test_what_is_run_where() -> None:
    by = {(cell.label, str(cell.method.target), cell.batch_size) for cell in grid()}
    for label in ENTRIES:
        target = "0" if label == "dense" else "0.5"
        assert all((label, target, size) in by for size in BATCH_SIZES)
    for label in ABLATIONS:
        assert [size for size in BATCH_SIZES if (label, "0.5", size) in by] == [4]
    assert {(label, size) for label, target, size in by if target == "0.3"} == {
        (label, size) for label, target, size in by if target == "0.7"
    }
    assert ("Wanda, unstructured", "0.3", 4) in by
    assert {size for _, target, size in by if target in ("0.3", "0.7")} == {4}


def test_a_choice() -> None:
    assert [(cell.label, cell.batch_size) for cell in grid((1, 4), others=False, only=["BAP", "dense"])] == [
        ("dense", 1), ("BAP", 1), ("dense", 4), ("BAP", 4)
    ]  # fmt: skip
    with pytest.raises(
        UsageError, match="unknown entry 'Bap' at batch 4, 16, 8, 1; choose from: dense; BAP; "
    ):
        grid(only=["Bap"])


def test_what_the_table_labels_can_be_chosen() -> None:
    for label in {cell.label for cell in grid()}:
        assert {cell.label for cell in grid(only=[label])} == {label}


def test_nothing_is_run_twice_and_never_nothing() -> None:
    assert grid((4, 4)) == grid((4,))
    with pytest.raises(UsageError, match="unknown entry 'BAP, mean' at batch 8; choose from: "):
        grid((8,), only=["BAP, mean"])


def test_parts_are_disjoint_and_whole() -> None:
    cells = grid()
    shares = [parts(cells, part, 3) for part in (1, 2, 3)]
    assert sorted(cell.name for share in shares for cell in share) == sorted(cell.name for cell in cells)
    assert {len(share) for share in shares} <= {len(cells) // 3, len(cells) // 3 + 1}


def test_methods_are_chosen_by_name_with_their_defaults_beside_dense() -> None:
    cells = grid((4,), methods=["bap", "wanda"])
    assert [(cell.label, str(cell.method.target)) for cell in cells] == [
        ("dense", "0"), ("BAP", "0.5"), ("Wanda 2:4", "0.5"),
        ("BAP", "0.3"), ("Wanda, unstructured", "0.3"), ("BAP", "0.7"), ("Wanda, unstructured", "0.7"),
    ]  # fmt: skip
    for name in PRESETS:
        found = [cell.method.describe() for cell in grid((8,), methods=[name])]
        assert found in (
            [METHODS["dense"]().describe(), make(name).describe()],
            [METHODS["dense"]().describe()],
        )
    with pytest.raises(UsageError, match="method"):
        grid(methods=["BAP"])


def test_sparsities_hold_at_every_batch_size() -> None:
    cells = grid((1, 8), ["0.25", "0.50"], methods=["bap", "wanda", "sparsegpt"])
    assert [(cell.label, float(cell.method.target)) for cell in cells if cell.batch_size == 8] == [
        ("dense", 0.0), ("BAP", 0.25), ("Wanda, unstructured", 0.25),
        ("BAP", 0.5), ("Wanda 2:4", 0.5), ("SparseGPT 2:4", 0.5),
    ]  # fmt: skip
    assert len({cell.name for cell in cells}) == len(cells) == 12
    assert {cell.label for cell in grid((8,), ["0.5"])} == set(ENTRIES)


def test_a_title_tells_cells_apart() -> None:
    cells = grid()
    assert len({cell.title for cell in cells}) == len(cells)
    assert grid((4,), ["0.3"], methods=["bap"])[1].title == "BAP at 30 %, batch 4"
