"""The options of a method, `--method` to `--param`, for the commands that run one.

An option that is None was not given, so the default of the method applies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regrow.cli.options import option, several, spread
from regrow.errors import UsageError

if TYPE_CHECKING:
    from regrow.method.base import Method

_METHOD = "Method"
_DEFAULT = "bap"

MethodNames = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME,...",
        rich_help_panel=_METHOD,
        help="Pruning methods: {methods}. `regrow methods` explains them. Default: bap.",
    ),
]
Sparsities = Annotated[
    list[str] | None,
    typer.Option(
        "--sparsity",
        "-s",
        metavar="SHARE,...",
        rich_help_panel=_METHOD,
        help="Shares of FFN neurons (or inputs, or weights) to leave out, in [0, 1). Default: {sparsity}.",
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
MethodOrDense = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="Pruning method: {methods}. `regrow methods` explains them. Default: bap, or dense with "
        "--lossless and no other option of a method.",
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


def with_method(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter `pruning: Method` by all options of methods, --method to --param.

    A command with a parameter `lossless` decodes the dense model if that is true and none of these options is
    given.
    """
    may_be_lossless = "lossless" in inspect.signature(command).parameters
    name = option("method", *((MethodOrDense, None) if may_be_lossless else (MethodName, _DEFAULT)))

    @wraps(command)
    def run(method: str | None, param: list[str] | None, **given: Any) -> None:
        own = {name: given.pop(name) for name in _PARAMETERS}
        if method is None:
            asked = param or any(value is not None for value in own.values())
            method = "dense" if given["lossless"] and not asked else _DEFAULT
        command(pruning=chosen(method, param, **own), **given)

    spread(command, run, "pruning", _options(name, _PARAMETERS))
    return run


def with_methods(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter `prunings: list[Method]` by all options of methods.

    --method and --sparsity take several values.
    """

    @wraps(command)
    def run(method: list[str] | None, param: list[str] | None, **given: Any) -> None:
        own = {name: given.pop(name) for name in _PARAMETERS}
        command(prunings=several_chosen(several(method) or [_DEFAULT], param, own), **given)

    parameters = _PARAMETERS | {"sparsity": Sparsities}
    spread(command, run, "prunings", _options(option("method", MethodNames, None), parameters))
    return run


def _options(method: inspect.Parameter, parameters: Mapping[str, Any]) -> list[inspect.Parameter]:
    return [
        method,
        *(option(name, annotation, None) for name, annotation in parameters.items()),
        option("param", Params, None),
    ]


def several_chosen(
    names: Sequence[str], params: Sequence[str] | None, options: Mapping[str, Any]
) -> list[Method]:
    """Returns each method at each sparsity, or once if it has none. Of several, each takes what it knows.

    Raises UsageError as `chosen` does, and for an option that none of the methods knows.
    """
    from regrow.method.presets import parameters

    given = {name: value for name, value in options.items() if value is not None}
    sparsities = several(given.pop("sparsity", None))
    names = list(dict.fromkeys(names))
    known = {name: parameters(name) for name in names}
    prunings: list[Method] = []
    for name in names:
        strangers = {key for key in given if len(names) > 1 and key not in known[name]}
        if unknown := [key for key in strangers if not any(key in of for of in known.values())]:
            raise UsageError(f"none of the methods {', '.join(names)} has a parameter {unknown[0]}")
        own = {key: value for key, value in given.items() if key not in strangers}
        shares: list[str | None] = [*sparsities] if sparsities and "sparsity" in known[name] else [None]
        prunings += (chosen(name, params, sparsity=share, **own) for share in shares)
    return list(dict.fromkeys(prunings))


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
