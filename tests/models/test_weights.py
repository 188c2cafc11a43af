"""`load(weights="int4")`: rounded weights, with a name and a fingerprint of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import regrow
from families import build
from regrow.adapter.weights_state import checksums
from regrow.calibration.make_calibration import calibrate
from regrow.calibration.text import Text
from regrow.models import load


def test_the_weights_are_those_that_rounding_gives(directory: Path) -> None:
    done: list[tuple[int, int]] = []
    loaded = load(directory, weights="int4", rounding=lambda *at: done.append(at))
    model = build("qwen2")
    error = regrow.round_weights(model)
    assert checksums(loaded.model.parameters()) == checksums(model.parameters())
    assert loaded.rounded is not None
    assert loaded.rounded.error == error > 0.02
    assert done == [(1, 2), (2, 2)]
    assert (loaded.weights, loaded.name, loaded.label) == (
        "int4", str(directory), f"{directory} (int4)"
    )  # fmt: skip
    stored = load(directory)
    assert (stored.weights, stored.label, stored.rounded) == ("stored", str(directory), None)


def test_the_fingerprint_is_that_of_the_rounded_weights(directory: Path, copy: Path) -> None:
    mine = load(directory, weights="int4").fingerprint
    assert mine == load(copy, weights="int4").fingerprint
    others = [load(directory).fingerprint, load(directory, weights="int4", dtype="bfloat16").fingerprint]
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    others.append(load(copy, weights="int4").fingerprint)
    model = build("qwen2")
    model.model.norm.weight.data[0] += 1  # is not rounded
    model.save_pretrained(copy)
    changed = load(copy, weights="int4")
    others.append(changed.fingerprint)
    assert len({mine, *others}) == 5
    # It is that of the model as it was loaded, whatever becomes of its weights.
    changed = load(directory, weights="int4")
    with regrow.Engine(changed.model, "dense", owns_model=True):
        changed.model.model.layers[0].mlp.up_proj.weight.data.zero_()
        assert changed.fingerprint == mine


def test_calibrations_of_rounded_and_stored_weights_are_not_mixed(directory: Path) -> None:
    stored, rounded = load(directory), load(directory, weights="int4")
    drawn = torch.randint(3, 90, (4, 24), generator=torch.Generator().manual_seed(0))
    text, teal = Text("drawn", list(drawn)), regrow.TEAL(sparsity=0.5)
    for mine, other in ((stored, rounded), (rounded, stored)):
        made = calibrate(mine, teal, text)
        assert made.origin.model == mine.label
        with regrow.prune(mine.model, teal, calibration=made):
            pass
        with (
            pytest.raises(regrow.UsageError, match="the calibration was made for"),
            regrow.prune(other.model, teal, calibration=made),
        ):
            pass


def test_other_weights_are_refused(directory: Path) -> None:
    with pytest.raises(regrow.UsageError, match="unknown weights 'int3'; choose one of stored, int4"):
        load(directory, weights="int3")
