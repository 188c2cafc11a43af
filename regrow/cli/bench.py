"""`regrow bench`: bytes and bounds first, then the clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import options
from regrow.cli.bar import Bar
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.loading import load, quieten
from regrow.errors import RegrowError, UsageError

if TYPE_CHECKING:
    from regrow.bench.result import Reference

_WHAT, _HOW, _OUTPUT = "What", "How", "Output"


def bench(
    model: options.ModelName = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", rich_help_panel=_WHAT, help="Random weights of this shape: {shapes}; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", rich_help_panel=_WHAT, help="May be repeated; by default dense, griffin, teal and bap."),
    ] = None,
    sparsity: Annotated[str, typer.Option("--sparsity", "-s", rich_help_panel=_WHAT, help="Of every method.")] = "0.5",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, rich_help_panel=_WHAT, help="May be repeated; by default 1, 4, 8 and 16.")
    ] = None,
    prompt: Annotated[
        list[int] | None, typer.Option("--prompt", min=1, rich_help_panel=_WHAT, help="Prompt tokens; may be repeated; by default 128.")
    ] = None,
    new: Annotated[int | None, typer.Option("--new", min=3, rich_help_panel=_WHAT, help="New tokens; by default 128.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, rich_help_panel=_HOW, help="Rounds of all contenders; by default 5.")] = None,
    turnover: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, rich_help_panel=_HOW, help="Share of neurons a refresh replaces; by default, with a shape, the bundled model's."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", rich_help_panel=_HOW, help="Small, in minutes: a look, no result.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", rich_help_panel=_HOW, help="As --device cpu, with shapes that suit one.")] = False,
    dtype: options.DTypeName = "bfloat16",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="FILE", rich_help_panel=_OUTPUT, help="An earlier --out, or `paper`: its ratios beside ours."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", rich_help_panel=_OUTPUT, help="Also write everything here, as JSON.")] = None,
    json: options.Json = False,
) -> None:
    """Time decoding: every method and transformers' own loop on the same prompts, as ratios to dense through Regrow's loop.

    Methods run as they do in the long run: those that begin with dense steps begin without them.
    """
    if model is not None and shape:
        raise UsageError("a model and --shape exclude each other; choose one")
    reference = _reference(compare)
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"{out.parent} is no directory; choose another --out")
    quieten(bars=model is not None)
    import torch

    from regrow.bench import contenders
    from regrow.bench.bandwidth import bandwidth
    from regrow.bench.decode import Setting
    from regrow.bench.result import Result
    from regrow.bench.run import Benchmark, device_name
    from regrow.bench.shapes import shape as known
    from regrow.bench.turnover import bundled_turnover
    from regrow.cli import bench_view
    from regrow.models import find_device
    from regrow.versions import versions

    where = find_device("cpu" if cpu else device)
    sizes = tuple(batch_size or ((1, 4) if quick else (1, 4, 8, 16)))
    settings = [Setting(rows, tokens, new or (42 if quick else 128)) for tokens in prompt or [32 if quick else 128] for rows in sizes]
    methods = contenders.methods(method or contenders.METHODS, sparsity)
    names = [known(name).name for name in shape or _usual(where, quick)] if model is None else [model]
    view = bench_view.Silent() if json else bench_view.Screen(reference)
    kind = getattr(torch, dtype if dtype != "auto" else "bfloat16")
    memory = bandwidth(where)
    result = Result(
        {**versions(), "device": device_name(where)},
        memory,
        {"sparsity": float(sparsity), "dtype": dtype, "repeats": repeats or (3 if quick else 5), "methods": list(methods)},
        [],
    )

    def build(name: str) -> Benchmark:
        if model is None:
            network = known(name).build(kind, where)
        else:
            network = load(model, dtype=dtype, device=str(where), trust_remote_code=trust_remote_code).model
        return Benchmark(name, network, contenders.contenders(network, methods), memory["read"], turnover)

    view.begin(result)
    with Bar() as bar:
        try:
            if turnover is None and model is None and "bap" in methods:
                bar.begin("how much the bundled model's masks change", 1)
                turnover = bundled_turnover(sparsity)
            result.settings["turnover"] = turnover
            for name in names:
                benchmark = build(name)
                view.bounds(name, [bound for setting in settings for bound in benchmark.bounds(setting)])
                for setting in settings:
                    bar.begin(name, 1)
                    rows = benchmark.measure(setting, result.settings["repeats"], lambda what: bar.show(0, what))
                    result.rows.extend(rows)
                    with bar.aside():
                        view.rows(rows)
        except KeyboardInterrupt:
            fail("interrupted: nothing is written", INTERRUPTED)
    view.end(result)
    if out is not None:
        try:
            out.write_text(result.to_json() + "\n")
        except OSError as error:
            raise RegrowError(f"{out} cannot be written: {error.strerror}; make room or choose another --out") from error


def _reference(compare: str | None) -> Reference | None:
    """Raises UsageError or RegrowError for a file that is none."""
    if compare is None:
        return None
    from regrow.bench.result import PAPER, Reference

    return PAPER if compare == "paper" else Reference.of(Path(compare))


def _usual(device: object, quick: bool) -> tuple[str, ...]:
    if getattr(device, "type", None) == "cuda":
        return ("qwen-7b",) if quick else ("qwen-7b", "llama-8b")
    return ("qwen-0.5b",) if quick else ("qwen-0.5b", "qwen-1.5b")
