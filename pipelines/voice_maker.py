"""One voice from one seed: what is changed is planned, weighed and rendered, or made anew.

A `Candidate` is a sound and how it came about; which one becomes a take is decided elsewhere
(pipelines.voice_session). Two families of backbones come together here: edits of the recording
(`pipelines.voice_model`), and mels that are made anew (`pipelines.voice_mel`). It deliberately
knows no critic, no request's file and no thread; whoever calls is told of every step.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.voice_analysis import RATE, Analysis, analyse, at_rate
from adapters.voice_edit import LIMITS, VoiceEdit
from pipelines.voice import LOCKS, Job
from pipelines.voice_follow import ROUNDS, Goal, followed, goal_of, level_of
from pipelines.voice_long import rendered
from pipelines.voice_people import as_one, people_of
from pipelines.voice_render import PEAK, limited, time_warp

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Done:
    """Reported after a piece of work: its stage, and how many seconds it takes on one core."""

    stage: str
    work: float


Report = Callable[[Done], None]


def no_work(report: Report) -> Callable[[], None]:
    """Reports, so that Stop is seen, what does not move the bar."""
    return lambda: report(Done("analyse", 0.0))


# Seconds of work per second of speech on one core, so that the bar moves evenly.
ANALYSE, STEP, RENDER, READ = 0.015, 0.0065, 0.025, 0.05
WORLD_FROM = 6.0
"""Semitones of the median shift above which WORLD is tried where it is installed: overlapping
grains begin to rattle there."""
OFFSET, OPPOSITE = 0.01, 0.8
"""Mean of the samples from which it is taken out, and negative correlation of two channels from
which they are taken to be one voice, wired the wrong way round."""
DRIFT = 0.5
"""dB of level beside what was asked that is made up for."""
WIDE = 24_000
"""Hz above which trying out costs more than the last rendering."""
MEASURED_SECONDS = 60.0
"""Recordings up to here are rendered and measured until they are right, longer ones once more."""
FAINT = 0.02
"""Of valence, arousal and dominance that no emotion says: more, and no cue table knows it."""

_WEARING = threading.RLock()  # a style is on the shared model while one voice is planned


@dataclass(frozen=True, slots=True)
class Source:
    """A recording and what was found in it.

    waveform: float32 (channels, samples). plain: the same without a constant offset, channels that
    are wired the wrong way round turned (signs, (channels, 1)): what is analysed and edited.
    planned: the analysis that edits are planned on, in which two people are one. people: how many
    were told apart, 0 where nobody speaks.
    """

    waveform: Singles
    plain: Singles
    signs: Singles
    sample_rate: int
    analysis: Analysis
    planned: Analysis
    people: int

    @classmethod
    def of(
        cls, waveform: Singles, sample_rate: int, on_block: Callable[[], None] | None = None
    ) -> Source:
        """Analyse a recording, float32 (channels, samples)."""
        plain, signs = straightened(waveform)
        analysis = analyse(plain, sample_rate, on_block)
        people = people_of(analysis)
        count = 1 + int(people.max()) if analysis.speech.any() else 0
        planned = as_one(analysis, people)
        return cls(waveform, plain, signs, sample_rate, analysis, planned, count)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.waveform.shape[1] / self.sample_rate


def straightened(waveform: Singles) -> tuple[Singles, Singles]:
    """(channels, samples) without offset and with all channels in phase, and their signs.

    An offset would beat with what is done to the level; channels of opposite sign leave silence
    where they are averaged. Ordinary recordings have neither and come back as they are.
    """
    some = waveform[:, :: max(1, waveform.shape[1] >> 16)].astype(np.float64)
    centre = some.mean(axis=1, keepdims=True)
    some -= centre
    power = np.square(some).sum(axis=1)
    against = (some @ some[0]) / np.sqrt(power * power[0] + 1e-12)
    signs = np.where(against < -OPPOSITE, -1, 1).astype(np.float32)[:, None]
    plain = waveform
    if np.abs(centre).max() > OFFSET:
        plain = plain - waveform.mean(axis=1, keepdims=True)
    if (signs < 0).any():
        plain = plain * signs
    return plain, signs


@dataclass(frozen=True, slots=True)
class Candidate:
    """A voice as it would be heard.

    waveform: float32 (channels, samples). analysis: of it. warp: seconds of the source and of the
    result, both rising. engine: how pitch and time were moved, "none" where the result is the
    recording itself. asked_db: the change of level that was planned. kept: cue -> the change that
    the sound was brought to.
    """

    waveform: Singles
    analysis: Analysis
    warp: tuple[Floats, Floats]
    engine: str
    asked_db: float
    kept: Mapping[str, float] = field(default_factory=dict)


def candidates_of(
    job: Job, source: Source, pipe: Any, seed: int, report: Report
) -> list[Candidate]:
    """What can be made of one seed: one voice, or one by each engine that is worth trying."""
    moved = job.moved and source.people > 0
    if moved and job.kind == "mel":
        return [_anew(job, source, pipe, seed, report)]
    edit = VoiceEdit.identity(len(source.analysis))
    if moved:
        edit = _planned(job, source, pipe, seed, report)
    wanted = source.seconds if job.params.keep_length else job.params.seconds
    samples = source.waveform.shape[1]
    if wanted is not None and round(wanted * source.sample_rate) == samples:
        wanted = source.seconds
    if edit.is_identity and wanted in (None, source.seconds):
        warp = np.array([0.0, source.seconds])
        return [Candidate(source.waveform, source.analysis, (warp, warp), "none", 0.0)]
    return [
        _rendered(job, source, pipe, edit, wanted, engine, seed, report)
        for engine in _engines(job, source, edit)
    ]


def _planned(job: Job, source: Source, pipe: Any, seed: int, report: Report) -> VoiceEdit:
    """What is changed in each frame, every group times its gain."""
    params, emotion, times = job.params, job.request.emotion, source.analysis.times
    each = source.seconds * STEP * branches(job)
    with _WEARING, _worn(pipe, params.lora, params.lora_weight):
        edit = pipe.edit(
            source.planned,
            params.strength * emotion.sample(times),
            params.strength * emotion.residuals(times),
            generator=torch.Generator().manual_seed(seed),
            settings=_settings(job),
            negative=None if job.negative is None else np.array(job.negative),
            source=None if job.source is None else np.array(job.source),
            on_step=lambda done, total: report(Done("denoise", each)),
        )
    return weighed(edit, job.gains)


def _settings(job: Job) -> Any:
    from pipelines.voice_model import Sampling

    return Sampling(
        steps=job.params.steps,
        expressiveness=job.params.expressiveness,
        variation=job.params.variation,
        locks=tuple(name for name in LOCKS if job.gains[name] == 0),
    )


def branches(job: Job) -> int:
    """Passes of the networks in each step: guidance adds one, a negative emotion another."""
    if job.params.expressiveness == 1 and job.negative is None:
        return 1
    return 2 if job.negative is None else 3


def _worn(pipe: Any, lora: str, weight: float) -> AbstractContextManager[None]:
    return pipe.wearing(Path(lora).expanduser(), weight) if lora else nullcontext()


def weighed(edit: VoiceEdit, gains: Mapping[str, float]) -> VoiceEdit:
    """An edit with the changes of each lock group times its gain, within what can be rendered."""
    groups = {
        "semitones": "pitch", "tremor": "pitch", "creak": "pitch", "energy_db": "level",
        "log_stretch": "timing", "bands": "timbre", "breath": "breath",
    }  # fmt: skip
    if all(gain == 1 for gain in gains.values()):
        return edit
    rows = {}
    for name, group in groups.items():
        low = 0.0 if name in ("tremor", "creak") else -LIMITS[name]
        rows[name] = np.clip(getattr(edit, name) * np.float32(gains[group]), low, LIMITS[name])
    return VoiceEdit(**rows)


def _engines(job: Job, source: Source, edit: VoiceEdit) -> tuple[str, ...]:
    """What to render with; two where the shift is wide, so that the critic can choose."""
    if job.params.engine != "auto":
        return (job.params.engine,)
    from pipelines.voice_world import RATES

    tone = source.analysis.voiced & source.analysis.speech
    shift = float(np.median(np.abs(edit.semitones[tone]))) if tone.any() else 0.0
    fits = RATES[0] <= source.sample_rate <= RATES[1]
    if shift > WORLD_FROM and fits and importlib.util.find_spec("pyworld") is not None:
        return ("psola", "world")
    return ("psola",)


def _rendered(
    job: Job,
    source: Source,
    pipe: Any,
    edit: VoiceEdit,
    wanted: float | None,
    engine: str,
    seed: int,
    report: Report,
) -> Candidate:
    before = 0.0
    rounds = ROUNDS if source.seconds <= MEASURED_SECONDS else 1

    def on_piece(share: float) -> None:
        nonlocal before
        report(Done("render", max(0.0, share - before) * source.seconds * RENDER))
        before = share

    def sounded(edit: VoiceEdit, x: Singles, rate: int) -> tuple[Singles, Analysis]:
        nonlocal before
        before = 0.0
        waveform = rendered(
            x, rate, source.analysis, edit,
            seconds=wanted, protect=job.params.protect, engine=engine, seed=seed,
            on_piece=on_piece,
        )  # fmt: skip
        found = waveform, analyse(waveform, rate, no_work(report))
        report(Done("analyse", source.seconds * ANALYSE))
        return found

    # What is measured lies below 8 kHz, so wide recordings are tried out narrow, and rendered once.
    narrow = source.sample_rate <= WIDE and len(source.plain) == 1
    trial = (source.plain, source.sample_rate)
    if not narrow:
        trial = (at_rate(source.plain, source.sample_rate)[None, :], RATE)
    goal = _goal(job, source, pipe, wanted)
    if not goal.empty:
        edit, waveform, analysis = followed(
            lambda edit: sounded(edit, *trial), source.analysis, edit, goal, rounds
        )
    if goal.empty or not narrow:
        waveform, analysis = sounded(edit, source.plain, source.sample_rate)
    asked = level_of(source.analysis, edit)
    peak = max(PEAK, float(np.abs(source.waveform).max()))
    for _ in range(3):
        off = asked - (analysis.level - source.analysis.level)
        if not source.people or not analysis.speech.any() or abs(off) < DRIFT:
            break
        # Peaks were held down, and all that is loud with them: once more, from further up.
        waveform = limited(waveform * np.float32(10 ** (off / 20)), source.sample_rate, peak)
        analysis = analyse(waveform, source.sample_rate, no_work(report))
    warp = time_warp(edit, source.seconds, wanted)
    if (source.signs < 0).any():
        waveform = waveform * source.signs
    return Candidate(waveform, analysis, warp, engine, asked, goal.changes(source.analysis))


def _goal(job: Job, source: Source, pipe: Any, wanted: float | None) -> Goal:
    """What the whole is asked to change by; nothing where other things than the twelve say it."""
    emotion, params, times = job.request.emotion, job.params, source.analysis.times
    track = params.strength * emotion.sample(times)
    free = job.negative is None and not any(job.source or ()) and not params.lora
    if not free or np.abs(emotion.residuals(times)).max() > FAINT:
        track = np.zeros_like(track)
    return goal_of(
        track, pipe.directions.gain, job.gains, melody=source.people == 1, timed=wanted is None
    )


def _anew(job: Job, source: Source, pipe: Any, seed: int, report: Report) -> Candidate:
    """A voice whose mel is made anew at 16 kHz, brought back to the recording's form."""
    from pipelines.media_sound import resample

    emotion, times = job.request.emotion, source.analysis.times
    each = source.seconds * STEP
    mono = pipe.convert(
        at_rate(source.plain, source.sample_rate),
        job.params.strength * emotion.sample(times),
        job.params.strength * emotion.residuals(times),
        generator=torch.Generator().manual_seed(seed),
        settings=_settings(job),
        negative=None if job.negative is None else np.array(job.negative),
        source=None if job.source is None else np.array(job.source),
        on_step=lambda done, total: report(Done("denoise", each)),
    )
    back = resample(np.asarray(mono, dtype=np.float32), RATE, source.sample_rate)
    samples = source.waveform.shape[1]
    back = np.pad(back, (0, max(0, samples - len(back))))[:samples]
    waveform = np.clip(back, -1, 1)[None, :] * source.signs
    analysis = analyse(back, source.sample_rate, no_work(report))
    report(Done("analyse", source.seconds * ANALYSE))
    warp = np.array([0.0, source.seconds])
    change = analysis.level - source.analysis.level if analysis.speech.any() else 0.0
    return Candidate(waveform, analysis, (warp, warp), "mel", change)
