"""The model's own generation settings (generation_config.json): which hold, which are set aside, which cannot
be met."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self, final

from regrow.cli.sampling import Sampling
from regrow.errors import UsageError
from regrow.models import Loaded

# What generate heeds in every mode, and what it heeds where it samples.
_ALWAYS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "remove_invalid_values",
    "renormalize_logits",
    "watermarking_config",
    "token_healing",
    "stop_strings",
    "max_time",
    "prefill_chunk_size",
)
_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
# The value that means "off", where it is not None, False, 0 or empty.
_OFF = dict.fromkeys(
    ("repetition_penalty", "encoder_repetition_penalty", "temperature", "top_p", "typical_p"), 1.0
)
# Set to these values whatever the model says: no token of an answer depends on them.
_SET_ASIDE: dict[str, tuple[Any, str]] = {
    "max_length": (None, "--max-new-tokens limits answers"),
    "max_new_tokens": (None, "--max-new-tokens limits answers"),
    "use_cache": (True, "Regrow always keeps a cache"),
    "cache_implementation": (None, "Regrow keeps a cache of its own"),
    "num_return_sequences": (1, "a prompt has one answer"),
    "return_dict_in_generate": (False, "only answers are returned"),
    "output_scores": (False, "only answers are returned"),
    "output_logits": (False, "only answers are returned"),
    "output_attentions": (False, "only answers are returned"),
    "output_hidden_states": (False, "only answers are returned"),
}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_OTHER_MODES = (
    "num_beams",
    "num_beam_groups",
    "penalty_alpha",
    "dola_layers",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
    "constraints",
    "force_words_ids",
)


@final
@dataclass(frozen=True)
class OwnSettings:
    held: dict[str, Any]  # in force, as JSON values
    set_aside: dict[str, str]  # and why

    @classmethod
    def take(cls, loaded: Loaded, sampling: Sampling) -> Self:
        """Sets aside what has to be, in the loaded model, and says what holds. Raises UsageError for a way to
        decode that is not ours."""
        settings: dict[str, Any] = loaded.model.generation_config.to_dict() | loaded.generation_settings
        _refuse(loaded, settings, sampled=bool(sampling.temperature))
        names = _ALWAYS + (
            tuple(name for name in _SAMPLED if name not in sampling.given) if sampling.temperature else ()
        )
        aside = {
            name: why for name, (value, why) in _SET_ASIDE.items() if settings.get(name) not in (None, value)
        }
        if settings.get("do_sample") and not sampling.temperature:
            aside["do_sample"] = "sampling begins with --temperature above 0"
        config = deepcopy(loaded.model.generation_config)
        for name, (value, _) in _SET_ASIDE.items():
            setattr(config, name, value)
        loaded.model.generation_config = config
        return cls({name: settings[name] for name in names if _is_on(name, settings.get(name))}, aside)

    @property
    def needs_tokenizer(self) -> bool:
        return "stop_strings" in self.held or "token_healing" in self.held

    def to_dict(self) -> dict[str, Any]:
        """Nothing where the model has no settings of its own."""
        parts = {"from_generation_config": self.held, "set_aside": self.set_aside}
        return {name: part for name, part in parts.items() if part}


def beside_ids(loaded: Loaded) -> dict[str, Any]:
    """Every setting of the model but the ids of special tokens, which nearly every model has."""
    return {name: value for name, value in loaded.generation_settings.items() if name not in _IDS}


def _is_on(name: str, value: Any) -> bool:
    return (
        bool(value) and value != _OFF.get(name)
        if name not in ("forced_bos_token_id", "forced_eos_token_id")
        else value is not None
    )


def _refuse(loaded: Loaded, settings: dict[str, Any], *, sampled: bool) -> None:
    where = f"the generation_config.json of {loaded.name}"
    asked = {
        name: settings[name] for name in _OTHER_MODES if settings.get(name) not in (None, False, 1, 0, [])
    }
    if sampled:
        asked.pop("penalty_alpha", None)  # of greedy decoding alone
    if asked:
        name, value = next(iter(asked.items()))
        raise UsageError(
            f"{where} asks for {name} {value}, and Regrow decodes greedily or samples; take {name} out of that file"
        )
    chunk = settings.get("prefill_chunk_size")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise UsageError(
            f"{where} gives prefill_chunk_size {chunk}, which must be a whole number of at least 1; correct that file"
        )
