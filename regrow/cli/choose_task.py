"""The options of tasks, `--task` to `--data-dir`, for the commands that answer questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import typer

from regrow.cli.options import option, several, spread
from regrow.cli.terminal import say
from regrow.errors import UsageError, require_one_of

if TYPE_CHECKING:
    from regrow.evaluation.tasks.task import Task, TaskRequest

_TASK: Final = "Task"
_DEFAULT: Final = "tiny_reasoner"  # only for the bundled model

TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        rich_help_panel=_TASK,
        metavar="NAME,...",
        help="Problems to answer: {tasks}. May be left out for the bundled model only.",
    ),
]
DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        rich_help_panel=_TASK,
        help="Your own questions instead of a task: a .jsonl, .json or .csv file, one question a row.",
    ),
]
QuestionField = Annotated[
    str | None,
    typer.Option(
        "--question-field",
        metavar="NAME",
        rich_help_panel=_TASK,
        help="Field (or CSV column) of --data with the question. Default: question.",
    ),
]
AnswerField = Annotated[
    str | None,
    typer.Option(
        "--answer-field",
        metavar="NAME",
        rich_help_panel=_TASK,
        help="Field (or CSV column) of --data with the right answer. Default: answer.",
    ),
]
Match = Annotated[
    str | None,
    typer.Option(
        "--match",
        metavar="HOW",
        rich_help_panel=_TASK,
        help="How answers are compared with those of --data: {matches}. With none they are only recorded.",
    ),
]
PromptTemplate = Annotated[
    str | None,
    typer.Option(
        "--prompt-template",
        metavar="TEXT",
        rich_help_panel=_TASK,
        help="The prompt, with {question} where the question goes; other braces stay as they are. "
        "Default: that of the task.",
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", rich_help_panel=_TASK, help="System message. Default: none."),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        rich_help_panel=_TASK,
        help="Folder with the data of tasks, such as DIR/gsm8k/test.jsonl. Default: the Hugging Face hub.",
    ),
]
_OPTIONS: Final[dict[str, Any]] = {
    "task": TaskNames,
    "data": DataFile,
    "question_field": QuestionField,
    "answer_field": AnswerField,
    "match": Match,
    "prompt_template": PromptTemplate,
    "system": System,
    "data_dir": DataDir,
}
_OF_DATA: Final = {"question_field": "question", "answer_field": "answer"}  # options of --data, with defaults


def with_tasks(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter `chosen: ChosenTasks` by all options of tasks."""

    @wraps(command)
    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in _OPTIONS}
        command(chosen=ChosenTasks(**own), **given)

    spread(command, run, "chosen", [option(name, kind, None) for name, kind in _OPTIONS.items()])
    return run


@final
@dataclass(frozen=True)
class ChosenTasks:
    """What the options say about tasks. None: not given."""

    task: list[str] | None
    data: Path | None
    question_field: str | None
    answer_field: str | None
    match: str | None
    prompt_template: str | None
    system: str | None
    data_dir: str | None

    def load(self, model: str | None) -> list[Task]:
        """Loads the tasks, and prints what their data warn of. `model`: None for the bundled model.

        Raises UsageError for options that do not belong together, for data that cannot be used, and for no
        task with a model that is not the bundled one.
        """
        from regrow.evaluation.tasks import load
        from regrow.evaluation.tasks.task import TaskRequest

        request = TaskRequest(self.data_dir, self.prompt_template, self.system or "")
        names = self._names(model)
        found = [self._own(request)] if self.data else [load(name, request) for name in names]
        for task in found:
            if task.warning:
                say(f"note: {task.warning}")
        return found

    def _names(self, model: str | None) -> list[str]:
        names = several(self.task)
        stray = [name for name in (*_OF_DATA, "match") if getattr(self, name) is not None]
        if self.data is not None:
            if names:
                raise UsageError("--task and --data exclude each other; choose one")
            if self.data_dir is not None:
                raise UsageError("--data-dir is for --task; give the whole path with --data")
            return []
        if stray:
            name = stray[0].replace("_", "-")
            raise UsageError(f"--{name} describes a file of your own questions; give that with --data FILE")
        if not names and model is not None:
            raise UsageError(
                f"no task is named, and the exercises of the bundled model say nothing about {model}: name a "
                f"task with --task, or give your own questions with --data "
                f"(--task {_DEFAULT} runs those exercises anyway)"
            )
        return list(dict.fromkeys(map(_known, names))) or [_DEFAULT]

    def _own(self, request: TaskRequest) -> Task:
        from regrow.evaluation.graders.judge import Judge
        from regrow.evaluation.tasks.own_questions import MATCHES, OwnQuestions

        assert self.data is not None
        if self.match is None:
            raise UsageError(
                f"--data needs --match, which says how answers are compared with yours: {', '.join(MATCHES)}"
            )
        require_one_of(MATCHES, match=self.match)
        if self.match == "none" and self.answer_field is not None:
            raise UsageError("--answer-field is not read with --match none; leave one of them out")
        question, answer = (getattr(self, name) or default for name, default in _OF_DATA.items())
        own = OwnQuestions(self.data, question, answer, self.match).load(request)
        with Judge() as judge:
            for item in own.items:
                problem = judge.check_gold(self.match, item.gold)
                if problem:
                    raise UsageError(
                        f"{self.data}, row {item.id}: {problem} by --match {self.match}; correct it, or "
                        "choose another --match"
                    )
        return own


def _known(name: str) -> str:
    """Returns the name of a task as the registry spells it."""
    from regrow.evaluation.tasks import TASKS

    alike = {known.replace("-", "_"): known for known in TASKS}
    return alike.get(name.lower().replace("-", "_"), name)
