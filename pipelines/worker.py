"""Work in a thread that can be stopped between two of its steps.

Making media blocks in libraries that know no Stop. So the work runs in a thread of its own and
reports after every step; whoever iterates may leave at any time (close, error, Ctrl-C), and the
thread then ends with the step it is in, through every context it has opened. It deliberately does
not know what the work is.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """Raised inside the work between two steps, to leave it through its contexts."""


def in_thread(
    work: Callable[[Callable[[Any], None]], Any], *, threads: int = 0, name: str = "affect-work"
) -> Iterator[Any]:
    """Run `work(report)` in a thread; yields what it reports, then what it returns.

    threads: CPU threads of torch's kernels there, 0 for torch's own number. `report` raises
    `Stopped` once the iterator has been left.
    """
    import torch

    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stop = threading.Event()

    def report(step: Any) -> None:
        if stop.is_set():
            raise Stopped
        events.put(("step", step))

    def body() -> None:
        try:
            if threads:
                torch.set_num_threads(threads)
            events.put(("result", work(report)))
        except BaseException as error:
            events.put(("error", error))

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = events.get()
            if kind == "error":
                raise value
            yield value
            if kind == "result":
                return
    finally:
        stop.set()
        thread.join()


@contextmanager
def one_pool() -> Iterator[int]:
    """Yield the number of CPU threads to work with, keeping the caller's own thread to one.

    Each thread that computes has an OpenMP pool; two pools are more threads than cores, and the
    runtime then lets the idle ones sleep between kernels: a batch took 5.7 s instead of 3.5.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def idle_threads(wanted: int, load: float | None = None, cores: int | None = None) -> int:
    """As many CPU threads as are wanted if that many cores are idle, else one.

    For work whose kernels are so short that threads wait for each other: with a core too few they
    wait for the scheduler. load: runnable processes, by default the mean of the last minute;
    where the system does not tell, one thread. cores: of the machine.
    """
    if load is None:
        try:
            load = os.getloadavg()[0]
        except (AttributeError, OSError):  # Windows has none
            return 1
    free = (cores or os.cpu_count() or 1) - load
    # Half a core of bookkeeping does not count: a desktop is never quite idle.
    return wanted if free >= wanted - 0.5 else 1
