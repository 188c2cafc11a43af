"""The CPU kernels, compiled where they run: once for a CPU and a compiler, kept in the user's cache.

Every operation with a `cpu.cpp` has a form in C++ beside its reference, which decode steps run where there is a compiler (g++ 12, or what
CXX names; on Linux). Between the matmuls of a step each of torch's operations costs more than it computes: the weights have driven
everything out of the caches that it needs. Kernels of decode steps can be recorded (`recorded/`): `RECORDABLE` in C++ gives them a form
that takes their arguments as words.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

KINDS: Final = (torch.float32, torch.bfloat16)
POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_HERE: Final = Path(__file__).parent
_NOTED = threading.local()  # `by`: what is told of calls in their place, in this thread
_FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wno-psabi", "-shared")


@final
class Kernel:
    """A function `name_dtype` of the library."""

    def __init__(self, name: str, *arguments: type) -> None:
        self.name, self.arguments = name, arguments
        self._found: dict[torch.dtype, Callable[..., None] | None] = {}

    def __getitem__(self, dtype: torch.dtype) -> Callable[..., None]:
        found = self.get(dtype)
        assert found is not None, f"{self.name} was asked for where it is not compiled"
        by = getattr(_NOTED, "by", None)
        return found if by is None else partial(by, self, dtype)

    def get(self, dtype: torch.dtype) -> Callable[..., None] | None:
        """None where there is none for this type on this CPU."""
        if dtype not in self._found:
            self._found[dtype] = self._find(dtype)
        return self._found[dtype]

    def words(self, dtype: torch.dtype) -> int | None:
        """Where the form lies that takes its arguments as words; None for a kernel without."""
        function = getattr(library(), f"{self._named(dtype)}_words", None)
        return None if function is None else ctypes.cast(function, ctypes.c_void_p).value

    def _named(self, dtype: torch.dtype) -> str:
        return f"{self.name}_{str(dtype).removeprefix('torch.')}"

    def _find(self, dtype: torch.dtype) -> Callable[..., None] | None:
        there = library()
        function: Any = None if there is None else getattr(there, self._named(dtype), None)
        if function is not None:
            function.argtypes, function.restype = self.arguments, None
        return function  # type: ignore[no-any-return]


@contextmanager
def noting(by: Callable[..., None]) -> Iterator[None]:
    """Within it, and in this thread, kernels are not run: `by` is told of the kernel, its type and its arguments."""
    _NOTED.by = by
    try:
        yield
    finally:
        _NOTED.by = None


def check(kind: torch.dtype, *of: Tensor | None) -> None:
    """Raises TypeError where a kernel would take the numbers of a tensor for others."""
    for tensor in of:
        if tensor is not None and tensor.dtype is not kind:
            raise TypeError(f"a tensor of type {tensor.dtype} stands where one of type {kind} is expected")


@cache
def library() -> ctypes.CDLL | None:
    """None without a compiler for the threads that torch computes with; with a warning where all that there are fail."""
    threads, said = _openmp(), []
    if threads is None:
        return None
    for compiler in _compilers():
        try:
            return ctypes.CDLL(str(_built(compiler, threads)))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            said.append((getattr(error, "stderr", None) or str(error)).strip())
    if said:
        warnings.warn(
            f"Regrow's CPU kernels could not be compiled, so that decode steps take longer: {said[0]}",
            stacklevel=2,
        )
    return None


def _compilers() -> list[str]:
    """clang++ only by CXX: it brings threads of its own, unless torch has the same."""
    named = (os.environ.get("CXX"), "g++")
    return list(dict.fromkeys(found for name in named if name and (found := shutil.which(name))))


def _openmp() -> Path | None:
    """The library whose threads torch computes with: those of another would fight them for the cores."""
    try:
        mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:  # not Linux
        return None
    found = [
        path
        for name in dict.fromkeys(mapped)
        if (path := Path(name)).name.startswith(("libgomp", "libiomp", "libomp"))
    ]
    beside = Path(torch.__file__).parent
    return min(
        found, key=lambda path: beside not in path.parents, default=None
    )  # another package may bring one too


def _home() -> Path:
    """Never the working directory: what lies there is loaded as code."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "regrow" / "kernels"


def _built(compiler: str, threads: Path) -> Path:
    sources = sorted(_HERE.glob("*/cpu.cpp"))
    home = _home()
    target = home / f"{_fingerprint(compiler, threads, [*sources, _HERE / 'cpu.h'])}.so"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as made:
            library = Path(made) / target.name
            subprocess.run(
                [compiler, *_FLAGS, *sources, threads, "-o", library],
                capture_output=True,
                text=True,
                check=True,
            )
            library.rename(target)  # whole or not at all, whoever else compiles it now
    return target


def _fingerprint(compiler: str, threads: Path, sources: Sequence[Path]) -> str:
    """Of what a library is made of and for: sources, compiler and CPU."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))), "")
    parts = [
        version,
        *_FLAGS,
        str(threads),
        platform.machine(),
        cpu,
        *(source.read_text() for source in sources),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
