"""Options that several commands share. None stands for "not given": then the default of the method or the
model holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from regrow.cli.group import be_verbose
from regrow.errors import UsageError

if TYPE_CHECKING:
    from regrow.calibration.calibration import Calibration
    from regrow.method.base import Method

_METHOD, _MODEL, _OUTPUT = "Method", "Model", "Output"

ModelName = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A local directory or a hub id; without it, the bundled model."),
]
DTypeName = Annotated[str, typer.Option("--dtype", rich_help_panel=_MODEL, help="Number format: {dtypes}.")]
DeviceName = Annotated[
    str, typer.Option("--device", rich_help_panel=_MODEL, help="auto, cpu, cuda, cuda:1, ...")
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        rich_help_panel=_MODEL,
        help="Use the tokenizer's chat template; by default, if it has one.",
    ),
]
SkipLayers = Annotated[
    str,
    typer.Option(
        "--skip-layers", rich_help_panel=_MODEL, metavar="N,N,...", help="Layers that stay dense, from 0."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", rich_help_panel=_MODEL, help="Run Python code of the model.")
]

Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=be_verbose, help="Also say what is decided, and show tracebacks."
    ),
]

MethodName = Annotated[
    str,
    typer.Option(
        "--method", "-m", rich_help_panel=_METHOD, help="{methods}; `regrow methods` explains them."
    ),
]
# Text, so that the decimal is the one the user wrote.
Sparsity = Annotated[
    str | None,
    typer.Option(
        "--sparsity",
        "-s",
        rich_help_panel=_METHOD,
        help="Share of what the method prunes (FFN neurons, inputs, weights) that it drops, in [0, 1).",
    ),
]
InitSteps = Annotated[
    int | None,
    typer.Option("--init-steps", rich_help_panel=_METHOD, help="Dense decode steps before pruning begins."),
]
ExploreSteps = Annotated[
    int | None,
    typer.Option("--explore-steps", rich_help_panel=_METHOD, help="Dense steps at the end of a period."),
]
Period = Annotated[
    int | None,
    typer.Option(
        "--period", rich_help_panel=_METHOD, help="Decode steps from one choice of neurons to the next."
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option("--aggregate", rich_help_panel=_METHOD, help="Over the samples of a batch: {aggregates}."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", rich_help_panel=_METHOD, help="Over the phases of a sample: {memories}."),
]
Decay = Annotated[
    float | None,
    typer.Option("--decay", rich_help_panel=_METHOD, help="Weight of the past with --memory ema."),
]
ForgetFinished = Annotated[
    bool | None,
    typer.Option(
        "--forget-finished/--keep-finished",
        rich_help_panel=_METHOD,
        help="Whether samples that have ended stop to count.",
    ),
]

Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-P",
        metavar="NAME=VALUE",
        rich_help_panel=_METHOD,
        help="Any parameter of the method; may be repeated. `regrow methods` lists them.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="What `regrow calibrate` made for this model and method.",
    ),
]

Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="JSON on stdout and nothing else.")
]


# The parameters of methods that have an option of their own; any other is a --param.
_PARAMETERS: dict[str, Any] = {
    "sparsity": Sparsity,
    "init_steps": InitSteps,
    "explore_steps": ExploreSteps,
    "period": Period,
    "aggregate": Aggregate,
    "memory": Memory,
    "decay": Decay,
    "forget_finished": ForgetFinished,
}


def with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with the option --verbose, which acts before the command runs."""

    @wraps(command)
    def run(*, verbose: bool, **given: Any) -> None:  # noqa: ARG001 (the option's callback has used it)
        command(**given)

    # Commands import Method for type checkers alone.
    hints = get_type_hints(command, localns={"Method": object}, include_extras=True)
    given = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
    ]
    _sign(run, [*given, _option("verbose", Verbose, False)])
    return run


def with_method(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every option of a method, `--method` to `--param`, in the place of its parameter
    `pruning: Method`."""

    @wraps(command)
    def run(method: str, param: list[str] | None, **given: Any) -> None:
        own = {name: given.pop(name) for name in _PARAMETERS}
        command(pruning=chosen(method, param, **own), **given)

    # Commands import Method for type checkers alone.
    hints = get_type_hints(command, localns={"Method": object}, include_extras=True)
    options = [
        _option("method", MethodName, "bap"),
        *(_option(name, annotation, None) for name, annotation in _PARAMETERS.items()),
        _option("param", Params, None),
    ]
    spread = [
        option
        for name, given in inspect.signature(command).parameters.items()
        for option in (options if name == "pruning" else [given.replace(annotation=hints[name])])
    ]
    _sign(run, spread)
    return run


def _sign(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Gives the command a signature, from which typer reads its options."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def chosen(name: str, params: Sequence[str] | None = None, **options: Any) -> Method:
    """The method with those parameters that were given, by their own options or as NAME=VALUE. Raises UsageError for what it does not
    know."""
    from regrow.method.presets import make, parameters

    given = {option: value for option, value in options.items() if value is not None}
    known = parameters(name)
    for param in params or ():
        key, equals, value = param.partition("=")
        if not equals:
            raise UsageError(f"--param takes NAME=VALUE, such as sparsity=0.5, not {param!r}")
        if key in given:
            raise UsageError(f"{key} is given twice; leave out one")
        given[key] = _value(key, value, known.get(key))
    return make(name, **given)


def _value(name: str, text: str, default: object) -> object:
    """The text as a value of the default's type; a sparsity stays text, so that the decimal is the one the
    user wrote."""
    try:
        match default:
            case bool():
                return {"true": True, "false": False}[text.lower()]
            case int():
                return int(text)
            case float() if name != "sparsity":
                return float(text)
    except (ValueError, KeyError):
        kind = (
            "true or false"
            if isinstance(default, bool)
            else "a whole number"
            if isinstance(default, int)
            else "a number"
        )
        raise UsageError(f"parameter {name} takes {kind}, not {text!r}") from None
    return text


def several(given: Sequence[str] | None) -> list[str]:
    """Returns the values of an option that may be repeated and may hold several values, as in 0.3,0.5."""
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def batch_size(text: str) -> int:
    """Returns the batch size. Raises UsageError if it is no positive whole number."""
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--batch-size takes whole numbers from 1 on, such as 1,4, not {text!r}")
    return int(text)


def calibration(path: Path | None) -> Calibration | None:
    """The calibration in the file. Raises UsageError or RegrowError."""
    if path is None:
        return None
    from regrow.calibration.calibration import Calibration

    return Calibration.load(path)


def layers(text: str) -> list[int]:
    """`0,1,5` as numbers. Raises UsageError for anything else."""
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise UsageError(f"--skip-layers takes layer numbers such as 0,1,5, not {text!r}") from None
