"""The run behind voice's `generate`: decode, analyse, plan, render, choose, read, write.

One `Session` is one call. The work runs in a thread of its own that looks at a stop flag after
every denoising step, rendered piece and reading. Of the candidates of a take the critic keeps one;
the independent reader hears only that one and has no part in the choice. Where the recording is
known to be neutral (spoken here, or said to be so) both read against it; else they read the result
alone. It deliberately does not know how requests are checked (pipelines.voice), how a voice is made
(pipelines.voice_maker) or stored (pipelines.voice_take).
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adapters.reading import Reading, soft_score
from adapters.voice_analysis import Analysis
from adapters.voice_features import hear
from adapters.voice_reader import VoiceReader
from pipelines import Backbone, Step
from pipelines.curve import Curve
from pipelines.selection import (
    candidate_seed,
    chosen_of,
    contenders,
    groups,
    judges,
    ranked,
    recorded,
    untold,
)
from pipelines.take import Take
from pipelines.voice import ADAPTER, Job
from pipelines.voice_maker import (
    ANALYSE,
    READ,
    RENDER,
    STEP,
    Candidate,
    Done,
    Report,
    Source,
    branches,
    candidates_of,
    no_work,
)
from pipelines.voice_take import (
    POINTS,
    Made,
    asked_curve,
    label_of,
    notes_of,
    read_curve,
    reading_of,
    shipped_digests,
    write,
)
from pipelines.worker import in_thread, one_pool

HEADS = 2  # networks of an editing backbone; each takes all steps
WINDOW = 0.25  # s between readings over time

_LAST: dict[str, Any] = {}  # The model used last: the next call need not load it again.


@dataclass(frozen=True, slots=True)
class Heard:
    """The independent reader's reading of a result, and all curves over time by their names."""

    reading: Reading | None
    curves: dict[str, Curve]


@functools.cache
def embedded_critic(name: str) -> Any:
    """Load a shipped critic of voices once a process."""
    from adapters.voice_critic import load_voice_critic

    return load_voice_critic(name)


def loaded(job: Job, *, device: str | None, dtype: Any, offline: bool | None) -> Any:
    """Return the model of a job's backbone, the one used last again if it is the same."""
    key = f"{job.row.weights} {job.row.revision} {device} {dtype}"
    if key in _LAST:
        return _LAST[key]
    folder = folder_of(job.row)
    if job.kind == "mel":
        from pipelines.voice_mel import MelVoicePipeline
        from pipelines.weights import best_device

        pipe = MelVoicePipeline.load(folder)
        device = device or best_device()
    else:
        from pipelines.voice_model import VoicePipeline

        pipe = VoicePipeline.load(folder)
    if device is not None:
        pipe.to(device)
    if dtype is not None:
        pipe.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    _LAST.clear()
    _LAST[key] = pipe
    return pipe


def folder_of(row: Backbone) -> Path:
    """Where a backbone's weights lie; of the hub's, in its cache."""
    if row.folder is not None:
        return row.folder
    from pipelines.weights import cached, pull

    return cached(row.weights, row.revision) or pull(row)


def weights_of(pipe: Any, lora: str) -> str:
    """16 hex digits of all weights and directions of a model, and of the style that it wears."""
    h = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        if not isinstance(part, torch.nn.Module):
            continue
        for key, tensor in sorted(part.state_dict().items()):
            h.update(f"{name}.{key}".encode())
            h.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    if pipe.directions is not None:
        h.update(pipe.directions.digest.encode())  # of what they are for, or of their vectors
        for key, tensor in sorted(getattr(pipe.directions, "vectors", {}).items()):
            h.update(key.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    digest = h.hexdigest()[:16]
    if not lora:
        return digest
    style = hashlib.sha256()
    for head in ("prosody", "timbre"):
        style.update((Path(lora).expanduser() / head / ADAPTER).read_bytes())
    return f"{digest}+{style.hexdigest()[:16]}"


@dataclass(slots=True)
class Session:
    """The state of one `generate` call."""

    out: Path
    best_of: int | None
    pipeline: Any
    critic: Any
    reader: Any
    options: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    told: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        """Make all jobs; see `pipelines.voice.generate`."""
        with one_pool():
            yield from recorded(self._takes(jobs), jobs, self.best_of, self.out)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        yield self._step("load")
        self.critic, self.reader, notes = judges(
            self.critic, self.reader, "voice", embedded_critic, needed=self.best_of is not None
        )
        self.pending += notes
        pools = [(contenders(same, self.best_of), len(same)) for same in groups(jobs)]
        if self.best_of is None:  # each is written as soon as it is made
            pools = [([job], 1) for job in jobs]
        self.total = sum(
            sum(_work(job, self.critic) for job in pool) + keep * _length(pool[0]) * READ
            for pool, keep in pools
        )
        yield self._step("load", self._news([job for pool, _ in pools for job in pool]))
        judge = self.critic.name if self.best_of is not None else None
        for pool, keep in pools:
            for made in (yield from ranked(pool, keep, self._made, self._score, judge)):
                yield from self._written(made)

    def _made(self, job: Job) -> Iterator[Any]:
        return self._in_thread(functools.partial(self._make, job))

    def _in_thread(self, work: Callable[[Report], Any]) -> Iterator[Any]:
        """Run work in a thread; yields a Step for all it reports, then what it returns.

        One CPU thread always: their number changes the last digits of what is planned, and a take
        must not depend on how busy the machine was.
        """
        last = time.monotonic()
        for event in in_thread(work, threads=1, name="affect-voice"):
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if isinstance(event, Done):
                self.done = min(self.done + event.work, self.total)
                yield self._step(event.stage)
            else:
                yield event

    # Preparing -----------------------------------------------------------------------------------

    def _pipeline(self, job: Job) -> Any:
        return self.pipeline or loaded(job, **self.options)

    def _weights(self, job: Job, pipe: Any) -> str:
        key = f"{job.row.weights} {job.params.lora}"
        if key not in self.digests:
            self.digests[key] = weights_of(pipe, job.params.lora)
        return self.digests[key]

    def _source(self, job: Job, report: Report) -> Source:
        """The recording of a job, decoded and analysed; the last one is kept."""
        speech = job.recording.speech if job.recording is not None else None
        if speech is not None:
            key = hashlib.sha256(speech.tobytes()).hexdigest()
        else:
            key = job.request.digests["audio"]
        if key in self.sources:
            return self.sources[key]
        self.sources.clear()
        if job.recording is not None and speech is not None:
            found = Source.of(speech, job.recording.sample_rate, no_work(report))
        else:
            from pipelines.media_sound import load_sound

            job.request.check_inputs()
            sound = load_sound(job.request.inputs["audio"])
            found = Source.of(sound.waveform, sound.sample_rate, no_work(report))
        self.sources[key] = found
        return found

    def _news(self, todo: Sequence[Job]) -> tuple[str, ...]:
        """Warnings that were not told yet."""
        notes, self.pending = self.pending, []
        if self.critic is None and any(job.params.candidates > 1 for job in todo):
            notes.append("there is no critic to choose by: one candidate is made for each take")
        return untold(notes, self.told)

    def _step(self, stage: str, notes: tuple[str, ...] = ()) -> Step:
        eta = self.seconds / self.done * (self.total - self.done) if self.done else None
        return Step(round(100 * self.done), round(100 * self.total), eta, stage, notes)

    # Making --------------------------------------------------------------------------------------

    def _make(self, job: Job, report: Report) -> Made:
        """The best candidate of one job."""
        begun = time.monotonic()
        pipe = self._pipeline(job)
        weights = self._weights(job, pipe)
        source = self._source(job, report)
        report(Done("analyse", source.seconds * ANALYSE))
        against = is_neutral(job) and source.people == 1
        reference = None
        if against and self.critic is not None:
            reference = self.critic.reference([source.analysis])
        best: tuple[float, Candidate, Reading | None] | None = None
        scores: list[float] = []
        for take in range(_candidates(job, self.critic) if source.people else 1):
            seed = candidate_seed(job.request.seed, take)
            for candidate in candidates_of(job, source, pipe, seed, report):
                read = self._read_one(candidate.analysis, reference)
                scores.append(_score(job, source, read))
                if best is None or scores[-1] > best[0]:
                    best = scores[-1], candidate, read
            if best is not None and best[1].engine == "none":
                break  # the recording itself, whatever the seed
        if best is None:
            msg = "candidates: allowed 1 or more"
            raise ValueError(msg)
        score, candidate, read = best
        chosen = None
        if len(scores) > 1 and self.critic is not None:
            chosen = chosen_of(len(scores), 1, score, scores, self.critic.name)
        spent = time.monotonic() - begun
        return Made(job, source, candidate, weights, against, read, chosen, spent)

    def _read_one(self, analysis: Analysis, reference: Any) -> Reading | None:
        if self.critic is None:
            return None
        reading: Reading = self.critic.read([analysis], reference)[0]
        return reading

    def _score(self, made: Made) -> float:
        return _score(made.job, made.source, made.critic)

    # Writing -------------------------------------------------------------------------------------

    def _written(self, made: Made) -> Iterator[Step | Take]:
        """Read and write what was kept."""
        begun = time.monotonic()
        yield self._step("read", untold(notes_of(made), self.told))
        heard = Heard(None, {})
        for event in self._in_thread(functools.partial(self._read, made)):
            if isinstance(event, Heard):
                heard = event
            else:
                yield event
        reading = reading_of(made, heard.reading, heard.curves)
        spent = time.monotonic() - begun
        yield write(made, heard.curves, reading, self.out, made.seconds + spent)

    def _read(self, made: Made, report: Report) -> Heard:
        """What the independent reader hears, and both readers over time."""
        curves = {"asked": asked_curve(made)}
        reading = None
        analysis, rate = made.result.analysis, made.source.sample_rate
        step = max(WINDOW, analysis.seconds / POINTS)
        for judge in (self.critic, self.reader):
            if judge is not None and analysis.speech.any():
                own = isinstance(judge, VoiceReader)  # it hears the sound itself
                item = hear(made.in_phase, rate) if own else analysis
                reference = None
                if made.against:
                    plain = hear(made.source.plain, rate) if own else made.source.analysis
                    reference = judge.reference([plain])
                if judge is self.reader:
                    reading = judge.read([item], reference)[0]
                times, readings = judge.read_over_time(item, reference, step=step)
                curves[judge.name] = read_curve(times, readings)
            report(Done("read", made.source.seconds * READ / 2))
        return Heard(reading, curves)


def is_neutral(job: Job) -> bool:
    """Whether the recording is known to be the person's neutral voice.

    It is where it was spoken here, said to be neutral, or is the sample that ships. What somebody
    else recorded may be in any mood, and a mood that is taken for neutral is read away.
    """
    if job.source is not None:
        return not any(job.source)
    spoken_here = job.recording is not None and job.recording.speech is not None
    return spoken_here or job.request.digests.get("audio") in shipped_digests()


def _score(job: Job, source: Source, read: Reading | None) -> float:
    """How well the critic hears what was asked; 0 without one."""
    return 0.0 if read is None else float(soft_score(read, label_of(job, source)))


def _candidates(job: Job, critic: Any) -> int:
    """How many are made: more than one only where they can differ and be told apart."""
    differ = job.moved and job.params.variation > 0
    return job.params.candidates if differ and critic is not None else 1


def _length(job: Job) -> float:
    return job.recording.seconds if job.recording is not None else 0.0


def _work(job: Job, critic: Any) -> float:
    """Seconds that one job takes on one core before it is read, about."""
    one = ANALYSE + RENDER + STEP * job.params.steps * HEADS * branches(job)
    return _length(job) * (ANALYSE + one * _candidates(job, critic))
