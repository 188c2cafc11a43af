from __future__ import annotations

import ast
from pathlib import Path

import pytest

import regrow


@pytest.mark.parametrize("name", regrow.__all__)
def test_every_public_name_is_what_type_checkers_take_it_for(name: str) -> None:
    tree = ast.parse(Path(regrow.__file__).read_text())
    imports = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    home = __import__(imports[name], fromlist=[name])
    assert getattr(regrow, name) is getattr(home, name)
    assert name in dir(regrow)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Prune'"):
        regrow.Prune  # noqa: B018
