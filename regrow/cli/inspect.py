"""`regrow inspect`: pictures of one batch, from which to choose the settings of a method."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from regrow.cli import decode_options, method_options, options
from regrow.cli.bar import Bar
from regrow.cli.load_model import load
from regrow.cli.output import line
from regrow.cli.prompts import read
from regrow.cli.sampling import sampling
from regrow.errors import UsageError
from regrow.whole_file import refuse_place, write_whole

if TYPE_CHECKING:
    from regrow.analysis.inspection import Inspection
    from regrow.cli.decode_prompts import Decoding
    from regrow.method.base import Method

_OUTPUT = "Output"
NUMBERS = "inspect.json"


@method_options.with_method
def inspect(
    *,
    model: options.ModelName = None,
    prompt: decode_options.PromptTexts = None,
    prompts: decode_options.PromptsFile = None,
    prompt_field: decode_options.PromptField = None,
    prompts_format: decode_options.PromptsFormat = "auto",
    max_new_tokens: decode_options.MaxNewTokens = None,
    temperature: decode_options.Temperature = None,
    top_p: decode_options.TopP = None,
    seed: decode_options.Seed = None,
    pruning: Method,
    calibration: options.CalibrationFile = None,
    dtype: options.DTypeName = "auto",
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            metavar="N,N,...",
            rich_help_panel=_OUTPUT,
            help="Layers whose activations are drawn, counted from 0, such as 0,5. Default: the first, the "
            "middle and the last. The numbers and the other pictures cover all layers.",
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", rich_help_panel=_OUTPUT, help="Directory for the pictures."
        ),
    ],
    json: options.Json = False,
) -> None:
    """Draw what a method keeps while it answers one batch of prompts, to choose its settings by.

    All prompts are one batch. The directory gets the activations of a few layers (activations-layer-N.png),
    what successive masks share (refreshes.svg), what the samples share (samples.svg), the activation energy
    that the masks keep (energy.svg), and the numbers (inspect.json). The method must keep its mask from step
    to step, as bap and griffin do.

    Example: regrow inspect --prompt "rev abc" --prompt "par 0110" --init-steps 8 --out pictures
    """
    how, skipped = sampling(temperature, top_p, seed), options.layers(skip_layers)
    drawn = options.layers(layer, "--layer")
    texts = read(prompt or [], prompts, prompt_field, prompts_format)
    tensors = options.calibration(calibration)
    refuse_place(out / NUMBERS)
    if (out / NUMBERS).exists():
        raise UsageError(f"{out} already holds an inspection; choose another --out, or delete it")
    from regrow.evaluation.inspection.masks import refuse

    refuse(pruning)
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, weights=weights)
    from regrow.cli.decode_prompts import Decoding
    from regrow.cli.generate_plan import GeneratePlan

    decoding = Decoding(
        loaded, texts, GeneratePlan(pruning, tensors, len(texts), max_new_tokens, chat, skipped, how)
    )
    found = _inspect(decoding, drawn)
    values = {"type": "inspection", **decoding.about(), **found.to_dict()}
    files = _write(out, found, values)
    if json:
        typer.echo(line(values))
        return
    from regrow.cli.inspect_view import show

    show(Console(highlight=False), decoding.about(), found, out, files)


def _inspect(decoding: Decoding, drawn: list[int]) -> Inspection:
    """Decodes the batch and reads its activations, with a bar for each of the two."""
    from regrow.evaluation.inspection import run

    plan, batch = decoding.plan, decoding.batches[0]
    with Bar() as bar:
        bar.begin("decoding", batch.new)

        def read_so_far(done: int, total: int) -> None:
            if done == 1:
                bar.begin("reading activations", total)
            bar.show(done, f"{done} of {total} samples")

        return run.inspect(
            decoding.loaded.model,
            batch.ids,
            batch.mask,
            plan.method,
            lambda: decoding.decode(batch, lambda now: bar.show(now.step, f"{now.step} tokens")),
            new_tokens=batch.new,
            layers=drawn,
            skip_layers=list(plan.skip_layers),
            calibration=plan.calibration,
            progress=read_so_far,
        )


def _write(out: Path, found: Inspection, values: dict[str, object]) -> list[str]:
    """Writes the pictures, and the numbers last. Returns the names of the files."""
    from regrow.analysis.inspection_plots import pictures

    content = dict(pictures(found))
    content[NUMBERS] = json_format.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
    for name, data in content.items():
        write_whole(out / name, data)
    return list(content)
