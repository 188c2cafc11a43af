"""`regrow methods`."""

from __future__ import annotations

import json

from command import run
from regrow.method.presets import PRESETS, make, parameters


def test_the_table_names_every_method_and_parameter() -> None:
    result = run("methods")
    assert result.exit_code == 0
    for name in PRESETS:
        assert name in result.stdout
        assert all(parameter in result.stdout for parameter in parameters(name))


def test_json_gives_what_it_takes_to_make_each_method() -> None:
    listed = json.loads(run("methods", "--json").stdout)
    assert [method["name"] for method in listed] == list(PRESETS)
    for method in listed:
        assert set(method) == {"name", "summary", "source", "parameters"}
        assert make(method["name"], **method["parameters"]) == make(method["name"])
