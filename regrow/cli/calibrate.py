"""`regrow calibrate`: computes from a text what a method needs before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import method_options, options
from regrow.cli.bar import Bar
from regrow.cli.load_model import load
from regrow.cli.output import line
from regrow.errors import UsageError
from regrow.whole_file import refuse_place

if TYPE_CHECKING:
    from regrow.calibration.calibration import Calibration

_TEXT, _OUTPUT = "Text", "Output"


def calibrate(
    method: method_options.MethodName,
    model: options.ModelName = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            rich_help_panel=_TEXT,
            help='Calibration text: plain text, or JSON lines with a "text" field (.jsonl). '
            "Default: C4, downloaded; for the bundled model generated exercises.",
        ),
    ] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_TEXT,
            help="Sequences to cut the text into. Default: 10 for thresholds, 128 for pruned weights.",
        ),
    ] = None,
    length: Annotated[
        int,
        typer.Option(
            min=2,
            rich_help_panel=_TEXT,
            help="Tokens per sequence; reduced to the model's context if that is shorter.",
        ),
    ] = 2048,
    sparsity: method_options.Sparsity = None,
    param: method_options.Params = None,
    dtype: options.DTypeName = "auto",
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            rich_help_panel=_OUTPUT,
            help="Write the calibration here, to be passed to other commands with --calibration FILE.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=_OUTPUT,
            help="Write a model directory with the pruned weights, which any software can load "
            "(for methods that change weights).",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make the calibration that some methods need, from a text: thresholds or pruned weights.

    teal, wina and cats need thresholds. wanda and sparsegpt need pruned weights. A calibration fits only the
    model, the method and the sparsity that it was made for.

    Example: regrow calibrate org/model --method teal --text corpus.jsonl --out teal.safetensors
    """
    pruning = method_options.chosen(method, param, sparsity=sparsity)
    if pruning.needs is None:
        raise UsageError(f"method {method!r} with these parameters needs no calibration; use it without one")
    if out is None and checkpoint is None:
        raise UsageError(
            "there is nowhere to write to: give --out FILE, or --checkpoint DIR for a method that changes "
            "weights"
        )
    if out is not None:
        refuse_place(out)
    from regrow.calibration import pruned_checkpoint as files

    if checkpoint is not None:
        files.refuse(pruning, checkpoint)
    count = sequences or pruning.needs.value[0]
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, weights=weights)
    from regrow.calibration import make_calibration
    from regrow.calibration.text import sequences as read

    calibration_text = read(loaded, text, count, length)
    with Bar() as bar:
        bar.begin(f"calibrating {method}", 1)
        made = make_calibration.calibrate(
            loaded,
            pruning,
            calibration_text,
            lambda done, total: bar.show(done / total, f"{done} of {total}"),
        )
    if out is not None:
        made.save(out)
    if checkpoint is not None:
        files.write(loaded, made, checkpoint)
    _print_summary(made, length, [path for path in (out, checkpoint) if path is not None], json)


def _print_summary(made: Calibration, length: int, paths: Sequence[Path], json: bool) -> None:
    origin = made.origin
    shorter = (
        f" instead of {length}, as the text or the context is shorter" if origin.longest < length else ""
    )
    if json:
        typer.echo(line({**asdict(origin), "digest": made.digest, "files": [str(path) for path in paths]}))
        return
    typer.echo(
        f"{origin.method}: {len(made.tensors)} tensors from {origin.sequences} sequences, "
        f"{origin.tokens} tokens of {origin.text} (at most {origin.longest} per sequence{shorter}), "
        f"written to {', '.join(map(str, paths))}"
    )
