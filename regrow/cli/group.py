"""What all commands share: errors as one sentence and an exit code, and help with the current choices."""

from __future__ import annotations

import logging
import traceback
from typing import Any, final

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from regrow.cli.choices import fill, leave_out
from regrow.cli.terminal import say, standard_streams
from regrow.errors import RegrowError
from regrow.versions import require_supported

# Exception that the parser raises. Its module has different names in different versions of typer.
_Refused: Any = typer.BadParameter.__bases__[0]
INTERRUPTED = 130  # what shells report for Ctrl-C


@final
class Group(TyperGroup):
    """The `regrow` command. It turns exceptions into one sentence on standard error and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with standard_streams():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RegrowError as error:
            if is_verbose():
                traceback.print_exception(error)
            fail(f"error: {error}", error.exit_code)
        except _Refused as error:
            sentence = " ".join(error.format_message().split()).rstrip(".")
            command = " ".join(("regrow", *filter(None, [ctx.invoked_subcommand])))
            fail(f"error: {sentence}; see {command} --help", error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)


class Command(TyperCommand):
    """A command that needs torch and transformers, also for the choices in its help."""

    def invoke(self, ctx: Any) -> Any:
        require_supported()
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help. Without usable libraries, leaves out choices and defaults, and says why."""
        lacking = _lacking()
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = leave_out(option.help) if lacking else fill(option.help)
        super().format_help(ctx, formatter)
        if lacking:
            say(f"choices and defaults are left out: {lacking}")


def _lacking() -> str | None:
    """Returns why commands cannot run here; None if they can."""
    try:
        require_supported()
    except RegrowError as error:
        return str(error)
    return None


def be_verbose(wanted: bool) -> None:
    """Logs Regrow's decisions to standard error, and shows tracebacks of errors."""
    if not wanted:
        return
    logger = logging.getLogger("regrow")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(_ToStandardError())


def is_verbose() -> bool:
    """Returns True after `be_verbose(True)`."""
    return logging.getLogger("regrow").isEnabledFor(logging.INFO)


@final
class _ToStandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def fail(sentence: str, code: int) -> None:
    """Prints the sentence to standard error and ends the command. Raises typer.Exit."""
    say(sentence)
    raise typer.Exit(code)
