"""Turns the errors that libraries raise for damaged or foreign files into one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regrow.errors import RegrowError, said


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """Converts any error raised in the block to a RegrowError that says `what`, the reason, and `remedy`.

    Every Exception is converted, because a wrong value in a file may surface as a KeyError, a
    ZeroDivisionError or an AssertionError. A RegrowError passes unchanged.
    """
    try:
        yield
    except RegrowError:
        raise
    except Exception as error:
        # Configurations are validated field by field, and the cause names the invalid field in fewer words.
        reason = error.__cause__ if type(error).__name__.startswith("StrictDataclass") else None
        raise RegrowError(f"{what}: {said(reason or error)}; {remedy}") from error
