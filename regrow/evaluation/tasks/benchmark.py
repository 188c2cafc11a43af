"""Benchmarks: tasks whose questions come from a dataset of the hub, or from a file of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from regrow.errors import UsageError
from regrow.evaluation.tasks.rows import Rows, read_file, read_hub
from regrow.evaluation.tasks.task import Task, TaskRequest, make_items

# The prompt of the paper for mathematics, as DeepSeek recommends it for R1.
MATHEMATICS: Final = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."


@final
@dataclass(frozen=True)
class Hub:
    """Where a benchmark is on the hub."""

    dataset: str
    configuration: str | None
    split: str


@final
@dataclass(frozen=True)
class Benchmark:
    """A task that is read from data."""

    name: str
    summary: str
    count: int  # number of questions
    hub: Hub
    file: str  # below --data-dir
    questions: Callable[[Rows], Sequence[tuple[str, str]]]  # question and gold of each row
    template: str = MATHEMATICS
    grader: str = "math"
    sha256: str = ""  # of the usual file; empty: not known

    def load(self, request: TaskRequest) -> Task:
        """Reads the questions from the folder of the user, or else from the hub.

        Raises UsageError if that fails, and if there are more or fewer rows, or other fields, than usual.
        """
        rows = self._rows(request.data_dir)
        if len(rows.rows) != self.count:
            raise UsageError(
                f"{rows.source} holds {len(rows.rows)} rows, and {self.name} has {self.count} questions; "
                "restore the file"
            )
        named = [
            (f"{self.name}-{number}", question, gold)
            for number, (question, gold) in enumerate(self.questions(rows))
        ]
        template = request.template or self.template
        return Task(
            self.name,
            make_items(named, template),
            self.grader,
            template=template,
            system=request.system,
            data_sha256=rows.sha256,
            warning=self._warning(rows, request.data_dir),
        )

    def _rows(self, data_dir: str | None) -> Rows:
        if data_dir is None:
            return read_hub(self.hub.dataset, self.hub.configuration, self.hub.split)
        path = Path(data_dir).expanduser() / self.file
        if not path.exists():
            raise UsageError(
                f"{self.name} is not in {data_dir}: there is no {self.file}; "
                f"put it there, or leave out --data-dir to load {self.hub.dataset} from the hub"
            )
        return read_file(path)

    def _warning(self, rows: Rows, data_dir: str | None) -> str:
        """Returns a sentence if a file of the user differs from the usual one."""
        if data_dir is None or not self.sha256 or rows.sha256 == self.sha256:
            return ""
        return (
            f"{rows.source} is not the usual file of {self.name}: its sha256 is {rows.sha256[:12]}..., "
            f"not {self.sha256[:12]}...; the records name it"
        )
