"""Who speaks when: two people in one recording, told apart by how high they speak.

An edit is a difference to the person's own voice. In a dialogue of a low and a high voice the
recording's mean is nobody's, so what is planned on it moves both the wrong way. Stretches of speech
are clustered by their median pitch; only where two registers stand clearly apart are there two
people (Ashman, Bird and Zepf 1994 for "clearly"). Two voices of the same height count as one: for
them the common register is nearly their own.

It deliberately knows no names, no voices it has heard before and no emotion. numpy only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapters.voice_analysis import Analysis

Labels = NDArray[np.int8]

APART = 6.0
"""Semitones between the middles of two registers; men and women lie 9 to 12 apart, the phrases of
one person seldom more than 4."""
CLEAR = 3.0  # Ashman's D: distance in units of the spread; 2 would be a doubtful case
FEWEST = 12  # voiced frames of a stretch (.2 s) that its median is trusted from
SHARE = 30  # voiced frames (.5 s) that each person speaks at least


def people_of(analysis: Analysis) -> Labels:
    """Who speaks: int8 (T,), 0 everywhere, or 0 the lower and 1 the higher of two voices.

    In pauses it is whoever is nearer.
    """
    frames = len(analysis)
    labels = np.zeros(frames, dtype=np.int8)
    edge = np.diff(np.concatenate([[0], analysis.speech.view(np.int8), [0]]))
    starts, stops = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    octave = np.log2(np.maximum(analysis.f0, 1.0))
    voiced = analysis.voiced & analysis.speech
    rows = [(np.median(octave[a:b][voiced[a:b]]), voiced[a:b].sum(), a, b)
            for a, b in zip(starts, stops, strict=True) if voiced[a:b].sum() >= FEWEST]  # fmt: skip
    if len(rows) < 2:
        return labels
    middle, weight = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    threshold = _threshold(middle, weight)
    if threshold is None:
        return labels
    who = (middle > threshold).astype(np.int8)
    # Stretches that are too short to tell belong to the nearest that is not; pauses are halved.
    said = np.array([(a, b) for _, _, a, b in rows])
    ends = (said[1:, 0] + said[:-1, 1]) // 2
    bounds = np.concatenate([[0], ends, [frames]])
    for label, begin, end in zip(who, bounds[:-1], bounds[1:], strict=True):
        labels[begin:end] = label
    return labels


def _threshold(middle: NDArray[np.float64], weight: NDArray[np.float64]) -> float | None:
    """Octaves between two registers that stand apart, else None (Otsu 1979, weighted)."""
    order = np.argsort(middle)
    values, shares = middle[order], weight[order]
    best, found = 0.0, None
    for k in range(1, len(values)):
        low, high = (values[:k], shares[:k]), (values[k:], shares[k:])
        a, b = (float(np.average(v, weights=w)) for v, w in (low, high))
        between = low[1].sum() * high[1].sum() * (b - a) ** 2
        if between <= best:
            continue
        best = between
        spread = sum(
            float(np.average((v - m) ** 2, weights=w)) for (v, w), m in ((low, a), (high, b))
        )
        clear = np.sqrt(2) * (b - a) > CLEAR * np.sqrt(spread)
        enough = min(low[1].sum(), high[1].sum()) >= SHARE
        found = float(values[k - 1] + values[k]) / 2 if (
            clear and enough and 12 * (b - a) >= APART
        ) else None  # fmt: skip
    return found


def as_one(analysis: Analysis, people: Labels) -> Analysis:
    """The analysis as if one person spoke: what an edit is planned on, never rendered from.

    Each person's pitch, level, envelope and breath are moved to the first one's means, so that
    what is read "relative to the recording" is relative to whoever speaks.
    """
    if not people.any():
        return analysis
    f0, energy = analysis.f0.copy(), analysis.energy.copy()
    bands, breath = analysis.bands.copy(), analysis.breath.copy()
    voiced = analysis.voiced & analysis.speech
    first = people == 0
    for label in range(1, int(people.max()) + 1):
        here = people == label
        tone, other = here & voiced, first & voiced
        f0[here] *= np.median(f0[other]) / np.median(f0[tone])
        said, reference = here & analysis.speech, first & analysis.speech
        energy[here] += energy[reference].mean() - energy[said].mean()
        bands[here] += bands[reference].mean(axis=0) - bands[said].mean(axis=0)
        breath[tone] += breath[other].mean() - breath[tone].mean()
    return replace(analysis, f0=f0, energy=energy, bands=bands, breath=breath)
