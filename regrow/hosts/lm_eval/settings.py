"""What the model arguments of lm-eval (`--model_args`) say, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, final

from regrow.calibration.calibration import Calibration, command_for
from regrow.errors import UsageError, require_one_of
from regrow.hosts.arguments import layer_numbers
from regrow.method.base import Method
from regrow.method.presets import make, parameters
from regrow.models import DTYPES, WEIGHTS

NO_CACHE: Final = (
    "answers cannot be cached, because an answer depends on the other requests of its batch; "
    "leave out --use_cache"
)
# Model arguments besides the parameters of the method, each with its default.
OWN: Final[dict[str, Any]] = {
    "pretrained": None,
    "method": "bap",
    "calibration": None,
    "skip_layers": (),
    "dtype": "auto",
    "weights": "stored",
    "device": "auto",
    "batch_size": 1,
    "trust_remote_code": False,
    "enable_thinking": None,
    "think_end_token": None,
}


@final
@dataclass(frozen=True)
class Settings:
    """How one run of lm-eval loads its model and decodes."""

    pretrained: str | None  # directory or id of the hub; None is the bundled model
    method: Method
    calibration: Calibration | None
    skip_layers: tuple[int, ...]
    dtype: str
    weights: str  # "stored" or "int4"
    device: str
    batch_size: int
    trust_remote_code: bool
    enable_thinking: bool | None  # argument of the chat template; None leaves it out
    think_end_token: str | None  # only the text after the last one counts as the answer

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Reads model arguments by name. Those of `OWN` are Regrow's, all others parameters of the method.

        Raises UsageError for an unknown argument or a wrong value, and RegrowError if the file of the
        calibration is damaged.
        """
        given = OWN | dict(arguments)
        _check_words(given)
        name, known = given["method"], parameters(given["method"])
        unknown = [argument for argument in given if argument not in OWN and argument not in known]
        if unknown:
            raise UsageError(
                f"model argument {unknown[0]!r} is unknown; Regrow takes {', '.join(OWN)}, "
                f"and method {name!r} takes {', '.join(known) or 'no parameter'}"
            )
        method = make(name, **{key: given[key] for key in known if key in given})
        path = given["calibration"]
        if method.needs is not None and path is None:
            raise UsageError(
                f"method {name!r} needs a calibration: make one with `{command_for(method)}`, "
                "and add calibration=FILE to the model arguments"
            )
        require_one_of(DTYPES, dtype=given["dtype"])
        require_one_of(WEIGHTS, weights=given["weights"])
        pretrained = given["pretrained"]
        return cls(
            None if pretrained is None else str(pretrained),
            method,
            None if path is None else Calibration.load(str(path)),
            _layers(given["skip_layers"]),
            given["dtype"],
            given["weights"],
            given["device"],
            _batch_size(given["batch_size"]),
            given["trust_remote_code"],
            given["enable_thinking"],
            given["think_end_token"],
        )


def _check_words(given: Mapping[str, Any]) -> None:
    """Raises UsageError if an argument that is a word, or true or false, has another type."""
    for name, kind, takes in (
        ("method", str, "a name"),
        ("dtype", str, "a name"),
        ("weights", str, "a name"),
        ("device", str, "a name such as cpu or cuda"),
        ("trust_remote_code", bool, "true or false"),
        ("enable_thinking", bool, "true or false"),
        ("think_end_token", str, "the text of the token"),
    ):
        value = given[name]
        if type(value) is not kind and not (value is None and OWN[name] is None):
            raise UsageError(f"model argument {name} takes {takes}, not {value!r}")


def _layers(value: object) -> tuple[int, ...]:
    """Returns the layers to skip: one number, a list of numbers, or None for no layer."""
    return layer_numbers([value] if type(value) is int else value or ())


def _batch_size(value: object) -> int:
    if str(value).startswith("auto"):
        raise UsageError(
            "an automatic batch size is not supported, because a mask is shared by its batch and the batch "
            "size is part of the experiment; give a number, such as --batch_size 8"
        )
    if not str(value).isdecimal() or not int(str(value)):
        raise UsageError(f"the batch size must be a whole number from 1 on, not {value!r}")
    return int(str(value))
