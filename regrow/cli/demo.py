"""`regrow demo`: decodes one batch of held-out problems, dense, losslessly and pruned, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from regrow.cli.bar import Bar
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.options import Json
from regrow.cli.output import line
from regrow.errors import UsageError
from regrow.whole_file import refuse_place, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from regrow.decoding.loop import Progress
    from regrow.evaluation.demo import Watch

INIT_STEPS = 16


class Setting(NamedTuple):
    """How one run of the demo decodes."""

    method: str
    parameters: dict[str, str | int]
    lossless: bool = False


# The others are compared with the first.
RUNS: tuple[Setting, ...] = (
    Setting("dense", {}),
    Setting("dense", {}, lossless=True),
    Setting("bap", {"sparsity": "0.3", "init_steps": INIT_STEPS}),
    Setting("bap", {"sparsity": "0.5", "init_steps": INIT_STEPS}),
    Setting("bap", {"sparsity": "0.7", "init_steps": INIT_STEPS}),
    Setting("griffin", {"sparsity": "0.5"}),
)


def demo(
    batch_size: Annotated[int, typer.Option(min=1, max=64, help="Prompts decoded together.")] = 8,
    start: Annotated[
        int,
        typer.Option(min=0, help="Number of the first held-out prompt; choose another for other problems."),
    ] = 0,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the output as an SVG picture.")
    ] = None,
    json: Json = False,
) -> None:
    """Decode held-out problems with the bundled model: dense, losslessly, pruned, and with GRIFFIN.

    The lossless run drafts tokens and checks them densely: its answers are the dense ones, up to rounding.
    Each prompt holds several small problems. Every answer is marked right or wrong. Nothing is downloaded.
    """
    from regrow.bundled.problems import heldout

    if svg is not None and json:
        raise UsageError("--svg and --json exclude each other; choose one")
    if svg is not None:
        refuse_place(svg, "--svg")
    loaded, exercises = load(), heldout(batch_size, start)
    from regrow.cli import demo_view
    from regrow.evaluation import demo as runner

    runs: list[runner.Run] = []
    try:
        with Bar() as bar:
            runner.warm_up(loaded, exercises)
            for number, (method, parameters, lossless) in enumerate(RUNS, 1):
                label = runner.label(method, parameters, lossless=lossless)
                watch = _show_on(bar, f"run {number} of {len(RUNS)}: {label}")
                runs.append(runner.answer(loaded, exercises, method, parameters, watch, lossless=lossless))
    except KeyboardInterrupt:
        fail(f"interrupted: {len(runs)} of {len(RUNS)} runs had finished", INTERRUPTED)
    if json:
        for value in demo_view.to_json(loaded, exercises, runs, start):
            typer.echo(line(value))
    else:
        console = Console(highlight=False, record=svg is not None)
        demo_view.show(console, loaded, exercises, runs, start)
        if svg is not None:
            write_whole(svg, console.export_svg(title="regrow demo").encode(), "choose another --svg")


def _show_on(bar: Bar, description: str) -> Watch:
    """Returns callbacks that show the progress of a run on the bar."""

    def begin(limit: int) -> Callable[[Progress], None]:
        bar.begin(description, limit)
        return lambda progress: bar.show(
            progress.step,
            f"{progress.step} tokens, {sum(progress.finished)} of {len(progress.finished)} done",
        )

    return begin
