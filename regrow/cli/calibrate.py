"""`regrow calibrate`: what a method takes from a text before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import options
from regrow.cli.bar import Bar
from regrow.cli.load_model import load
from regrow.cli.output import line
from regrow.errors import UsageError
from regrow.whole_file import refuse_place

if TYPE_CHECKING:
    from regrow.calibration.calibration import Calibration

_TEXT, _OUTPUT = "Text", "Output"


def calibrate(
    method: options.MethodName,
    model: options.ModelName = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            rich_help_panel=_TEXT,
            help='Text, or JSON lines with a "text" field (.jsonl). Default: for the bundled model exercises, else C4 from the hub.',
        ),
    ] = None,
    sequences: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_TEXT, help="By default 10 for thresholds, 128 for weights."),
    ] = None,
    length: Annotated[
        int,
        typer.Option(min=2, rich_help_panel=_TEXT, help="Tokens of a sequence; cut to the model's context."),
    ] = 2048,
    sparsity: options.Sparsity = None,
    param: options.Params = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", rich_help_panel=_OUTPUT, help="The calibration."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=_OUTPUT,
            help="Of a method that changes weights: a model directory with the new ones, for any software.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure on a text what a method needs to know of a model: thresholds, or the weights that stay."""
    pruning = options.chosen(method, param, sparsity=sparsity)
    if pruning.needs is None:
        raise UsageError(f"method {method!r} with these parameters needs no calibration; use it as it is")
    if out is None and checkpoint is None:
        raise UsageError(
            "there is nowhere to write to: give --out FILE, or --checkpoint DIR for a method that changes weights"
        )
    if out is not None:
        refuse_place(out)
    from regrow.calibration import pruned_checkpoint as files

    if checkpoint is not None:
        files.refuse(pruning, checkpoint)
    count = sequences or pruning.needs.value[0]
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    from regrow.calibration import make_calibration
    from regrow.calibration.text import sequences as read

    given = read(loaded, text, count, length)
    with Bar() as bar:
        bar.begin(f"calibrating {method}", 1)
        made = make_calibration.calibrate(
            loaded, pruning, given, lambda done, of: bar.show(done / of, f"{done} of {of}")
        )
    if out is not None:
        made.save(out)
    if checkpoint is not None:
        files.write(loaded, made, checkpoint)
    _tell(made, length, [path for path in (out, checkpoint) if path is not None], json)


def _tell(made: Calibration, length: int, paths: Sequence[Path], json: bool) -> None:
    origin = made.origin
    cut = f", not {length}: the text or the model's context has no more" if origin.longest < length else ""
    if json:
        typer.echo(line({**asdict(origin), "digest": made.digest, "files": [str(path) for path in paths]}))
        return
    typer.echo(
        f"{origin.method}: {len(made.tensors)} tensors from {origin.sequences} sequences, {origin.tokens} tokens of {origin.text} "
        f"(at most {origin.longest} a sequence{cut}): {', '.join(map(str, paths))}"
    )
