"""A recording as the model of portraits hears it: 133 numbers a video frame.

Four rows of 32 mel bands 1/120 s apart, relative to how this voice and microphone sound on the
average, and five numbers of prosody (pitch, voicing, speech, level, accent). What is no speech is
silence to the model, so that music and noise do not move the lips. It deliberately does not know
curves, emotions or files. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from adapters.face_life import accents
from adapters.voice_analysis import HOP, RATE, analyse

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

FPS = 30
"""Video frames a second that the model works at."""
PARTS, BANDS = 4, 32
PROSODY = ("pitch", "voiced", "speech", "level", "accent")
FEATURES = PARTS * BANDS + len(PROSODY)
SILENT = -3.0
"""Value of every band where nobody speaks: 36 dB below the mean of the speech."""

_WINDOW, _SIZE = 400, 512  # 25 ms
_PRIOR_ROWS = 240.0  # two seconds of an average voice stand behind the mean of a short recording
_AROUND = 0.12  # s of sound kept around speech: stops and breath before the voice
# Mean of the bands of speech re its loudest tenth, dB: a straight fall from the lowest band to the
# highest, fitted to the seven recordings that the model was trained on.
_FALL = (-27.0, -58.0)


@dataclass(frozen=True, slots=True)
class Hearing:
    """T frames, 30 a second; frame i is centred on i / 30 s.

    features: float32 (T, 133). speaking: (T,) 0..1, smooth. accent: (T,) 0..1. dips: (n,) seconds
    of short gaps of the sound inside words, where lips may have met.
    """

    features: Singles
    speaking: Floats
    accent: Floats
    dips: Floats

    def __len__(self) -> int:
        return len(self.features)


def silence(frames: int) -> Hearing:
    """What is heard when nothing is."""
    features = np.zeros((frames, FEATURES), dtype=np.float32)
    features[:, : PARTS * BANDS] = SILENT
    features[:, PARTS * BANDS + PROSODY.index("level")] = SILENT
    return Hearing(features, np.zeros(frames), np.zeros(frames), np.zeros(0))


def hear(
    waveform: ArrayLike,
    sample_rate: int = RATE,
    frames: int | None = None,
    on_block: Callable[[], None] | None = None,
) -> Hearing:
    """What the model reads of a recording.

    waveform: (samples,) or (channels, samples), -1..1. frames: how many; None: as long as the
    sound. Beyond the sound there is silence. on_block and errors as in
    `adapters.voice_analysis.analyse`.
    """
    analysis = analyse(waveform, sample_rate, on_block)
    x = _mono(waveform, sample_rate)
    count = max(1, round(len(x) * FPS / RATE))
    heard = min(count, frames or count)
    said = np.asarray(analysis.speech, dtype=np.float64)
    if not said.any():
        return silence(frames or count)
    rows = _mel_rows(x, heard)
    at = np.arange(heard) / FPS
    clock = analysis.times
    near = _dilated(said > 0, _AROUND / (HOP / RATE))
    sub = (np.arange(heard * PARTS) / PARTS + _SUB_START) / FPS
    keep = np.interp(sub, clock, near) > 0.5
    inside = np.interp(sub, clock, said) > 0.5
    level = float(np.quantile(_power(rows[inside]) if inside.any() else _power(rows), 0.9))
    prior = level + np.linspace(*_FALL, BANDS)
    total = rows[inside].sum(axis=0) + _PRIOR_ROWS * prior
    mean = total / (inside.sum() + _PRIOR_ROWS)
    bands = np.clip((rows - mean) / 12.0, SILENT, -SILENT)
    bands[~keep] = SILENT
    voiced = np.interp(at, clock, analysis.voiced) > 0.5
    pitch = _pitch(analysis.f0, analysis.voiced, at, clock)
    loud = np.interp(at, clock, analysis.energy)
    loud_said = np.interp(at, clock, said)
    relative = np.clip((loud - analysis.level) / 12.0, SILENT, -SILENT)
    relative = np.where(np.interp(at, clock, near) > 0.5, relative, SILENT)
    stress = accents(pitch, voiced, loud, FPS)
    columns = [np.where(voiced, pitch / 6.0, 0.0), voiced, loud_said, relative, stress]
    features = np.concatenate(
        [bands.reshape(heard, PARTS * BANDS), np.stack(columns, axis=1)], axis=1
    ).astype(np.float32)
    speaking = _smooth(loud_said, 2.0)
    out = Hearing(features, speaking, stress, _dips(bands, inside))
    return out if frames is None or frames <= heard else padded(out, frames)


def padded(hearing: Hearing, frames: int) -> Hearing:
    """The same with silence after it, up to `frames`."""
    rest = silence(frames - len(hearing))
    return Hearing(
        np.concatenate([hearing.features, rest.features]),
        np.concatenate([hearing.speaking, rest.speaking]),
        np.concatenate([hearing.accent, rest.accent]),
        hearing.dips,
    )


def fitted(hearing: Hearing, frames: int) -> Hearing:
    """The first `frames` of it, or all and then silence."""
    if frames >= len(hearing):
        return padded(hearing, frames) if frames > len(hearing) else hearing
    return Hearing(
        hearing.features[:frames],
        hearing.speaking[:frames],
        hearing.accent[:frames],
        hearing.dips[hearing.dips * FPS < frames],
    )


_SUB_START = -(PARTS - 1) / 2 / PARTS  # frames: the four rows lie around the frame's centre


def _mono(waveform: ArrayLike, sample_rate: int) -> Singles:
    from adapters.voice_analysis import at_rate

    return at_rate(waveform, sample_rate)


def _mel_rows(x: Singles, frames: int) -> Floats:
    """(frames * 4, 32) dB."""
    centres = (np.arange(frames * PARTS) / PARTS + _SUB_START) / FPS * RATE
    half = _WINDOW // 2
    whole = np.pad(x, (2 * _WINDOW, 2 * _WINDOW))
    starts = np.clip(np.rint(centres).astype(np.intp) - half + 2 * _WINDOW, 0, len(whole) - _WINDOW)
    windows = sliding_window_view(whole, _WINDOW)
    hann = np.hanning(_WINDOW).astype(np.float32)
    out = np.empty((len(starts), BANDS))
    for first in range(0, len(starts), 4096):
        part = slice(first, first + 4096)
        power = np.abs(np.fft.rfft(windows[starts[part]] * hann, _SIZE)) ** 2
        out[part] = 10 * np.log10(power @ _filters() + 1e-9)
    return out


@lru_cache(maxsize=1)
def _filters() -> Floats:
    """(257, 32) triangles from 60 to 7,600 Hz, evenly on the mel scale, each of sum 1."""
    mel = np.linspace(1127 * np.log1p(60 / 700), 1127 * np.log1p(7600 / 700), BANDS + 2)
    edges = 700 * np.expm1(mel / 1127)
    f = np.fft.rfftfreq(_SIZE, 1 / RATE)[:, None]
    up, down = (f - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - f) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(up, down)) + 1e-6
    return np.asarray(triangles / triangles.sum(axis=0))


def _power(rows: Floats) -> Floats:
    """(n,) dB of the sum over the bands."""
    return np.asarray(10 * np.log10(np.sum(10 ** (rows / 10), axis=1)))


def _pitch(f0: Singles, voiced: NDArray[np.bool_], at: Floats, clock: Floats) -> Floats:
    """(T,) semitones above the median, straight lines between voiced places."""
    if voiced.sum() < 3:
        return np.zeros(len(at))
    semitones = 12 * np.log2(f0[voiced].astype(np.float64))
    return np.asarray(np.interp(at, clock[voiced], semitones - np.median(semitones)))


def _dilated(flags: NDArray[np.bool_], frames: float) -> Floats:
    width = 2 * int(np.ceil(frames)) + 1
    half = width // 2
    return np.asarray(sliding_window_view(np.pad(flags, half), width).any(axis=1), np.float64)


def _smooth(values: Floats, frames: float) -> Floats:
    half = int(np.ceil(3 * frames))
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / frames) ** 2)
    return np.convolve(np.pad(values, half, mode="edge"), taps / taps.sum(), "valid")


def _dips(bands: Floats, inside: NDArray[np.bool_]) -> Floats:
    """(n,) seconds where the sound above 300 Hz falls by 10 dB and is back within 150 ms."""
    loud = bands[:, 5:26].mean(axis=1) * 12.0
    reach = round(0.075 * FPS * PARTS)
    if len(loud) <= 2 * reach:
        return np.zeros(0)
    wide = sliding_window_view(np.pad(loud, reach, mode="edge"), 2 * reach + 1)
    before, after = wide[:, :reach].max(axis=1), wide[:, reach + 1 :].max(axis=1)
    low = (loud <= wide.min(axis=1) + 1e-9) & (np.minimum(before, after) - loud > 10.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], low & inside[: len(low)], [0]])))
    middle = edges.reshape(-1, 2).mean(axis=1) - 0.5
    return np.asarray((middle / PARTS + _SUB_START) / FPS)
