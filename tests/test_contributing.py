"""Follows the instructions of CONTRIBUTING.md to the letter."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
USE = """
import json
from regrow.evaluation.grid import grid
from regrow.method.presets import METHODS, make
from regrow.models import encode, load
import regrow

loaded = load()
ids, mask = encode(loaded, ["A add 123 456"])
with regrow.prune(loaded.model, make("latest", period=5)) as session:
    loaded.model.generate(ids, attention_mask=mask, max_new_tokens=11, do_sample=False)
print(json.dumps({
    "package": regrow.__file__,
    "methods": list(METHODS),
    "compared": [cell.label for cell in grid((1,))],
    "sparse": session.report().sparse_steps,
}))
"""


def test_a_method_is_added_in_two_files(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "regrow", tmp_path / "regrow", ignore=shutil.ignore_patterns("__pycache__"))
    (block,) = re.findall(
        r"^ +```python\n(.*?)^ +```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    methods = tmp_path / "regrow" / "method"
    (methods / "latest.py").write_text(dedent(block))
    presets = (methods / "presets.py").read_text()
    listed = presets.replace(
        "from regrow.method.griffin", "from regrow.method.latest import Latest\nfrom regrow.method.griffin"
    )
    (methods / "presets.py").write_text(listed.replace("    Griffin,\n", "    Griffin,\n    Latest,\n"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert Path(told["package"]).is_relative_to(tmp_path)
    assert "latest" in told["methods"]
    assert "latest" in told["compared"]
    # Ten decode steps are two periods of five steps, each with two exploration steps.
    assert told["sparse"] == 10 - 2 * 2
