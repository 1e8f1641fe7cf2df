"""What a face does besides talking: expressions that come and go, accents, blinks, glances.

Expressions rise faster than they fade (`eased`); stressed syllables draw brows and head along
(`accents`); lids close on a schedule of log-normal intervals, more often while speaking (`blinks`);
eyes rest, leap and hold against the turning head (`glances`). Blinks and glances are made here and
not by the model, so that no seam of it can leave an eye closed. It deliberately does not know
emotions' names, pixels or models. numpy only.

Sources: Bentivoglio et al. 1997 and Doughty 2001 (blink rates, log-normal intervals); Ekman for
the times of expressions; Lee, Badler & Badler 2002 (saccades while talking); Graf et al. 2002 and
Busso et al. 2007 (head and brows follow prosodic accents).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.dynamics import TAU_TO_OMEGA
from adapters.face_motion import ARKIT, CHANNELS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ONSET, OFFSET = 0.15, 0.4
"""Seconds to 63 % of the way up and down. Tracks that were smooth already stay close to it."""
LOOK_DEGREES = 30.0
"""Degrees of an eye's turn when eyeLook is 1."""
_ACCENT_GAP, _ACCENT_HALF = 0.35, 0.18  # s between accents; half the width of one: a syllable
_FARTHEST_LOOK = 14.0  # degrees: farther needs a turn of the head
_STEADY = 0.7  # share of a head turn that the eyes hold against
_CLOSE, _HOLD, _OPEN = (0.07, 0.10), (0.034, 0.05), (0.12, 0.20)  # s; a frame at 30 fps is shut


def eased(track: ArrayLike, fps: float, onset: float = ONSET, offset: float = OFFSET) -> Floats:
    """(T, k) a track with the onset and offset of expressions; starts at its first row.

    Two equal low passes in a row, which never overshoot; each column rises within `onset` and falls
    within `offset` seconds to 63 % of the way.
    """
    rows = np.atleast_2d(np.asarray(track, dtype=np.float64))
    if (rows == rows[0]).all():
        return rows.copy()
    up, down = (1.0 - np.exp(-TAU_TO_OMEGA / (fps * seconds)) for seconds in (onset, offset))
    out = np.empty_like(rows)
    one, two = rows[0].copy(), rows[0].copy()
    for k, row in enumerate(rows):
        one = one + np.where(row > one, up, down) * (row - one)
        two = two + np.where(one > two, up, down) * (one - two)
        out[k] = two
    return out


def accents(pitch: ArrayLike, voiced: ArrayLike, level: ArrayLike, fps: float) -> Floats:
    """(T,) 0..1 how much a syllable is stressed: bumps where pitch and level stand out.

    pitch: (T,) semitones, level: (T,) dB, any zero; voiced: (T,) bool. Both are taken relative to
    themselves over two seconds, so that neither a falling sentence nor the microphone matters.
    """
    known = np.asarray(voiced, dtype=bool)
    out = np.zeros(len(known))
    if known.sum() < 5:
        return out
    stand = 0.55 * _standing_out(np.asarray(pitch, np.float64), known, fps)
    stand += 0.45 * _standing_out(np.asarray(level, np.float64), known, fps)
    stand = np.where(known, stand, -9.0)
    inner = (stand[1:-1] >= stand[:-2]) & (stand[1:-1] > stand[2:]) & (stand[1:-1] > 0.6)
    peaks = np.flatnonzero(inner) + 1
    peaks = peaks[np.argsort(-stand[peaks])]
    taken: list[int] = []
    for peak in peaks.tolist():
        if all(abs(peak - other) >= _ACCENT_GAP * fps for other in taken):
            taken.append(peak)
    at = np.arange(len(out))
    for peak in taken:
        near = np.clip(np.abs(at - peak) / (_ACCENT_HALF * fps), 0.0, 1.0)
        bump = (0.5 + 0.5 * np.cos(np.pi * near)) * min(1.0, float(stand[peak]) / 2.0)
        out = np.maximum(out, bump)
    return out


def _standing_out(values: Floats, known: Flags, fps: float) -> Floats:
    """(T,) distance from the mean of the second on both sides, in standard deviations."""
    filled = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
    weight = known.astype(np.float64)
    width = max(3, round(2 * fps) | 1)
    window = np.hanning(width + 2)[1:-1]
    total = _same(weight, window) + 1e-9
    mean = _same(filled * weight, window) / total
    spread = float(np.std((filled - mean)[known])) + 1e-6
    return np.asarray((filled - mean) / spread)


def _same(values: Floats, window: Floats) -> Floats:
    """Convolution of the same length, also where the window is the longer one."""
    half = len(window) // 2
    return np.convolve(np.pad(values, half), window, "valid")


def wander(frames: int, fps: float, rng: np.random.Generator, slowest: float = 0.1) -> Floats:
    """(frames,) 1/f noise of standard deviation 1 between `slowest` and 2 Hz: a head held still."""
    size = 1 << max(8, int(np.ceil(np.log2(frames + 8 * fps))))
    f = np.fft.rfftfreq(size, 1.0 / fps)
    shape = np.where((f >= slowest) & (f <= 2.0), 1.0 / np.maximum(f, slowest), 0.0)
    phase = rng.normal(size=len(f)) + 1j * rng.normal(size=len(f))
    out = np.fft.irfft(shape * phase, size)
    first = int(rng.integers(0, size - frames + 1))
    return np.asarray(out[first : first + frames] / out.std())


# --- blinks


def blink_times(
    rate: ArrayLike, fps: float, rng: np.random.Generator, spread: float = 0.55
) -> list[tuple[float, float, float, float]]:
    """(start, close, hold, open) seconds of each blink. rate: (T,) blinks a minute.

    Intervals are log-normal with the mean that the rate asks for. All lids are open at the first
    and the last frame: a blink that would not be over by then is left out.
    """
    wanted = np.maximum(np.asarray(rate, dtype=np.float64), 0.0) / 60.0
    seconds = len(wanted) / fps
    # In operational time the rate is 1: walk there, and look up where that is on the clock.
    passed = np.concatenate([[0.0], np.cumsum(wanted) / fps])
    clock = np.arange(len(passed)) / fps
    out: list[tuple[float, float, float, float]] = []
    walked = float(rng.uniform(0.0, 1.0))
    while walked < passed[-1]:
        start = float(np.interp(walked, passed, clock))
        close, hold, opening = (float(rng.uniform(*pair)) for pair in (_CLOSE, _HOLD, _OPEN))
        after = out[-1][0] + sum(out[-1][1:]) + 0.1 if out else 0.1
        start = max(start, after)
        if start + close + hold + opening < seconds - 1.5 / fps:
            out.append((start, close, hold, opening))
        walked += float(rng.lognormal(-0.5 * spread**2, spread))
    return out


def blinks(rate: ArrayLike, fps: float, rng: np.random.Generator) -> Floats:
    """(T,) 0..1 how far both lids are closed; see `blink_times`."""
    frames = len(np.asarray(rate))
    at = np.arange(frames) / fps
    out = np.zeros(frames)
    for start, close, hold, opening in blink_times(rate, fps, rng):
        # The middle of the hold is moved to a frame, or no frame might show the eye shut.
        middle = start + close + hold / 2
        moved = np.round(middle * fps) / fps - middle
        t = at - start - moved
        down = np.clip(t / close, 0.0, 1.0)
        up = np.clip((t - close - hold) / opening, 0.0, 1.0)
        shape = _smooth(down) * (1.0 - _smooth(up))
        out = np.maximum(out, shape)
    out[[0, -1]] = 0.0
    return out


def _smooth(x: Floats) -> Floats:
    return np.asarray(x * x * (3.0 - 2.0 * x))


# --- eyes


def glances(
    frames: int,
    fps: float,
    rng: np.random.Generator,
    *,
    amount: float = 1.0,
    speaking: ArrayLike | None = None,
    head: ArrayLike | None = None,
    towards: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """(T, 2) degrees yaw (+ to the person's left) and pitch (+ up) of the eyes in the head.

    amount: 0 stares ahead, 1 is usual, up to 3. speaking: (T,) 0..1, people who speak look away
    more often. head: (T, 3) degrees, of which the eyes hold 70 % to stay on their target. towards:
    what is looked at, degrees. Each rest lasts .4 to some seconds (log-normal); leaps take a frame
    or two.
    """
    said = np.zeros(frames) if speaking is None else np.asarray(speaking, dtype=np.float64)
    out = np.tile(np.asarray(towards, dtype=np.float64), (frames, 1))
    first = 0
    while first < frames and amount > 0:
        rest = float(np.clip(rng.lognormal(0.25, 0.6), 0.4, 5.0))
        last = min(frames, first + max(1, round(rest * fps)))
        away = rng.random() < 0.12 + 0.13 * said[first]
        size = rng.gamma(4.0, 1.7) if away else rng.gamma(1.5, 0.7)
        turn = rng.uniform(0.0, 2 * np.pi)
        # Eyes leave sideways rather than up or down.
        leap = amount * size * np.array([np.cos(turn), 0.5 * np.sin(turn)])
        if away:
            last = min(last, first + max(1, round(float(rng.uniform(0.4, 1.3)) * fps)))
        out[first:last] += leap
        first = last
    drift = amount * np.stack([0.15 * wander(frames, fps, rng, 0.5) for _ in range(2)], axis=1)
    out = _leaped(out, fps) + drift
    if head is not None:
        pose = np.asarray(head, dtype=np.float64)
        out = out - _STEADY * pose[:, :2]
    length = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    return np.asarray(out * np.minimum(1.0, _FARTHEST_LOOK / length))


def _leaped(rows: Floats, fps: float) -> Floats:
    """Steps that take 45 ms, as saccades of some degrees do."""
    width = max(1, round(0.045 * fps))
    kernel = np.ones(width + 1) / (width + 1)
    padded = np.pad(rows, ((width, 0), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)


def looks(angles: ArrayLike) -> Floats:
    """(T, 52) the eight looks of eyes turned by (T, 2) degrees yaw and pitch."""
    turned = np.asarray(angles, dtype=np.float64) / LOOK_DEGREES
    out = np.zeros((len(turned), CHANNELS))
    for column, (more, less) in (
        (0, (("eyeLookOutLeft", "eyeLookInRight"), ("eyeLookInLeft", "eyeLookOutRight"))),
        (1, (("eyeLookUpLeft", "eyeLookUpRight"), ("eyeLookDownLeft", "eyeLookDownRight"))),
    ):
        for names, sign in ((more, 1.0), (less, -1.0)):
            for name in names:
                out[:, ARKIT.index(name)] = np.clip(sign * turned[:, column], 0.0, 1.0)
    return out
