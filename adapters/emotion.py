"""The emotion state: one frozen value that every pipeline, adapter, critic and file shares.

``a`` in [0, 1]^12, sum(a) <= 1, holds the intensity of each core emotion; what is left is neutral.
``v(a) = a @ VAD + residual`` is its valence, arousal and dominance. An `EmotionTimeline` is keyed
states with PCHIP between them; one emotion is a timeline with one key.

It does not know any word but the twelve names (`adapters.lexicon` does), nor the text forms
(`adapters.notation` does), nor how a model is steered.

Source: Russell & Mehrabian 1977 for the means; the choice of the twelve is this project's: they
contain the Ekman 6, the Mikels 8 and all four quadrants of valence and arousal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.dynamics import RISE_SECONDS, Personality, pchip, respond
from adapters.vad import project, solve

__all__ = [
    "CORE",
    "DEFAULT_INTENSITY",
    "MOST_OVER",
    "VAD",
    "Emotion",
    "EmotionError",
    "EmotionTimeline",
    "Personality",
    "project",
    "solve",
]

CORE: tuple[str, ...] = (
    "happiness",
    "excitement",
    "amusement",
    "contentment",
    "love",
    "awe",
    "surprise",
    "anger",
    "disgust",
    "fear",
    "sadness",
    "boredom",
)
"""The twelve core emotions, in the order of every vector of this project."""

# Means of Russell & Mehrabian terms: happy; excited; (enjoyment, carefree); (relaxed, leisurely,
# secure); (loved, in love); (awed, wonder); surprised; angry; disgusted; fearful; sad; bored. A
# mean of several terms stands in where the 1977 table has no such word.
VAD: NDArray[np.float64] = np.array(
    [
        [0.810, 0.510, 0.460],
        [0.620, 0.750, 0.380],
        [0.775, 0.345, 0.415],
        [0.667, -0.303, 0.067],
        [0.845, 0.595, -0.115],
        [0.225, 0.320, -0.275],
        [0.400, 0.670, -0.130],
        [-0.510, 0.590, 0.250],
        [-0.600, 0.350, 0.110],
        [-0.640, 0.600, -0.430],
        [-0.630, -0.270, -0.330],
        [-0.650, -0.620, -0.330],
    ]
)
"""(12, 3) valence, arousal, dominance of each core emotion at full intensity, -1..1."""
USUAL_DOMINANCE = (0.37, 0.26)
"""Dominance by valence and arousal: least squares over Russell & Mehrabian's 151 terms."""
VAD.setflags(write=False)

MOST_OVER = 1.5
"""Largest sum of intensities when going over full intensity is asked for."""
DEFAULT_INTENSITY = 0.7
"""Intensity of an emotion named without a number: clearly there, short of the extreme."""

# States are rounded to this many decimals, so that text, JSON keys and memory hold the same number.
DECIMALS = 6
# Twelve intensities that are each rounded may exceed their exact sum by this much.
SLACK = 1e-5
# How much slower than it came each emotion leaves (CORE order): surprise fastest, sadness slowest.
DECAY = (3.0, 2.5, 2.5, 4.0, 4.0, 3.0, 1.5, 3.0, 2.5, 2.5, 5.0, 4.0)


class EmotionError(ValueError):
    """An emotion that cannot be understood; its one line says what would be."""


@dataclass(frozen=True, slots=True)
class Emotion:
    """Intensities of the core emotions, and the VAD they leave unexplained.

    intensities: 12 numbers >= 0 in CORE order, sum <= 1 (<= 1.5 for a state built with over=True).
    residual: VAD left over, v - a @ VAD, each -2..2. Numbers are rounded to six decimals.
    """

    intensities: tuple[float, ...] = (0.0,) * len(CORE)
    residual: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Round, check lengths and ranges."""
        a = _rounded("intensities", self.intensities, len(CORE))
        r = _rounded("residual", self.residual, 3)
        if min(a) < 0.0 or sum(a) > MOST_OVER + SLACK:
            msg = (
                f"intensities: allowed 0 or more, adding up to at most 1 ({MOST_OVER} when over), "
                f"received {_sum_text(a)}; lower them"
            )
            raise EmotionError(msg)
        if max(abs(x) for x in r) > 2.0:
            msg = f"residual: allowed -2 to 2 per axis, received {r}; give a VAD point in -1..1"
            raise EmotionError(msg)
        object.__setattr__(self, "intensities", a)
        object.__setattr__(self, "residual", r)

    @classmethod
    def neutral(cls) -> Emotion:
        """No emotion: all zeros."""
        return cls()

    @classmethod
    def of(cls, name: str, intensity: float = DEFAULT_INTENSITY, *, over: bool = False) -> Emotion:
        """One emotion by name: a core emotion or any word of the lexicon, times the intensity.

        intensity: 0..1, up to 1.5 with over. Raises EmotionError naming the nearest known words.
        """
        return cls.mix({name: 1.0}, intensity, over=over)

    @classmethod
    def mix(
        cls, weights: Mapping[str, float], intensity: float = 1.0, *, over: bool = False
    ) -> Emotion:
        """A mixture at one intensity: weights >= 0 by name are normalised to sum 1, then scaled.

        intensity: 0..1, up to 1.5 with over.
        """
        check_intensity(intensity, " + ".join(weights), over=over)
        total = float(sum(weights.values()))
        if not weights or not np.isfinite(total) or min(weights.values()) < 0.0 or total <= 0.0:
            msg = f"weights: expected numbers of 0 or more, not all 0, received {dict(weights)}"
            raise EmotionError(msg)
        state = np.zeros(len(CORE) + 3)
        for name, weight in weights.items():
            state += weight / total * _unit(name)
        return cls._of_state(intensity * state)

    @classmethod
    def from_vad(cls, v: float, a: float, d: float | None = None) -> Emotion:
        """The state of a VAD point: at most three core emotions, the rest kept as residual.

        v, a, d: each -1..1. ``.vad`` of the result is the point again. d None: what usually goes
        with v and a (USUAL_DOMINANCE), since lively and pleasant is happiness, not a meek love.
        """
        if d is None:
            d = USUAL_DOMINANCE[0] * v + USUAL_DOMINANCE[1] * a
        point = np.array([v, a, d], dtype=np.float64)
        if not (np.abs(point) <= 1.0).all():
            msg = f"v, a, d: each allowed -1 to 1, received v={v} a={a} d={d}"
            raise EmotionError(msg)
        found = solve(point, dict(zip(CORE, VAD.tolist(), strict=True)))
        intensities = tuple(round(found.get(name, 0.0), DECIMALS) for name in CORE)
        residual = point - np.array(intensities) @ VAD
        return cls(intensities, (float(residual[0]), float(residual[1]), float(residual[2])))

    @classmethod
    def parse(cls, text: str, *, over: bool = False, reader: str | None = None) -> Emotion:
        """Read any text form of ONE emotion; the forms are listed in `adapters.notation`.

        over: allow intensities up to 1.5. reader: name or folder of a transformers
        text-classification model that reads quoted text instead of the lexicon.
        """
        from adapters.notation import parse_emotion

        return parse_emotion(text, over=over, reader=reader)

    @classmethod
    def _of_state(cls, state: NDArray[np.float64]) -> Emotion:
        v, a, d = (float(x) for x in state[len(CORE) :])
        return cls(tuple(float(x) for x in state[: len(CORE)]), (v, a, d))

    @property
    def array(self) -> NDArray[np.float64]:
        """(12,) intensities in CORE order."""
        return np.array(self.intensities, dtype=np.float64)

    @property
    def vad(self) -> NDArray[np.float64]:
        """(3,) valence, arousal, dominance, residual included."""
        point: NDArray[np.float64] = self.array @ VAD + np.array(self.residual)
        return point

    @property
    def intensity(self) -> float:
        """Sum of the intensities, 0 for neutral, 1 for full."""
        return round(sum(self.intensities), DECIMALS)

    @property
    def dominant(self) -> str:
        """Name of the strongest core emotion, "neutral" when there is none."""
        top = int(np.argmax(self.array))
        return CORE[top] if self.intensities[top] > 0.0 else "neutral"

    def soft_label(self) -> NDArray[np.float64]:
        """(13,) distribution for critics: neutral first, then CORE; sums to 1, also when over."""
        total = sum(self.intensities)
        return np.append(max(0.0, 1.0 - total), self.array / max(1.0, total))

    def scaled(self, factor: float) -> Emotion:
        """The same emotion, factor >= 0 times as intense; the sum may not pass 1.5."""
        if not factor >= 0.0:
            msg = f"factor: allowed 0 or more, received {factor}"
            raise EmotionError(msg)
        return Emotion._of_state(factor * np.append(self.array, self.residual))

    @property
    def text(self) -> str:
        """Canonical text; parses back to an equal state (with over=True when the sum passes 1)."""
        order = sorted(range(len(CORE)), key=lambda k: -self.intensities[k])
        terms = [f"{CORE[k]} {_number(self.intensities[k])}" for k in order if self.intensities[k]]
        axes = zip(("dv", "da", "dd"), self.residual, strict=True)
        shift = " ".join(f"{axis}={_number(value)}" for axis, value in axes if value)
        return " + ".join([*terms, shift] if shift else terms) or "neutral"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class EmotionTimeline:
    """Keyed states in time. Between keys PCHIP, then the simplex; outside the keys they hold.

    keys: (seconds, Emotion) with seconds >= 0 strictly increasing. A single key is moved to 0 s.
    """

    keys: tuple[tuple[float, Emotion], ...]

    def __post_init__(self) -> None:
        """Round times, check their order."""
        if not self.keys:
            msg = "keys: expected at least one (seconds, Emotion), received none"
            raise EmotionError(msg)
        times = _rounded("times", tuple(t for t, _ in self.keys), len(self.keys))
        if len(times) == 1 and times[0] > 0.0:
            times = (0.0,)
        if min(times) < 0.0 or any(b <= a for a, b in pairwise(times)):
            given = ", ".join(f"{_number(t)}s" for t in times)
            msg = f"timeline: times allowed 0 or more, increasing; received {given}; reorder them"
            raise EmotionError(msg)
        emotions = (emotion for _, emotion in self.keys)
        object.__setattr__(self, "keys", tuple(zip(times, emotions, strict=True)))

    @classmethod
    def constant(cls, emotion: Emotion) -> EmotionTimeline:
        """One emotion for all time."""
        return cls(((0.0, emotion),))

    @classmethod
    def parse(cls, text: str, *, over: bool = False, reader: str | None = None) -> EmotionTimeline:
        """Read any text form, one emotion or ``0s contentment .5; 8s fear .9``."""
        from adapters.notation import parse_timeline

        return parse_timeline(text, over=over, reader=reader)

    @property
    def is_constant(self) -> bool:
        """Whether every key holds the same emotion."""
        return all(emotion == self.keys[0][1] for _, emotion in self.keys)

    @property
    def duration(self) -> float:
        """Seconds of the last key; 0 for one emotion."""
        return self.keys[-1][0]

    @property
    def peak(self) -> Emotion:
        """The most intense key, the first of equals; it names files and titles."""
        return max((emotion for _, emotion in self.keys), key=lambda e: e.intensity)

    @property
    def dominant(self) -> str:
        """Name of the strongest core emotion of the most intense key."""
        return self.peak.dominant

    def at(self, t: float) -> Emotion:
        """The state at t seconds."""
        return Emotion._of_state(self._states(np.array([t], dtype=np.float64))[0])

    def sample(self, times: ArrayLike) -> NDArray[np.float32]:
        """Intensities at n seconds: float32 (n, 12)."""
        return self._states(times)[:, : len(CORE)].astype(np.float32)

    def residuals(self, times: ArrayLike) -> NDArray[np.float32]:
        """Unexplained VAD at n seconds: float32 (n, 3)."""
        return self._states(times)[:, len(CORE) :].astype(np.float32)

    def driven(
        self,
        times: ArrayLike,
        *,
        personality: Personality | None = None,
        rise: float = RISE_SECONDS,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A body's answer to the keys instead of PCHIP: each key is a target from its time on.

        Critically damped and in closed form, so it does not depend on the frame rate. rise: seconds
        to 63 % of the way, .3 for a face, .5 for a voice. A personality moves VAD by its baseline
        and gain; that part goes into the residuals. Returns float32 (n, 12) and (n, 3).
        """
        at = np.asarray(times, dtype=np.float64).reshape(-1)
        a_keys, r_keys = self._split()
        keys = [t for t, _ in self.keys]
        if personality is not None:
            r_keys = r_keys + personality.shift(a_keys @ VAD + r_keys)
        slow = rise * np.array(DECAY)
        a = project(respond(keys, a_keys, at, rise=rise, decay=slow), self._cap())
        r = respond(keys, r_keys, at, rise=rise, decay=rise)
        return a.astype(np.float32), r.astype(np.float32)

    @property
    def text(self) -> str:
        """Canonical text; parses back to an equal timeline."""
        if len(self.keys) == 1:
            return self.keys[0][1].text
        return "; ".join(f"{_number(t)}s {emotion.text}" for t, emotion in self.keys)

    def __str__(self) -> str:
        return self.text

    def _split(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        a = np.array([emotion.intensities for _, emotion in self.keys])
        return a, np.array([emotion.residual for _, emotion in self.keys])

    def _cap(self) -> float:
        """Largest sum on the path: 1, or that of the most intense key where one goes over."""
        return max(1.0, max(emotion.intensity for _, emotion in self.keys))

    def _states(self, times: ArrayLike) -> NDArray[np.float64]:
        at = np.asarray(times, dtype=np.float64).reshape(-1)
        if not np.isfinite(at).all():
            msg = "times: expected finite seconds, received nan or infinity"
            raise EmotionError(msg)
        a, r = self._split()
        states = pchip([t for t, _ in self.keys], np.hstack([a, r]), at)
        states[:, : len(CORE)] = project(states[:, : len(CORE)], self._cap())
        return states


def check_intensity(value: float, name: str, *, over: bool) -> None:
    """Refuse an intensity outside 0..1 (0..1.5 with over), in one line that says what to do."""
    top = MOST_OVER if over else 1.0
    if 0.0 <= value <= top + SLACK:
        return
    if 1.0 < value <= MOST_OVER:
        hint = f"lower it, or allow up to {MOST_OVER} with --over"
    else:
        hint = "give a number in that range"
    msg = f"emotion: intensity of {name} allowed 0 to {top:g}, received {value:g}; {hint}"
    raise EmotionError(msg)


def _unit(name: str) -> NDArray[np.float64]:
    """State (15,) of a name at intensity 1: intensities, then residual."""
    state = np.zeros(len(CORE) + 3)
    if name in CORE:
        state[CORE.index(name)] = 1.0
        return state
    from adapters.lexicon import entry

    return np.append(*entry(name))


def _rounded(what: str, values: tuple[float, ...], n: int) -> tuple[float, ...]:
    if len(values) != n:
        msg = f"{what}: expected {n} numbers, received {len(values)}"
        raise EmotionError(msg)
    out = tuple(round(float(x), DECIMALS) + 0.0 for x in values)  # + 0.0 turns -0.0 into 0.0
    if not all(map(math.isfinite, out)):
        msg = f"{what}: expected finite numbers, received {values}"
        raise EmotionError(msg)
    return out


def _sum_text(a: tuple[float, ...]) -> str:
    parts = [f"{name} {_number(x)}" for name, x in zip(CORE, a, strict=True) if x]
    return f"{' + '.join(parts)} = {_number(sum(a))}"


def _number(x: float) -> str:
    """Shortest decimal of at most six places: 0.8, 1, 0.333333."""
    return f"{x:.{DECIMALS}f}".rstrip("0").rstrip(".")
