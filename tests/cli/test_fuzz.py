"""Random requests end with a defined exit code, without a traceback, and with one sentence if they fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import run
from regrow.cli.prompts import read
from regrow.errors import UsageError

# All examples of a test share its fixtures, so each example writes its files anew.
MANY = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SOME, FEW = settings(MANY, max_examples=40), settings(MANY, max_examples=12)

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "prompt", "question", "A add 1 2", "\ud800", "\0", "\ufeff", ",", '"', "[1]", "{"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Draws a file of one of the formats, whole or damaged."""
    match draw(st.sampled_from(["bytes", "lines", "json", "jsonl", "table"])):
        case "bytes":
            return draw(st.binary(max_size=60))
        case "lines":
            text = "\n".join(draw(st.lists(TEXTS, max_size=4)))
        case "json":
            text = json.dumps(draw(VALUES | RECORDS))
        case "jsonl":
            text = "\n".join(map(json.dumps, draw(RECORDS)))
        case _:
            rows = draw(st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4))
            text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(
                draw(st.sampled_from(",;\t")).join(row) for row in rows
            )
    data = text.encode(
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])), "surrogatepass"
    )
    data = gzip.compress(data) if draw(st.integers(0, 4)) == 0 else data
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 0 else data


NAMES = st.sampled_from(
    [f"p{suffix}" for suffix in ("", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".md", ".jsonl.gz")]
)
WORDS = st.sampled_from(
    [
        "0",
        "-1",
        "1",
        "2",
        "0.5",
        "nan",
        "inf",
        "1e99",
        "x",
        "",
        " ",
        "é",
        "\udcff",
        "9" * 30,
        "true",
        "0,1",
        "a=b",
        "=",
    ]
)
PARAMETERS = [
    "--method",
    "--sparsity",
    "--init-steps",
    "--explore-steps",
    "--period",
    "--aggregate",
    "--memory",
    "--decay",
    "--param",
]
DECODING = [
    "--batch-size",
    "--max-new-tokens",
    "--temperature",
    "--top-p",
    "--seed",
    "--skip-layers",
    "--dtype",
    "--device",
]
OTHERS = ["--calibration", "--prompt", "--prompt-field", "--prompts-format", "--output", "--nonsense"]
OPTIONS = st.sampled_from([*PARAMETERS, *DECODING, *OTHERS])
ARGUMENTS = st.lists(
    st.tuples(OPTIONS, WORDS).map(list) | st.sampled_from([["--forget-finished"], ["--no-chat"], ["--json"]]),
    max_size=4,
)


def _good_end(result: Any) -> None:
    assert result.exit_code in (0, 1, 2)
    if result.exit_code:
        assert result.stdout == ""
        assert result.stderr.startswith("regrow: error: ")
        assert result.stderr.count("\n") == 1


@MANY
@given(name=NAMES, content=contents(), field=st.none() | TEXTS)
def test_any_prompt_file(tmp_path_factory: Any, name: str, content: bytes, field: str | None) -> None:
    path = _folder(tmp_path_factory) / name
    path.write_bytes(content)
    try:
        prompts = read([], str(path), field)
    except UsageError as error:
        refusal, prompts = str(error), []
    assert prompts or refusal.startswith(str(path))
    for prompt in prompts:
        assert prompt.text.strip()
        assert prompt.text.encode()
        json.dumps(prompt.fields, allow_nan=False)


@SOME
@given(arguments=ARGUMENTS)
def test_any_option_before_the_model_is_loaded(tmp_path_factory: Any, arguments: list[list[str]]) -> None:
    _good_end(
        run("generate", "/no/such/model", "--prompt", "A", *_flat(_folder(tmp_path_factory), arguments))
    )


@FEW
@given(arguments=ARGUMENTS)
def test_any_option_on_a_model(tiny: Path, tmp_path_factory: Any, arguments: list[list[str]]) -> None:
    _good_end(
        run(
            "generate",
            tiny,
            "--prompt",
            "A",
            "--max-new-tokens",
            2,
            *_flat(_folder(tmp_path_factory), arguments),
        )
    )


def _folder(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.getbasetemp()
    return folder


def _flat(folder: Path, arguments: list[list[str]]) -> list[object]:
    """Returns the arguments as one list, with output files moved to the folder of the test."""
    return [
        part if option[0] != "--output" else [option[0], folder / part][place]
        for option in arguments
        for place, part in enumerate(option)
    ]
