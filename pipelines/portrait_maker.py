"""One motion from one seed: drawn by the model, read from a driving film, or given as curves.

    speech and emotion -> pipelines.portrait_motion.plan
    a driving film     -> its expression, the emotion's muscles on top; with speech, its mouth
    curves             -> as they are; an emotion that is asked for on top
    a still            -> the emotion's muscles at their height, with a person's own variants

It deliberately knows no critic, no pixels and no thread; whoever calls is told of every step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adapters import facs
from adapters.emotion import CORE
from adapters.face_life import eased
from adapters.face_motion import ARKIT, MOUTH, Motion
from adapters.lexicon import entry
from adapters.voice_analysis import at_rate
from pipelines.portrait import Job, PortraitParams
from pipelines.portrait_drive import worn
from pipelines.portrait_model import Sampling
from pipelines.portrait_motion import MOST_MUSCLE, MotionSettings, plan
from pipelines.portrait_sound import FPS, Hearing, hear
from pipelines.voice_maker import straightened

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Seconds of work on one core, so that the bar moves evenly: of speech that is heard, of a step of
# the model, of a frame that is rendered at 512 px and encoded, measured again, or of a film read.
HEAR, STEP, RENDER, READ, DRIVE = 0.03, 0.004, 0.045, 0.012, 0.02
SETUP = 1.0  # s of a photo that is made ready
# A frame that is painted again at full strength: between an accelerator (under one) and a processor
# (minutes); what is told of the time left follows what was really spent.
POLISH = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """Reported after a piece of work: its stage, and how many seconds it takes on one core."""

    stage: str
    work: float
    preview: Any = None


Report = Callable[[Done], None]


@dataclass(frozen=True, slots=True)
class Sounds:
    """What is heard: the samples as given, float32 (channels, samples), and as the model reads."""

    waveform: Singles
    sample_rate: int
    heard: Hearing

    @classmethod
    def of(
        cls, waveform: Singles, sample_rate: int, on_block: Callable[[], None] | None = None
    ) -> Sounds:
        """Of samples, (channels, samples); on_block is called now and then and may raise."""
        plain, _ = straightened(waveform)
        mono = at_rate(plain, sample_rate)
        return cls(waveform, sample_rate, hear(mono, on_block=on_block))

    @property
    def speaking(self) -> bool:
        """Whether anybody speaks."""
        return bool(self.heard.speaking.any())

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.waveform.shape[1] / self.sample_rate


def times_of(job: Job) -> Floats:
    """(T,) seconds of the emotion's course at each frame; of a still the moment that it shows."""
    if not job.params.still:
        return np.arange(job.frames) / job.params.fps
    at, keys = job.params.seconds, job.request.emotion.keys
    return np.array([max(keys, key=lambda key: key[1].intensity)[0] if at is None else at])


def motion_of(
    job: Job,
    pipe: Any,
    seed: int,
    *,
    sounds: Sounds | None,
    driven: Motion | None,
    report: Report,
) -> Motion:
    """The motion of one job with this seed.

    sounds: of the audio, where there is one. driven: of the driving film.
    """
    params, frames, fps = job.params, job.frames, job.params.fps
    if params.still:
        return _still(job, seed)
    times = times_of(job)
    if job.curves is not None:
        given = job.curves.at(times, fps)
        return _on_top(job, given, times, _speaking(sounds, given))
    if driven is not None:
        head = params.head / PortraitParams().head
        base = worn(driven, frames, fps, head)
        if sounds is None:
            curves = base.curves.copy()
            curves[:, list(MOUTH)] *= params.lips
            if params.blink == 0:
                curves[:, _BLINKS] = 0
            base = Motion(curves, base.pose, fps)
            return _on_top(job, base, times, _speaking(None, base))
        said = _planned(job, pipe, seed, sounds, report)
        curves = _on_top(job, base, times, _speaking(sounds, base)).curves.copy()
        curves[:, list(MOUTH)] = said.curves[:, list(MOUTH)]
        return Motion(curves, base.pose, fps)
    return _planned(job, pipe, seed, sounds, report)


_BLINKS = [ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right")]


def _planned(job: Job, pipe: Any, seed: int, sounds: Sounds | None, report: Report) -> Motion:
    """Motion that the model draws."""
    params, emotion = job.params, job.request.emotion
    times = times_of(job)
    track, residuals = emotion.sample(times), emotion.residuals(times)
    each = job.seconds * STEP
    settings = MotionSettings(
        Sampling(params.steps, params.audio_scale, params.emotion_scale, params.style_scale)
    )
    told = contractions(track, residuals)
    with _worn(pipe, params.lora, params.lora_weight):
        return plan(
            sounds.heard if sounds is not None else None,
            track,
            residuals,
            seconds=job.frames / params.fps,
            model=pipe,
            generator=torch.Generator().manual_seed(seed),
            fps=params.fps,
            lips=params.lips,
            expression=params.expression,
            head=params.head,
            blink=params.blink,
            gaze=params.gaze,
            muscles=told,
            settings=settings,
            on_step=lambda done, total: report(Done("denoise", each)),
        )


def _worn(pipe: Any, lora: str, weight: float) -> AbstractContextManager[None]:
    return pipe.wearing(Path(lora).expanduser(), weight) if lora else nullcontext()


def _on_top(job: Job, base: Motion, times: Floats, speaking: ArrayLike) -> Motion:
    """A motion with the muscles of the emotion added; the same one where none is asked for."""
    if not job.moved:
        return base
    emotion = job.request.emotion
    rows = contractions(emotion.sample(times), emotion.residuals(times))
    rows = eased(np.minimum(job.params.expression * rows, MOST_MUSCLE), base.fps)
    curves, pose = facs.expression(rows)
    held = facs.posture(job.params.expression * emotion.sample(times))
    both = base.curves + facs.spoken(curves, speaking)
    turned = base.pose + job.params.head * (pose + held)
    return Motion(np.clip(both, 0, 1).astype(np.float32), turned.astype(np.float32), base.fps)


def _speaking(sounds: Sounds | None, motion: Motion) -> Floats:
    """(T,) 0..1 whether words are said: by the sound, else by a jaw that is busy."""
    times = motion.times
    if sounds is not None:
        heard = sounds.heard.speaking
        return np.interp(times, np.arange(len(heard)) / FPS, heard, right=0.0)
    if len(times) < 2:
        return np.zeros(len(times))
    busy = np.abs(np.gradient(motion.channel("jawOpen").astype(np.float64)))
    half = max(1, round(0.3 * motion.fps))
    around = np.lib.stride_tricks.sliding_window_view(np.pad(busy, half, mode="edge"), 2 * half + 1)
    # 1.5 jaws a second: ordinary talk
    return np.asarray(np.clip(around.mean(axis=1) * motion.fps / 1.5, 0, 1))


def _still(job: Job, seed: int) -> Motion:
    """One frame: the muscles of a moment of the course, its peak where none is said."""
    request, params = job.request, job.params
    emotion, at = request.emotion, times_of(job)
    base = Motion.neutral(1, params.fps)
    if job.curves is not None:
        base = job.curves.at([params.seconds or 0.0], params.fps)
    track = emotion.sample(at)
    rows = contractions(track, emotion.residuals(at))
    rng = np.random.default_rng(seed)
    for k, name in enumerate(CORE):  # every seed draws alike, whatever the emotion
        rows = rows + float(track[0, k]) * facs.variation(name, rng)
    rows = np.clip(params.expression * rows, 0, MOST_MUSCLE)
    curves, pose = facs.expression(rows)
    pose = pose + facs.posture(params.expression * track)
    curves = np.clip(base.curves + curves, 0, 1)
    turned = base.pose + params.head * pose
    return Motion(curves.astype(np.float32), turned.astype(np.float32), params.fps)


# Contempt ----------------------------------------------------------------------------------------

_ALIKE = 0.01  # share by which two numbers may differ that are meant to be in one proportion


def contractions(track: ArrayLike, residuals: ArrayLike) -> Floats:
    """(T, U) muscles of intensities (T, 12) and residuals (T, 3), contempt by its own face.

    Contempt is no core emotion: the lexicon writes it as anger and disgust in one proportion. Where
    a state holds them in just that one, its share is taken out and R12+R14 drawn in its place.
    """
    a = np.atleast_2d(np.asarray(track, dtype=np.float64))
    r = np.atleast_2d(np.asarray(residuals, dtype=np.float64))
    mix, left = (np.asarray(part, dtype=np.float64) for part in entry("contempt"))
    shares = a[:, mix > 0] / mix[mix > 0]
    least, most = shares.min(axis=1), shares.max(axis=1)
    share = np.where(most - least < _ALIKE * most, np.minimum(least, 1.5), 0.0)[:, None]
    rows = facs.muscles(np.maximum(a - share * mix, 0.0), r - share * left)
    return np.asarray(np.clip(rows + share * facs.named("contempt"), 0.0, 1.0))
