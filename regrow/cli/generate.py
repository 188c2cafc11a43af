"""`regrow generate`: answers prompts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import options
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.loading import load
from regrow.cli.output import SampleFile
from regrow.cli.prompts import read
from regrow.cli.sampling import sampling
from regrow.cli.views import JsonLines, Screen, View

if TYPE_CHECKING:
    from regrow.cli.decode import Decoding, Sample

_PROMPTS, _DECODING, _OUTPUT = "Prompts", "Decoding", "Output"


def generate(
    model: options.ModelName = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", rich_help_panel=_PROMPTS, help="A prompt; may be repeated.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            rich_help_panel=_PROMPTS,
            help='JSON lines with a "prompt" field (.jsonl, or text that begins with "{"), else a prompt a line; - is standard input.',
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_DECODING, help="Prompts decoded together; they share one choice of neurons. By default all, up to 16."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_DECODING, help="Limit of an answer; by default what the context leaves, up to 1024."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(rich_help_panel=_DECODING, help="Sample; without it, or at 0, decoding is greedy.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(rich_help_panel=_DECODING, help="Sample from the likeliest tokens of this total probability.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(rich_help_panel=_DECODING, help="Makes sampling repeatable; drawn and reported if not given.")
    ] = None,
    method: options.MethodName = "bap",
    sparsity: options.Sparsity = None,
    init_steps: options.InitSteps = None,
    explore_steps: options.ExploreSteps = None,
    period: options.Period = None,
    aggregate: options.Aggregate = None,
    memory: options.Memory = None,
    decay: options.Decay = None,
    forget_finished: options.ForgetFinished = None,
    param: options.Params = None,
    calibration: options.CalibrationFile = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", rich_help_panel=_OUTPUT, help="Also write each finished sample here, a JSON line each.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Answer prompts, in batches, with a pruned or a dense model.

    Samples are shown as they finish; then a summary with actual sparsity and speed.
    """
    how = sampling(temperature, top_p, seed)
    texts, dense_layers = read(prompt or [], prompts), options.layers(skip_layers)
    pruning = options.chosen(
        method,
        param,
        sparsity=sparsity,
        init_steps=init_steps,
        explore_steps=explore_steps,
        period=period,
        aggregate=aggregate,
        memory=memory,
        decay=decay,
        forget_finished=forget_finished,
    )
    tensors = options.calibration(calibration)
    with SampleFile(output) if output else nullcontext() as file:
        loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        from regrow.cli.decode import Decoding, Plan

        plan = Plan(pruning, tensors, batch_size, max_new_tokens, chat, dense_layers, how)
        _run(Decoding(loaded, texts, plan), len(texts), JsonLines() if json else Screen(), file)


def _run(decoding: Decoding, prompts: int, view: View, file: SampleFile | None) -> None:
    finished = 0

    def tell(sample: Sample) -> None:
        nonlocal finished
        if file is not None:
            file.write(sample.to_dict())
        finished += 1
        view.sample(sample)

    if file is not None:
        file.begin()
    try:
        totals = decoding.run(tell)
    except KeyboardInterrupt:
        kept = f", and are kept in {file.path}" if file is not None and finished else ""
        fail(f"interrupted: {finished} of {prompts} samples had finished{kept}", INTERRUPTED)
    view.end(decoding, totals)
