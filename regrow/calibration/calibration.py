"""A calibration: its origin, its tensors, its file, and the check that it fits a model and a method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from regrow.errors import RegrowError, UsageError
from regrow.method.base import Method
from regrow.whole_file import write_whole

FORMAT = "regrow calibration 1"
SAMPLE = 4096  # a fingerprint reads about this many values of each larger parameter


@final
@dataclass(frozen=True)
class Origin:
    """Model, method and text that a calibration was made from."""

    model: str  # as the user named it
    fingerprint: str  # of the model's weights
    method: str
    params: Mapping[str, Any]  # the method's parameters that the calibration depends on
    text: str  # where the text came from
    text_sha256: str  # of the text's token ids
    sequences: int
    tokens: int  # of all sequences
    longest: int  # tokens of the longest sequence


@final
@dataclass(frozen=True)
class Calibration:
    """Thresholds, keyed by module name, or weights, keyed by parameter name."""

    origin: Origin
    tensors: Mapping[str, Tensor]

    @property
    def digest(self) -> str:
        """sha256 over origin and tensors.

        It depends neither on how the file was written nor on what the user called the model and the text,
        which their digests identify.
        """
        origin = {name: value for name, value in asdict(self.origin).items() if name not in ("model", "text")}
        total = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
        for name in sorted(self.tensors):
            total.update(f"{name} {list(self.tensors[name].shape)} {self.tensors[name].dtype}".encode())
            total.update(_bytes(self.tensors[name]))
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """Writes the file completely or not at all. Raises RegrowError if it cannot be written."""
        metadata = {"format": FORMAT, "origin": json.dumps(asdict(self.origin))}
        write_whole(
            path, save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, metadata)
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a calibration from its file.

        Raises UsageError if the file cannot be read, RegrowError if it is damaged or holds something else.
        """
        if Path(path).exists() and not Path(path).is_file():
            raise UsageError(
                f"{path} cannot be read: it is not a regular file; make it with `regrow calibrate`"
            )
        try:
            # safetensors reports every file that it cannot open as missing; `open` raises the real reason.
            Path(path).open("rb").close()
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                values = json.loads(metadata["origin"]) if metadata.get("format") == FORMAT else {}
                if set(values) != {field.name for field in fields(Origin)}:
                    raise RegrowError(
                        f"{path} is not a calibration of this version; make one with `regrow calibrate`"
                    )
                return cls(
                    Origin(**values),
                    {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 - not a mapping
                )
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}; make it with `regrow calibrate`"
            ) from error
        except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise RegrowError(
                f"{path} is damaged ({error}); make it again with `regrow calibrate`"
            ) from error


def fingerprint(model: nn.Module) -> str:
    """Returns a sha256 over the names, the shapes and a sample of the values of all parameters.

    Values are read as float32. The fingerprint of a model is therefore the same in every dtype that holds its
    values exactly.
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        stride = max(1, values.numel() // SAMPLE)
        total.update(f"{name} {list(parameter.shape)}".encode())
        total.update(_bytes(values[::stride].float()))
    return total.hexdigest()


def fitting(calibration: Calibration | None, model: nn.Module, method: Method) -> Mapping[str, Tensor]:
    """Returns the tensors that the method needs; empty for a method that needs no calibration.

    Raises UsageError if a calibration is missing, or was made for another model, method or parameters, or if
    one is given to a method that needs none.
    """
    if method.needs is None:
        if calibration is not None:
            raise UsageError(
                f"method {method.name!r} with these parameters takes no calibration; leave it out"
            )
        return {}
    if calibration is None:
        raise UsageError(
            f"method {method.name!r} needs a calibration of this model: "
            f"make one with `{command_for(method)}` and pass it "
            "(--calibration FILE, or calibration=regrow.Calibration.load(FILE))"
        )
    origin, wanted = calibration.origin, calibrated(method)
    if (origin.method, dict(origin.params)) != (method.name, wanted):
        made = f"{origin.method} ({_shown(origin.params)})"
        raise UsageError(
            f"the calibration was made for {made}, not for {method.name} ({_shown(wanted)}); make one for it"
        )
    if origin.fingerprint != fingerprint(model):
        raise UsageError(
            f"the calibration was made for {origin.model} (weights {origin.fingerprint[:12]}), "
            f"not for this model (weights {fingerprint(model)[:12]}); make one with `regrow calibrate`"
        )
    return calibration.tensors


def command_for(method: Method) -> str:
    """Returns the command that makes a calibration for the method."""
    usual = type(method)().describe()
    given = calibrated(method) | {
        name: value for name, value in method.describe().items() if value != usual.get(name)
    }
    options = " ".join(f"-P {name}={value}" for name, value in given.items())
    return f"regrow calibrate MODEL --method {method.name} {options} --out FILE"


def calibrated(method: Method) -> dict[str, Any]:
    """Returns the method's parameters that its calibration depends on, as `Method.describe` gives them."""
    described = method.describe()
    return {name: described[name] for name in method.calibrated_by if name in described}


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())


def _bytes(tensor: Tensor) -> bytes:
    return (
        tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )
