"""The scripts for clusters run every shard once, with stand-ins for SLURM and Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from command import run
from regrow.record_file import read

CLUSTERS = Path(__file__).parents[2] / "examples" / "clusters"
SETTINGS = [
    "--method",
    "bap",
    "--sparsity",
    "0.5",
    "--batch-size",
    "2",
    "--limit",
    "5",
    "--max-new-tokens",
    "4",
]
NAMES = ["bap-s0.5-b2.1-of-2.jsonl", "bap-s0.5-b2.2-of-2.jsonl"]


def _program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with stand-ins: `srun` runs its command, `regrow` writes its arguments to a new file."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (tmp_path / "calls").mkdir()
    _program(folder, "srun", 'exec "$@"')
    told = "import json, os, sys; print(json.dumps([os.environ.get('CUDA_VISIBLE_DEVICES'), *sys.argv[1:]]))"
    _program(folder, "regrow", f'{sys.executable} -c "{told}" "$@" > {tmp_path / "calls"}/$$')
    return folder


def _calls(programs: Path, script: str, *arguments: str, **variables: str) -> list[list[str]]:
    """Runs a script; returns the arguments of each call of `regrow`, with the GPU that it may use first."""
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **variables}
    subprocess.run([CLUSTERS / script, *arguments], env=environment, check=True, timeout=60)
    return sorted(json.loads(path.read_text()) for path in (programs.parent / "calls").iterdir())


def _evaluated(calls: Sequence[Sequence[str]]) -> None:
    for call in calls:
        result = run(*call)
        assert result.exit_code == 0, result.output


def _assert_whole(out: Path) -> None:
    """Asserts that both shards together, and their files one after the other, are the whole run."""
    files = [out / "tiny-reasoner" / name for name in NAMES]
    assert sorted(path for path in out.rglob("*.jsonl")) == files
    assert [[record.batch for record in read(path)] for path in files] == [[0, 2], [1]]
    (shown,) = json.loads(run("table", out, "--json").stdout)
    assert shown["missing"] == []
    whole = out.with_suffix(".jsonl")
    whole.write_bytes(b"".join(path.read_bytes() for path in files))
    assert [record.batch for record in read(whole)] == [0, 1, 2]


def test_an_array_job_of_slurm_runs_every_shard(programs: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    for number in ("1", "2"):
        calls = _calls(
            programs,
            "slurm.sh",
            *SETTINGS,
            "--out",
            str(out),
            SLURM_ARRAY_TASK_ID=number,
            SLURM_ARRAY_TASK_COUNT="2",
        )
    _evaluated([call[1:] for call in calls])
    _assert_whole(out)


def test_a_shard_that_is_submitted_alone_keeps_its_number(programs: Path) -> None:
    (call,) = _calls(
        programs, "slurm.sh", "model", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="1", SHARDS="8"
    )
    assert call[1:] == ["evaluate", "model", "--shard", "3/8"]


def test_array_ids_begin_with_1() -> None:
    text = (CLUSTERS / "slurm.sh").read_text()
    assert "#SBATCH --array=1-" in text
    assert run("evaluate", "--shard", "0/2", "--out", "nowhere.jsonl").exit_code == 2


def test_every_gpu_of_a_machine_gets_a_shard(programs: Path) -> None:
    _program(programs, "nvidia-smi", "echo 'GPU 0'; echo 'GPU 1'")
    calls = _calls(programs, "gpus.sh", "model", "--out", "results")
    assert calls == [
        ["0", "evaluate", "model", "--out", "results", "--shard", "1/2"],
        ["1", "evaluate", "model", "--out", "results", "--shard", "2/2"],
    ]


def test_a_failed_shard_is_a_failed_script(programs: Path) -> None:
    _program(programs, "regrow", 'case "$*" in *1/2) exit 1;; esac')
    done = subprocess.run(
        [CLUSTERS / "gpus.sh", "model"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GPUS": "2"},
        check=False,
        timeout=60,
    )
    assert done.returncode == 1


@pytest.fixture
def ray_shards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Loads the script with a stand-in for Ray that calls tasks at once, and for processes."""

    def load(run_command: Callable[..., Any]) -> ModuleType:
        ray = ModuleType("ray")
        asked: dict[str, object] = {}

        def remote(**options: object) -> Callable[[Callable[..., Any]], Any]:
            asked.update(options)
            return lambda task: SimpleNamespace(remote=task)

        for name, value in {"init": lambda: None, "remote": remote, "get": list, "asked": asked}.items():
            setattr(ray, name, value)
        monkeypatch.setitem(sys.modules, "ray", ray)
        spec = spec_from_file_location("examples_ray_shards", CLUSTERS / "ray_shards.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run_command))
        return module

    return load


def test_ray_runs_every_shard_on_a_gpu_of_its_own(
    ray_shards: Callable[..., ModuleType], tmp_path: Path
) -> None:
    def in_this_process(command: list[str], cwd: Path, check: bool) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "regrow"]
        assert cwd == Path.cwd()
        return SimpleNamespace(returncode=run(*command[3:]).exit_code)

    module, out = ray_shards(in_this_process), tmp_path / "results"
    assert module.main([*SETTINGS, "--out", str(out)], shards=2) == 0
    assert module.ray.asked == {"num_gpus": 1, "max_retries": module.RETRIES}
    _assert_whole(out)


def test_ray_names_the_shards_that_failed(
    ray_shards: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    module = ray_shards(
        lambda command, **_: SimpleNamespace(returncode=0 if command[-1] == "1/3" else 2),
    )
    assert module.main(["model"], shards=3) == 1
    assert capsys.readouterr().err.startswith("shards 2/3, 3/3 failed; ")


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "results"
    _evaluated([["evaluate", *SETTINGS, "--out", str(out), "--shard", "1/2"]])
    other_number = run("evaluate", *SETTINGS, "--out", out, "--shard", "1/3")
    assert other_number.exit_code == 1
    assert ".1-of-2.jsonl is of the same run with another --shard" in other_number.stderr
    run("evaluate", *SETTINGS, "--max-new-tokens", "5", "--out", out, "--shard", "2/2")
    for command in ("table", "grade"):
        refused = run(command, out)
        assert refused.exit_code == 1
        assert "cannot be taken together" in refused.stderr
        assert "max_new_tokens" in refused.stderr
