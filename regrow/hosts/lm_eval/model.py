"""`--model regrow` of lm-evaluation-harness: its generative tasks, decoded through Regrow's loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self, final

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from torch import Tensor
from tqdm import tqdm
from transformers import StoppingCriteriaList

from regrow.core import Surface
from regrow.counters import Counters
from regrow.errors import RegrowError, UsageError, said
from regrow.format import parameters, percent
from regrow.hosts.engine import Engine
from regrow.hosts.generate import Generation
from regrow.hosts.lm_eval.generation import Generating, groups
from regrow.hosts.lm_eval.settings import NO_CACHE, Settings
from regrow.hosts.lm_eval.stop_strings import StopStrings
from regrow.kernels import repeatable_matmul
from regrow.models import encode, load
from regrow.models.blame import blaming
from regrow.report import Report, why_dense
from regrow.versions import versions


@final
@register_model("regrow")
class RegrowLM(LM):  # type: ignore[misc]
    """A model of lm-eval that answers generative requests with a pruned or dense model.

    The requests of a task run in batches of a fixed size, in the order of the task, because a mask is shared
    by its batch. Prompts are processed as Regrow does everywhere, so pruning changes only the decode steps.

    Example:
        ```python
        import lm_eval
        import regrow.hosts.lm_eval.model  # makes the name known to lm-eval

        lm_eval.simple_evaluate("regrow", "method=bap,sparsity=0.5", tasks=["gsm8k"], batch_size=8)
        ```
    """

    def __init__(self, **arguments: Any) -> None:
        """Loads and prunes the model that the model arguments of lm-eval name; see `Settings`.

        Raises UsageError for a wrong argument, before anything is loaded, and if the method or the
        calibration does not fit the model. Raises RegrowError for damaged files.
        """
        super().__init__()
        self.settings = Settings.of(arguments)
        own = self.settings
        self.loaded = load(
            own.pretrained,
            dtype=own.dtype,
            device=own.device,
            trust_remote_code=own.trust_remote_code,
            weights=own.weights,
        )
        self.tokenizer = self.loaded.tokenizer  # lm-eval describes it in its results
        self.reports: list[Report] = []  # one for each batch
        # The engine lives as long as this object, which owns the model.
        with repeatable_matmul():
            self._engine = Engine(
                self.loaded.model, own.method, own.skip_layers, own.calibration, owns_model=True
            )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> Self:
        """Makes the model of the given arguments. Raises UsageError if one is given in both places."""
        further = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if twice := sorted(arg_dict.keys() & further.keys()):
            raise UsageError(f"{twice[0]} is given as an option and as a model argument; leave one out")
        return cls(**arg_dict, **further)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns the answer to each request, cut at the first stop string.

        All requests are checked before the first one runs. Prints what was decoded.

        Raises UsageError if a prompt or a generation argument does not fit.
        """
        answers = [""] * len(requests)
        batches = [batch for places in groups(requests) for batch in self._batches(requests, places)]
        with tqdm(total=len(requests), desc="Requests", disable=disable_tqdm) as bar:
            for places, ids, mask, generating in batches:
                done = self._decode(ids, mask, generating)
                for place, tokens in zip(places, done.tokens, strict=True):
                    answers[place] = self._answer(tokens, generating.until)
                bar.update(len(places))
        print(self.summary, flush=True)
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Raises UsageError: the likelihood of a given text is computed without decode steps."""
        task = next((request.task_name for request in requests if request.task_name), "the task")
        raise UsageError(
            f"{task} asks for the likelihood of given texts, which takes no decode step, so a method would "
            "not prune and the result would be that of the dense model; choose generative tasks, "
            "or evaluate the dense model with `lm-eval run --model hf`"
        )

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> NoReturn:
        """Raises UsageError, as `loglikelihood` does."""
        self.loglikelihood(requests)

    def set_cache_hook(self, cache_hook: object) -> NoReturn:  # noqa: ARG002
        """Raises UsageError: lm-eval calls this for its cache of answers."""
        raise UsageError(NO_CACHE)

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer and the chat template in lm-eval's cache of prompts."""
        return f"{self.loaded.tokenizer_sha256}-{self.loaded.chat_template_sha256}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the chat template for the results of lm-eval; None if none is applied.

        Raises UsageError if the tokenizer has no template, and for the name of one.
        """
        if chat_template is False:
            return None
        if chat_template is not True:
            raise UsageError(
                f"chat template {chat_template!r} cannot be chosen by name; leave out the name, "
                "and set the template in the files of the tokenizer"
            )
        if not self.tokenizer.chat_template:
            raise UsageError(
                f"the tokenizer of {self.loaded.name} has no chat template; leave out --apply_chat_template"
            )
        return str(self.tokenizer.get_chat_template())

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns the messages as the text of a prompt. Raises RegrowError if the template fails."""
        thinking = self.settings.enable_thinking
        named: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        with blaming(
            f"the chat template of {self.loaded.name} fails on the messages of a task",
            "leave out --system_instruction, which not all templates take, or --apply_chat_template",
        ):
            text = self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **named,
            )
        return str(text)

    def get_model_info(self) -> dict[str, Any]:
        """Returns what lm-eval adds to the config in its results: the model, the method and what it did."""
        own, report = self.settings, self._report
        return {
            "model_num_parameters": self.loaded.model.num_parameters(),
            "model_dtype": str(self.loaded.model.dtype),
            "model_sha": self.loaded.fingerprint,
            "regrow": {
                "weights": own.weights,
                "method": own.method.describe(),
                "calibration": None if own.calibration is None else own.calibration.digest,
                "skip_layers": sorted(set(own.skip_layers)),
                "batches": self._about_batches,
                "actual_sparsity": report.actual_sparsity,
                "sparse_share": report.sparse_share,
                "versions": versions(),
            },
        }

    @property
    def summary(self) -> str:
        """What was decoded so far, in a few lines: method, batches, actual sparsity and sparse steps."""
        own, report, described = self.settings, self._report, self.settings.method.describe()
        name = described.pop("name")
        c, target = report.counters, report.target_sparsity
        weights = "" if own.weights == "stored" else f", weights {own.weights}"
        lines = [
            f"method {name} ({parameters(described)}){weights}, {self._about_batches}",
            f"actual sparsity {percent(report.actual_sparsity)} (target {percent(target)}), "
            f"{c.sparse_steps} of {c.decode_steps} decode steps sparse ({percent(report.sparse_share)})",
        ]
        note = why_dense(report.method, target, c)
        return "\n".join(f"regrow: {line}" for line in lines + ([note] if note else []))

    @property
    def _report(self) -> Report:
        """The report of all batches together."""
        method = self.settings.method
        counters = sum((report.counters for report in self.reports), Counters())
        return Report(method.describe(), float(method.target), counters)

    @property
    def _about_batches(self) -> str:
        shared = self.settings.method.surface is Surface.NEURONS
        return f"batches of {self.settings.batch_size} requests in the order of the task" + (
            "; a mask is shared by its batch, so results depend on both" if shared else ""
        )

    def _batches(
        self, requests: Sequence[Instance], places: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Tensor, Tensor, Generating]]:
        """Yields the batches of requests that may share one: their places, their prompts and how they run.

        The prompts are ids and mask [B, P], padded on the left. Raises UsageError if one does not fit.
        """
        first, size = requests[places[0]], self.settings.batch_size
        generating = Generating.of(first.args[1], self.tokenizer.eos_token)
        ids, mask = encode(self.loaded, [requests[place].args[0] for place in places], chat=False)
        self._check_room(str(first.task_name), int(mask.sum(dim=1).max()), generating.max_new_tokens)
        for start in range(0, len(places), size):
            rows = slice(start, start + size)
            width = int(mask[rows].sum(dim=1).max())
            yield places[rows], ids[rows, -width:], mask[rows, -width:], generating

    def _check_room(self, task: str, longest: int, new: int) -> None:
        context = self.loaded.context
        if context is not None and longest + new > context:
            raise UsageError(
                f"the longest prompt of {task} has {longest} tokens, so answers of up to {new} do not fit "
                f"the context of {context}; at most {context - longest} do: "
                f"--gen_kwargs max_gen_toks={context - longest}"
            )

    def _decode(self, ids: Tensor, mask: Tensor, generating: Generating) -> Generation:
        """Decodes one batch of prompts [B, P]. Raises RegrowError if transformers refuses an argument."""
        arguments: dict[str, Any] = {**generating.arguments, **self.loaded.beside_prompts}
        if generating.until:
            stop = StopStrings(generating.until, self.tokenizer, ids.shape[1])
            arguments["stopping_criteria"] = StoppingCriteriaList([stop])
        try:
            with repeatable_matmul():
                done = self._engine.generate(ids, mask, max_new_tokens=generating.max_new_tokens, **arguments)
        except (ValueError, TypeError) as error:
            if isinstance(error, RegrowError) or not generating.arguments:
                raise
            raise RegrowError(
                f"the generation arguments {parameters(generating.arguments)} cannot be followed: "
                f"{said(error)}; correct them in the task, or in --gen_kwargs"
            ) from error
        self.reports.append(done.report)
        return done

    def _answer(self, tokens: Sequence[int], until: Sequence[str]) -> str:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return str(postprocess_generated_text(text, list(until), self.settings.think_end_token))
