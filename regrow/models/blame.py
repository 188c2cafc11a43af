"""What the libraries raise over a damaged or foreign file, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regrow.errors import RegrowError, said


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """Inside, any error of a library becomes a RegrowError: `what`, its reason, `remedy`.

    All errors are taken: a wrong value in a file surfaces as a KeyError, a ZeroDivisionError or an AssertionError just as well.
    """
    try:
        yield
    except RegrowError:
        raise
    except Exception as error:
        # Configurations are validated field by field: the cause says which one in fewer words.
        reason = error.__cause__ if type(error).__name__.startswith("StrictDataclass") else None
        raise RegrowError(f"{what}: {said(reason or error)}; {remedy}") from error
