"""`python -m regrow`: the `regrow` command."""

from __future__ import annotations

from regrow.cli import main

main()
