"""The file of a calibration, the fingerprint of a model, and what model and method it fits."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from calibrations import calibration_for
from families import build
from regrow.calibration.calibration import SAMPLE, Calibration, Origin, fingerprint, fitting
from regrow.errors import RegrowError, UsageError
from regrow.method.base import Method
from regrow.method.presets import make

ORIGIN = Origin(
    "tiny – 小",
    "f" * 64,
    "teal",
    {"sparsity": 0.3, "pattern": "2:4", "none": None},
    'some "text"',
    "0" * 64,
    10,
    20480,
    2048,
)
NAME = "model.layers.0.mlp.up_proj.weight"
TENSORS = {
    "model.layers.1.mlp.down_proj": torch.tensor(1 / 3, dtype=torch.float64),
    NAME: torch.arange(12, dtype=torch.bfloat16).view(3, 4).t(),  # not contiguous
    "empty": torch.empty(0, 3, dtype=torch.float16),
}
CALIBRATION = Calibration(ORIGIN, TENSORS)
LATER = replace(CALIBRATION, origin=replace(ORIGIN, tokens=1))


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "calibration"
    for saved in (LATER, CALIBRATION):  # the second replaces the first
        saved.save(path)
        loaded = Calibration.load(str(path))
        assert loaded.origin == saved.origin
        assert loaded.tensors.keys() == TENSORS.keys()
        assert all(
            t.dtype == TENSORS[name].dtype and torch.equal(t, TENSORS[name])
            for name, t in loaded.tensors.items()
        )
    assert [file.name for file in path.parent.iterdir()] == ["calibration"]


def test_its_digest_is_of_what_it_holds(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path / "a")
    turned = Calibration(
        replace(ORIGIN, params=dict(reversed(ORIGIN.params.items()))), dict(reversed(TENSORS.items()))
    )
    assert Calibration.load(tmp_path / "a").digest == CALIBRATION.digest == turned.digest
    weight = TENSORS[NAME]
    others = [TENSORS | {NAME: other} for other in (weight + 1, weight.reshape(3, 4), weight.half())]
    others += [{key + "x" * (key == NAME): value for key, value in TENSORS.items()}, {NAME: weight}]
    digests = [
        CALIBRATION.digest,
        LATER.digest,
        *(replace(CALIBRATION, tensors=tensors).digest for tensors in others),
    ]
    assert len(set(digests)) == len(digests) == 7
    renamed = replace(CALIBRATION.origin, model="/elsewhere/model", text="/elsewhere/text.jsonl")
    assert replace(CALIBRATION, origin=renamed).digest == CALIBRATION.digest
    other = replace(CALIBRATION.origin, text_sha256="1" * 64)
    assert replace(CALIBRATION, origin=other).digest != CALIBRATION.digest


FULL = OSError(errno.ENOSPC, "No space left on device")
CLOSED = PermissionError(errno.EACCES, "Permission denied")  # raised by hand: no folder is closed to root
FAILURES = [
    ("os.fsync", FULL),
    ("pathlib.Path.replace", FULL),
    ("pathlib.Path.open", CLOSED),
    ("os.fsync", KeyboardInterrupt()),
]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("where", "error"), FAILURES)
def test_a_save_that_fails_leaves_what_there_was(
    tmp_path: Path, where: str, error: BaseException, before: bool
) -> None:
    path = tmp_path / "a"
    if before:
        CALIBRATION.save(path)
    with patch(where, side_effect=error), pytest.raises((RegrowError, KeyboardInterrupt)) as caught:
        LATER.save(path)
    if isinstance(error, OSError):
        remedy = "make room" if error is FULL else "allow writing there"
        assert (
            str(caught.value)
            == f"{path} cannot be written: {error.strerror}; {remedy} or choose another --out"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["a"] * before
    assert not before or Calibration.load(path).origin == ORIGIN


def test_others_may_read_it_as_they_may_any_new_file(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path / "a")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path / "a")
    with patch("pathlib.Path.open", side_effect=CLOSED):
        assert "cannot be read: Permission denied" in refusal(UsageError, tmp_path / "a")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        RegrowError, match=r"file/a cannot be written: .+/file is a file and not a directory; choose another"
    ):
        CALIBRATION.save(tmp_path / "file" / "a")


def refusal(kind: type[RegrowError], path: Path) -> str:
    """Return the message, one sentence, of the error of exactly this kind that loading the file raises."""
    with pytest.raises(
        RegrowError, match=rf"^{path} .*; make (it|one|it again) with `regrow calibrate`$"
    ) as caught:
        Calibration.load(path)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("path", ["nothing", "nothing/there", "."])
def test_a_path_without_a_file_is_a_wrong_request(path: str, tmp_path: Path) -> None:
    assert "cannot be read: " in refusal(UsageError, tmp_path / path)


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path / "whole")
    whole, path = (tmp_path / "whole").read_bytes(), tmp_path / "part"
    for content in (
        *(whole[:size] for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1)),
        b"no safetensors at all, but text",
    ):
        path.write_bytes(content)
        assert " is damaged (" in refusal(RegrowError, path)


OURS = {"format": "regrow calibration 1"}
OTHER, DAMAGED = "is not a calibration of this version", "is damaged ("
FOREIGN: list[tuple[dict[str, str] | None, str]] = [
    (None, OTHER),
    ({"format": "pt"}, OTHER),  # any weights
    ({"format": "regrow calibration 2", "origin": json.dumps(vars(ORIGIN))}, OTHER),
    (OURS | {"origin": json.dumps(vars(ORIGIN) | {"seed": 1})}, OTHER),
    (OURS, DAMAGED),
    (OURS | {"origin": "{"}, DAMAGED),
    (OURS | {"origin": "3"}, DAMAGED),
]


@pytest.mark.parametrize(("metadata", "reason"), FOREIGN)
def test_a_file_of_something_else_is_refused(
    metadata: dict[str, str] | None, reason: str, tmp_path: Path
) -> None:
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "a", metadata)
    assert reason in refusal(RegrowError, tmp_path / "a")


def test_a_fingerprint_is_that_of_the_values_in_any_dtype() -> None:
    one, two, three = (
        fingerprint(build("qwen2", torch.bfloat16).to(dtype))
        for dtype in (torch.bfloat16, torch.float32, torch.float64)
    )
    assert one == two == three != fingerprint(build("qwen2"))  # bfloat16 would round its values


CHANGES: dict[str, Callable[[Any], object]] = {  # of the second layer
    "a weight": lambda layer: layer.self_attn.k_proj.weight.data[3, 4].add_(1),
    "the last weight": lambda layer: layer.mlp.down_proj.weight.data[-1, -1].neg_(),
    "a bias": lambda layer: layer.self_attn.q_proj.bias.data[3].add_(1),
    "a shape": lambda layer: setattr(
        layer.mlp.up_proj, "weight", nn.Parameter(layer.mlp.up_proj.weight.detach().view(32, 64))
    ),
    "a name": lambda layer: setattr(layer, "other_layernorm", layer._modules.pop("post_attention_layernorm")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_fingerprint_differs_where_the_weights_do(what: str) -> None:
    model = build("qwen2")
    CHANGES[what](model.model.layers[1])
    assert fingerprint(model) != fingerprint(build("qwen2"))


def test_a_fingerprint_samples_large_parameters_evenly() -> None:
    linear = nn.Linear(SAMPLE, 5, bias=False)
    before, flat = fingerprint(linear), linear.weight.data.view(-1)
    flat[5 * (SAMPLE - 1) + 1] += 1
    assert fingerprint(linear) == before
    flat[5 * (SAMPLE - 1)] += 1
    assert fingerprint(linear) != before


TEAL, BAP = make("teal", sparsity=0.3), make("bap", selection="threshold")
FITS = [
    (TEAL, make("teal", sparsity="0.30", ffn_only=True, share="abs_mean")),
    (make("wanda"), make("wanda", sparsity="0.5")),
    (BAP, make("bap", selection="threshold", period=7, aggregate="mean")),
]
NONE_TAKEN = "with these parameters takes no calibration; leave it out$"
REFUSED = [
    (
        TEAL,
        make("teal", sparsity=0.4),
        r"made for teal \(sparsity=0\.3\), not for teal \(sparsity=0\.4\); make one",
    ),
    (
        TEAL,
        make("wina", sparsity=0.3),
        r"made for teal \(sparsity=0\.3\), not for wina \(sparsity=0\.3\); make one",
    ),
    (TEAL, make("teal", sparsity=0), f"^method 'teal' {NONE_TAKEN}"),
    (TEAL, make("wina", selection="topk"), f"^method 'wina' {NONE_TAKEN}"),
    (BAP, make("bap"), f"^method 'bap' {NONE_TAKEN}"),
    (TEAL, make("dense"), f"^method 'dense' {NONE_TAKEN}"),
]


def made_for(method: Method) -> Any:
    return calibration_for(build("qwen2"), method, [torch.tensor([5, 6, 7])] * 2)


@pytest.mark.parametrize(("made", "asked"), FITS, ids=str)
def test_what_was_made_for_a_method_fits_it(made: Method, asked: Method) -> None:
    calibration = made_for(made)
    assert fitting(calibration, build("qwen2"), asked) is calibration.tensors
    assert fitting(None, build("qwen2"), make("bap")) == {}


@pytest.mark.parametrize(("made", "asked", "reason"), REFUSED, ids=str)
def test_what_was_made_for_something_else_is_refused(made: Method, asked: Method, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        fitting(made_for(made), build("qwen2"), asked)


def test_a_calibration_of_another_model_is_refused() -> None:
    one, other = (fingerprint(build(family))[:12] for family in ("qwen2", "llama"))
    with pytest.raises(
        UsageError,
        match=f"was made for tiny \\(weights {one}\\), not for this model \\(weights {other}\\); make one",
    ):
        fitting(made_for(TEAL), build("llama"), TEAL)


@pytest.mark.parametrize("method", [TEAL, make("wina"), make("cats"), make("wanda"), BAP], ids=str)
def test_none_where_one_is_needed_is_refused(method: Method) -> None:
    with pytest.raises(
        UsageError,
        match=f"^method '{method.name}' needs a calibration of this model: "
        f"make one with `regrow calibrate MODEL --method {method.name} .*-P sparsity={method.target}.*` and",
    ) as refused:
        fitting(None, build("qwen2"), method)
    assert ("-P selection=threshold" in str(refused.value)) == (method is BAP)
