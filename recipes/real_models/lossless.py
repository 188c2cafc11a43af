"""Times lossless decoding on a real model: every draft against dense decoding, interleaved.

    python recipes/real_models/lossless.py MODEL PROBLEMS --out results/lossless/real-model.json

MODEL is the folder of a model, PROBLEMS a JSON Lines file with a field "question", such as the test.jsonl of
TinyGSM8K. The machine should be otherwise idle. docs/lossless.md says what came out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from regrow.bench.lossless.result import LosslessRow
from regrow.bench.lossless.rounds import Prompts, equal_share, measure
from regrow.bench.lossless.run import entrants, started
from regrow.decoding.drafts.names import DRAFTS
from regrow.models import Loaded, encode, load
from regrow.whole_file import write_whole

# Batch size -> number of batches. Every batch size begins with the first problem.
BATCHES = {1: 4, 2: 2, 4: 2, 16: 1}


def main() -> int:
    args = _arguments()
    loaded = load(str(args.model))
    lines = [json.loads(line)["question"] for line in args.problems.read_text().splitlines()]
    result = started(
        loaded.model.device,
        {"dtype": str(loaded.model.dtype), "problems": args.problems.parent.name, "new": args.new},
    )
    answers: dict[int, list[list[int]]] = {}
    for rows in args.batch_size or BATCHES:
        batches = [_prompts(loaded, lines[at : at + rows], args.new) for at in _starts(rows)]
        drafts = {name: DRAFTS[name] for name in args.draft or DRAFTS}
        name = args.model.name
        found, tokens = measure(name, loaded.model, entrants(drafts), batches, _say, eos=True)
        answers[rows] = [row for batch in tokens for row in batch.tolist()]
        result.rows.extend(found)
        result.settings["dense_equal_to_batch_1"] = _between(answers)
        write_whole(args.out, (result.to_json() + "\n").encode())
        for row in found:
            _say(_line(row))
    return 0


def _starts(rows: int) -> range:
    return range(0, rows * BATCHES.get(rows, 1), rows)


def _prompts(loaded: Loaded, questions: Sequence[str], new: int) -> Prompts:
    ids, mask = encode(loaded, questions, chat=True)
    width = int(mask.sum(dim=1).max())
    return Prompts(ids[:, -width:], mask[:, -width:], new)


def _between(answers: dict[int, list[list[int]]]) -> dict[str, float]:
    """Returns how much dense decoding of larger batches agrees with that of single problems, by batch size.

    The problems are those that were decoded alone as well. This is the variation that rounding alone causes.
    """
    alone = answers.get(1, [])
    found = {}
    for rows, ours in answers.items():
        both = [
            equal_share(torch.tensor([one]), torch.tensor([other]), [min(len(one), len(other))])
            for one, other in zip(ours, alone, strict=False)
        ]
        if both:
            found[str(rows)] = sum(both) / len(both)
    return found


def _line(row: LosslessRow) -> str:
    kept = "" if row.kept_share is None else f", {row.kept_share:.1%} of the drafts kept"
    return (
        f"batch {row.rows} {row.label}: {row.tokens_per_second.median:.2f} tokens/s, "
        f"{row.ratio.median:.2f}x dense ({row.ratio.low:.2f} to {row.ratio.high:.2f}), "
        f"{row.equal:.1%} equal{kept}, {row.tokens_per_pass:.2f} tokens a pass, {row.costs}"
    )


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--new", type=int, default=256, help="new tokens of a problem at most")
    parser.add_argument("--batch-size", type=int, action="append", help="default: 1, 2, 4 and 16")
    parser.add_argument("--draft", action="append", choices=DRAFTS, help="default: all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
