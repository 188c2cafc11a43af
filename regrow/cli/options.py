"""Options that several commands share.

An option that is None was not given, so the default of the method or the model applies.
"""

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
    typer.Argument(
        metavar="MODEL",
        help="Model directory or Hugging Face id, such as org/name. Default: the small bundled model.",
    ),
]
DTypeName = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="Number format of the model: {dtypes}. auto keeps that of its files.",
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="Device: cpu, cuda, cuda:1, ... auto is a GPU if there is one.",
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        rich_help_panel=_MODEL,
        help="Send each prompt as a user message in the chat template. Default: if the model has one.",
    ),
]
SkipLayers = Annotated[
    str,
    typer.Option(
        "--skip-layers",
        rich_help_panel=_MODEL,
        metavar="N,N,...",
        help="Layers that are not pruned, counted from 0, such as 0,1. Default: none.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        rich_help_panel=_MODEL,
        help="Allow Python code from the model's repository to run.",
    ),
]

Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=be_verbose,
        help="Explain decisions on standard error, and show tracebacks of errors.",
    ),
]

MethodName = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="Pruning method: {methods}. `regrow methods` explains them.",
    ),
]
# A string, because a float would change the decimal number that the user wrote.
Sparsity = Annotated[
    str | None,
    typer.Option(
        "--sparsity",
        "-s",
        metavar="SHARE",
        rich_help_panel=_METHOD,
        help="Share of the FFN neurons (or inputs, or weights) to leave out, in [0, 1). Default: {sparsity}.",
    ),
]
InitSteps = Annotated[
    int | None,
    typer.Option(
        "--init-steps",
        rich_help_panel=_METHOD,
        help="bap: dense decode steps before pruning begins. Default: {init_steps}.",
    ),
]
ExploreSteps = Annotated[
    int | None,
    typer.Option(
        "--explore-steps",
        rich_help_panel=_METHOD,
        help="bap: dense decode steps at the end of each period. Default: {explore_steps}.",
    ),
]
Period = Annotated[
    int | None,
    typer.Option(
        "--period",
        rich_help_panel=_METHOD,
        help="bap: decode steps from one mask to the next, dense ones included. Default: {period}.",
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        "--aggregate",
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="How the scores of the samples of a batch are combined: {aggregates}. Default: {aggregate}.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="bap: how a sample's new scores are combined with earlier ones: {memories}. Default: {memory}.",
    ),
]
Decay = Annotated[
    float | None,
    typer.Option(
        "--decay",
        rich_help_panel=_METHOD,
        help="bap: weight of the earlier scores with --memory ema, in [0, 1]. Default: {decay}.",
    ),
]
ForgetFinished = Annotated[
    bool | None,
    typer.Option(
        "--forget-finished/--keep-finished",
        rich_help_panel=_METHOD,
        help="bap: whether finished samples are left out when neurons are chosen. Default: they are kept.",
    ),
]

Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-P",
        metavar="NAME=VALUE",
        rich_help_panel=_METHOD,
        help="Any parameter of the method, such as period=20; may be repeated. See `regrow methods`.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="File that `regrow calibrate` made for this model and method, if the method needs one.",
    ),
]

Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print only JSON to standard output.")
]


# Method parameters with an option of their own. All others are given with --param.
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
    """Returns the command with the option --verbose, which takes effect before the command runs."""

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
    run.__doc__ = _one_line_per_paragraph(command.__doc__ or "")
    return run


def with_method(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter `pruning: Method` by all options of methods, --method to --param."""

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


def _one_line_per_paragraph(text: str) -> str:
    """Removes single line breaks, so that the help is wrapped at the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _sign(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Gives the command a signature, from which typer reads its options."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def chosen(name: str, params: Sequence[str] | None = None, **options: Any) -> Method:
    """Returns the method with the given parameters, from their own options and from NAME=VALUE texts.

    Raises UsageError for an unknown method, parameter or value, and for a parameter that is given twice.
    """
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
    """Converts the text to the type of the default. A sparsity stays text, see `Sparsity`.

    Raises UsageError if the text is not of that type.
    """
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
    """Returns all values of an option that may be repeated, each time with several values as in 0.3,0.5."""
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def batch_size(text: str) -> int:
    """Returns the text as a batch size. Raises UsageError if it is not a positive whole number."""
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--batch-size takes whole numbers from 1 on, such as 1,4, not {text!r}")
    return int(text)


def calibration(path: Path | None) -> Calibration | None:
    """Loads a calibration; None stays None.

    Raises UsageError if the file cannot be read, RegrowError if it is damaged.
    """
    if path is None:
        return None
    from regrow.calibration.calibration import Calibration

    return Calibration.load(path)


def layers(text: str) -> list[int]:
    """Returns the numbers in a text such as `0,1,5`. Raises UsageError if the text is anything else."""
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise UsageError(f"--skip-layers takes layer numbers such as 0,1,5, not {text!r}") from None
