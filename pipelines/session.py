"""The run behind `generate`: load, paint in a thread, survive full memory, read, choose, write.

One `Session` is one call. The painting runs in a thread of its own that looks at a stop flag after
every denoising step; closing the iterator raises the flag, waits for that step and leaves every
steering context on the way out. It deliberately does not know how requests are checked
(pipelines.image) or how an emotion acts on a model (pipelines.painter).
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.emotion import CORE
from pipelines import Backbone, Step, watermark
from pipelines.image import ImageParams, Job
from pipelines.media import load_image
from pipelines.selection import chosen_of, contenders, groups, judges, recorded, untold
from pipelines.take import Take, write_take
from pipelines.worker import in_thread, one_pool

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.painter import Painter, Sitting

log = logging.getLogger("affect")

#: Pictures painted at once unless told otherwise: a grid of 4 x 5 on a GPU; on a CPU more at once
#: is no faster and makes Stop wait longer.
BATCH = {"cuda": 20, "mps": 4, "cpu": 8}


_LAST: dict[str, Any] = {}  # The painter used last: the next call need not load it again.


@functools.cache
def embedded_critic(name: str) -> Any:
    """Load a shipped critic once a process."""
    from adapters.critic import load_critic

    return load_critic(name)


def loaded(row: Backbone, **options: Any) -> Painter:
    """Return the painter of a backbone, the one used last again if it is the same."""
    from pipelines.painter import Painter

    key = f"{row.weights} {options}"
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = Painter.load(row, **options)
    return _LAST[key]


@dataclass(slots=True)
class Session:
    """The state of one `generate` call."""

    out: Path
    best_of: int | None
    painter: Painter | None
    critic: Any
    reader: Any
    batch_size: int | None
    ext: str
    options: dict[str, Any] = field(default_factory=dict)
    previews: bool = False
    done: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    threads: int = 0
    told: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)

    def takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        """Make all jobs; see `pipelines.image.generate`."""
        with one_pool() as self.threads:
            yield from self._takes(jobs)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        self.total = sum(
            job.params.steps * len(contenders(same, self.best_of)) / len(same)
            for same in groups(jobs)
            for job in same
        )
        needed = self.best_of is not None or any(job.params.critic_guidance for job in jobs)
        self.critic, self.reader, notes = judges(
            self.critic, self.reader, "image", embedded_critic, needed=needed
        )
        self.pending += notes
        for batch in groups(jobs, lambda job: job.alike):
            yield self._step("load")
            painter = self.painter or loaded(batch[0].row, **self.options)
            init = load_image(batch[0].init) if batch[0].init else None
            painter.check(batch[0].params, init=init is not None)
            yield self._step("load", self._news(painter, batch))
            with alone(painter):
                events = self._batch(painter, batch, init)
                yield from recorded(events, batch, self.best_of, self.out)

    def _batch(
        self, painter: Painter, batch: list[Job], init: Image.Image | None
    ) -> Iterator[Step | Take]:
        """One batch: every picture written as its chunk is done, or the best ones at the end."""
        if self.best_of is None:
            for event in self.painted(painter, batch, init):
                if isinstance(event, list):
                    yield self._step("read")
                    yield from self._written(painter, event)
                else:
                    yield event
            return
        for same in groups(batch):
            pool: list[Made] = []
            for event in self.painted(painter, contenders(same, self.best_of), init):
                if isinstance(event, list):
                    pool += event
                else:
                    yield event
            yield self._step("read")
            yield from self._written(painter, pool, keep=len(same))

    def _news(self, painter: Painter, batch: list[Job]) -> tuple[str, ...]:
        """Warnings that were not told yet."""
        notes, self.pending = self.pending, []
        for job in batch:
            notes += painter.notes(job.request.prompt)
        params = batch[0].params
        moved = params.style and any(job.emotion.intensity for job in batch)
        if params.directions and moved and not painter.directions_ready:
            notes.append(f"fitting the emotion directions of {painter.name}, once")
        gain = painter.calibration_of(params.sliders) if params.calibrated else None
        if gain is not None:
            weak = set(gain.uncontrollable())
            asked = {job.emotion.dominant for job in batch} & weak
            notes += [
                f"{name} is not controllable on {painter.name}: its range is under 3 sd of noise"
                for name in sorted(asked)
            ]
            name = getattr(self.critic, "name", None)
            now = f"{name} {self.critic.digest}" if name else gain.critic
            if gain.critic != now:
                notes.append(
                    f"{painter.name} was calibrated with {gain.critic}, not {now}; "
                    "run `affect calibrate image` for this critic"
                )
        return untold(notes, self.told)

    def _step(
        self, stage: str, notes: tuple[str, ...] = (), preview: Image.Image | None = None
    ) -> Step:
        eta = self.seconds / self.done * (self.total - self.done) if self.done else None
        return Step(round(self.done), round(self.total), eta, stage, notes, preview)

    def painted(
        self, painter: Painter, jobs: list[Job], init: Image.Image | None
    ) -> Iterator[Step | list[Made]]:
        """Paint jobs of one kind; a chunk that does not fit is halved, then the model offloaded.

        Yields a Step after every denoising step and the list of what was made after every chunk.
        """
        from adapters.memory import out_of_memory
        from pipelines.painter import Sitting

        most = self.batch_size or BATCH.get(painter.pipe.device.type, 4)
        todo = [jobs[i : i + most] for i in range(0, len(jobs), most)]
        params = jobs[0].params
        steps = painter.steps(params, init=init is not None)
        while todo:
            chunk = todo.pop(0)
            sittings = [Sitting(j.request.prompt, j.emotion, j.request.seed) for j in chunk]
            before, whole = self.done, params.steps * len(chunk)
            pictures: list[Image.Image] = []
            begun = last = time.monotonic()
            work = functools.partial(
                _paint, painter, sittings, params, init=init, critic=self.critic,
                previews=self.previews,
            )  # fmt: skip
            preview = None
            try:
                for event in in_thread(work, threads=self.threads, name="affect-paint"):
                    now = time.monotonic()
                    self.seconds, last = self.seconds + now - last, now
                    if isinstance(event, int):
                        self.done = before + whole * min(1.0, (event + 1) / steps)
                        yield self._step("denoise", preview=preview)
                        preview = None
                    elif isinstance(event, list):
                        pictures = event
                    else:
                        preview = event
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self.done = before
                todo = self._smaller(painter, chunk, init, error) + todo
                note = f"memory ran out with {len(chunk)} at once; trying {len(todo[0])}"
                log.info("%s", note)
                yield self._step("denoise", (note,))
                continue
            self.done = before + whole
            each = (time.monotonic() - begun) / len(chunk)
            seen = painter.prompts(sittings, params)
            yield [
                Made(job, watermark.embed(picture) if params.watermark else picture, prompt, each)
                for job, picture, prompt in zip(chunk, pictures, seen, strict=True)
            ]

    def _smaller(
        self, painter: Painter, chunk: list[Job], init: Image.Image | None, error: Exception
    ) -> list[list[Job]]:
        """What to try instead of `chunk`; a clean MemoryError when there is nothing left."""
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(chunk) > 1:
            half = (len(chunk) + 1) // 2
            self.batch_size = half
            return [chunk[:half], chunk[half:]]
        if painter.offload():
            return [chunk]
        width, height = painter.size(chunk[0].params, init)
        msg = (
            f"memory: one {width}x{height} picture of {painter.name} does not fit; "
            "ask for a smaller --width and --height or another --backbone"
        )
        raise MemoryError(msg) from error

    def _written(
        self, painter: Painter, pool: list[Made], keep: int | None = None
    ) -> Iterator[Take]:
        """Read all pictures by both readers, rank them by the critic if `keep` is given, write."""
        pictures = [made.picture for made in pool]
        unread = [None] * len(pool)
        by_critic = self.critic.read(pictures) if self.critic else unread
        by_reader = self.reader.read(pictures) if self.reader else unread
        order, scores = list(range(len(pool))), []
        if keep is not None:
            from adapters.critic import soft_score

            scores = [
                float(soft_score(reading, made.job.emotion.soft_label()))
                for reading, made in zip(by_critic, pool, strict=True)
            ]
            order.sort(key=lambda i: -scores[i])
        for rank, i in enumerate(order[:keep], start=1):
            chosen = None
            if keep is not None:
                chosen = chosen_of(len(pool), rank, scores[i], scores, self.critic.name)
            yield write_take(
                pool[i].job.request.changed(weights=painter.weights(pool[i].job.params)),
                pool[i].picture,
                self.out,
                reading=_reading(painter, pool[i], by_critic[i], by_reader[i]),
                seconds=pool[i].seconds,
                ext=self.ext,
                chosen=chosen,
            )


@dataclass(frozen=True, slots=True)
class Made:
    """A painted picture, the prompt that the model saw, the seconds it took."""

    job: Job
    picture: Image.Image
    seen: str
    seconds: float


def _reading(painter: Painter, made: Made, critic: Any, reader: Any) -> dict[str, Any]:
    """What a take says about how it is read: asked, read by A (guides, ranks), by B (reports)."""
    asked = zip(("neutral", *CORE), map(float, made.job.emotion.soft_label()), strict=True)
    reading = {
        "asked": dict(asked),
        "prompt": made.seen,
        "critic": critic.to_json() if critic is not None else None,
        "reader": reader.to_json() if reader is not None else None,
    }
    if notes := painter.notes(made.job.request.prompt):
        reading["notes"] = notes
    return reading


_ALONE = threading.Lock()


@contextmanager
def alone(painter: Painter) -> Iterator[None]:
    """One run at a time on a painter: two would steer the same pipeline into each other."""
    with _ALONE:
        if painter.busy:
            msg = (
                f"backbone: {painter.name} is busy with another run; "
                "read that one to its end or close it first"
            )
            raise RuntimeError(msg)
        painter.busy = True
    try:
        yield
    finally:
        painter.busy = False


def _paint(
    painter: Painter,
    sittings: list[Sitting],
    params: ImageParams,
    report: Callable[[Any], None],
    *,
    previews: bool = False,
    **more: Any,
) -> list[Image.Image]:
    """The work of one chunk: reports each step's index and previews, returns the pictures."""
    if previews:
        more["on_preview"] = report
    return painter.paint(sittings, params, on_step=report, **more)
