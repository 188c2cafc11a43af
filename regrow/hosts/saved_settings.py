"""Settings that a model brings along in its own generation config, where its user set nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from transformers import GenerationConfig, PreTrainedModel

from regrow.errors import UsageError

# What our loop does not do, and which does not change stock's tokens: it is left out.
HARMLESS: Final[dict[str, bool]] = {
    "use_cache": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
# What changes stock's answer, and the value that stands for our loop.
DECISIVE: Final[dict[str, Any]] = {
    "num_beams": 1,
    "prompt_lookup_num_tokens": None,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "assistant_early_exit": None,
    "use_mtp": False,
}
ONLY_GREEDY: Final = ("penalty_alpha",)


def without_saved(model: PreTrainedModel, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `generate`, with those that undo what only the model's own config asks for.

    Raises UsageError, which names the model's config, for what cannot be undone without another answer.
    """
    config, own = given.get("generation_config"), model.generation_config
    saved = {
        name: value
        for name, value in vars(own).items()
        if name not in given and getattr(config, name, None) is None
    }
    sampled = bool(_effective("do_sample", given, config, own))
    for name, plain in DECISIVE.items():
        if saved.get(name) not in (None, plain) and not (sampled and name in ONLY_GREEDY):
            _refuse(name, saved[name], plain)
    copies = own.num_return_sequences
    if copies not in (None, 1) and not (
        sampled and own.do_sample
    ):  # stock objects as well, whatever is passed
        _refuse("num_return_sequences", copies, 1)
    undone = {name: plain for name, plain in HARMLESS.items() if saved.get(name) not in (None, plain)}
    if _effective("return_dict_in_generate", given, config, own):  # then they are a part of the answer
        undone = {name: plain for name, plain in undone.items() if not name.startswith("output")}
    if config is None or not undone:
        return given | undone
    config = deepcopy(config)  # transformers objects to a config and settings beside it
    config.update(**undone)
    return given | {"generation_config": config}


def _effective(
    name: str, given: dict[str, Any], config: GenerationConfig | None, own: GenerationConfig | None
) -> Any:
    values = (given.get(name), getattr(config, name, None), getattr(own, name, None))
    return next((value for value in values if value is not None), None)


def _refuse(name: str, value: object, plain: object) -> None:
    raise UsageError(
        f"this model's own generation config sets {name}={value!r}, which Regrow's loop does not do; set "
        f"model.generation_config.{name} = {plain!r}, or edit its generation_config.json"
    )
