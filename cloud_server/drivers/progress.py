"""Progress of long work for people, or as JSON lines for programs."""

import json
import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cloud_server.drivers.child import print_progress
from cloud_server.drivers.tables import releases_table
from cloud_server.ports import ReleaseRow
from cloud_server.standing import release_tree

_WORDS = {
    "judge.safetensors": "train the judge",
    "judge.onnx": "export the judge",
    "teacher.safetensors": "train the teacher",
    "student.safetensors": "train the student",
    "student.onnx": "export the student",
    "healthy.safetensors": "try honest updates",
    "evaluation.json": "examine the student",
    "teacher.json": "examine the teacher",
    "published": "sign and publish",
}


class Progress:
    """Shows each step of `report`, which may be called from any thread. Not saved."""

    def __init__(self, console: Console, json_lines: bool) -> None:
        self._console, self._json_lines = console, json_lines
        columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=console, disable=json_lines)
        self._tasks: dict[str, TaskID] = {}
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def report(self, step: str, done: int, of: int) -> None:
        with self._turn:
            if self._json_lines:
                print_progress(step, done, of)
                return
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(_WORDS.get(step, step), total=of)
            total = None if of > 1 else self._total(step)  # the last word on a step only says that it is done
            self._bars.update(self._tasks[step], total=of if total is None else total, completed=total or done)

    def finish(self, row: ReleaseRow) -> None:
        if self._json_lines:
            sys.stdout.write(json.dumps({"release": release_tree(row)}) + "\n")
        else:
            self._console.print(releases_table([row]))

    def _total(self, step: str) -> float | None:
        return next(task.total for task in self._bars.tasks if task.id == self._tasks[step])
