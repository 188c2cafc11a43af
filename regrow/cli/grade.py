"""`regrow grade`: grades recorded answers and keeps the grades beside the records."""

from __future__ import annotations

from regrow.cli.bar import Bar
from regrow.cli.options import Json, RecordFiles
from regrow.cli.table import record_files, show
from regrow.format import count


def grade(
    files: RecordFiles,
    json: Json = False,
) -> None:
    """Grade recorded answers by both scores, keep the grades beside the records, and show the accuracies.

    `strict` takes the last boxed answer and compares it as mathematics. `paper` is as lenient as the
    evaluation framework of the paper. The grade of every answer is written to NAME.grades.json, beside
    NAME.jsonl; `regrow table` and `regrow report` use it as long as it is up to date.

    Example: regrow grade results
    """
    from regrow.evaluation.grading import grade as graded
    from regrow.evaluation.grading import run_of, together
    from regrow.evaluation.kept_grades import write_grades

    paths = [path for given in files for path in record_files(given)]
    runs = together(paths)
    with Bar() as bar:
        bar.begin("grading", len(runs))
        for number, shards in enumerate(runs, 1):
            path = write_grades(run_of(shards[0]), shards, graded(*shards))
            bar.ended(number, f"{number} of {count(len(runs), 'run')}, {path}")
    show(paths, json=json)
