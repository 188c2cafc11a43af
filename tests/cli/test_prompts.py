"""Reading prompts from options, files and standard input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from command import lines, run
from regrow.cli.prompt_rows import Prompt
from regrow.cli.prompts import read

TEXT = "A add 1 2\n\n  A rev ab c \r\n"
JSONL = '{"prompt": "A add 1 2"}\n\n{"prompt": "A rev\\nB par 1", "answer": 3}\n'


def _prompts(tiny: Path, *options: object, text: str | bytes | None = None) -> list[str]:
    result = run("generate", tiny, "--json", "--max-new-tokens", 1, *options, input=text)
    assert result.exit_code == 0, result.output
    return [
        sample["prompt"] for sample in sorted(lines(result.stdout)[:-1], key=lambda sample: sample["index"])
    ]


def test_a_text_file_is_a_prompt_a_line(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(TEXT.encode())
    assert _prompts(tiny, "--prompts", path) == ["A add 1 2", "  A rev ab c "]


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts"])
def test_json_lines_are_known_by_name_or_by_what_they_hold(tiny: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + JSONL, encoding="utf-8")
    assert _prompts(tiny, "--prompts", path) == ["A add 1 2", "A rev\nB par 1"]


def test_a_text_file_may_begin_with_a_brace(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('{"prompt": 1\n')
    assert _prompts(tiny, "--prompts", path) == ['{"prompt": 1']


@pytest.mark.parametrize("options", [[], ["--prompts", "-"]])
def test_standard_input_is_read(tiny: Path, options: list[str]) -> None:
    assert _prompts(tiny, *options, text=TEXT) == ["A add 1 2", "  A rev ab c "]
    assert _prompts(tiny, *options, text=JSONL) == ["A add 1 2", "A rev\nB par 1"]


def test_standard_input_is_left_alone_where_prompts_are_given(tiny: Path) -> None:
    assert _prompts(tiny, "-p", "A", text=TEXT) == ["A"]


def test_options_come_before_the_file(tiny: Path) -> None:
    assert _prompts(tiny, "--prompts", "-", "-p", "B x", "-p", "A", text="C\n") == ["B x", "A", "C"]


# Structured files.

ROWS = [{"prompt": "A add 1 2", "id": 7}, {"prompt": "A rev\nB par 1", "id": 8}]
CSV = 'id,prompt\n7,A add 1 2\n\n8,"A rev\nB par 1"\n'
STRUCTURED = {
    "list.json": json.dumps(ROWS, indent=2),
    "of_texts.json": json.dumps([row["prompt"] for row in ROWS]),
    # Many data sets use this suffix for JSON lines.
    "lines.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    "document.jsonl": json.dumps(ROWS, indent=2),
    "texts.jsonl": "".join(json.dumps(row["prompt"]) + "\n" for row in ROWS),
    "UPPER.NDJSON": "".join(json.dumps(row) + "\r\n" for row in ROWS),
    "list": json.dumps(ROWS),
    "table.csv": CSV,
    "table": CSV,
    "spreadsheet.csv": CSV.replace(",", ";"),
    "table.tsv": CSV.replace(",", "\t"),
}


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_a_structured_file_gives_its_prompts_however_it_is_written(
    tmp_path: Path, name: str, encoding: str
) -> None:
    path = tmp_path / (f"{name}.gz" if encoding == "gzip" else name)
    text = STRUCTURED[name]
    path.write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding))
    assert [prompt.text for prompt in read([], str(path))] == [row["prompt"] for row in ROWS]


def test_one_object_is_one_prompt(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(ROWS[1], indent=2))
    assert read([], str(path)) == [Prompt("A rev\nB par 1", {"id": 8})]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_a_field_is_named_and_the_others_are_kept(tmp_path: Path, kind: str) -> None:
    path, row = tmp_path / f"p.{kind}", {"id": "7", "prompt": "no", "text": "t", "question": "A add 1 2"}
    mark = "\t" if kind == "tsv" else ","
    path.write_text(json.dumps(row) if "json" in kind else f"{mark.join(row)}\n{mark.join(row.values())}\n")
    fields = {"id": "7", "input_prompt": "no", "input_text": "t", "question": "A add 1 2"}
    assert read([], str(path), "question") == [Prompt("A add 1 2", fields)]


@pytest.mark.parametrize(
    ("name", "kind"), [("p.txt", "lines"), ("p.jsonl", "lines"), ("p.txt", "jsonl"), ("p", "lines")]
)
def test_the_format_option_overrules_the_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text('{"prompt": "A"}\n')
    assert read([], str(tmp_path / name), kind=kind) == [
        Prompt('{"prompt": "A"}' if kind == "lines" else "A", {})
    ]


@pytest.mark.parametrize(
    "text",
    ["[INST] A, add\n", "[1] what?\n[2] why?\n", "Dear all, prompt me\n", '"A", said B\n', "A,B\n1,2\n"],
)
def test_prose_stays_a_prompt_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    assert [prompt.text for prompt in read([], str(tmp_path / "p"))] == text.splitlines()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_long_field_and_line_ends_within_quotes(tmp_path: Path, ending: str) -> None:
    long = "A" * 300_000
    (tmp_path / "p.csv").write_bytes(f'prompt,n{ending}"{long}\r\nB",1{ending}'.encode())
    assert read([], str(tmp_path / "p.csv")) == [Prompt(f"{long}\r\nB", {"n": "1"})]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "another field": (
        "p.jsonl",
        b'{"question": "A"}\n',
        'p.jsonl, line 1 holds no "prompt" text; name the field with --prompt-field',
    ),
    "the fields there": ("p.csv", b"question,answer\nA,1\n", "(text fields: question, answer)"),
    "a later line": ("p.jsonl", b'{"prompt": "A"}\n{"question": "A"}\n', "p.jsonl, line 2 holds no"),
    "an entry": ("p.json", b'[{"prompt": "A"}, {"prompt": 3}]', "p.json, entry 2 holds no"),
    "numbers": ("p.json", b"[1, 2]", "p.json, entry 1 holds no"),
    "a list without a name": ("p", b"[1, 2]\n", "p, entry 1 holds no"),
    "a container": ("p.json", b'{"data": [{"prompt": "A"}]}', "p.json holds no"),
    "messages": ("p.jsonl", b'{"prompt": [{"role": "user", "content": "A"}]}\n', "line 1 holds no"),
    "null": ("p.jsonl", b'{"prompt": null}\n', "line 1 holds no"),
    "broken JSON": ("p.json", b'[{"prompt": "A"},\n{"prompt": ]', "p.json is not valid JSON"),
    "broken JSON without a name": ("p", b'[{"prompt": "A"},\n', "p is not valid JSON"),
    "an empty prompt": ("p.json", b'["A", " "]', "p.json, entry 2 holds an empty prompt"),
    "an empty cell": ("p.csv", b"prompt,n\nA,1\n,2\n", "p.csv, line 3 holds an empty prompt"),
    "half a character": ("p.jsonl", b'{"prompt": "A \\ud800"}\n', "line 1 holds half a character"),
    "no JSON number": ("p.jsonl", b'{"prompt": "A", "n": NaN}\n', "NaN is not a JSON number"),
    "infinity": ("p.jsonl", b'{"prompt": "A", "n": 1e999}\n', "line 1 is not valid JSON"),
    "a field twice": ("p.jsonl", b'{"prompt": "A", "prompt": "B"}\n', 'the field "prompt" occurs twice'),
    "depth": ("p.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"\n", "line 1 is not valid JSON"),
    "a header twice": ("p.csv", b"prompt,n,n\nA,1,2\n", "names the field 'n' twice"),
    "a short row": ("p.csv", b"prompt,n\nA,1\nB\nC,3\n", "p.csv, line 3 has 1 fields, and the header has 2"),
    "a long row": ("p.tsv", b"prompt\tn\nA\t1\t2\n", "p.tsv, line 2 has 3 fields"),
    "an open quote": ("p.csv", b'prompt,n\nA,1\n"B,2\n', "p.csv, line 3 is not a valid table row"),
    "a header alone": ("p.csv", b"prompt,n\n", "p.csv holds no prompts"),
    "nothing": ("p.jsonl", b"", "p.jsonl holds no prompts"),
    "blank lines": ("p.txt", b"\n \n", "p.txt holds no prompts"),
    "an empty list": ("p.json", b"[]", "p.json holds no prompts"),
    "JSON lines named text": (
        "p.txt",
        b'{"prompt": "A"}\n{"prompt": "B"}\n',
        "choose with --prompts-format lines or jsonl",
    ),
    "a list named text": ("p.txt", b'[\n{"prompt": "A"}]\n', "choose with --prompts-format lines or json"),
    "a table named text": ("p.txt", b"id,question\n1,A\n", "choose with --prompts-format lines or csv"),
    "a null byte": ("p.txt", b"A\nB\0\n", "p.txt, line 2 holds a null byte"),
    "UTF-16 without a mark": ("p.txt", "A add".encode("utf-16-le"), "holds a null byte"),
    "Latin-1": ("p.csv", b"prompt\nA\nB \xe9\n", "p.csv is not UTF-8 text (byte 11, line 3)"),
    "half of UTF-16": ("p.txt", "A add".encode("utf-16")[:-1], "p.txt is not UTF-16 text"),
    "half of a gzip file": ("p.jsonl.gz", gzip.compress(b"A add 1 2\n" * 99)[:-9], "is a damaged gzip file"),
    "a zip file": ("p.jsonl", b"PK\x03\x04...", "is a zip file, not text; unpack it"),
    "Parquet": ("p.parquet", b"PAR1...", "is a Parquet file, not text; convert it"),
    "YAML": ("p.yaml", b"- A\n- B\n", "has an unsupported format (.yaml)"),
    "both names": (
        "p.jsonl",
        b'{"prompt": "A", "text": "x", "input_text": "y"}\n',
        'both a field "text" and a field "input_text"',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gives_no_prompts_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, sentence = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    result = run("generate", "/no/such/model", "--prompts", tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"regrow: error: {tmp_path / name}")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prompt", "A \udcff"], "--prompt number 1 is not valid UTF-8 text (character 3)"),
        (
            ["--prompt", "A", "--prompt-field", "x"],
            "--prompt-field and --prompts-format are for --prompts FILE",
        ),
        (["--prompts", __file__, "--prompt-field", "x"], "one prompt per line, so it has no fields"),
        (
            ["--prompts", __file__, "--prompts-format", "xml"],
            "unknown --prompts-format 'xml'; choose one of auto, lines",
        ),
        (["--prompts", "a\0b"], "is not a valid file name"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], sentence: str) -> None:
    result = run("generate", "/no/such/model", *options)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert sentence in result.stderr
