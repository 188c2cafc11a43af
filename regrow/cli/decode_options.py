"""The options of prompts and of decoding, for the commands that answer prompts."""

from __future__ import annotations

from typing import Annotated

import typer

_PROMPTS, _DECODING = "Prompts", "Decoding"

PromptTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", "-p", metavar="TEXT", rich_help_panel=_PROMPTS, help="A prompt; may be repeated."
    ),
]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        rich_help_panel=_PROMPTS,
        help="File with prompts: one per line (.txt), JSON lines (.jsonl), JSON (.json), or a table with "
        "a header (.csv, .tsv). May be gzipped (.gz). Use - for standard input.",
    ),
]
PromptField = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_PROMPTS,
        help='Field or column that holds the prompt. Default: "prompt".',
    ),
]
PromptsFormat = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_PROMPTS,
        help="Format of the file: lines, jsonl, json, csv or tsv; auto decides by name, then by content.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_DECODING,
        help="Longest answer in tokens. Default: what the context leaves, up to 1024.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECODING,
        help="Sampling temperature, such as 0.6. Default: 0, which decodes greedily.",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECODING,
        help="With --temperature: sample from the most likely tokens whose probabilities add up to this, "
        "in (0, 1]. Default: the model's own setting, else 1.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_DECODING,
        help="With --temperature: seed of the random numbers. Default: random; the summary names it.",
    ),
]
