"""`regrow generate`: answers prompts in batches."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from regrow.cli import decode_options, lossless_options, method_options, options
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.prompts import read
from regrow.cli.sample_file import SampleFile
from regrow.cli.sampling import sampling
from regrow.cli.views import JsonLines, SampleView, View

if TYPE_CHECKING:
    from regrow.cli.decode_prompts import Decoding
    from regrow.cli.generate_plan import Sample
    from regrow.method.base import Method

_DECODING, _OUTPUT = "Decoding", "Output"


@method_options.with_method
def generate(
    *,
    model: options.ModelName = None,
    prompt: decode_options.PromptTexts = None,
    prompts: decode_options.PromptsFile = None,
    prompt_field: decode_options.PromptField = None,
    prompts_format: decode_options.PromptsFormat = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_DECODING,
            help="Prompts decoded together; they share one mask. Default: all, up to 16.",
        ),
    ] = None,
    max_new_tokens: decode_options.MaxNewTokens = None,
    temperature: decode_options.Temperature = None,
    top_p: decode_options.TopP = None,
    seed: decode_options.Seed = None,
    lossless: lossless_options.Flag = False,
    draft: lossless_options.DraftName = None,
    window: lossless_options.Window = None,
    pruning: Method,
    calibration: options.CalibrationFile = None,
    dtype: options.DTypeName = "auto",
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=_OUTPUT,
            help="Also write the answers to this file as JSON lines, in the order of the prompts. "
            "If the run is interrupted, the same command continues it.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Answer prompts in batches, with a pruned or dense model.

    Answers are shown as they finish, then a summary with actual sparsity and speed. Settings in the model's
    generation_config.json, such as a repetition penalty, apply, and the summary names them. --temperature and
    --top-p replace the model's values. The other fields of a prompt's record are copied to the output.

    Example: regrow generate org/model --prompt "What is 17 * 23?" --sparsity 0.5

    Example: regrow generate org/model --prompts questions.txt --lossless
    """
    how, dense_layers = sampling(temperature, top_p, seed), options.layers(skip_layers)
    checked = lossless_options.chosen(lossless, draft, window)
    texts = read(prompt or [], prompts, prompt_field, prompts_format)
    tensors = options.calibration(calibration)
    with SampleFile(output) if output else nullcontext() as file:
        loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, weights=weights)
        from regrow.cli.decode_prompts import Decoding
        from regrow.cli.generate_plan import LARGEST_BATCH, GeneratePlan

        how = how if file is None else how.as_before(file.settings)
        plan = GeneratePlan(
            pruning, tensors, batch_size or LARGEST_BATCH, max_new_tokens, chat, dense_layers, how, checked
        )
        _run(Decoding(loaded, texts, plan), JsonLines() if json else SampleView(), file)


def _run(decoding: Decoding, view: View, file: SampleFile | None) -> None:
    prompts, batch_size = [prompt.text for prompt in decoding.prompts], decoding.plan.batch_size
    earlier = [] if file is None else file.begin(decoding.settings(), batch_size, prompts)
    progress = _GenerateProgress(view, file, len(earlier))
    decoding.kept = len(earlier)
    view.begin(earlier, file)
    try:
        totals = decoding.run(progress.on_sample, progress.on_batch)
    except KeyboardInterrupt:
        fail(
            f"interrupted: {progress.count} of {len(prompts)} samples had finished{progress.kept}",
            INTERRUPTED,
        )
    view.end(decoding, totals)


@final
class _GenerateProgress:
    """Callbacks that show each sample and write each batch, and count the samples."""

    def __init__(self, view: View, file: SampleFile | None, earlier: int) -> None:
        self._view, self._file = view, file
        self.count = self._written = earlier

    def on_sample(self, sample: Sample) -> None:
        self.count += 1
        self._view.sample(sample)

    def on_batch(self, batch: list[Sample]) -> None:
        if self._file is not None:
            self._file.write([sample.to_dict() for sample in batch])
            self._written += len(batch)

    @property
    def kept(self) -> str:
        """The end of the message of an interrupted run: where the samples of complete batches are."""
        if self._file is None or not self._written:
            return ""
        which = "those" if self._written == self.count else f"the {self._written} of complete batches"
        return f", and {which} are kept in {self._file.path}; the same command continues from there"
