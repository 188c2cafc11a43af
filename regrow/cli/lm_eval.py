"""`regrow lm-eval`: runs lm-evaluation-harness with a model that Regrow decodes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from regrow.cli.load_model import quieten
from regrow.errors import RegrowError, UsageError, said

if TYPE_CHECKING:
    from argparse import Namespace

_OURS = (
    "The options below are those of lm-evaluation-harness. --model is always regrow. --model_args takes "
    "pretrained (the bundled model if left out), method, the parameters of the method (sparsity=0.5, ...), "
    "calibration, skip_layers, dtype, weights (stored or int4), trust_remote_code, enable_thinking and "
    "think_end_token."
)


def lm_eval(ctx: typer.Context) -> None:
    """Answer generative tasks of lm-evaluation-harness with a pruned or dense model.

    All options are those of `lm-eval run`, and --model_args also takes the method and its parameters. Needs
    `pip install 'regrow[lm-eval]'`.

    Example: regrow lm-eval --model_args pretrained=org/model,method=bap,sparsity=0.5 --tasks gsm8k
    """
    if find_spec("lm_eval") is None:
        raise UsageError("lm-evaluation-harness is not installed; pip install 'regrow[lm-eval]'")
    quieten()
    given = ctx.args if ctx.args else ["--help"]
    if {"-h", "--help"} & set(given):
        typer.echo(f"{_OURS}\n")
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    setup_logging()
    harness = HarnessCLI()
    with _command_line(given):
        options = harness.parse_args()
    try:
        if options.command == "run":
            _fill_in(options)
        harness.execute(options)
    except ConnectionError as error:
        raise RegrowError(
            f"the data of the tasks cannot be loaded from the hub ({said(error)}); go online once so that "
            "they are kept, or use a task whose dataset_path names local files"
        ) from error
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, RegrowError):
            raise
        if str(error).startswith("Tasks not found"):
            where = f", and in {options.include_path}" if options.include_path else ""
            raise UsageError(
                f"{said(error)}; `regrow lm-eval ls tasks` lists those that lm-eval knows{where}"
            ) from error
        raise RegrowError(f"lm-eval stopped: {said(error)}") from error


@contextmanager
def _command_line(given: Sequence[str]) -> Iterator[None]:
    """Lets lm-eval's parser, which reads `sys.argv`, read the given arguments while the context lasts."""
    before, command = sys.argv, [] if given[0] in ("run", "ls", "validate") else ["run"]
    sys.argv = ["lm-eval", *command, *given]
    try:
        yield
    finally:
        sys.argv = before


def _fill_in(options: Namespace) -> None:
    """Sets the model to Regrow's, and checks what decides how it is loaded.

    Options that were not given are read from the file of --config, as lm-eval does. Raises UsageError for
    another model, for a cache of answers, and for wrong model arguments.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import simple_parse_args_string

    import regrow.hosts.lm_eval.model  # noqa: F401 (makes the name known to lm-eval)
    from regrow.hosts.lm_eval.settings import NO_CACHE, Settings

    file = EvaluatorConfig.load_yaml_config(options.config) if options.config else {}
    chosen = file | {name: value for name, value in vars(options).items() if value is not None}
    model, arguments = chosen.get("model", "regrow"), chosen.get("model_args") or {}
    if model != "regrow":
        raise UsageError(
            f"regrow lm-eval runs --model regrow, not {model}; leave out --model, "
            f"or use `lm-eval run --model {model}`"
        )
    if chosen.get("use_cache"):
        raise UsageError(NO_CACHE)
    options.model, options.device = model, chosen.get("device", "auto")  # lm-eval's default is cuda:0
    further = {name: chosen[name] for name in ("device", "batch_size") if name in chosen}
    Settings.of((simple_parse_args_string(arguments) if isinstance(arguments, str) else arguments) | further)
