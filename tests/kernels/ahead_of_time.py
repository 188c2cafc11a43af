"""Compiles every Triton kernel for GPUs that this machine does not have.

Run `python -m kernels.ahead_of_time` in tests/, without TRITON_INTERPRET. It prints one JSON line: the
version of Triton, and for each variant and architecture the bytes of shared memory, the registers per thread,
and the bytes of stack per thread, to which registers are spilled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from regrow.kernels.early import HOPPER

ARCHITECTURES = (80, 90)
LARGEST_SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a block may use
SMALL_SHARED = 99 * 1024  # the same on cards of these generations without HBM
REGISTERS = 65536  # per multiprocessor


@dataclass(frozen=True)
class Variant:
    """One kernel with its argument types and constants.

    Types are "*bf16", "*i64", "i32", "fp32" and so on. "*bf16:16" and "i32:16" stand for multiples of 16.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=lambda: {"num_warps": 4})
    programs: int = 1  # programs that a multiprocessor has to hold at once

    def compile(self, architecture: int) -> dict[str, Any]:
        """Compiles the kernel for a compute capability, such as 90, and returns its resources."""
        constants, options = dict(self.constants), dict(self.options)
        if "EARLY" in self.kernel.arg_names:
            constants["EARLY"] = options["launch_pdl"] = architecture >= 10 * HOPPER
        signature = {**self.types, **dict.fromkeys(constants, "constexpr")}
        order = {name: signature[name].removesuffix(":16") for name in self.kernel.arg_names}
        aligned = [
            place for place, name in enumerate(self.kernel.arg_names) if signature[name].endswith(":16")
        ]
        attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
        source = ASTSource(fn=self.kernel, signature=order, constexprs=constants, attrs=attributes)
        done = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        registers, stack = resources(done.asm["cubin"])
        names = {
            "variant": self.name,
            "architecture": architecture,
            "threads": 32 * done.metadata.num_warps,
            "programs": self.programs,
        }
        return {**names, "shared": done.metadata.shared, "registers": registers, "stack": stack}


def resources(cubin: bytes) -> tuple[int, int]:
    """Returns the registers and bytes of stack per thread, read with NVIDIA's tool that Triton includes."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    (found,) = re.findall(r"REG:(\d+) STACK:(\d+)", said)
    return int(found[0]), int(found[1])


def main() -> None:
    """Prints the resources of all variants as JSON."""
    from kernels.variants import VARIANTS

    compiled = [variant.compile(architecture) for variant in VARIANTS for architecture in ARCHITECTURES]
    json.dump({"triton": triton.__version__, "compiled": compiled}, sys.stdout)


if __name__ == "__main__":
    main()
