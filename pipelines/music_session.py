"""The run behind music's `generate`: plan bars, compose, perform, choose, render, read, write.

One `Session` is one call. Composing runs in a thread of its own that looks at a stop flag after
every bar. Of the candidates of a take the critic keeps one by their notes alone, so only what is
kept is rendered; the independent reader hears that sound and has no part in the choice. It
deliberately does not know how requests are checked (pipelines.music), how notes are written
(pipelines.music_composer), re-played (pipelines.music_edit) or stored (pipelines.music_take).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.reading import Reading, soft_score
from pipelines import Step
from pipelines.music import Job
from pipelines.music_form import form_of
from pipelines.music_plan import Plan, plan_of
from pipelines.music_take import Made, curves_of, label_of, notes_of, reading_of, write
from pipelines.piano import render
from pipelines.selection import (
    candidate_seed,
    chosen_of,
    contenders,
    groups,
    judges,
    recorded,
    untold,
)
from pipelines.take import Take
from pipelines.worker import idle_threads, in_thread, one_pool

if TYPE_CHECKING:
    from adapters.music_emotion import MusicDirections
    from adapters.piece import Piece
    from pipelines import Backbone
    from pipelines.music_composer import Composer, Composition


BATCH = 16
"""Pieces composed at once: more are hardly faster on two cores and make Stop wait longer."""

SMALL = 30_000_000
"""Parameters up to which a composer gets several CPU threads only while nothing else wants them:
its kernels are short, so two threads halve the time on idle cores (7.0 s to 3.6 s for four times
30 s), and beside another process take 15 times as long as one. The notes are the same."""

_LAST: dict[str, Any] = {}  # The composer used last: the next call need not load it again.


@functools.cache
def embedded_critic(name: str) -> Any:
    """Load a shipped critic of music once a process."""
    from adapters.music_critic import load_music_critic

    return load_music_critic(name)


def directions_of(row: Backbone) -> MusicDirections:
    """The directions that lie beside a model, else those that are shipped; loaded once."""
    from adapters.music_emotion import DIRECTIONS

    own = row.folder / DIRECTIONS.name if row.folder is not None else DIRECTIONS
    return _directions(own if own.is_file() else DIRECTIONS)


@functools.cache
def _directions(path: Path) -> MusicDirections:
    from adapters.music_emotion import MusicDirections

    return MusicDirections.load(path)


def loaded(row: Backbone, **options: Any) -> Composer:
    """Return the composer of a backbone, the one used last again if it is the same."""
    from pipelines.music_composer import Composer

    key = f"{row.weights} {options}"
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = Composer.load(row, **options)
    return _LAST[key]


@dataclass(slots=True)
class Session:
    """The state of one `generate` call."""

    out: Path
    best_of: int | None
    composer: Composer | None
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
        """Make all jobs; see `pipelines.music.generate`."""
        needs_torch = any(job.composed for job in jobs)
        with one_pool() if needs_torch else nullcontext(0) as self.threads:
            yield from recorded(self._takes(jobs), jobs, self.best_of, self.out)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        yield self._step("load")
        self.critic, self.reader, notes = judges(
            self.critic, self.reader, "music", embedded_critic, needed=self.best_of is not None
        )
        self.pending += notes
        pools = [(contenders(same, self.best_of), len(same)) for same in groups(jobs)]
        if self.best_of is None:  # each is written as soon as it is made
            pools = [([job], 1) for job in jobs]
        plans = [self._plan(job) for pool, _ in pools for job in pool]
        todo = list(zip([job for pool, _ in pools for job in pool], plans, strict=True))
        self.total = sum(_units(job, plan) for job, plan in todo)
        yield self._step("load", self._news(todo))
        finished: list[Made] = []
        for pool, keep in pools:
            while len(finished) < len(pool):
                batch, todo = self._batch(todo)
                for event in self._made(batch):
                    if isinstance(event, Made):
                        finished.append(event)
                    else:
                        yield event
            best, finished = finished[: len(pool)], finished[len(pool) :]
            yield from self._written(self._ranked(best, keep))

    def _batch(self, todo: list[tuple[Job, Plan | None]]) -> tuple[list[Any], list[Any]]:
        """The next jobs that are composed together, and the rest; one of another kind is alone."""
        most, count = self.batch_size or BATCH, 0
        for index, (job, _) in enumerate(todo):
            count += job.params.candidates
            other = not job.composed or _written_by(job) != _written_by(todo[0][0])
            if index and (other or not todo[0][0].composed or count > most):
                return todo[:index], todo[index:]
        return todo, []

    # Preparing -----------------------------------------------------------------------------------

    def _composer(self, job: Job) -> Composer:
        return self.composer or loaded(job.row, **self.options)

    def _plan(self, job: Job) -> Plan | None:
        """What is asked of every bar; None where nothing is asked of a file's own."""
        if not job.composed and not job.moved:
            return None
        return plan_of(job, directions_of(job.row))

    def _news(self, todo: Sequence[tuple[Job, Plan | None]]) -> tuple[str, ...]:
        """Warnings that were not told yet."""
        notes, self.pending = self.pending, []
        for job, plan in todo:
            notes += notes_of(job, plan)
        if self.critic is None and any(job.params.candidates > 1 for job, _ in todo):
            notes.append("there is no critic to choose by: one candidate is made for each take")
        return untold(notes, self.told)

    def _step(self, stage: str, notes: tuple[str, ...] = ()) -> Step:
        eta = self.seconds / self.done * (self.total - self.done) if self.done else None
        return Step(round(self.done), round(self.total), eta, stage, notes)

    # Making --------------------------------------------------------------------------------------

    def _made(self, batch: list[tuple[Job, Plan | None]]) -> Iterator[Step | Made]:
        """Make a batch: compose its candidates together, or re-play its one file."""
        begun = time.monotonic()
        if not batch[0][0].composed:
            job, plan = batch[0]
            piece = self._replayed(job, plan)
            critic = self.critic.read([piece])[0] if self.critic else None
            weights = _digest(directions_of(job.row)) if plan is not None else ""
            yield Made(job, piece, plan, weights, critic, None, time.monotonic() - begun)
            return
        composer = self._composer(batch[0][0])
        several = self.critic is not None
        wanted = [
            (job, plan, take)
            for job, plan in batch
            for take in range(job.params.candidates if several else 1)
        ]
        written: list[Piece] = []
        compositions = [_composition(job, plan, take) for job, plan, take in wanted if plan]
        style = (batch[0][0].params.lora, batch[0][0].params.lora_weight)
        work = functools.partial(_compose, composer, compositions, style)
        before, last = self.done, begun
        share = sum(plan.bars for _, plan in batch if plan)
        size = sum(weights.numel() for weights in composer.model.parameters())
        threads = idle_threads(self.threads) if size <= SMALL else self.threads
        for event in in_thread(work, threads=threads, name="affect-compose"):
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if isinstance(event, float):
                self.done = before + share * event
                yield self._step("compose")
            else:
                written = event
        self.done = before + share
        played = [
            _performed(job, plan, piece, take)
            for (job, plan, take), piece in zip(wanted, written, strict=True)
            if plan is not None
        ]
        yield self._step("read")
        each = (time.monotonic() - begun) / len(batch)
        at = 0
        for job, plan in batch:
            count = job.params.candidates if several else 1
            pieces, at = played[at : at + count], at + count
            piece, reading, chosen = self._best(job, pieces)
            yield Made(job, piece, plan, _weights(composer, job), reading, chosen, each)

    def _replayed(self, job: Job, plan: Plan | None) -> Piece:
        """The file of a job with other elements, and in another mood where one is asked for."""
        from pipelines.music_edit import recolour
        from pipelines.music_transfer import parse_elements, transfer

        if job.kind == "transfer":
            elements = parse_elements(job.params.transfer)
            piece = transfer(elements, job.files["from"], job.files["onto"])
        else:
            piece = job.files["recolour"]
        if plan is None:
            return piece
        centre = directions_of(job.row).centre
        return recolour(piece, plan.targets, centre, pins=job.pins.attributes)

    def _best(
        self, job: Job, pieces: list[Piece]
    ) -> tuple[Piece, Reading | None, dict[str, Any] | None]:
        """The candidate that the critic reads best, its reading, and how it was chosen."""
        if self.critic is None:
            return pieces[0], None, None
        readings = self.critic.read(pieces)
        if len(pieces) == 1:
            return pieces[0], readings[0], None
        scores = [
            float(soft_score(r, label_of(job, p))) for r, p in zip(readings, pieces, strict=True)
        ]
        best = int(np.argmax(scores))
        chosen = chosen_of(len(pieces), 1, scores[best], scores, self.critic.name)
        return pieces[best], readings[best], chosen

    def _ranked(self, pool: list[Made], keep: int) -> list[Made]:
        """The `keep` best of several seeds, best first; without best_of all of them."""
        if self.best_of is None:
            return pool
        scores = [float(soft_score(made.critic, label_of(made.job, made.piece))) for made in pool]
        order = sorted(range(len(pool)), key=lambda i: -scores[i])[:keep]
        return [
            dataclasses.replace(
                pool[i], chosen=chosen_of(len(pool), rank, scores[i], scores, self.critic.name)
            )
            for rank, i in enumerate(order, start=1)
        ]

    # Writing -------------------------------------------------------------------------------------

    def _written(self, kept: list[Made]) -> Iterator[Step | Take]:
        """Render, read and write what was kept."""
        for made in kept:
            begun = time.monotonic()
            yield self._step("render")
            job, piece = made.job, made.piece
            sound = render(
                piece,
                seconds=job.params.seconds,
                brightness=job.params.brightness,
                soundfont=job.request.inputs.get("soundfont"),
            )
            yield self._step("read")
            heard = self.reader.read([sound])[0] if self.reader else None
            curves = curves_of(made, sound, self.critic, self.reader)
            reading = reading_of(made, heard, curves)
            spent = time.monotonic() - begun
            take = write(made, sound, curves, reading, self.out, made.seconds + spent)
            self.done += piece.bars
            self.seconds += time.monotonic() - begun
            yield take


def _units(job: Job, plan: Plan | None) -> float:
    """Steps that a job counts for: its bars when composed, and again when rendered and read."""
    given = max((piece.bars for piece in job.files.values()), default=0)
    return given + (2 * plan.bars if job.composed and plan is not None else 0)


def _composition(job: Job, plan: Plan, candidate: int) -> Composition:
    from pipelines.music_composer import Composition

    return Composition(
        targets=plan.targets,
        seconds=plan.seconds,
        seed=candidate_seed(job.request.seed, candidate),
        tonic=plan.tonic,
        beats_per_bar=plan.beats_per_bar,
        lead=job.files.get("continue"),
        temperature=job.params.temperature,
        top_p=job.params.top_p,
        guidance_scale=job.params.guidance_scale,
        form=job.params.form,
    )


def _compose(
    composer: Composer,
    compositions: list[Composition],
    style: tuple[str, float],
    report: Callable[[float], None],
) -> list[Piece]:
    """The work of one batch: reports the share that is done, returns the written pieces."""
    folder, weight = style
    with composer.adapted(Path(folder), weight) if folder else nullcontext():
        return composer.compose(
            compositions, on_bar=lambda done, total: report(done / max(total, 1))
        )


def _written_by(job: Job) -> tuple[str, str, float]:
    """What must be equal for jobs to be composed in one batch."""
    return job.row.weights, job.params.lora, job.params.lora_weight


def _weights(composer: Composer, job: Job) -> str:
    """Digest of all the weights that a take was written with."""
    if not job.params.lora:
        return composer.weights
    from adapters.music_adapter import adapter_digest

    return f"{composer.weights}+{adapter_digest(job.params.lora)}"


def _performed(job: Job, plan: Plan, piece: Piece, candidate: int) -> Piece:
    """A written piece as it is played; what was given is left as it was."""
    from pipelines.music_composer import LEAD_BARS
    from pipelines.music_performance import perform

    lead = job.files.get("continue")
    seed = candidate_seed(job.request.seed, candidate)
    before = 0 if lead is None else min(LEAD_BARS, lead.bars)
    form = form_of(plan.bars, form=job.params.form, lead=before)
    phrases = [bar for bar, part in enumerate(form) if part.place == 0]
    played = perform(piece, plan.targets, seed, job.params.performance, phrases=phrases)
    return played if lead is None else lead.then(played)


def _digest(directions: MusicDirections) -> str:
    """16 hex digits of the directions, for takes that no composer had a part in."""
    parts = [directions.centre, directions.scale]
    parts += [tensor.numpy() for tensor in directions.bank.vectors.values()]
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in parts)).hexdigest()[
        :16
    ]
