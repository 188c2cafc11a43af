"""The mathematical benchmarks of the paper, and the two AIME contests that are usual beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from regrow.errors import UsageError
from regrow.evaluation.graders.stated_answer import last_boxed
from regrow.evaluation.tasks.benchmark import Benchmark, Hub
from regrow.evaluation.tasks.rows import Rows, text_field

Questions = Callable[[Rows], Sequence[tuple[str, str]]]


def _fields(question: str, answer: str, gold: Callable[[str], str | None]) -> Questions:
    """Returns a reader of rows whose gold answer is found in the field `answer`."""

    def read(rows: Rows) -> list[tuple[str, str]]:
        return [_row(rows, number, question, answer, gold) for number in range(1, len(rows.rows) + 1)]

    return read


def _row(
    rows: Rows, number: int, question: str, answer: str, gold: Callable[[str], str | None]
) -> tuple[str, str]:
    asked, told = text_field(rows, number, question), text_field(rows, number, answer)
    found = gold(told)
    if not found:
        raise UsageError(f"{rows.source}, row {number}: {answer} holds no gold answer; restore the file")
    return asked, found


def _after_hashes(answer: str) -> str | None:
    """The gold answer of GSM8K, which follows the worked solution."""
    _, hashes, gold = answer.rpartition("####")
    return gold.strip().replace(",", "") if hashes else None


def _whole_number(answer: str) -> str | None:
    """A gold answer that is a whole number, also where it is stored as a float such as 27.0."""
    try:
        value = float(answer)
    except ValueError:
        return None
    return str(int(value)) if value.is_integer() else None


def _gsm8k(name: str, count: int, summary: str, dataset: str, sha256: str) -> Benchmark:
    hub = Hub(dataset, "main", "test")
    questions = _fields("question", "answer", _after_hashes)
    return Benchmark(name, summary, count, hub, f"{name}/test.jsonl", questions, sha256=sha256)


GSM8K: Final = _gsm8k(
    "gsm8k",
    1319,
    "word problems of primary school, the whole test set",
    "openai/gsm8k",
    "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
)
TINY_GSM8K: Final = _gsm8k(
    "tinygsm8k",
    100,
    "100 problems of GSM8K, chosen by tinyBenchmarks",
    "tinyBenchmarks/tinyGSM8k",
    "a153a78fab32784ee10ddd4c8f24f6d1fafcb0eba7278fb24d87db14db70198f",
)
MATH500: Final = Benchmark(
    "math500",
    "500 problems of MATH, from algebra to precalculus",
    500,
    Hub("HuggingFaceH4/MATH-500", None, "test"),
    "math500/test.jsonl",
    _fields("problem", "answer", str.strip),
    sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
)
MINERVA: Final = Benchmark(
    "minerva",
    "272 problems of university courses in the sciences",
    272,
    Hub("knoveleng/Minerva-Math", None, "train"),
    "minerva_math/test.jsonl",
    _fields("problem", "solution", last_boxed),
    sha256="0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2",
)
AMC23: Final = Benchmark(
    "amc23",
    "40 problems of the American Mathematics Competitions of 2023",
    40,
    Hub("math-ai/amc23", None, "test"),
    "amc23/test.jsonl",
    _fields("question", "answer", _whole_number),
    sha256="43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4",
)
AIME24: Final = Benchmark(
    "aime24",
    "30 problems of the American Invitational Mathematics Examination of 2024",
    30,
    Hub("HuggingFaceH4/aime_2024", None, "train"),
    "aime24/test.jsonl",
    _fields("problem", "answer", _whole_number),
)
AIME25: Final = Benchmark(
    "aime25",
    "30 problems of the American Invitational Mathematics Examination of 2025",
    30,
    Hub("math-ai/aime25", None, "test"),
    "aime25/test.jsonl",
    _fields("problem", "answer", _whole_number),
)
