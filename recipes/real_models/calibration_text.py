"""Writes a calibration text for the real models: the problems of GSM8K that TinyGSM8K leaves out.

    python recipes/real_models/calibration_text.py --data-dir DIR --out FILE.jsonl

TEAL and CATS are calibrated on it. It is as near as can be to the text that they then have to answer, which
gives them their best, and it holds none of the problems that they are graded on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from regrow.evaluation.tasks.rows import read_file
from regrow.whole_file import write_whole


def calibration_text(data_dir: Path) -> list[str]:
    """Returns question and worked solution of each row of GSM8K that is no row of TinyGSM8K."""
    whole, tiny = (read_file(data_dir / name / "test.jsonl").rows for name in ("gsm8k", "tinygsm8k"))
    graded = {row["question"] for row in tiny}
    return [f"{row['question']}\n{row['answer']}" for row in whole if row["question"] not in graded]


def main() -> None:
    """Writes the text as JSON lines."""
    parser = argparse.ArgumentParser(description="Write the calibration text of the real models.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with gsm8k and tinygsm8k")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.jsonl)")
    given = parser.parse_args()
    lines = [json.dumps({"text": text}) for text in calibration_text(given.data_dir)]
    write_whole(given.out, ("\n".join(lines) + "\n").encode())
    print(f"{len(lines)} problems in {given.out}")


if __name__ == "__main__":
    main()
