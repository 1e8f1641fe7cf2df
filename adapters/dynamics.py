"""How a state moves in time: PCHIP between keys, or a critically damped answer to them.

Works on plain arrays of any width (12 intensities, 3 VAD axes). It does not know names, text or
frame rates: both curves are closed forms, so 24 and 60 frames a second sample the same motion.

Sources: Fritsch & Butland 1984 (PCHIP slopes); Mehrabian 1996 for the traits -> VAD regression, in
the form of PELD (Wen et al. 2021). The momentum rule of arXiv 2601.16087 overshoots by 25-70 % and
is not used; at damping 1 the same second-order system does not overshoot.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A critically damped step covers 1 - 1/e of the way after 2.146 / omega seconds (the root of
# (1 + x) exp(-x) = 1/e): with this number a "tau" means the same as for a first-order system.
TAU_TO_OMEGA = 2.1461932206205825
RISE_SECONDS = 0.3  # a face; a voice takes about .5 s
DECAY_OVER_RISE = 3.0  # emotions leave about three times more slowly than they come


def pchip(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Array:
    """Monotone cubic interpolation, held constant outside the keys.

    x: (n,) strictly increasing. y: (n, k). at: (m,). Returns float64 (m, k). Between two keys no
    value leaves the range of those keys. Equal to scipy's PchipInterpolator inside the keys.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    q = np.clip(np.asarray(at, dtype=np.float64), xs[0], xs[-1])
    if xs.size == 1:
        return np.repeat(ys, q.size, axis=0)
    h = np.diff(xs)
    slope = np.diff(ys, axis=0) / h[:, None]
    d = _pchip_slopes(h, slope)
    i = np.clip(np.searchsorted(xs, q, side="right") - 1, 0, xs.size - 2)
    step = h[i][:, None]
    s = (q - xs[i])[:, None] / step
    out: Array = (
        (1 + 2 * s) * (1 - s) ** 2 * ys[i]
        + s * (1 - s) ** 2 * step * d[i]
        + s**2 * (3 - 2 * s) * ys[i + 1]
        + s**2 * (s - 1) * step * d[i + 1]
    )
    return out


def _pchip_slopes(h: Array, slope: Array) -> Array:
    """Derivatives at the keys: weighted harmonic mean inside, one-sided three-point at the ends."""
    if h.size == 1:
        return np.repeat(slope, 2, axis=0)
    d = np.zeros((h.size + 1, slope.shape[1]))
    left, right = slope[:-1], slope[1:]
    w1 = (2 * h[1:] + h[:-1])[:, None]
    w2 = (h[1:] + 2 * h[:-1])[:, None]
    same = left * right > 0
    safe_left, safe_right = np.where(same, left, 1.0), np.where(same, right, 1.0)
    d[1:-1] = np.where(same, (w1 + w2) / (w1 / safe_left + w2 / safe_right), 0.0)
    d[0] = _end_slope(h[0], h[1], slope[0], slope[1])
    d[-1] = _end_slope(h[-1], h[-2], slope[-1], slope[-2])
    return d


def _end_slope(h0: float, h1: float, m0: Array, m1: Array) -> Array:
    d = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
    d = np.where(np.sign(d) != np.sign(m0), 0.0, d)
    steep = (np.sign(m0) != np.sign(m1)) & (np.abs(d) > 3 * np.abs(m0))
    out: Array = np.where(steep, 3 * m0, d)
    return out


@dataclass(frozen=True, slots=True)
class Personality:
    """Five traits, each 0..1 with .5 the average person; N is emotional STABILITY, not neuroticism.

    Mehrabian's regression takes stability; PELD feeds its N as is. The average person has baseline
    0 and gain 1: the state passes unchanged.
    """

    O: float = 0.5
    C: float = 0.5
    E: float = 0.5
    A: float = 0.5
    N: float = 0.5

    def __post_init__(self) -> None:
        """Refuse traits outside 0..1."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                msg = f"personality {field.name}: allowed 0 to 1 (.5 is average), received {value}"
                raise ValueError(msg)

    @property
    def temperament(self) -> Array:
        """P of Mehrabian 1996, (3,) VAD, from traits re-centred to -1..1; about -1..1."""
        o, c, e, a, n = (2.0 * getattr(self, f.name) - 1.0 for f in fields(self))
        return np.array(
            [
                0.21 * e + 0.59 * a + 0.19 * n,
                0.15 * o + 0.30 * a - 0.57 * n,
                0.25 * o + 0.17 * c + 0.60 * e - 0.32 * a,
            ]
        )

    @property
    def baseline(self) -> Array:
        """VAD of the person at rest, (3,). A quarter of the temperament: a mood, not an emotion."""
        return 0.25 * self.temperament

    @property
    def gain(self) -> Array:
        """Factor on each VAD axis, (3,), .6..1.7; 1 for the average person, never negative."""
        out: Array = np.exp(0.5 * self.temperament)
        return out

    def shift(self, vad: ArrayLike) -> Array:
        """What this person adds to a VAD state: (..., 3) -> (..., 3), result kept in -1..1."""
        v = np.asarray(vad, dtype=np.float64)
        out: Array = np.clip(self.baseline + self.gain * v, -1.0, 1.0) - v
        return out


def respond(
    times: ArrayLike,
    targets: ArrayLike,
    at: ArrayLike,
    *,
    rise: ArrayLike = RISE_SECONDS,
    decay: ArrayLike | None = None,
    start: ArrayLike | None = None,
) -> Array:
    """Critically damped answer to targets that switch at given times, in closed form.

    times: (n,) strictly increasing seconds at which a target comes into force. targets: (n, k).
    at: (m,) seconds, any order. rise, decay: seconds to cover 63 % of the way up and down, scalar
    or (k,), > 0; decay defaults to 3 x rise. start: (k,) state at rest before times[0], default the
    first target. Returns float64 (m, k). No coordinate passes its target, or the one before it.
    """
    ts, us = np.asarray(times, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    q = np.asarray(at, dtype=np.float64)
    if ts.ndim != 1 or us.ndim != 2 or len(ts) != len(us) or (np.diff(ts) <= 0).any():
        msg = (
            f"times, targets: expected (n,) increasing and (n, k), received {ts.shape}, {us.shape}"
        )
        raise ValueError(msg)
    k = us.shape[1]
    up = _omega(rise, k)
    down = up / DECAY_OVER_RISE if decay is None else _omega(decay, k)
    x = us[0].copy() if start is None else np.asarray(start, dtype=np.float64).copy()
    v, heading = np.zeros(k), x.copy()
    out: Array = np.repeat(x[None], q.size, axis=0)
    segment = np.searchsorted(ts, q, side="right") - 1
    for i, target in enumerate(us):
        v, omega, heading = _enter(x, v, target, up, down, heading)
        here = segment == i
        if here.any():
            out[here] = _move(x, v, target, omega, q[here] - ts[i])[0]
        if i + 1 < len(ts):
            positions, speeds = _move(x, v, target, omega, ts[i + 1 : i + 2] - ts[i])
            x, v = positions[0], speeds[0]
    return out


def dynamics(
    targets: ArrayLike,
    dt: float,
    *,
    personality: Personality | None = None,
    rise: ArrayLike = RISE_SECONDS,
    decay: ArrayLike | None = None,
    start: ArrayLike | None = None,
) -> Array:
    """Critically damped answer to targets given frame by frame, each held for ``dt`` seconds.

    targets: (n, k); (n, 3) VAD when a personality is given. start: state at rest before the first
    frame, default the first target. Returns float64 (n, k), the state at the START of each frame.
    The step is exact, so any frame rate that sees the same switches gives the same motion.
    """
    us = np.asarray(targets, dtype=np.float64)
    if not dt > 0:
        msg = f"dt: expected seconds per frame above 0, received {dt}"
        raise ValueError(msg)
    if personality is not None:
        if us.shape[-1] != 3:
            msg = f"targets: a personality acts on VAD, expected (n, 3), received {us.shape}"
            raise ValueError(msg)
        us = us + personality.shift(us)
    frames = dt * np.arange(len(us))
    # Frames that repeat the target before them are no switch: one closed form covers the hold.
    switch = np.append(True, (np.diff(us, axis=0) != 0).any(axis=1))
    return respond(frames[switch], us[switch], frames, rise=rise, decay=decay, start=start)


def _omega(tau: ArrayLike, k: int) -> Array:
    seconds = np.broadcast_to(np.asarray(tau, dtype=np.float64), (k,))
    if not (seconds > 0).all():
        msg = f"rise, decay: expected seconds above 0, received {tau!r}"
        raise ValueError(msg)
    out: Array = TAU_TO_OMEGA / seconds
    return out


def _enter(
    x: Array, v: Array, target: Array, up: Array, down: Array, heading: Array
) -> tuple[Array, Array, Array]:
    """Velocity and rate with which a new target is met such that nothing overshoots, and where
    the velocity heads.

    Moving towards the target: a speed above omega * distance would carry the state past it:
    limited. Moving away from it: the rate is the new one, however slow, so the speed is limited to
    what comes to rest at `heading`, the target it was gained for; from distance e of the new target
    a speed v goes on for less than v^2 / (omega (v + omega e)).
    """
    gap = target - x
    omega = np.where(gap >= 0, up, down)
    away = v * gap < 0
    room = np.maximum((heading - x) * np.sign(v), 0.0)
    rest = omega * (room + np.sqrt(room * (room + 4 * np.abs(gap)))) / 2
    limit = np.where(away, rest, omega * np.abs(gap))
    return np.clip(v, -limit, limit), omega, np.where(away, heading, target)


def _move(x: Array, v: Array, target: Array, omega: Array, t: Array) -> tuple[Array, Array]:
    """Exact solution of x'' = w^2 (u - x) - 2 w x' after t seconds: ((m, k), (m, k))."""
    s = t[:, None]
    e0 = x - target
    c = v + omega * e0
    fade = np.exp(-omega * s)
    return target + (e0 + c * s) * fade, (v - omega * c * s) * fade
