"""The run behind video's `generate`: load, make, survive full memory, read, choose, write.

One `Session` is one call. Films are made one after the other in a thread that looks at a stop flag
after every denoising step and every stretch of decoded frames; closing the iterator raises the
flag, waits for that step and leaves every steering context on the way out. It deliberately does not
know how requests are checked (pipelines.video), how an emotion acts on a model
(pipelines.video_maker) or what is said about a film (pipelines.video_take).
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adapters.memory import out_of_memory
from adapters.reading import Reading
from pipelines import Backbone, Step
from pipelines.media import load_image
from pipelines.selection import chosen_of, contenders, groups, judges, recorded, untold
from pipelines.session import alone, embedded_critic
from pipelines.take import Take
from pipelines.video import Job
from pipelines.video_take import Made, moments_of, notes_of, reading_of, score_of, write
from pipelines.worker import in_thread, one_pool

if TYPE_CHECKING:
    from pipelines.video_maker import Progress, VideoMaker

log = logging.getLogger("affect")

SHARES = {"paint": 0.12, "denoise": 0.72, "render": 0.16}
"""Parts of the work on a film, about; keyframes come on top of the others."""
READ = 0.1  # reading, measuring and encoding, in films

_LAST: dict[str, Any] = {}  # The maker used last: the next call need not load it again.


def loaded(row: Backbone, **options: Any) -> VideoMaker:
    """Return the maker of a backbone, the one used last again if it is the same."""
    from pipelines.video_weights import load_maker

    key = f"{row.weights} {row.revision} {options}"
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = load_maker(row, **options)
    found: VideoMaker = _LAST[key]
    return found


@dataclass(slots=True)
class Session:
    """The state of one `generate` call."""

    out: Path
    best_of: int | None
    maker: VideoMaker | None
    critic: Any
    reader: Any
    batch_size: int | None
    options: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    threads: int = 0
    told: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)

    def takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        """Make all jobs; see `pipelines.video.generate`."""
        with one_pool() as self.threads:
            yield from recorded(self._takes(jobs), jobs, self.best_of, self.out)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        yield self._step("load")
        self.critic, self.reader, notes = judges(
            self.critic, self.reader, "image", embedded_critic, needed=self.best_of is not None
        )
        self.pending += notes
        pools = [(contenders(same, self.best_of), len(same)) for same in groups(jobs)]
        if self.best_of is None:  # each is written as soon as it is made
            pools = [([job], 1) for job in jobs]
        self.total = sum(_work(job) for pool, _ in pools for job in pool)
        for pool, keep in pools:
            maker = self.maker or loaded(pool[0].row, **self.options)
            maker.check(pool[0].params, init=pool[0].init is not None)
            yield self._step("load", self._news(maker, pool))
            with alone(maker):
                yield from self._pool(maker, pool, keep)

    def _pool(self, maker: VideoMaker, pool: list[Job], keep: int) -> Iterator[Step | Take]:
        """Make all films of a pool and write the best ones."""
        best: list[tuple[float, int, Made]] = []
        scores: list[float] = []
        for index, job in enumerate(pool):
            for event in self._film(maker, job):
                if isinstance(event, Made):
                    score = 0.0
                    if self.best_of is not None and event.critic is not None:
                        score = score_of(job, event.times, event.critic)
                    scores.append(score)
                    best = sorted([*best, (-score, index, event)], key=lambda one: one[:2])[:keep]
                else:
                    yield event
        for rank, (score, _, made) in enumerate(best, start=1):
            if self.best_of is not None:
                chosen = chosen_of(len(pool), rank, -score, scores, self.critic.name)
                made = dataclasses.replace(made, chosen=chosen)
            yield from self._written(maker, made)

    def _news(self, maker: VideoMaker, pool: Sequence[Job]) -> tuple[str, ...]:
        """Warnings that were not told yet."""
        notes, self.pending = self.pending, []
        for job in pool:
            notes += maker.notes(job.request.prompt)
        params = pool[0].params
        moved = params.style and any(job.moved for job in pool)
        if params.directions and moved and not maker.own.directions_ready:
            notes.append(f"fitting the emotion directions of {maker.name}, once")
        return untold(notes, self.told)

    def _step(
        self, stage: str, notes: tuple[str, ...] = (), preview: Any = None, more: float = 0.0
    ) -> Step:
        done = min(self.done + more, self.total)
        eta = self.seconds / done * (self.total - done) if done and self.seconds else None
        return Step(round(100 * done), round(100 * self.total), eta, stage, notes, preview)

    def _timed(self, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
        """What work in a thread reports and returns, with its time counted."""
        last = time.monotonic()
        for event in in_thread(work, threads=self.threads, name="affect-film"):
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            yield event

    # Making --------------------------------------------------------------------------------------

    def _film(self, maker: VideoMaker, job: Job) -> Iterator[Step | Made]:
        """One film; what does not fit is decoded in smaller parts, then the model offloaded."""
        from pipelines.video_maker import DECODE, Progress

        begun = time.monotonic()
        job.request.check_inputs()
        init = load_image(job.init) if job.init else None
        chunk = self.batch_size or DECODE
        whole, frames = _work(job), np.zeros((0, 0, 0, 3), dtype=np.uint8)
        while True:
            work = functools.partial(_made, maker, job, init, chunk)
            try:
                for event in self._timed(work):
                    if isinstance(event, Progress):
                        share = _share(event, job)
                        stage = "denoise" if event.stage == "paint" else event.stage
                        yield self._step(stage, preview=event.preview, more=share * whole)
                    else:
                        frames = event
                break
            except Exception as error:
                if not out_of_memory(error):
                    raise
                note, chunk = self._smaller(maker, job, init, chunk, error)
                yield self._step("denoise", untold([note], self.told))
        if job.params.grade:
            frames = graded(frames, job)
        moments = moments_of(len(frames), job.params.fps)
        yield self._step("read", more=0.9 * whole)
        critic, troubles = read_by(self.critic, frames, moments)
        self.done += whole
        yield Made(
            job,
            frames,
            moments,
            tuple(maker.texts(_scene(job), job.params, np.arange(job.frames) / job.params.fps)[0]),
            maker.weights(job.params),
            critic,
            time.monotonic() - begun,
            notes=troubles,
        )

    def _smaller(
        self, maker: VideoMaker, job: Job, init: Any, chunk: int, error: Exception
    ) -> tuple[str, int]:
        """What to try next, told and done; a clean MemoryError when there is nothing left."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if chunk > 1 and maker.by_frame:
            self.batch_size = chunk // 2
            return f"memory ran out; decoding {chunk // 2} frames at once", chunk // 2
        if maker.offload():
            return f"memory ran out; the parts of {maker.name} take turns: slower", chunk
        width, height = maker.size(job.params, init)
        msg = (
            f"memory: {job.frames} frames of {width}x{height} of {maker.name} do not fit; ask for "
            "fewer --seconds, a lower --fps, a smaller --width and --height or another --backbone"
        )
        raise MemoryError(msg) from error

    # Writing -------------------------------------------------------------------------------------

    def _written(self, maker: VideoMaker, made: Made) -> Iterator[Step | Take]:
        """Read by the independent reader, measured, encoded and written."""
        begun = time.monotonic()
        extra = maker.notes(made.job.request.prompt)
        yield self._step("read", untold(notes_of(made), self.told))

        def work(report: Callable[[Any], None]) -> Take:
            read, troubles = read_by(self.reader, made.frames, made.moments)
            report(troubles)
            reading = reading_of(made, read, [*extra, *troubles])
            report(None)
            spent = made.seconds + time.monotonic() - begun
            return write(made, read, reading, self.out, spent)

        for event in self._timed(work):
            yield (
                event
                if isinstance(event, Take)
                else self._step("read", untold(event or (), self.told))
            )


def read_by(
    judge: Any, frames: NDArray[np.uint8], moments: Sequence[int]
) -> tuple[tuple[Reading, ...] | None, tuple[str, ...]]:
    """What a judge reads in a film at `moments`; a film is never lost to one that fails.

    Returns its readings, None where there is no judge or it failed, and notes that say so.
    """
    if judge is None:
        return None, ()
    try:
        return tuple(judge.read(_pictures(frames, moments))), ()
    except Exception as error:
        log.debug("%s failed", judge.name, exc_info=True)
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        return None, (f"{judge.name} could not read this film: {why}",)


def graded(frames: NDArray[np.uint8], job: Job) -> NDArray[np.uint8]:
    """Frames tinted by what films of their emotions measure (adapters.colour_prior)."""
    from adapters.colour_prior import grade

    times = np.arange(len(frames)) / job.params.fps
    states = job.timeline.sample(times)
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).float() / 255
    out = (grade(pixels, states, job.params.grade).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(out.numpy().transpose(0, 2, 3, 1))


def _made(
    maker: VideoMaker, job: Job, init: Image.Image | None, chunk: int, report: Callable[[Any], None]
) -> NDArray[np.uint8]:
    """The work of one film: reports progress, returns frames."""
    return maker.film(_scene(job), job.params, init=init, report=report, chunk=chunk)


def _scene(job: Job) -> Any:
    from pipelines.video_maker import Scene

    return Scene(job.request.prompt, job.timeline, job.request.seed, job.frames, job.regions)


def _work(job: Job) -> float:
    """Seconds that a film takes on one core with the embedded model, about."""
    return 0.2 + job.frames * (0.02 * job.params.steps + 0.1)


def _share(event: Progress, job: Job) -> float:
    """How much of a film is done, 0..0.9."""
    parts = {k: v for k, v in SHARES.items() if k != "paint" or job.params.keyframes}
    before = 0.0
    for stage, share in parts.items():
        if stage == event.stage:
            before += share * event.share
            break
        before += share
    return before / sum(parts.values()) * (1 - READ)


def _pictures(frames: NDArray[np.uint8], moments: Sequence[int]) -> list[Image.Image]:
    return [Image.fromarray(frames[k]) for k in moments]
