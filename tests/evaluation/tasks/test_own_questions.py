"""Files of the user's own questions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from regrow.errors import UsageError
from regrow.evaluation.tasks.own_questions import OwnQuestions
from regrow.evaluation.tasks.rows import read_file
from regrow.evaluation.tasks.task import Item, Task, TaskRequest

FORMS = {
    "q.jsonl": '{"q": "1+1?", "a": 2}\n\n{"q": "a, \\"b\\"\\nc?", "a": "x y "}\n',
    "q.json": '[{"q": "1+1?", "a": 2}, {"q": "a, \\"b\\"\\nc?", "a": "x y "}]',
    "q.csv": '\ufeffq,a\r\n1+1?,2\r\n"a, ""b""\nc?",x y \r\n',
}


def _load(path: Path, grader: str = "exact", **asked: str) -> Task:
    return OwnQuestions(path, "q", "a", grader).load(TaskRequest(**asked))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_questions(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], newline="")
    task = _load(path, template="Q: {question}", system="S")
    assert task.items == (Item("1", "Q: 1+1?", "2"), Item("2", 'Q: a, "b"\nc?', "x y"))
    assert (task.name, task.grader, task.template, task.system) == (name, "exact", "Q: {question}", "S")
    assert task.data_sha256 == read_file(path).sha256


def test_without_a_grader_no_answers_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"q": "1+1?"}\n')
    assert _load(path, "none").items == (Item("1", "1+1?", ""),)
    with pytest.raises(UsageError, match=r"row 1 has no field 'a'; its fields are q; .*--answer-field"):
        _load(path)


@pytest.mark.parametrize(
    ("ids", "names"),
    [(("p-7", "p-8"), ("p-7", "p-8")), ((7, 3), ("7", "3")), ((7, 7), ("1", "2")), ((7, None), ("1", "2"))],
)
def test_rows_are_named_by_their_ids_if_every_row_has_its_own(
    ids: tuple[object, object], names: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"id": name, "q": "1+1?", "a": "2"} for name in ids]))
    assert tuple(item.id for item in _load(path).items) == names


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.txt", "1+1?", "is of a kind that is not read; give a .jsonl, .csv or .json file"),
        ("q.jsonl", "", "holds no rows"),
        ("q.jsonl", '{"q": 1}\n{"q"', "line 2 is not valid JSON (Expecting ':' delimiter at column 5)"),
        (
            "q.json",
            '[{"q": 1},\n{"q"]',
            "q.json is not valid JSON (Expecting ':' delimiter at line 2, column 5)",
        ),
        (
            "q.jsonl",
            '{"Q": "1+1?"}',
            "row 1 has no field 'q'; its fields are Q; name one with --question-field",
        ),
        ("q.jsonl", "[1]\n", "line 1 is not an object with fields"),
        ("q.json", '{"q": "x"}', "is not a list of objects"),
        ("q.json", "[1]", "entry 1 is not an object with fields"),
        ("q.json", "[" * 10**5, "is not valid JSON"),
        ("q.csv", "q,a\n1,2,3\n", "row 1 has more or fewer cells than the header"),
        ("q.csv", "q,a\n1\n", "row 1 has more or fewer cells than the header"),
        ("q.csv", 'q,a\n"1,2\n', "is not valid CSV"),
        ("q.csv", "q,a\n", "holds no rows"),
        ("q.jsonl", '{"q": "1+1?", "a": null}', "row 1: a is null, which is neither text nor a number"),
        ("q.jsonl", '{"q": "1+1?", "a": true}', "row 1: a is true, which is neither text nor a number"),
        ("q.jsonl", '{"q": " ", "a": 1}', "row 1: q is empty"),
    ],
)
def test_what_is_no_file_of_questions(name: str, content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        _load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        _load(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match="is a directory; give a file"):
        _load(tmp_path / "folder.jsonl")
    with pytest.raises(UsageError, match="is a directory; give a file"):
        _load(tmp_path)
    (tmp_path / "latin.csv").write_bytes("q,a\n\xe9,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        _load(tmp_path / "latin.csv")
