"""`regrow bench`: bytes and bounds first, then the clock."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import options
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import is_remote, quieten
from regrow.errors import UsageError
from regrow.whole_file import refuse_place, write_whole

if TYPE_CHECKING:
    from regrow.bench.bench_result import Reference, Result

_WHAT, _HOW, _OUTPUT = "What", "How", "Output"


def bench(
    model: options.ModelName = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", rich_help_panel=_WHAT, help="Random weights of this shape: {shapes}; may be repeated."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            rich_help_panel=_WHAT,
            help="May be repeated; by default dense, griffin, teal and bap.",
        ),
    ] = None,
    sparsity: Annotated[
        str, typer.Option("--sparsity", "-s", rich_help_panel=_WHAT, help="Of every method.")
    ] = "0.5",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, rich_help_panel=_WHAT, help="May be repeated; by default 1, 4, 8 and 16."),
    ] = None,
    prompt: Annotated[
        list[int] | None,
        typer.Option(
            "--prompt",
            min=1,
            rich_help_panel=_WHAT,
            help="Prompt tokens; may be repeated; by default 128, on a GPU also 4096 and 16384.",
        ),
    ] = None,
    new: Annotated[
        int | None, typer.Option("--new", min=3, rich_help_panel=_WHAT, help="New tokens; by default 128.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_HOW, help="Rounds of all contenders; by default 5.")
    ] = None,
    turnover: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_HOW,
            help="Share of neurons a refresh replaces; by default, with a shape, the bundled model's.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", rich_help_panel=_HOW, help="Small, in minutes: a look, no result.")
    ] = False,
    cpu: Annotated[
        bool, typer.Option("--cpu", rich_help_panel=_HOW, help="As --device cpu, with shapes that suit one.")
    ] = False,
    vllm: Annotated[
        Path | None,
        typer.Option(
            "--vllm",
            metavar="PYTHON",
            rich_help_panel=_HOW,
            help="Also time vLLM, with the Python of an environment that has it.",
        ),
    ] = None,
    vllm_eager: Annotated[
        bool, typer.Option("--vllm-eager", rich_help_panel=_HOW, help="vLLM without compiling the model.")
    ] = False,
    dtype: options.DTypeName = "bfloat16",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="FILE",
            rich_help_panel=_OUTPUT,
            help="An earlier --out, or `paper`: its ratios beside ours.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=_OUTPUT,
            help="Also write everything here, as JSON, after every batch size.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Time decoding: every method and transformers' own loop on the same prompts, as ratios to dense through Regrow's loop.

    Methods run as they do in the long run: those that begin with dense steps begin without them.
    """
    if model is not None and shape:
        raise UsageError("a model and --shape exclude each other; choose one")
    reference = _reference(compare)
    if out is not None:
        refuse_place(out)
    quieten(bars=is_remote(model) and sys.stderr.isatty())
    from regrow.bench.contenders import METHODS, ON_A_GPU, methods
    from regrow.bench.rounds import Setting
    from regrow.bench.run import BenchPlan, run
    from regrow.cli.bar import Bar
    from regrow.cli.bench_view import BenchTables, Silent
    from regrow.models import find_device

    where = find_device("cpu" if cpu else device)
    untimed = [name for name in method or METHODS if where.type == "cpu" and name in ON_A_GPU]
    if method and untimed:
        raise UsageError(
            f"method {untimed[0]!r} reads all weights on a CPU, so that its time would say nothing; leave it out"
        )
    if vllm_eager and vllm is None:
        raise UsageError(
            "--vllm-eager says how vLLM runs; also pass --vllm with the Python of an environment that has it"
        )
    if vllm is not None and where.type != "cpu":
        raise UsageError("--vllm times vLLM on a CPU; add --cpu")
    sizes = batch_size or ([1, 4] if quick else [1, 4, 8, 16])
    plan = BenchPlan(
        model,
        [] if model else shape or _usual(where.type, quick),
        methods([name for name in method or METHODS if name not in untimed], sparsity),
        [
            Setting(rows, tokens, new or (42 if quick else 128))
            for tokens in prompt or _prompts(where.type, quick)
            for rows in sizes
        ],
        repeats or (3 if quick else 5),
        sparsity,
        turnover,
        dtype,
        where,
        trust_remote_code,
        vllm,
        vllm_eager,
        untimed,
    )
    try:
        with Bar() as bar:
            run(plan, Silent(bar) if json else BenchTables(bar, reference), partial(_write, out))
    except KeyboardInterrupt:
        fail(
            "interrupted" + (f"; the batch sizes measured are kept in {out}" if out and out.exists() else ""),
            INTERRUPTED,
        )


def _write(out: Path | None, result: Result) -> None:
    """Raises RegrowError where the disk takes no more."""
    if out is not None:
        write_whole(out, (result.to_json() + "\n").encode())


def _reference(compare: str | None) -> Reference | None:
    """Raises UsageError or RegrowError for a file that is none."""
    if compare is None:
        return None
    from regrow.bench.bench_result import PAPER, Reference

    return PAPER if compare == "paper" else Reference.of(Path(compare))


def _prompts(device: str, quick: bool) -> list[int]:
    if quick:
        return [32]
    return [128, 4096, 16384] if device == "cuda" else [128]


def _usual(device: str, quick: bool) -> list[str]:
    shapes = ["qwen-7b", "llama-8b"] if device == "cuda" else ["qwen-0.5b", "qwen-1.5b"]
    return shapes[:1] if quick else shapes
