"""The options of lossless decoding, `--lossless` to `--window`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regrow.errors import UsageError, require_one_of

if TYPE_CHECKING:
    from regrow.decoding.lossless import Lossless

_LOSSLESS = "Lossless decoding"

Flag = Annotated[
    bool,
    typer.Option(
        "--lossless",
        rich_help_panel=_LOSSLESS,
        help="Answer with the tokens of the dense model: tokens are drafted cheaply, and a dense pass checks "
        "several of them at once. In bfloat16 and float16, tokens that are almost equally likely may differ. "
        "Without an option of a method, the model is dense; with one, the mask of that method drafts.",
    ),
]
DraftName = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="NAME",
        rich_help_panel=_LOSSLESS,
        help="With --lossless: what drafts tokens: {drafts}. four-bit is a copy of the weights in 4 bits, "
        "ngram the text itself where it repeats, cascade ngram and else four-bit, mask the method, and "
        "mask-four-bit the method on the 4-bit copy. "
        "Default: auto, which is mask if a method prunes, else four-bit on a CPU with AVX-512 VNNI, else "
        "ngram.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        rich_help_panel=_LOSSLESS,
        help="With --lossless: tokens drafted before each check, from 1 to 16. Default: chosen while "
        "decoding, by measured costs. Two processes need not measure the same, so a continued --output in "
        "bfloat16 or float16 may differ from an uninterrupted one where tokens are almost equally likely.",
    ),
]


def chosen(lossless: bool, draft: str | None, window: int | None) -> Lossless | None:
    """Returns how to decode losslessly; None if that was not asked for.

    Raises UsageError for an unknown draft, a window that is not from 1 to 16, and for either without
    --lossless.
    """
    if not lossless:
        given = {"--draft": draft, "--window": window}
        for name in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{name} is for lossless decoding; add --lossless or leave {name} out")
        return None
    from regrow.decoding.drafts.names import AUTO, DRAFTS
    from regrow.decoding.lossless import Lossless

    name = AUTO if draft is None else draft
    require_one_of((AUTO, *DRAFTS), draft=name)
    return Lossless(DRAFTS.get(name), window)
