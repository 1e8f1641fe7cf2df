"""What goes where: results on stdout, everything else on stderr.

stdout carries paths, or one JSON object a line; progress with the time left, notes and warnings go
to stderr, so that `affect ... | xargs` works. It does not know what is being made.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from types import TracebackType
from typing import Any, ClassVar


def result(line: str) -> None:
    """Write one line of result to stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def result_json(data: object) -> None:
    """Write one JSON object to stdout, on one line."""
    result(json.dumps(data, sort_keys=True, default=str))


def note(text: str) -> None:
    """Write one line for people to stderr, above the bar while there is one."""
    line = f"affect: {one_line(text)}"
    if Meter.live is not None:
        Meter.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def note_once(text: str) -> None:
    """`note`, unless this process has said the same before."""
    if text not in _TOLD:
        _TOLD.add(text)
        note(text)


_TOLD: set[str] = set()


class NoteHandler(logging.Handler):
    """Warnings of our own libraries as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message unless it was written before."""
        note_once(record.getMessage())


def one_line(text: str, limit: int = 600) -> str:
    """`text` on one line without control characters (it may come from a file)."""
    flat = " ".join(str(text).split())
    clean = "".join(c if c.isprintable() else "�" for c in flat)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def person_at_terminal() -> bool:
    """Whether somebody can be asked: what we say and what they type are on a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def table_console(*, stderr: bool = False) -> Any:
    """A rich console for tables; piped ones are wide, so that no value is folded."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr) if stream.isatty() else Console(stderr=stderr, width=200)


class Meter:
    """A progress bar with the time left on stderr; nothing where stderr is no terminal.

    Use as a context manager: `with Meter("image-tiny") as meter: meter.step("drawing", 3, 20)`.
    """

    live: ClassVar[Any] = None

    def __init__(self, what: str) -> None:
        self.what = what
        self._progress: Any = None
        self._task: Any = None
        self._start = time.monotonic()

    def __enter__(self) -> Meter:
        if not sys.stderr.isatty():
            return self
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            # rich would send our results to stderr; wanted only when both are the same terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._progress.start()
        Meter.live = self._progress
        self._task = self._progress.add_task(self.what, total=None)
        return self

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps are behind us; `what` says what is going on."""
        if self._progress is not None:
            text = one_line(what, 60)
            self._progress.update(self._task, description=text, completed=done, total=max(total, 1))

    @property
    def seconds(self) -> float:
        """Seconds since the meter was made."""
        return time.monotonic() - self._start

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            Meter.live = None
            self._progress.stop()
