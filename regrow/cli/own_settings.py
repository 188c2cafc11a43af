"""The model's own generation settings (generation_config.json): which apply, are ignored, or are refused."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self, final

from regrow.errors import UsageError
from regrow.models import Loaded
from regrow.sampling import Sampling

# Settings that `generate` applies always, and those that it applies only if it samples.
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
# Values that mean "off", for settings where that is not None, False, 0 or empty.
_OFF = dict.fromkeys(
    ("repetition_penalty", "encoder_repetition_penalty", "temperature", "top_p", "typical_p"), 1.0
)
# Settings that are overwritten with these values, and why. No token of an answer depends on them.
_SET_ASIDE: dict[str, tuple[Any, str]] = {
    "max_length": (None, "--max-new-tokens limits answers"),
    "max_new_tokens": (None, "--max-new-tokens limits answers"),
    "use_cache": (True, "Regrow always keeps a cache"),
    "cache_implementation": (None, "Regrow has its own cache"),
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
    """The settings in a model's generation_config.json, sorted by whether they apply."""

    held: dict[str, Any]  # settings that apply, as JSON values
    set_aside: dict[str, str]  # ignored settings, each with the reason

    @classmethod
    def take(cls, loaded: Loaded, sampling: Sampling) -> Self:
        """Overwrites the ignored settings in the loaded model, and returns which settings apply.

        Raises UsageError for a decoding mode that Regrow does not support, such as beam search.
        """
        settings: dict[str, Any] = loaded.model.generation_config.to_dict() | loaded.generation_settings
        _refuse(loaded, settings, sampled=bool(sampling.temperature))
        names = _ALWAYS + (
            tuple(name for name in _SAMPLED if name not in sampling.given) if sampling.temperature else ()
        )
        aside = {
            name: why for name, (value, why) in _SET_ASIDE.items() if settings.get(name) not in (None, value)
        }
        if settings.get("do_sample") and not sampling.temperature:
            aside["do_sample"] = "sampling needs --temperature above 0"
        config = deepcopy(loaded.model.generation_config)
        for name, (value, _) in _SET_ASIDE.items():
            setattr(config, name, value)
        loaded.model.generation_config = config
        return cls({name: settings[name] for name in names if _is_on(name, settings.get(name))}, aside)

    @property
    def needs_tokenizer(self) -> bool:
        """True if a setting works on text, so that `generate` needs the tokenizer."""
        return "stop_strings" in self.held or "token_healing" in self.held

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; empty if the model has no such settings."""
        parts = {"from_generation_config": self.held, "set_aside": self.set_aside}
        return {name: part for name, part in parts.items() if part}


def beside_ids(loaded: Loaded) -> dict[str, Any]:
    """Returns the model's generation settings, except the ids of special tokens."""
    return {name: value for name, value in loaded.generation_settings.items() if name not in _IDS}


def _is_on(name: str, value: Any) -> bool:
    """Returns True if the value makes the setting change anything."""
    return (
        bool(value) and value != _OFF.get(name)
        if name not in ("forced_bos_token_id", "forced_eos_token_id")
        else value is not None
    )


def _refuse(loaded: Loaded, settings: dict[str, Any], *, sampled: bool) -> None:
    """Raises UsageError for an unsupported decoding mode or an invalid prefill_chunk_size."""
    where = f"the generation_config.json of {loaded.name}"
    asked = {
        name: settings[name] for name in _OTHER_MODES if settings.get(name) not in (None, False, 1, 0, [])
    }
    if sampled:
        asked.pop("penalty_alpha", None)  # ignored when sampling
    if asked:
        name, value = next(iter(asked.items()))
        raise UsageError(
            f"{where} sets {name} {value}, but Regrow only decodes greedily or samples; "
            f"remove {name} from that file"
        )
    chunk = settings.get("prefill_chunk_size")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise UsageError(
            f"{where} sets prefill_chunk_size {chunk}, which must be a whole number of at least 1; "
            "correct that file"
        )
