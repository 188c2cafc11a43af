"""How commands end: one sentence and an exit code for what goes wrong, and help that lists the choices of
today."""

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

# What the parser raises; its module has another name in other versions of typer.
_Refused: Any = typer.BadParameter.__bases__[0]
INTERRUPTED = 130  # what shells report for Ctrl-C


@final
class Group(TyperGroup):
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


@final
class Command(TyperCommand):
    """A command that needs torch and transformers, for its help too: the help lists what they register."""

    def invoke(self, ctx: Any) -> Any:
        require_supported()
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Where the lists cannot be had, without them, and says why."""
        lacking = _lacking()
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = leave_out(option.help) if lacking else fill(option.help)
        super().format_help(ctx, formatter)
        if lacking:
            say(f"the lists of choices are left out: {lacking}")


def _lacking() -> str | None:
    """What keeps commands from running here."""
    try:
        require_supported()
    except RegrowError as error:
        return str(error)
    return None


def be_verbose(asked: bool) -> None:
    """Logs what Regrow decides to standard error, and shows a traceback for errors."""
    if not asked:
        return
    logger = logging.getLogger("regrow")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(_ToStandardError())


def is_verbose() -> bool:
    return logging.getLogger("regrow").isEnabledFor(logging.INFO)


@final
class _ToStandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def fail(sentence: str, code: int) -> None:
    """Ends the command. Raises typer.Exit."""
    say(sentence)
    raise typer.Exit(code)
