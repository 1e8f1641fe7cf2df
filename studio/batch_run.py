"""The jobs of a plan are made: here, or by one process a device that pulls the next chunk.

Workers pull, because jobs differ: 40 jobs of cost 1 or 12 on eight workers took 27 by a static
split and 17 by pulling (simulated). Each worker has a pipe of its own and no queue is shared, so
one that is killed holds no lock; what it had is given to another. An error in a chunk is met by
making the rest of it one at a time, so that the job that fails is found and the others go on.

What happens comes as events of plain data. This file deliberately does not know what a manifest
is, nor what is printed; finished takes are on the disk and in the ledger before their event comes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from pipelines import ledger
from studio.console import one_line
from studio.run import Options, no_bars, quiet_libraries, torch_dtype

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from pipelines import Step
    from pipelines.take import Request, Take

Numbered: TypeAlias = "tuple[int, Request]"
"""A job's number in the plan and its request."""
CHUNK = {"image": 40, "music": 8, "voice": 8, "portrait": 4}
"""Modality -> jobs that are made in one call, else 1. Of pictures several batches, since one that
is too large for the memory is halved once a call; of sounds enough to decode a recording once."""
TRIES = 2  # times that a job may take its process down with it before it is given up
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker is at a chunk of `count` jobs, `share` of which is done, 0..1."""

    worker: int
    share: float
    count: int
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A take is on the disk and in the ledger; `take` is its `Take.to_json`."""

    number: int
    take: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A job failed; the ledger says so too."""

    number: int
    error: str


@dataclass(frozen=True, slots=True)
class Told:
    """A line for people."""

    text: str


Event: TypeAlias = Started | Finished | Failed | Told


def chunked(
    jobs: Sequence[tuple[Numbered, Any]], workers: int, rate: float | None = None, *, gpu: bool
) -> list[list[Numbered]]:
    """Neighbours of one group that are made in one call.

    Args:
        jobs: each with its group, in the order of making.
        workers: small enough that each gets several.
        rate: jobs a second that may begin; a chunk is then no longer than ten seconds.
        gpu: more pictures at once.
    """
    found: list[list[Numbered]] = []
    for _, together in itertools.groupby(jobs, key=lambda job: job[1]):
        group = [job for job, _ in together]
        most = CHUNK.get(group[0][1].modality, 1)
        if gpu and group[0][1].modality == "image":
            most *= 2
        if workers > 1:
            most = min(most, max(1, -(-len(group) // (2 * workers))))
        if rate is not None:
            most = min(most, max(1, int(10 * rate)))
        found += [group[at : at + most] for at in range(0, len(group), most)]
    return found


def asked_key(request: Request) -> str:
    """A request's key but for its weights, which are known only once they are loaded."""
    return request.changed(weights="").key


# One chunk ---------------------------------------------------------------------------------------


def make_chunk(jobs: Sequence[Numbered], options: Options, worker: int = 0) -> Iterator[Event]:
    """Make jobs of one group; whatever happens to one, the others are made.

    Raises:
        TakeError: the output folder can no longer be written; nothing else would be made either.
    """
    if options.best_of is not None and len(jobs) > 1:  # the seeds of each compete among themselves
        for job in jobs:
            yield from make_chunk([job], options, worker)
        return
    left = {asked_key(request): (number, request) for number, request in jobs}
    lines = _ledger_size(options.out)
    try:
        yield from _made(left, options, worker, len(jobs))
        error: Exception = RuntimeError("the run ended without this take")
    except Exception as raised:
        error = raised
    if not left:
        return
    ledger.prepare_out(options.out)
    if len(jobs) > 1:
        why = one_line(str(error)) or type(error).__name__
        yield Told(f"{len(left)} jobs failed together ({why}); each is made alone")
        for job in list(left.values()):
            yield from make_chunk([job], options, worker)
        return
    (key,) = left
    number, request = left[key]
    if not _is_noted(options.out, lines, key):
        from pipelines.take import record_failure

        record_failure(request, error, options.out)
    yield Failed(number, one_line(str(error)) or type(error).__name__)


def _made(left: dict[str, Numbered], options: Options, worker: int, count: int) -> Iterator[Event]:
    """Make what is in `left` and take out what is finished."""
    from pipelines import generate
    from pipelines.take import Take

    requests = [request for _, request in left.values()]
    # Voices and films say their format by a knob; only of pictures it is an option.
    ext = {"image": "png", "music": "mid"}.get(requests[0].modality, "auto")
    yield Started(worker, 0.0, count, "load")
    events = generate(
        requests,
        best_of=options.best_of,
        out_dir=options.out,
        device=options.device,
        dtype=torch_dtype(options.dtype),
        offline=options.offline or None,
        ext=options.ext if requests[0].modality == "image" else ext,
    )
    if requests[0].modality != "music":
        no_bars()
    with closing(cast("Generator[Step | Take]", events)):
        for event in events:
            if isinstance(event, Take):
                # The best of several seeds has its own, not the one that was asked for.
                key = asked_key(event.request) if options.best_of is None else next(iter(left))
                done = left.pop(key, None)
                if done is not None:
                    yield Finished(done[0], event.to_json())
                continue
            yield Started(worker, event.index / max(event.total, 1), count, event.stage)
            for text in event.notes:
                yield Told(text)


def _ledger_size(out: Path) -> int:
    with suppress(OSError):
        return (out / ledger.LEDGER).stat().st_size
    return 0


def _is_noted(out: Path, since: int, key: str) -> bool:
    """Whether the ledger names this failure already, in a line after its first `since` bytes."""
    with suppress(OSError), (out / ledger.LEDGER).open("rb") as file:
        file.seek(since)
        return any(b'"failed"' in line and key.encode() in line for line in file)
    return False


# Pace --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pace:
    """At most so many jobs a second begin; `rate` None is as fast as it goes."""

    rate: float | None = None
    _next: float = 0.0

    def wait(self) -> float:
        """Seconds until a chunk may begin."""
        return max(0.0, self._next - time.monotonic()) if self.rate else 0.0

    def begun(self, count: int) -> None:
        """Tell that `count` jobs have begun."""
        if self.rate:
            self._next = max(self._next, time.monotonic()) + count / self.rate


# Here, or in workers -----------------------------------------------------------------------------


class Chunks(Protocol):
    """Where chunks come from."""

    def take(self) -> list[Numbered]:
        """Return the next chunk, empty when there is none."""

    def back(self, chunk: Sequence[Numbered]) -> None:
        """Put a chunk back to the front."""


def make_here(source: Chunks, options: Options, pace: Pace) -> Iterator[Event]:
    """Make all chunks in this process, one after the other."""
    while True:
        time.sleep(pace.wait())
        chunk = source.take()
        if not chunk:
            return
        pace.begun(len(chunk))
        yield from make_chunk(chunk, options)


@dataclass(slots=True)
class _Worker:
    """A process, our end of its pipe, and what it has not finished of the chunk it is at."""

    process: BaseProcess
    link: Connection
    device: str
    has: dict[int, Request]
    busy: bool = False


def make_by_workers(
    source: Chunks, options: Options, devices: Sequence[str], pace: Pace
) -> Iterator[Event]:
    """Make all chunks with one process a device; each is handed the next when it is done.

    A worker that dies is replaced. What it had not finished is made one at a time; a job that takes
    two processes down has failed.
    """
    from multiprocessing.connection import wait

    tries: dict[int, int] = {}
    workers = [_start(index, device, options) for index, device in enumerate(devices)]
    dry = False
    try:
        while True:
            idle = (worker for worker in workers if not worker.busy)
            while not dry and not pace.wait() and (worker := next(idle, None)):
                chunk = source.take()
                if not chunk:
                    dry = True
                    break
                pace.begun(len(chunk))
                worker.has, worker.busy = dict(chunk), True
                with suppress(OSError):  # it has died: seen below
                    worker.link.send(chunk)
            links = [worker.link for worker in workers if worker.busy]
            rest = pace.wait() if not dry and len(links) < len(workers) else None
            if not links:
                if dry:
                    return
                time.sleep(rest or 0.0)
                continue
            for link in wait(links, rest):
                worker = next(one for one in workers if one.link is link)
                try:
                    event = worker.link.recv()
                except (EOFError, OSError):
                    yield from _buried(worker, source, tries, options)
                    dry = False
                    place = workers.index(worker)
                    workers[place] = _start(place, worker.device, options)
                    continue
                if event is None:
                    worker.busy = False
                elif isinstance(event, Exception):
                    raise event
                else:
                    if isinstance(event, Finished | Failed):
                        worker.has.pop(event.number, None)
                    yield event
    finally:
        _stop(workers, options.out)


def _buried(
    worker: _Worker, source: Chunks, tries: dict[int, int], options: Options
) -> Iterator[Event]:
    """What is done when a worker died: its jobs go back, each alone, or have failed."""
    from pipelines.take import record_failure

    worker.process.join(STOP_SECONDS)
    code = worker.process.exitcode
    what = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    yield Told(f"a worker on {worker.device} died ({what}); another takes over")
    alone = len(worker.has) == 1
    for number, request in reversed(list(worker.has.items())):
        tries[number] = tries.get(number, 0) + (1 if alone else 0)
        if tries[number] >= TRIES:
            error = RuntimeError(f"its process died twice ({what}), perhaps for lack of memory")
            record_failure(request, error, options.out)
            yield Failed(number, str(error))
        else:
            source.back([(number, request)])


def _start(index: int, device: str, options: Options) -> _Worker:
    """Start a worker; a fresh interpreter, since CUDA does not survive a fork."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    named = dataclasses.replace(options, device=device or None)
    process = context.Process(target=_work, args=(theirs, index, named), daemon=True)
    process.start()
    theirs.close()  # or its end would stay open here when the worker dies
    return _Worker(process, ours, device, {})


def _stop(workers: Sequence[_Worker], out: Path) -> None:
    """End all workers; files appear whole or not at all, so none has to be waited for."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(STOP_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(STOP_SECONDS)
        worker.link.close()
    ledger.sweep(out)


def _work(link: Connection, index: int, options: Options) -> None:
    """A worker: make the chunks that come until nobody is there to send them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    # Through every context, so that nothing shared between processes is left behind at the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    quiet_libraries(offline=options.offline)
    with suppress(EOFError, OSError):  # whoever started this is gone
        while True:
            jobs = link.recv()
            try:
                for event in make_chunk(jobs, options, index):
                    link.send(event)
                link.send(None)
            except ledger.TakeError as error:
                link.send(error)
                return
