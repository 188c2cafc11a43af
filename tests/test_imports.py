"""Checks the architecture: which folders and libraries each folder may import.

The table is that of docs/design.md. A row `a: b, c` lets a import b and c, and everything that b and c may
import. No arrow runs back up, and no two folders import each other. A name stands for the folder or module of
that name. Imports inside functions and under TYPE_CHECKING count too. The root `regrow/__init__.py`, which
re-exports the public API, may import anything, and nothing may import it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ALLOWED: dict[str, tuple[str, ...]] = {
    "__main__": ("cli",),
    "cli": ("reporting", "evaluation", "bench", "versions", "whole_file"),
    "reporting": ("evaluation", "bench", "whole_file"),
    "evaluation": ("hosts", "analysis", "sampling", "versions"),
    "bench": ("hosts", "paper_results", "versions"),
    "analysis": ("record_file", "report", "table"),
    "hosts": ("decoding", "calibration"),
    "decoding": ("session", "adapter"),
    "calibration": ("method", "models", "run_config", "whole_file"),
    "models": ("bundled", "adapter", "versions"),
    "session": ("method", "report"),
    "method": ("pruning", "weights"),
    "weights": ("adapter", "selection"),
    "adapter": ("kernels",),
    "pruning": ("selection",),
    "selection": ("kernels",),
    "kernels": ("core",),
    "report": ("counters", "format"),
    "record_file": ("records", "locked_file"),
    "locked_file": ("errors",),
    "records": ("counters", "run_config"),
    "run_config": (),
    "sampling": (),
    "counters": (),
    "table": ("format",),
    "format": (),
    "paper_results": (),
    "bundled": ("errors",),
    "core": ("errors",),
    "errors": (),
    "versions": ("errors",),
    "whole_file": ("errors",),
}

# The libraries outside of the standard library, and the folders that may import each.
LIBRARIES: dict[str, set[str]] = {
    "torch": {
        "core",
        "kernels",
        "selection",
        "pruning",
        "weights",
        "method",
        "calibration",
        "session",
        "adapter",
        "decoding",
        "hosts",
    }
    | {"models", "evaluation", "bench", "cli"},
    "transformers": {
        "adapter",
        "weights",
        "calibration",
        "decoding",
        "hosts",
        "models",
        "evaluation",
        "bench",
    },
    "huggingface_hub": {"models", "calibration"},
    "datasets": {"evaluation"},
    "safetensors": {"models", "calibration"},
    "matplotlib": {"analysis"},
    "triton": {"kernels"},
    "math_verify": {"evaluation"},
    "sympy": {"evaluation"},
    "vllm": {"bench", "hosts"},  # only by modules that run where vLLM is installed
    "prometheus_client": {"hosts"},  # a dependency of vLLM
    "lm_eval": {"hosts", "cli"},
    "tqdm": {"hosts"},
    "typer": {"cli"},
    "rich": {"cli"},
}

# Modules that must work without torch, on a machine that only reads results.
WITHOUT_TORCH = ("analysis", "table", "record_file", "records", "report", "counters", "bundled", "errors")

# Files are parsed, not imported, so that an import cycle cannot hide other errors.
PACKAGE = Path(__file__).parents[1] / "regrow"


def _name(path: Path) -> str:
    """adapter/find.py -> adapter.find; adapter/__init__.py -> adapter; the root's __init__.py -> empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in FILES if name]


def _group(module: str) -> str | None:
    """Return the row of the table that applies to a module."""
    folder = module.split(".")[0]
    return folder if folder in ALLOWED else None


def _reachable(group: str) -> set[str]:
    """Return what a group may import, including itself."""
    return {group}.union(*(_reachable(name) for name in ALLOWED[group]))


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    around = ["regrow", *module.split(".")]
    kept = around[: len(around) - node.level + (FILES[module].name == "__init__.py")]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import. The name for `from a import b` is a.b: b may be a module."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{_absolute(node, module)}.{alias.name}") for alias in node.names)


def _own(dotted: str) -> str:
    """Return the module to which a dotted name below `regrow` refers. Empty for the root package itself."""
    parts = dotted.split(".")[1:]
    candidates = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in candidates if name in FILES), "")


def _violations(module: str) -> Iterator[str]:
    group = _group(module)
    assert group, (
        f"regrow/{module.replace('.', '/')} is under no row of the table ALLOWED: "
        "give it one, here and in docs/design.md"
    )
    for line, dotted in _imports(module):
        top = dotted.split(".")[0]
        where = f"{FILES[module].relative_to(PACKAGE.parent)}:{line}"
        if top == "regrow":
            if _group(_own(dotted)) not in _reachable(group):
                yield f"{where}: {group} may not import {dotted}"
        elif top not in sys.stdlib_module_names and group not in LIBRARIES.get(top, set()):
            yield f"{where}: {group} may not import {top}"


def test_the_table_has_no_circle() -> None:
    list(TopologicalSorter(ALLOWED).static_order())  # raises CycleError


def test_the_table_has_no_stale_row() -> None:
    stale = [name for name in ALLOWED if name not in FILES]
    assert not stale, f"rows of the table ALLOWED without a module: {', '.join(stale)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_the_table_allows(module: str) -> None:
    violations = list(_violations(module))
    assert not violations, "\n".join(violations)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {_own(dotted) for _, dotted in _imports(module) if dotted.startswith("regrow.")}
        for module in MODULES
    }
    list(TopologicalSorter({module: targets - {module} for module, targets in graph.items()}).static_order())


def _inside_kernels(module: str) -> Iterator[str]:
    for line, dotted in _imports(module):
        if dotted.startswith("regrow.") and _own(dotted).startswith("kernels."):
            yield (
                f"{FILES[module].relative_to(PACKAGE.parent)}:{line}: "
                f"take it from regrow.kernels instead of {dotted}"
            )


@pytest.mark.parametrize("module", [name for name in MODULES if _group(name) != "kernels"])
def test_kernels_are_reached_through_their_dispatcher_alone(module: str) -> None:
    found = list(_inside_kernels(module))
    assert not found, "\n".join(found)


def test_importing_the_dispatcher_does_not_import_triton() -> None:
    """Only a GPU needs Triton, and not every machine has it."""
    command = (
        "import sys, regrow.kernels; print([name for name in sys.modules if name.split('.')[0] == 'triton'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("group", WITHOUT_TORCH)
def test_results_can_be_read_without_torch(group: str) -> None:
    assert _reachable(group).isdisjoint(LIBRARIES["torch"] | LIBRARIES["transformers"])
