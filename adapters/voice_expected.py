"""Which way an emotion should move the cues of a voice, by the table of the literature.

`expected` reads assets/emotions/voice_cues.json: what happiness does to pitch, range, pace, tilt,
breath, level and accents, weighed by the intensities asked for. Only cues that the table speaks of
are named; the sizes are in the units of adapters.voice_cues. `with_expected` writes them into the
rows of a cue table, so that a change can be seen to go the way it should.

It deliberately knows no recording and no model. numpy only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adapters.emotion import CORE
from adapters.voice_emotion import cue_table

USUAL = {"pitch_sd": 2.5, "pitch_range": 8.0, "syllable_rate": 4.5, "level_sd": 6.0}
"""Neutral EmoDB speech about these: what factors of the table are factors of."""
LOCKED = {
    "pitch": ("pitch_mean", "pitch_sd", "pitch_range", "pitch_final", "jitter"),
    "timing": ("syllable_rate",),
    "level": ("level", "level_sd"),
    "timbre": ("alpha_ratio",),
    "breath": ("breath",),
}
"""Lock -> the cues that it holds, of which nothing is expected then."""
FAINT = 0.05  # share of the largest expectation of a cue under which none is told


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[float, ...]]:
    """Cue -> what each of the 12 emotions does to it at intensity 1."""
    rows: Mapping[str, Any] = cue_table()["emotions"]
    told = [rows[name] for name in CORE]
    found: dict[str, list[float]] = {
        "pitch_mean": [row["pitch"] for row in told],
        "pitch_sd": [USUAL["pitch_sd"] * (row["range"] - 1) for row in told],
        "pitch_range": [USUAL["pitch_range"] * (row["range"] - 1) for row in told],
        "pitch_final": [row["final"] for row in told],
        "jitter": [row["creak"] for row in told],
        "syllable_rate": [USUAL["syllable_rate"] * (1 / row["duration"] - 1) for row in told],
        "alpha_ratio": [row["tilt"] for row in told],
        "breath": [row["breath"] for row in told],
        "level": [row["level"] for row in told],
        "level_sd": [USUAL["level_sd"] * (row["dynamics"] - 1) for row in told],
    }
    return {name: tuple(float(x) for x in values) for name, values in found.items()}


def expected(asked: ArrayLike, locks: Collection[str] = ()) -> dict[str, float]:
    """Cue -> the change an emotion should make, in the cue's unit; only those that should move.

    asked: (12,) intensities in the order of CORE, or (T, 12) over time, of which the mean counts.
    locks: names of `LOCKED` whose cues stay as they are.
    """
    state = np.atleast_2d(np.asarray(asked, dtype=np.float64)).mean(axis=0)
    held = {name for lock in locks for name in LOCKED.get(lock, ())}
    found = {}
    for name, sizes in _table().items():
        size = float(state @ np.asarray(sizes))
        if name not in held and abs(size) > FAINT * max(abs(x) for x in sizes):
            found[name] = size
    return found


def with_expected(
    rows: Sequence[Mapping[str, Any]], asked: ArrayLike, locks: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of `adapters.voice_cues.cue_table` with "expected": a number, None where none is."""
    wanted = expected(asked, locks)
    return [{**row, "expected": wanted.get(str(row["name"]))} for row in rows]
