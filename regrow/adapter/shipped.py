"""Checks that classes and functions of transformers and torch are still the ones that these libraries ship.

A function is identified by its code object: `functools.wraps` copies `__module__`, `__qualname__` and
`__doc__` onto a replacement, but the code keeps the file and the name it was compiled from.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Collection
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import torch
import transformers


def _folder(library: ModuleType) -> str:
    return f"{Path(str(library.__file__)).parent}{os.sep}"


_LIBRARIES: Final = (_folder(transformers), _folder(torch))
# Files of the decorators that the libraries use.
_STANDARD: Final = tuple(str(module.__file__) for module in (abc, contextlib, dataclasses))
# A function that the compiler has wrapped may compute anything.
_COMPILER: Final = str(Path(_folder(torch), "_dynamo", "eval_frame.py"))
_MODELS: Final = "transformers.models."
_MODEL_FILES: Final = f"{_folder(transformers)}models{os.sep}"

# Methods that run before decoding or around it, never in it. Logging and loading tools often wrap them.
_OUTSIDE_DECODING: Final = frozenset(
    {"__init__", "from_pretrained", "save_pretrained", "push_to_hub", "generate"}
)


def class_is_shipped(kind: type) -> bool:
    """Returns True if all methods and other descriptors of the class and its bases come from a library."""
    return all(map(_body_is_shipped, kind.__mro__[:-1]))


def functions_are_shipped(module: ModuleType, names: Collection[str] | None = None) -> bool:
    """Returns True if the module's functions are those that a library defines by their names.

    If `names` are given, only these are checked.
    """
    # torch.compile adds names with two leading underscores to the modules of what it has compiled.
    own = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    found = own if names is None else {name: getattr(module, name, None) for name in names}
    return all(
        is_shipped(value, name) and _not_of_another_model(value, str(module.__file__))
        for name, value in found.items()
    )


def _not_of_another_model(value: object, file: str) -> bool:
    """Returns False for a function from another model's file.

    Many models define functions of the same name.
    """
    code = getattr(value, "__code__", None)
    return code is None or code.co_filename == file or not code.co_filename.startswith(_MODEL_FILES)


def is_shipped(value: object, name: str | None) -> bool:
    """Returns True if a library defines this function as `name` (None: under any name).

    Classes, and values that are not callable, count as shipped.
    """
    if isinstance(value, property):
        return all(part is None or is_shipped(part, None) for part in (value.fget, value.fset, value.fdel))
    if isinstance(value, staticmethod | classmethod | MethodType):
        return is_shipped(value.__func__, name)
    if isinstance(value, functools.cached_property):
        return is_shipped(value.func, name)
    if isinstance(value, functools._lru_cache_wrapper):
        return is_shipped(value.__wrapped__, name)
    if isinstance(value, FunctionType):
        return _written_as(value, name)
    if isinstance(value, BuiltinFunctionType):
        return name is None or value.__name__ == name
    passive = isinstance(value, type) or not (callable(value) or hasattr(type(value), "__get__"))
    return passive or type(value).__module__ in ("typing", "builtins")


def _body_is_shipped(kind: type) -> bool:
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        return True
    own = kind.__module__.startswith(_MODELS)  # in a model, another model's method is a replacement too
    return all(
        is_shipped(value, f"{kind.__qualname__}.{name}" if own else None)
        for name, value in vars(kind).items()
        if name not in _OUTSIDE_DECODING
    )


def _written_as(function: Any, name: str | None) -> bool:
    """Returns True if the function and all it decorates come from a library, one of them as `name`."""
    named = name is None
    while isinstance(function, FunctionType):
        code = function.__code__
        if not code.co_filename.startswith(_LIBRARIES + _STANDARD) or code.co_filename == _COMPILER:
            return False
        named = named or code.co_qualname == name
        function = vars(function).get("__wrapped__")
    return named and function is None
