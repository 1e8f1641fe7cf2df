"""What every modality does alike around its makers: whose seeds compete, who judges, what is kept.

A job is one checked request of any modality. Several seeds may be tried for it (best_of), several
candidates for each seed; a critic ranks them, and every take says how it was picked. A request that
ends without its take is noted in the ledger.

It deliberately knows no medium: how a job becomes one is the business of the sessions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from pipelines import Step
from pipelines.params import ParamError
from pipelines.request import MAX_SEED, Request
from pipelines.take import Take, record_failure

log = logging.getLogger("affect")


class Job(Protocol):
    """What is asked of the jobs of a modality."""

    @property
    def request(self) -> Request:
        """What was asked for."""

    @property
    def but_for_seed(self) -> str:
        """Equal for jobs that differ in their seed alone."""

    def seeded(self, seed: int) -> Self:
        """Return the same job with another seed."""


AnyJob = TypeVar("AnyJob", bound=Job)
Event = TypeVar("Event")


# Seeds -------------------------------------------------------------------------------------------


def groups(
    jobs: Sequence[AnyJob], key: Callable[[AnyJob], Any] = lambda job: job.but_for_seed
) -> list[list[AnyJob]]:
    """Jobs with equal keys together, in order of first appearance."""
    found: dict[Any, list[AnyJob]] = {}
    for job in jobs:
        found.setdefault(key(job), []).append(job)
    return list(found.values())


def contenders(group: list[AnyJob], best_of: int | None) -> list[AnyJob]:
    """What to make for requests that differ in their seed alone: themselves, or N seeds."""
    if best_of is None:
        return group
    first = min(job.request.seed for job in group)
    return [group[0].seeded((first + i) % (MAX_SEED + 1)) for i in range(best_of)]


def check_kept(jobs: Sequence[Job], best_of: int | None) -> None:
    """Refuse to keep more of a group than are tried."""
    most = max(len(group) for group in groups(jobs))
    if best_of is not None and best_of < most:
        msg = f"best_of: allowed {most} or more (the number kept), received {best_of}"
        raise ParamError(msg)


def check_search(best_of: int | None, critic: Any, batch_size: int | None) -> None:
    """Refuse a search that nobody judges, and batches of nothing."""
    if best_of is not None and critic is None:
        msg = "best_of: needs a critic to rank the candidates; leave out critic=None"
        raise ParamError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size: allowed 1 or more, received {batch_size}; leave it out to let it fit"
        raise ParamError(msg)


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of the nth candidate of a take, 0 .. 2**48; the first is the take's own."""
    if candidate == 0:
        return seed
    digest = hashlib.sha256(f"{seed} candidate {candidate}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


# Judges ------------------------------------------------------------------------------------------


def judges(
    critic: Any,
    reader: Any,
    modality: str,
    load: Callable[[str], Any],
    *,
    needed: bool,
    missing: tuple[type[Exception], ...] = (OSError, ValueError),
) -> tuple[Any, Any, list[str]]:
    """Critic and reader with "auto" resolved, and a note for each that is missing.

    load: from a name such as "critic-voice" to who bears it. needed: whether there is no going on
    without the critic; else a judge that is missing is None and reads no take. missing: what `load`
    raises then.
    """
    found, notes = [], []
    for role, given in (("critic", critic), ("reader", reader)):
        if given != "auto":
            found.append(given)
            continue
        try:
            found.append(load(f"{role}-{modality}"))
        except missing as error:
            if role == "critic" and needed:
                raise
            found.append(None)
            notes.append(f"{error}; until then it reads no take")
    return found[0], found[1], notes


def chosen_of(
    count: int, rank: int, score: float, scores: Sequence[float], critic: str
) -> dict[str, Any]:
    """How one was picked among `count`: what a take tells of it."""
    mean = sum(scores) / len(scores)
    return {"of": count, "rank": rank, "score": score, "mean_score": mean, "critic": critic}


def ranked(
    pool: Sequence[AnyJob],
    keep: int,
    made: Callable[[AnyJob], Iterable[Any]],
    score: Callable[[Any], float],
    critic: str | None,
) -> Generator[Any, None, list[Any]]:
    """Make all jobs of a pool; yields where the work stands, returns what is kept, best first.

    Args:
        pool: `contenders` of one request.
        keep: how many are kept. No more are held at a time: a long recording is 200 MB.
        made: yields any number of Steps of a job, then its result, a dataclass with `chosen`.
        score: of a result, larger is better; the earlier of equals wins.
        critic: who scores, for `chosen`; None where no seeds compete.
    """
    best: list[tuple[float, int, Any]] = []
    scores: list[float] = []
    for index, job in enumerate(pool):
        for event in made(job):
            if isinstance(event, Step):
                yield event
                continue
            scores.append(score(event))
            best = sorted([*best, (-scores[-1], index, event)], key=lambda x: x[:2])[:keep]
    if critic is None:
        return [one for *_, one in best]
    return [
        dataclasses.replace(one, chosen=chosen_of(len(pool), rank, -least, scores, critic))
        for rank, (least, _, one) in enumerate(best, start=1)
    ]


# Notes -------------------------------------------------------------------------------------------


def untold(notes: Sequence[str], told: set[str]) -> tuple[str, ...]:
    """The notes that a run has not told yet, each once; they are logged and count as told now."""
    fresh = tuple(dict.fromkeys(note for note in notes if note not in told))
    told.update(fresh)
    for note in fresh:
        log.info("%s", note)
    return fresh


# Failures ----------------------------------------------------------------------------------------


def recorded(
    events: Iterable[Event], jobs: Sequence[Job], best_of: int | None, out: Path
) -> Iterator[Event]:
    """Pass events on; where an error ends them, note the jobs that got no take in the ledger."""
    # The best of several seeds need not come in order, nor with a seed that was asked for.
    same = {"weights": ""} if best_of is None else {"weights": "", "seed": 0}
    left = [job.request for job in jobs]
    try:
        for event in events:
            if isinstance(event, Take):
                key = event.request.changed(**same).key
                left.remove(next(one for one in left if one.changed(**same).key == key))
            yield event
    except Exception as error:
        for request in left:
            record_failure(request, error, out)
        raise
