"""`regrow bench`: prints the bytes that each method reads, then measures speed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regrow.cli import options
from regrow.cli.bench_file import kept
from regrow.cli.load_model import is_remote, quieten
from regrow.errors import UsageError
from regrow.whole_file import refuse_place

if TYPE_CHECKING:
    from regrow.bench.bench_result import Reference

_WORKLOAD, _MEASUREMENT, _OUTPUT = "Workload", "Measurement", "Output"


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model directory or Hugging Face id, such as org/name. Default: random weights (--shape).",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME",
            rich_help_panel=_WORKLOAD,
            help="Sizes of a model with random weights; may be repeated: {shapes}. "
            "Default: the first two on a CPU, the last two on a GPU.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            rich_help_panel=_WORKLOAD,
            help="Method to time beside dense; may be repeated. Default: griffin, bap, and on a GPU teal.",
        ),
    ] = None,
    sparsity: Annotated[
        str,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="SHARE",
            rich_help_panel=_WORKLOAD,
            help="Target sparsity of every method, in [0, 1).",
        ),
    ] = "0.5",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            rich_help_panel=_WORKLOAD,
            help="Prompts decoded together; may be repeated. Default: 1, 4, 8 and 16 (with --quick 1 and 4).",
        ),
    ] = None,
    prompt: Annotated[
        list[int] | None,
        typer.Option(
            "--prompt",
            min=1,
            rich_help_panel=_WORKLOAD,
            help="Length of the prompts in tokens; may be repeated. "
            "Default: 128, on a GPU also 4096 and 16384 (with --quick 32, with --quick --lossless 8).",
        ),
    ] = None,
    new: Annotated[
        int | None,
        typer.Option(
            "--new",
            min=3,
            rich_help_panel=_WORKLOAD,
            help="New tokens per prompt. Default: 128 (with --quick 42, with --quick --lossless 32).",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_MEASUREMENT,
            help="Rounds, each of which times every method once. "
            "Default: 5 (with --quick 3, with --quick --lossless 2).",
        ),
    ] = None,
    turnover: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_MEASUREMENT,
            help="Share of the kept neurons that each new mask replaces. "
            "Default: the model's own; with --shape, that of the bundled model.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            rich_help_panel=_MEASUREMENT,
            help="A first look in minutes: one shape, two batch sizes, short prompts. Not a reliable result.",
        ),
    ] = False,
    cpu: Annotated[
        bool, typer.Option("--cpu", rich_help_panel=_MEASUREMENT, help="The same as --device cpu.")
    ] = False,
    vllm: Annotated[
        Path | None,
        typer.Option(
            "--vllm",
            metavar="PYTHON",
            rich_help_panel=_MEASUREMENT,
            help="Also time vLLM on the CPU. PYTHON is the interpreter of an environment that has vLLM.",
        ),
    ] = None,
    vllm_eager: Annotated[
        bool,
        typer.Option(
            "--vllm-eager", rich_help_panel=_MEASUREMENT, help="Run vLLM without compiling the model."
        ),
    ] = False,
    lossless: Annotated[
        bool,
        typer.Option(
            "--lossless",
            rich_help_panel=_WORKLOAD,
            help="Time lossless decoding with several drafts instead of methods. Tokens of a draft are right "
            "as often as they were on real text.",
        ),
    ] = False,
    draft: Annotated[
        list[str] | None,
        typer.Option(
            "--draft",
            metavar="NAME[=SHARE]",
            rich_help_panel=_WORKLOAD,
            help="Draft of --lossless, four-bit, ngram, cascade or mask, and the share of its tokens that is "
            "right, such as four-bit=0.98; may be repeated. Default: four-bit, ngram and mask "
            "(with --quick four-bit and ngram).",
        ),
    ] = None,
    dtype: options.DTypeName = "bfloat16",
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="FILE",
            rich_help_panel=_OUTPUT,
            help="Also show the ratios of an earlier result (a file of --out), or with `paper` the paper's.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            rich_help_panel=_OUTPUT,
            help="Also write all results to this file as JSON, after each batch size.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Time decoding with several methods and with transformers, and compare the speeds with dense decoding.

    First it prints how many bytes a decode step reads and the speedup that these bytes allow. Then it
    measures. All contenders decode the same prompts, and ratios are relative to dense decoding in Regrow's
    loop. Methods are timed in their steady state, without the dense steps at the beginning.

    Examples: regrow bench --cpu --quick, and regrow bench --lossless --cpu --quick
    """
    if model is not None and shape:
        raise UsageError("a model and --shape exclude each other; choose one")
    if draft and not lossless:
        raise UsageError("--draft chooses the drafts of --lossless; add --lossless")
    other = (model is not None, method, compare, vllm, turnover is not None, weights != "stored")
    if lossless and any(other):
        raise UsageError(
            "--lossless times drafts on random weights; leave out MODEL, --method, --compare, --vllm, "
            "--turnover and --weights"
        )
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

    target = find_device("cpu" if cpu else device)
    sizes = batch_size or ([1, 4] if quick else [1, 4, 8, 16])
    if lossless:
        if prompt and len(prompt) > 1:
            raise UsageError("--lossless takes one --prompt")
        from regrow.cli.bench_lossless import FULL, QUICK, bench_lossless

        shapes = shape or _default_shapes(target.type, quick)
        usual = QUICK if quick else FULL
        chosen, length = draft or usual.drafts, (prompt or [usual.prompt])[0]
        tokens, rounds = new or usual.new, repeats or usual.repeats
        bench_lossless(shapes, chosen, sizes, length, tokens, rounds, dtype, target, out, json=json)
        return
    untimed = [name for name in method or METHODS if target.type == "cpu" and name in ON_A_GPU]
    if method and untimed:
        raise UsageError(
            f"method {untimed[0]!r} reads all weights on a CPU, so its time there means nothing; leave it out"
        )
    if vllm_eager and vllm is None:
        raise UsageError(
            "--vllm-eager needs vLLM; also pass --vllm with the Python of an environment that has it"
        )
    if vllm is not None and target.type != "cpu":
        raise UsageError("--vllm times vLLM on a CPU; add --cpu")
    plan = BenchPlan(
        model,
        [] if model else shape or _default_shapes(target.type, quick),
        methods([name for name in method or METHODS if name not in untimed], sparsity),
        [
            Setting(rows, length, new or (42 if quick else 128))
            for length in prompt or _default_prompts(target.type, quick)
            for rows in sizes
        ],
        repeats or (3 if quick else 5),
        sparsity,
        turnover,
        dtype,
        target,
        trust_remote_code,
        vllm,
        vllm_eager,
        untimed,
        weights,
    )
    with kept(out) as keep, Bar() as bar:
        run(plan, Silent(bar) if json else BenchTables(bar, reference), keep)


def _reference(compare: str | None) -> Reference | None:
    """Returns the ratios to show beside the measured ones.

    Raises UsageError if the file cannot be read, RegrowError if it holds no results.
    """
    if compare is None:
        return None
    from regrow.bench.bench_result import PAPER, Reference

    return PAPER if compare == "paper" else Reference.of(Path(compare))


def _default_prompts(device: str, quick: bool) -> list[int]:
    if quick:
        return [32]
    return [128, 4096, 16384] if device == "cuda" else [128]


def _default_shapes(device: str, quick: bool) -> list[str]:
    shapes = ["qwen-7b", "llama-8b"] if device == "cuda" else ["qwen-0.5b", "qwen-1.5b"]
    return shapes[:1] if quick else shapes
