"""What is asked of every bar: an emotion over time becomes attribute targets, bar by bar.

How many bars a piece has depends on its tempo, the tempo on the emotion, and the emotion on the
second at which a bar falls; so bars are laid one after the other along the course of the emotion
(`music_form.plan_bars`) and then asked what it is in their middle. It deliberately knows neither
the model that fills the bars nor files. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import VAD, EmotionTimeline
from adapters.music_attributes import ATTRIBUTES
from adapters.music_emotion import MusicDirections
from adapters.piece import Piece
from adapters.tonality import find_key
from pipelines.curve import Curve
from pipelines.music import Job
from pipelines.music_form import plan_bars

Floats = NDArray[np.float64]

GRID = 0.25  # seconds between samples of a course of emotions when its mean is taken
BEATS = 4  # quarter notes a bar, unless a metre is pinned
TEMPO = ATTRIBUTES.index("tempo")


@dataclass(frozen=True, slots=True)
class Plan:
    """The bars to make.

    targets: float64 (bars, 16), columns as ATTRIBUTES, natural units. seconds: their exact length.
    tonic: 0..11, None where the composer may choose. beats_per_bar: quarter notes.
    """

    targets: Floats
    seconds: float
    beats_per_bar: float
    tonic: int | None

    @property
    def bars(self) -> int:
        """How many."""
        return len(self.targets)


def plan_of(job: Job, directions: MusicDirections) -> Plan:
    """Attribute targets for every bar that a job makes or re-plays."""
    if not job.composed:
        piece = job.files["onto" if job.kind == "transfer" else "recolour"]
        middles = piece.seconds_at((np.arange(piece.bars) + 0.5) * piece.beats_per_bar)
        return Plan(_targets(job, directions, middles), piece.seconds, piece.beats_per_bar, None)
    pins, start = dict(job.pins.attributes), 0.0
    beats, tonic = float(job.pins.meter or BEATS), job.pins.key[0] if job.pins.key else None
    if job.kind == "continue":
        lead = job.files["continue"]
        start, beats = lead.seconds, lead.beats_per_bar
        pins.setdefault("tempo", float(lead.tempo[-1, 1]))
        tonic = find_key(lead).tonic if tonic is None else tonic
    seconds = float(job.params.seconds or 0.0) - start

    if "tempo" in pins:
        tempo = _held_tempo(pins["tempo"], seconds, beats)
    else:

        def tempo_at(second: float) -> float:
            return float(_targets(job, directions, np.array([start + second]), pins)[0, TEMPO])

        _, tempo = plan_bars(seconds, tempo_at, beats)
    lengths = beats * 60 / tempo
    middles = start + np.cumsum(lengths) - lengths / 2
    targets = _targets(job, directions, middles, pins)
    targets[:, TEMPO] = tempo
    return Plan(targets, seconds, beats, tonic)


def _held_tempo(bpm: float, seconds: float, beats: float) -> Floats:
    """(bars,) tempo that is exactly `bpm` but in the last bar, whose chord is held to the end.

    The last bar takes what is left: from three quarters of a bar to one and three quarters, as a
    fermata would.
    """
    bar = beats * 60 / bpm
    bars = max(1, int(seconds / bar + 0.25))
    tempo = np.full(bars, bpm)
    tempo[-1] = beats * 60 / (seconds - (bars - 1) * bar)
    return tempo


def _targets(
    job: Job, directions: MusicDirections, times: Floats, pins: dict[str, float] | None = None
) -> Floats:
    timeline = job.request.emotion
    return directions.targets(
        timeline.sample(times),
        timeline.residuals(times),
        job.params.strength,
        job.pins.attributes if pins is None else pins,
    )


def bar_lines(piece: Piece) -> Floats:
    """(bars + 1,) seconds of the bar lines, the end included."""
    return np.asarray(piece.seconds_at(np.arange(piece.bars + 1) * piece.beats_per_bar))


def asked_curve(timeline: EmotionTimeline, seconds: float) -> Curve:
    """Valence and arousal that were asked for, twice a second, at most 600 points."""
    times = np.linspace(0.0, seconds, int(np.clip(round(2 * seconds), 2, 600)))
    vad = timeline.sample(times) @ VAD + timeline.residuals(times)
    return Curve.of(times, vad[:, 0], vad[:, 1])


def asked_label(timeline: EmotionTimeline, seconds: float) -> Floats:
    """(13,) soft label of what was asked for, neutral first: its mean over time."""
    edges = np.linspace(0.0, seconds, int(np.clip(round(seconds / GRID), 2, 2400)) + 1)
    states = timeline.sample((edges[1:] + edges[:-1]) / 2).astype(np.float64)
    total = states.sum(axis=1, keepdims=True)
    labels = np.hstack([np.maximum(0.0, 1.0 - total), states / np.maximum(1.0, total)])
    mean = labels.mean(axis=0)
    return np.asarray(mean / mean.sum())
