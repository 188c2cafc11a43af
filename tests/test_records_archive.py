"""The archive of a comparison's records."""

from __future__ import annotations

import hashlib
import importlib.util
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from regrow.record_file import read
from samples import CONFIG, record

HOME = Path(__file__).parents[1]
COMMITTED = HOME / "results" / "comparison" / "records.tar.xz"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("archive", HOME / "scripts" / "records_archive.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_records_give_an_equal_archive_and_come_back(script: ModuleType, tmp_path: Path) -> None:
    archives = []
    for name in ("one", "two"):
        records = tmp_path / name / "records"
        records.mkdir(parents=True)
        for batch in (1, 0) if name == "one" else (0, 1):
            (records / f"{batch}.jsonl").write_bytes(record(batch).line())
        archives.append(script.pack(tmp_path / name).read_bytes())
    assert archives[0] == archives[1]
    (records / "0.jsonl").unlink()
    assert script.unpack(tmp_path / "two") == 2
    assert read(records / "0.jsonl") == (record(0, CONFIG),)


def test_the_committed_archive_is_the_one_that_the_readme_names() -> None:
    digest = hashlib.sha256(COMMITTED.read_bytes()).hexdigest()
    assert digest in (HOME / "results" / "README.md").read_text()
    with tarfile.open(COMMITTED) as archive:
        names = archive.getnames()
        first = archive.extractfile(names[0])
        assert first
        assert first.read(12) == b'{"format":2,'
    cells = {path.stem for path in (HOME / "results" / "comparison" / "divergence").glob("*.json")}
    assert {Path(name).stem for name in names} == cells
