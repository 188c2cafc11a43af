"""Compiles the CPU kernels on the machine they run on, and loads them.

The library is compiled once per CPU and compiler and kept in the user's cache. Every operation with a
`cpu.cpp` has a C++ implementation beside its reference. Decode steps use it on Linux where there is a
compiler (g++ 12, or the one that CXX names). Between the matmuls of a step, the overhead of a torch operation
exceeds its arithmetic, because the weights have just evicted everything that the operation needs from the
CPU's caches.

Kernels of decode steps can be recorded (`recorded/`): the C++ macro `RECORDABLE` adds an entry point that
takes the arguments as an array of 64-bit words.
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
# `on_call`: callback that receives this thread's kernel calls in place of the kernels (`intercepting`).
_RECORDING = threading.local()
_FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wno-psabi", "-shared")


@final
class Kernel:
    """A kernel of the library, compiled as one function `<name>_<dtype>` per dtype."""

    def __init__(self, name: str, *arguments: type) -> None:
        self.name, self.arguments = name, arguments
        self._found: dict[torch.dtype, Callable[..., None] | None] = {}

    def __getitem__(self, dtype: torch.dtype) -> Callable[..., None]:
        """Returns the function for `dtype`, or within `intercepting` a function that calls its callback."""
        found = self.get(dtype)
        assert found is not None, f"the CPU kernel {self.name} is not compiled for {dtype} on this machine"
        on_call = getattr(_RECORDING, "on_call", None)
        return found if on_call is None else partial(on_call, self, dtype)

    def get(self, dtype: torch.dtype) -> Callable[..., None] | None:
        """Returns the compiled function for `dtype`, or None if this machine has none."""
        if dtype not in self._found:
            self._found[dtype] = self._find(dtype)
        return self._found[dtype]

    def words_address(self, dtype: torch.dtype) -> int | None:
        """Returns the address of the entry point that takes arguments as words, or None if there is none."""
        function = getattr(library(), f"{self._named(dtype)}_words", None)
        return None if function is None else ctypes.cast(function, ctypes.c_void_p).value

    def _named(self, dtype: torch.dtype) -> str:
        return f"{self.name}_{str(dtype).removeprefix('torch.')}"

    def _find(self, dtype: torch.dtype) -> Callable[..., None] | None:
        loaded = library()
        function: Any = None if loaded is None else getattr(loaded, self._named(dtype), None)
        if function is not None:
            function.argtypes, function.restype = self.arguments, None
        return function  # type: ignore[no-any-return]


@contextmanager
def intercepting(on_call: Callable[..., None]) -> Iterator[None]:
    """Redirects this thread's kernel calls to `on_call(kernel, dtype, *arguments)` within the context."""
    _RECORDING.on_call = on_call
    try:
        yield
    finally:
        _RECORDING.on_call = None


def check(dtype: torch.dtype, *tensors: Tensor | None) -> None:
    """Raises TypeError if a tensor is not of `dtype`, because a kernel would misread it. Skips None."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype is not dtype:
            raise TypeError(f"expected a tensor of type {dtype}, not one of type {tensor.dtype}")


@cache
def library() -> ctypes.CDLL | None:
    """Returns the library of the CPU kernels, compiled if necessary, or None.

    None means that there is no compiler or no OpenMP library that torch has loaded. If there are compilers
    and all of them fail, a warning gives the first error.
    """
    threads, errors = _openmp(), []
    if threads is None:
        return None
    for compiler in _compilers():
        try:
            return ctypes.CDLL(str(_built(compiler, threads)))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            errors.append((getattr(error, "stderr", None) or str(error)).strip())
    if errors:
        warnings.warn(
            f"Regrow's CPU kernels could not be compiled, so decode steps take longer: {errors[0]}",
            stacklevel=2,
        )
    return None


def _compilers() -> list[str]:
    """Returns the compilers to try: CXX, then g++.

    clang++ must be named in CXX, because it comes with its own OpenMP runtime, which torch may not use.
    """
    named = (os.environ.get("CXX"), "g++")
    return list(dict.fromkeys(found for name in named if name and (found := shutil.which(name))))


def _openmp() -> Path | None:
    """Returns torch's OpenMP library, because threads of a second one would compete for the cores."""
    try:
        mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:  # not Linux
        return None
    found = [
        path
        for name in dict.fromkeys(mapped)
        if (path := Path(name)).name.startswith(("libgomp", "libiomp", "libomp"))
    ]
    torch_folder = Path(torch.__file__).parent
    # Torch's own copy comes first, because another package may have loaded one too.
    return min(found, key=lambda path: torch_folder not in path.parents, default=None)


def _home() -> Path:
    """Returns the cache folder; never in the working directory, because its files are loaded as code."""
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
            library.rename(target)  # atomic, as another process may be compiling the same library
    return target


def _fingerprint(compiler: str, threads: Path, sources: Sequence[Path]) -> str:
    """Hash of everything that the library depends on: sources, compiler, flags, OpenMP library and CPU."""
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
