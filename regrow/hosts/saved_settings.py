"""Settings from a model's own generation config that the caller did not set."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from transformers import GenerationConfig, PreTrainedModel

from regrow.errors import UsageError

# Settings that our loop does not support but that do not change the tokens: they are reset to these values.
HARMLESS: Final[dict[str, bool]] = {
    "use_cache": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
# Settings that change the answer, each with the value that our loop supports. Other values are refused.
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
ONLY_GREEDY: Final = ("penalty_alpha",)  # settings without effect while sampling


def without_saved(model: PreTrainedModel, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `generate`, plus arguments that reset harmless settings of the model's config.

    Only settings that the caller did not set are reset. Raises UsageError, which names the model's config,
    for a setting that cannot be reset without changing the answer.
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
    # transformers refuses this as well, whatever the caller passes.
    if copies not in (None, 1) and not (sampled and own.do_sample):
        _refuse("num_return_sequences", copies, 1)
    undone = {name: plain for name, plain in HARMLESS.items() if saved.get(name) not in (None, plain)}
    # In an answer that is a dictionary, these outputs are part of the answer.
    if _effective("return_dict_in_generate", given, config, own):
        undone = {name: plain for name, plain in undone.items() if not name.startswith("output")}
    if config is None or not undone:
        return given | undone
    config = deepcopy(config)  # transformers refuses a config together with separate settings
    config.update(**undone)
    return given | {"generation_config": config}


def _effective(
    name: str, given: dict[str, Any], config: GenerationConfig | None, own: GenerationConfig | None
) -> Any:
    values = (given.get(name), getattr(config, name, None), getattr(own, name, None))
    return next((value for value in values if value is not None), None)


def _refuse(name: str, value: object, plain: object) -> None:
    raise UsageError(
        f"this model's own generation config sets {name}={value!r}, which Regrow's loop does not support; "
        f"set model.generation_config.{name} = {plain!r}, or edit its generation_config.json"
    )
