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
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="Weights of the model: {weights}. int4 rounds those of the decoder blocks to 4 bits, so answers "
        "differ.",
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

CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="File that `regrow calibrate` made for this model and method, if the method needs one.",
    ),
]

CalibrationFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="File that `regrow calibrate` made for this model and a method that needs one; may be repeated.",
    ),
]

Shard = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        rich_help_panel="Run",
        help="Run part I of N, such as 1/4, to share the work between N processes or machines.",
    ),
]

RecordFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|DIR...",
        help="Record files that `regrow evaluate --out` wrote, or directories with such files, also in "
        "subdirectories.",
        show_default=False,
    ),
]

Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print only JSON to standard output.")
]


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
    sign(run, [*given, option("verbose", Verbose, False)])
    run.__doc__ = _one_line_per_paragraph(command.__doc__ or "")
    return run


def _one_line_per_paragraph(text: str) -> str:
    """Removes single line breaks, so that the help is wrapped at the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def sign(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Gives the command a signature, from which typer reads its options."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def spread(
    command: Callable[..., None], run: Callable[..., None], place: str, options: Sequence[inspect.Parameter]
) -> None:
    """Signs `run` as the command, with these options in the place of its parameter `place`."""
    # Commands import Method for type checkers alone.
    hints = get_type_hints(command, localns={"Method": object}, include_extras=True)
    given = inspect.signature(command).parameters.items()
    sign(
        run,
        [
            each
            for name, parameter in given
            for each in (options if name == place else [parameter.replace(annotation=hints[name])])
        ],
    )


def option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


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


def calibrations(paths: Sequence[Path] | None, methods: Sequence[Method]) -> dict[Method, Calibration]:
    """Loads calibrations, and returns the one of each method that has one.

    A single one goes to a single method, whose own check says what does not fit. Raises UsageError if a
    calibration was made for none of the methods, or if its file cannot be read; RegrowError if it is damaged.
    """
    if not paths:
        return {}
    from regrow.calibration.calibration import Calibration, calibrated

    found = {path: Calibration.load(path) for path in paths}
    if len(methods) == len(found) == 1:
        return {methods[0]: next(iter(found.values()))}
    fitting: dict[Method, Calibration] = {}
    for path, calibration in found.items():
        made_for = calibration.origin.method, dict(calibration.origin.params)
        fitted = [method for method in methods if (method.name, calibrated(method)) == made_for]
        if not fitted:
            raise UsageError(
                f"{path} was made for {made_for[0]}, with which no method here agrees; leave it out"
            )
        fitting |= dict.fromkeys(fitted, calibration)
    return fitting


def shard(text: str) -> tuple[int, int]:
    """Returns I and N of the text `I/N`. Raises UsageError if it is anything else."""
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise UsageError(f"--shard takes I/N with I from 1 to N, such as 1/2, not {text!r}")
    return int(part), int(count)


def layers(text: str, name: str = "--skip-layers") -> list[int]:
    """Returns the numbers in a text such as `0,1,5`, the value of the option `name`.

    Raises UsageError if the text is anything else.
    """
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise UsageError(f"{name} takes layer numbers such as 0,1,5, not {text!r}") from None
