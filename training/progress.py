"""Lines about how far a run is, for people who wait. Knows no model, no loss and no file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a person wants to hear that something goes on."""


def span(seconds: float) -> str:
    """A time as people say it: seconds to 90, minutes to 90, hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def counted(
    items: Sequence[T],
    what: str,
    tell: Callable[[str], None] = say,
    *,
    each: int = 1,
    every: float = PATIENCE,
) -> Iterator[T]:
    """The items one by one; `what`, how many are done and the time left after `every` seconds.

    each: how many of what is counted an item stands for; the last may stand for fewer.
    """
    began = told = time.monotonic()
    for k, item in enumerate(items):
        now = time.monotonic()
        if k and now - told >= every:
            left = span((len(items) - k) * (now - began) / k)
            tell(f"{what}: {k * each} done, {left} left")
            told = now
        yield item


def step_line(line: Mapping[str, float], total: int, left: float | None) -> str:
    """One line of a log for people.

    Args:
        line: of `training.loop.Log`: step, means by name, samples_per_second (0: not known yet).
        total: steps of the run at most.
        left: seconds that the run may still take; None or 0: not told.
    """
    rest = {k: v for k, v in line.items() if k not in ("step", "samples_per_second", "seconds")}
    said = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in rest.items()]
    if rate := line.get("samples_per_second"):
        said.append(f"{rate:.3g} samples/s")
    if left:
        said.append(f"{span(left)} left")
    return f"step {int(line['step'])} of {total}: {', '.join(said)}"
