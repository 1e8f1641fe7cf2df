"""The cues of a voice that people know by name: pitch in semitones, rate, tilt, breath.

`cues` sums an analysis up to the numbers of `CUES`, `cue_table` sets what was before beside what is
after. The choice follows Juslin and Laukka (2003), table 11, and the measured differences of the
project's notes: these are the cues that listeners use. Every cue but `level` is the same however
loud the recording is. It deliberately knows no emotion and no reading. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from adapters.voice_analysis import BAND_CENTRES, HOP, RATE, Analysis

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SECONDS = HOP / RATE  # 16 ms
SYLLABLE_DB = 2.0  # a peak of the level that stands out by less is no syllable


@dataclass(frozen=True, slots=True)
class Cue:
    """One row of the table: its unit, and what more of it sounds like."""

    name: str
    unit: str
    text: str


TABLE: tuple[Cue, ...] = (
    Cue("pitch_mean", "st", "higher voice; semitones above 55 Hz"),
    Cue("pitch_sd", "st", "livelier melody"),
    Cue("pitch_range", "st", "wider melody; 5 to 95 % quantile"),
    Cue("pitch_slope", "st/s", "rising instead of falling"),
    Cue("pitch_final", "st", "higher end; last quarter second with a pitch"),
    Cue("pitch_movement", "st/s", "faster melody"),
    Cue("jitter", "st", "rougher or creaking voice; bends from frame to frame"),
    Cue("syllable_rate", "1/s", "faster speech; peaks of the level a second, pauses counted"),
    Cue("voiced_share", "", "more voice, less whisper and hiss; of the speech"),
    Cue("voiced_length", "s", "longer vowels; mean stretch with a pitch"),
    Cue("pause_share", "", "more and longer pauses"),
    Cue("alpha_ratio", "dB", "brighter, tenser voice; 1-5 kHz to below 1 kHz"),
    Cue("alpha_sd", "dB", "tension that changes"),
    Cue("hnr", "dB", "clearer voice; harmonics to noise"),
    Cue("breath", "dB", "breathier voice; noise to harmonics above 1.5 kHz"),
    Cue("level", "dB", "louder; full scale, depends on the recording"),
    Cue("level_sd", "dB", "stronger accents"),
    Cue("level_movement", "dB/s", "harder attacks"),
    Cue("low_bands", "dB", "darker, fuller vowels; below 500 Hz against all"),
    Cue("middle_bands", "dB", "more open vowels; 500 to 1,500 Hz"),
    Cue("presence_bands", "dB", "more ring; 2 to 4 kHz"),
    Cue("high_bands", "dB", "more edge; above 4.5 kHz"),
    Cue("colour_movement", "dB", "clearer articulation; change of the bands a frame"),
)
CUES: tuple[str, ...] = tuple(cue.name for cue in TABLE)
"""Names of the cues, in the order of every vector of them."""


def cues(analysis: Analysis) -> dict[str, float]:
    """All cues by name; nan where too little is said to tell."""
    out = dict.fromkeys(CUES, float("nan"))
    said = analysis.speech
    if said.sum() < 6:  # a tenth of a second
        return out
    where = np.flatnonzero(said)
    part = slice(int(where[0]), int(where[-1]) + 1)
    said, voiced = said[part], (analysis.voiced & analysis.speech)[part]
    seconds = len(said) * SECONDS
    energy = analysis.energy[part].astype(np.float64)
    near = np.maximum(energy, energy.max() - 40)
    out["level"] = analysis.level
    out["level_sd"] = float(near[said].std())
    out["level_movement"] = float(np.abs(np.diff(near)).mean() / SECONDS) if len(near) > 1 else 0.0
    out["pause_share"] = float(1 - said.mean())
    out["voiced_share"] = float(voiced.sum() / said.sum())
    out["syllable_rate"] = len(syllables(energy)) / max(seconds, 0.3)
    bands = analysis.bands[part].astype(np.float64)
    both = said[1:] & said[:-1]
    if both.any():
        out["colour_movement"] = float(np.abs(np.diff(bands, axis=0))[both].mean())
    if voiced.sum() < 6:
        return out
    runs = _runs(voiced)
    out["voiced_length"] = float(np.mean([stop - start for start, stop in runs]) * SECONDS)
    out |= _pitch(analysis.f0[part], voiced, runs)
    tilt = analysis.tilt[part][voiced].astype(np.float64)
    out["alpha_ratio"], out["alpha_sd"] = float(tilt.mean()), float(tilt.std())
    out["hnr"] = float(analysis.hnr[part][voiced].mean())
    out["breath"] = float(analysis.breath[part][voiced].mean())
    mean = bands[voiced].mean(axis=0)
    for name, low, high in (
        ("low", 0, 500), ("middle", 500, 1500), ("presence", 2000, 4000), ("high", 4500, 8000)
    ):  # fmt: skip
        out[f"{name}_bands"] = float(mean[(low <= BAND_CENTRES) & (high > BAND_CENTRES)].mean())
    return out


def cue_vector(analysis: Analysis) -> Floats:
    """(len(CUES),) `cues` in order."""
    return np.array(list(cues(analysis).values()))


def cue_table(
    before: Analysis | Mapping[str, float], after: Analysis | Mapping[str, float]
) -> list[dict[str, str | float]]:
    """Rows of name, unit, text, before, after, change: what an edit did to each cue."""
    old, new = (x if isinstance(x, Mapping) else cues(x) for x in (before, after))
    return [
        {
            "name": cue.name,
            "unit": cue.unit,
            "text": cue.text,
            "before": old[cue.name],
            "after": new[cue.name],
            "change": new[cue.name] - old[cue.name],
        }
        for cue in TABLE
    ]


def between(analysis: Analysis, start: float, stop: float) -> Analysis:
    """The frames of start..stop seconds as an analysis of their own."""
    first = min(max(0, round(start / SECONDS)), len(analysis))
    last = min(max(first, round(stop / SECONDS)), len(analysis))
    rows = {
        field.name: getattr(analysis, field.name)[first:last]
        for field in fields(analysis)
        if field.name not in ("samples", "contour")
    }
    return replace(
        analysis,
        samples=max(0, last - first - 1) * HOP,
        contour=analysis.contour[2 * first : max(2 * first, 2 * last - 1)],
        **rows,
    )


def syllables(energy: Floats) -> NDArray[np.intp]:
    """Frames (16 ms) at which syllables peak: maxima of the smoothed level that stand out.

    After the counting of de Jong and Wempe (2009), 2 dB dips, without their
    condition of a pitch: whispered syllables count.
    """
    kernel = np.hanning(9)[1:-1]
    smooth = np.convolve(np.pad(energy, 3, mode="edge"), kernel / kernel.sum(), "valid")
    smooth = np.maximum(smooth, smooth.max() - 25)
    peaks = np.flatnonzero((smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])) + 1
    kept: list[int] = []
    for at in peaks.tolist():
        if kept:
            valley = smooth[kept[-1] : at].min()
            if min(smooth[at], smooth[kept[-1]]) - valley < SYLLABLE_DB:
                if smooth[at] > smooth[kept[-1]]:
                    kept[-1] = at
                continue
        kept.append(at)
    return np.array(kept, dtype=np.intp)


def _runs(mask: Flags) -> list[tuple[int, int]]:
    """(begin, end) of the runs of true."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    begin, end = np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()
    return list(zip(begin, end, strict=True))


def _pitch(f0: NDArray[np.float32], voiced: Flags, runs: list[tuple[int, int]]) -> dict[str, float]:
    pitch = np.full(len(f0), np.nan)
    pitch[voiced] = 12 * np.log2(f0[voiced].astype(np.float64) / 55)
    values, when = pitch[voiced], np.flatnonzero(voiced) * SECONDS
    low, high = np.quantile(values, (0.05, 0.95))
    centred = when - when.mean()
    steps = [np.diff(pitch[a:b][::3]) for a, b in runs if b - a >= 7]  # over 48 ms
    bends = [np.diff(pitch[a:b], 2) for a, b in runs if b - a >= 4]
    moves = np.abs(np.concatenate(steps)) if steps else np.zeros(0)
    moves = moves[moves < 9]  # an octave error is no melody
    bend = np.minimum(np.abs(np.concatenate(bends)), 2.0) if bends else np.zeros(0)
    return {
        "pitch_mean": float(values.mean()),
        "pitch_sd": float(values.std()),
        "pitch_range": float(high - low),
        "pitch_slope": float((centred * values).sum() / ((centred**2).sum() + 0.1)),
        "pitch_final": float(values[when > when[-1] - 0.25].mean() - values.mean()),
        "pitch_movement": float(moves.mean() / (3 * SECONDS)) if len(moves) else float("nan"),
        "jitter": float(bend.mean()) if len(bend) else float("nan"),
    }
