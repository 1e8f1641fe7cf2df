"""Speech and a track of emotions -> motion of a face: the whole way from sound to curves.

    track -> muscles -> plan -> (denoiser: mouth, accents, head) -> lips closed where they must be
          -> blinks and glances

The expression comes first and for the whole face, the lips last. Every stage can be had alone:
`intended` is what muscles draw by themselves, `close_lips` and `with_eyes` take any motion, also
one that was recorded. Blinks, glances and closures are not the model's, so that no seam of it
leaves an eye or a mouth in between. It deliberately does not know files, pictures or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adapters import facs
from adapters.emotion import CORE, project
from adapters.face_life import LOOK_DEGREES, blinks, eased, glances, looks
from adapters.face_motion import ARKIT, CHANNELS, LONGEST, MOUTH, Motion
from pipelines.portrait_model import (
    STYLE,
    PortraitModelError,
    PortraitPipeline,
    Sampling,
    emotion_rows,
)
from pipelines.portrait_sound import FPS, Hearing, fitted, hear, silence

Floats = NDArray[np.float64]

QUIET_FRAMES = 1.5
"""Smoothing (standard deviation, frames) of what no word moves: brows, cheeks and the head have no
business faster than 5 Hz, and noise that is left by a few steps is seen there first."""
GAIN, CRISP, CRISP_FRAMES = 1.1, 0.4, 2.0
"""What a mouth that begins near the mean (Sampling.spread) loses of its width and of its speed,
given back: a factor, and a share of what is faster than a Gaussian of two frames. Correlation with
recordings stays, speed comes from .65 to .76 of theirs, lips meet three times as often (measured on
1114_3_15, a clip of the training set)."""
CLOSE_BELOW = 0.07
"""Lip gap, in distances between the eyes, under which a gap of the sound closes the lips. Only one
gap of the sound in ten is a p, b or m; a larger number shuts more of them and many a t and k."""
CLOSE_FRAMES = 1.5
"""Frames on each side in which lips reach a closure."""
MOST_MUSCLE = 1.5

_OPENERS = [
    ARKIT.index(name)
    for name in (
        "jawOpen", "mouthFunnel", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
        "mouthUpperUpRight", "mouthShrugUpper",
    )
]  # fmt: skip
_PRESS = [ARKIT.index(f"mouthPress{side}") for side in ("Left", "Right")]
_BLINK = [ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right")]
_WIDE = [
    ARKIT.index(f"{name}{side}") for name in ("eyeWide", "eyeSquint") for side in ("Left", "Right")
]
_DOWN = [ARKIT.index(f"eyeLookDown{side}") for side in ("Left", "Right")]
_LOOKS = [k for k, name in enumerate(ARKIT) if name.startswith("eyeLook")]


@dataclass(frozen=True, slots=True)
class MotionSettings:
    """How motion is made.

    sampling: steps and scales of guidance. style: (4,) -1..1 in the order of STYLE. closures: 0..1
    how far lips are closed where the sound or `phones` say so. phones: (symbol, start, stop)
    seconds, ARPAbet or IPA, where they are known. look: degrees yaw and pitch that the eyes rest
    at.
    """

    sampling: Sampling = field(default_factory=Sampling)
    style: tuple[float, ...] = (0.0,) * len(STYLE)
    closures: float = 1.0
    phones: Sequence[tuple[str, float, float]] = ()
    look: tuple[float, float] = (0.0, 0.0)


def plan(
    waveform: ArrayLike | Hearing | None,
    track: ArrayLike,
    residuals: ArrayLike | None = None,
    *,
    seconds: float,
    model: PortraitPipeline,
    generator: torch.Generator,
    fps: float = FPS,
    lips: float = 1.0,
    expression: float = 1.0,
    head: float = 0.5,
    blink: float = 1.0,
    gaze: float = 1.0,
    muscles: ArrayLike | None = None,
    settings: MotionSettings | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Motion:
    """Motion of a face that says a recording and feels a track.

    Args:
        waveform: (samples,) at 16 kHz, -1..1, or what was heard of it; None: nobody speaks.
        track: (T, 12) intensities, T frames at `fps`, or (12,) for all time.
        residuals: (T, 3) or (3,) VAD left over.
        seconds: how long; up to an hour.
        model: of `PortraitPipeline.load`.
        generator: of the CPU.
        fps: of the result.
        lips: factor on what the words do, 0..2. expression: on what the emotion does, 0..2.
        head: on movements of the head, 0..2. blink: on the rate of blinks, 0..3. gaze: how much the
            eyes wander, 0..3.
        muscles: (T, U) or (U,) contractions of `facs.units` instead of those of the track, for
            faces that are edited or named (`facs.named`).
        settings: how; None: the defaults.
        on_step: called with (steps done, steps in all).

    The same generator state gives the same motion.

    Raises:
        PortraitModelError: shapes or values that do not fit.
    """
    settings = settings or MotionSettings()
    _check(seconds, lips=lips, expression=expression, head=head, blink=blink, gaze=gaze)
    shown, frames = max(1, round(seconds * fps)), max(1, round(seconds * FPS))
    a = _even(_rows("track", track, shown, len(CORE)), frames)
    r = _even(_rows("residuals", np.zeros(3) if residuals is None else residuals, shown, 3), frames)
    a = project(np.maximum(eased(a, FPS), 0.0), max(1.0, float(a.sum(axis=1).max())))
    r = eased(r, FPS)
    if isinstance(waveform, Hearing):
        heard = fitted(waveform, frames)
    else:
        heard = silence(frames) if waveform is None else hear(waveform, frames=frames)
    if muscles is None:
        contracted = facs.muscles(a, r)
    else:
        given = _rows("muscles", muscles, shown, len(facs.units()))
        contracted = eased(_even(given, frames), FPS)
    # How emotion is told and how it is drawn both follow the factor, so that 0 is no emotion.
    a, r = expression * a, expression * r
    wanted = intended(np.minimum(expression * contracted, MOST_MUSCLE), a, heard.speaking)
    seed = int(torch.randint(0, 2**62, (1,), generator=generator).item())
    rest = model.sample(
        heard.features,
        wanted,
        emotion_rows(a, r),
        settings.style,
        generator=generator,
        settings=settings.sampling,
        on_step=on_step,
    )
    rest[:, np.append(model.denoiser.scale.numpy()[:CHANNELS] <= 0.02 + 1e-6, [False] * 3)] = 0.0
    words = np.isin(np.arange(CHANNELS), MOUTH)
    said = rest[:, :CHANNELS][:, words]
    said = GAIN * (said + CRISP * (said - _smooth(said, CRISP_FRAMES)))
    rest[:, :CHANNELS][:, words] = lips * said
    rest[:, :CHANNELS][:, ~words] *= expression
    quiet = np.append(~words, [True] * 3)
    rest[:, quiet] = _smooth(rest[:, quiet], QUIET_FRAMES)
    curves = np.clip(wanted[:, :CHANNELS] + rest[:, :CHANNELS], 0.0, 1.0)
    if lips > 0 and settings.closures > 0:
        curves = close_lips(
            curves, heard, settings.phones, settings.closures, standing=wanted[:, :CHANNELS]
        )
    pose = head * (wanted[:, CHANNELS:] + rest[:, CHANNELS:])
    at = np.minimum(np.arange(shown) / fps, (frames - 1) / FPS)
    both = Motion(curves.astype(np.float32), pose.astype(np.float32), FPS).at(at, fps)
    clock = np.arange(frames) / FPS
    return with_eyes(
        both,
        np.random.default_rng(seed),
        rate=blink * facs.blinking(a),
        speaking=np.interp(at, clock, heard.speaking),
        gaze=gaze,
        look=settings.look,
    )


def intended(contractions: ArrayLike, track: ArrayLike, speaking: ArrayLike) -> Floats:
    """(T, 55) what muscles (T, U) and the posture of a track (T, 12) would draw by themselves.

    speaking: (T,) 0..1; where somebody speaks the mouth makes way for words.
    """
    curves, pose = facs.expression(contractions)
    return np.concatenate([facs.spoken(curves, speaking), pose + facs.posture(track)], axis=1)


def close_lips(
    curves: ArrayLike,
    heard: Hearing | None = None,
    phones: Sequence[tuple[str, float, float]] = (),
    strength: float = 1.0,
    standing: ArrayLike | None = None,
) -> Floats:
    """(T, 52) at 30 frames a second, lips closed where p, b and m are, and nearly at f and v.

    Where sounds are known (phones) they decide. Else gaps of the sound do, but only where the lips
    are on the way: a t or k is a gap as well, and its lips stay open. standing: (T, 52) what an
    emotion holds open by itself (surprise drops the jaw, disgust lifts the lip), which is no word;
    None: nothing.
    """
    out = np.array(curves, dtype=np.float64)
    frames = len(out)
    asked: list[tuple[float, float, float]] = []  # first and last frame, share that stays open
    for start, stop, kind in facs.closures(phones):
        asked.append((start * FPS, stop * FPS, 0.0 if kind == "PP" else 0.25))
    if heard is not None and not phones:
        gap = facs.lip_gap(out)
        if standing is not None:
            gap = np.maximum(gap - facs.lip_gap(standing), 0.0)
        for dip in heard.dips.tolist():
            low = max(0, round(dip * FPS) - 1)
            near = gap[low : low + 3]
            if len(near) and near.min() < CLOSE_BELOW:
                place = low + int(
                    (near + 1e-6 * np.abs(low + np.arange(len(near)) - dip * FPS)).argmin()
                )
                around = gap[max(0, place - 3) : place + 4]
                if gap[place] < 0.6 * around.max():
                    asked.append((place, place, 0.0))
    at = np.arange(frames)
    closed = np.zeros(frames)
    for first, last, left in asked:
        middle, half = (first + last) / 2, max(0.5, (last - first) / 2)
        away = np.clip((np.abs(at - middle) - half) / CLOSE_FRAMES, 0.0, 1.0)
        closed = np.maximum(closed, (1.0 - left) * (0.5 + 0.5 * np.cos(np.pi * away)))
    closed *= strength
    pressed = np.minimum(1.0, 8.0 * facs.lip_gap(out)) * closed
    out[:, _OPENERS] *= (1.0 - closed)[:, None]
    out[:, _PRESS] = np.maximum(out[:, _PRESS], 0.2 * pressed[:, None])
    return out


def with_eyes(
    motion: Motion,
    rng: np.random.Generator,
    *,
    rate: ArrayLike = 1.0,
    speaking: ArrayLike = 0.0,
    gaze: float = 1.0,
    look: tuple[float, float] = (0.0, 0.0),
) -> Motion:
    """The motion with blinks and glances of its own rate of frames.

    rate: (T',) or a number, factor on the usual rate: 26 blinks a minute while speaking, else 17.
    speaking: (T,) or a number 0..1.
    """
    frames = len(motion)
    said = np.broadcast_to(np.asarray(speaking, dtype=np.float64), (frames,))
    usual = facs.table()["timing"]["blinks_per_minute"]
    often = usual["rest"] + (usual["speaking"] - usual["rest"]) * said
    often = often * _even(np.atleast_1d(np.asarray(rate, dtype=np.float64))[:, None], frames)[:, 0]
    closed = blinks(often, motion.fps, rng)
    curves = motion.curves.astype(np.float64)
    # An emotion that looks down keeps doing so; the rest of the eyes' turns is made here.
    bowed = LOOK_DEGREES * curves[:, _DOWN].mean(axis=1)
    if gaze > 0 or any(look):
        turned = glances(
            frames,
            motion.fps,
            rng,
            amount=gaze,
            speaking=said,
            head=motion.pose if gaze > 0 else None,
            towards=look,
        )
    else:
        turned = np.zeros((frames, 2))
    turned[:, 1] -= bowed
    curves[:, _LOOKS] = looks(turned)[:, _LOOKS]
    curves[:, _WIDE] *= (1.0 - closed)[:, None]
    lids = curves[:, _BLINK]
    curves[:, _BLINK] = lids + (1.0 - lids) * closed[:, None]
    return Motion(curves.astype(np.float32), motion.pose, motion.fps)


def _check(seconds: float, **factors: float) -> None:
    if not 0 < seconds <= LONGEST:
        msg = f"seconds: more than 0 and at most {LONGEST:g} are allowed, received {seconds:g}"
        raise PortraitModelError(f"{msg}; cut it")
    most = {"lips": 2.0, "expression": 2.0, "head": 2.0, "blink": 3.0, "gaze": 3.0}
    for name, value in factors.items():
        if not 0 <= value <= most[name]:
            msg = f"{name}: allowed 0 to {most[name]:g}, received {value:g}; 1 is natural"
            raise PortraitModelError(msg)


def _rows(name: str, values: ArrayLike, frames: int, width: int) -> Floats:
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) not in (1, frames):
        msg = f"{name}: need ({frames}, {width}) or ({width},), received {np.shape(values)}"
        raise PortraitModelError(f"{msg}; sample it at the frames of the motion")
    if not np.isfinite(rows).all():
        msg = f"{name}: must be finite numbers; check the emotion it was made from"
        raise PortraitModelError(msg)
    return np.repeat(rows, frames, axis=0) if len(rows) != frames else rows


def _even(rows: Floats, frames: int) -> Floats:
    """(n, k) -> (frames, k): the same time at another number of frames."""
    if len(rows) == frames:
        return rows
    place = (np.arange(frames) + 0.5) * len(rows) / frames - 0.5
    known = np.arange(len(rows))
    return np.stack([np.interp(place, known, column) for column in rows.T], axis=1)


def _smooth(rows: Floats, frames: float) -> Floats:
    """(T, k) Gaussian along time; the ends are held."""
    half = int(np.ceil(3 * frames))
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / frames) ** 2)
    padded = np.pad(rows, ((half, half), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=0)
    return np.asarray(windows @ (taps / taps.sum()))
