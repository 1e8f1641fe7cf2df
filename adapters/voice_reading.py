"""From seven acted classes to a reading of thirteen: what both readers of voices have in common.

Recorded speech with permission to learn from holds neutral, anger, boredom, disgust, fear,
happiness and sadness, all acted strongly. Three steps make a `Reading` of what a reader says about
these seven:

* How strong: the distance along the class's own direction, in the space of the reader's features
  (`Scale`). The acted clips count as `ACTED` = 1.3, mild everyday acting measured about .5 on the
  same direction, so 1 is a strong example and intensities stop there.
* Valence, arousal and dominance: the mean of what the classes stand for, with its variance.
* Emotions that no clip was labelled with (excitement, amusement, contentment, love, awe, surprise)
  take part of the probability of those that lie near in valence, arousal and dominance (`MAYBE`). A
  voice that sounds happy may be excited: the reading says so and does not decide. Contentment and
  awe lie near nothing that was acted, so these readers hardly ever hear them.

It deliberately knows no waveform, no feature and no network. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.emotion import CORE, VAD
from adapters.reading import Reading
from adapters.vad import SD

Floats = NDArray[np.float64]

CLASSES: tuple[str, ...] = (
    "neutral", "anger", "boredom", "disgust", "fear", "happiness", "sadness",
)  # fmt: skip
"""What the training speech was acted as."""
HEARD = [CORE.index(name) for name in CLASSES[1:]]
"""Places of the six acted emotions in CORE."""
UNHEARD = [k for k in range(len(CORE)) if k not in HEARD]
"""Places of the six emotions without training speech."""
ACTED = 1.3
"""Intensity of EmoDB's takes: +9 semitones of anger, where 1 is +6 (two-anchor scale)."""
UNHEARD_SHARE = 0.5
"""Most of the probability that unlabelled emotions can take together."""
OPEN = 0.12
"""Deviation of valence, arousal and dominance that the classes themselves leave open."""
FAINT_DOUBT = 0.1
"""Probability of not being neutral at which intensities count half: noise is no faint emotion."""


def _maybe() -> Floats:
    """Rows of what was acted, columns of what may be meant: raters' disagreement about VAD."""
    out = np.zeros((len(CLASSES), 1 + len(CORE)))
    out[0, 0] = 1.0
    for row, k in enumerate(HEARD, start=1):
        near = np.exp(-0.5 * (((VAD[UNHEARD] - VAD[k]) / SD) ** 2).sum(axis=1))
        share = UNHEARD_SHARE * near / (1 + near.sum())
        out[row, [1 + j for j in UNHEARD]] = share
        out[row, 1 + k] = 1 - share.sum()
    return out


MAYBE: Floats = _maybe()
"""(7, 13) how a class's probability is shared among neutral and the twelve; rows sum to 1."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Where features lie between neutral and each acted emotion.

    centre, spread: (n,) of neutral speech and of all speech. directions: (6, n) standardised mean
    of each acted emotion. precision: (n, n) inverse covariance within the classes.
    """

    centre: Floats
    spread: Floats
    directions: Floats
    precision: Floats

    @classmethod
    def fit(cls, x: ArrayLike, labels: ArrayLike, *, shrink: float = 0.2) -> Scale:
        """Fit to features (m, n) and classes (m,), 0 neutral; shrink covariances by this share."""
        rows, y = np.asarray(x, dtype=np.float64), np.asarray(labels)
        centre = np.nanmean(rows[y == 0], axis=0)
        spread = np.nanstd(rows, axis=0) + 1e-6
        z = soft((rows - centre) / spread)
        acted = z[y > 0].mean(axis=0)  # stands for an emotion that no clip was labelled with
        means = np.array(
            [z[y == k].mean(axis=0) if (y == k).any() else acted for k in range(len(CLASSES))]
        )
        rest = z - means[y]
        covariance = rest.T @ rest / len(rest)
        flat = np.eye(len(centre)) * np.trace(covariance) / len(centre)
        precision = np.linalg.inv((1 - shrink) * covariance + shrink * flat)
        return cls(centre, spread, means[1:] - means[0], precision)

    def amplitudes(self, x: ArrayLike) -> Floats:
        """Features (m, n) -> (m, 6): 0 neutral, 1 the mean of the acted clips of that emotion."""
        z = soft((np.atleast_2d(np.asarray(x, dtype=np.float64)) - self.centre) / self.spread)
        weight = self.directions @ self.precision
        return np.asarray(z @ weight.T / (weight * self.directions).sum(axis=1))


def soft(z: ArrayLike, limit: float = 4.0) -> Floats:
    """Deviations, softly stopped at `limit`; 0 where a voice cannot tell (nan)."""
    z = np.asarray(z, dtype=np.float64)
    return np.asarray(np.where(np.isnan(z), 0.0, limit * np.tanh(z / limit)))


def readings(
    classes: Floats, amplitudes: Floats, familiarity: Sequence[float] | Floats, reader: str
) -> list[Reading]:
    """Make readings of class probabilities (m, 7), `Scale.amplitudes` (m, 6) and 0..1 (m,).

    probabilities: the expected soft label, so neutral is what the expected intensities leave.
    """
    heard = np.clip(ACTED * amplitudes, 0, 1)
    points = heard[:, :, None] * VAD[HEARD]
    share = classes[:, 1:, None]
    mean = (share * points).sum(axis=1)
    spread = (share * (points - mean[:, None]) ** 2).sum(axis=1) + classes[:, :1] * mean**2
    spread += OPEN**2
    kind = (classes @ MAYBE)[:, 1:]
    expected = (classes[:, 1:] * heard) @ MAYBE[1:, 1:]
    p = np.column_stack([1 - expected.sum(axis=1), expected])
    level = expected / np.maximum(kind, 1e-12)
    other = 1 - classes[:, :1]
    strength = level * kind / np.maximum(kind.max(axis=1, keepdims=True), 1e-9)
    strength *= other / (other + FAINT_DOUBT)
    return [
        Reading(tuple(a), tuple(b), tuple(c), tuple(d), float(k), reader)
        for a, b, c, d, k in zip(
            p.clip(0, 1).tolist(),
            strength.tolist(),
            mean.tolist(),
            spread.tolist(),
            familiarity,
            strict=True,
        )
    ]


def familiar(away: ArrayLike, quantiles: Floats) -> Floats:
    """Distances (m,) -> share of ordinary speech at least as unusual; quantiles: (101,)."""
    return np.asarray(1 - np.searchsorted(quantiles, np.asarray(away)).clip(0, 100) / 100)


def windows(seconds: float, window: float, step: float) -> tuple[Floats, Floats]:
    """Times every `step` seconds, and where the window around each begins, kept inside."""
    if window <= 0 or step <= 0:
        msg = f"window and step: more than 0 seconds, received {window:g} and {step:g}"
        raise ValueError(msg)
    times = np.arange(0.0, max(seconds, 1e-6), step)
    return times, np.clip(times - window / 2, 0.0, max(0.0, seconds - window))
