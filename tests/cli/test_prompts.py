"""Where prompts come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import lines, run

TEXT = "A add 1 2\n\n  A rev ab c \r\n"
JSONL = '{"prompt": "A add 1 2"}\n\n{"prompt": "A rev\\nB par 1", "answer": 3}\n'


def _prompts(tiny: Path, *options: object, text: str | bytes | None = None) -> list[str]:
    result = run("generate", tiny, "--json", "--max-new-tokens", 1, *options, input=text)
    assert result.exit_code == 0, result.output
    return [sample["prompt"] for sample in sorted(lines(result.stdout)[:-1], key=lambda sample: sample["index"])]


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
