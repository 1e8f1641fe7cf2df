"""What can be measured of music without a learned model: sixteen controls and thirty-nine features.

ATTRIBUTES are what a person can ask for and the composer is steered by: one number for a piece
(`measure`) or one for each bar (`measure_bars`). FEATURES are what the critic of emotion reads.
Both come from the same few arrays (`_Heard`), so they agree where they share a name. It knows no
emotion: which attributes move with which feeling is a measurement kept elsewhere.

Names follow jSymbolic 2.2 (McKay, Cumming & Fujinaga 2018) where it has the attribute. Where a
definition differs, it is because jSymbolic counts MIDI channels as voices and ticks as time, and a
piano piece has one channel and rubato. numpy only; no loop over notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.piece import MELODY, VOICES, Piece
from adapters.tonality import (
    HARMONIC_MINOR,
    MAJOR_SCALE,
    NATURAL_MINOR,
    find_key,
    held_until,
    key_correlations,
    pitch_class_weights,
    rolling_sum,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

SAME_ONSET = 0.035
"""Seconds: notes closer than this are struck together (a played chord is spread by 10-30 ms)."""
WINDOW_BARS = 5
"""Mode, key clarity and density variability of a bar are those of the five bars around it: one
bar holds too few pitch classes to tell a mode."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its unit, the range controls allow, a sentence for people, its jSymbolic name.

    low and high bound what is asked for, not what can be measured.
    """

    name: str
    unit: str
    low: float
    high: float
    text: str
    jsymbolic: str


_TABLE = (
    Attribute("tempo", "bpm", 40, 200, "speed of the beat", "Mean Tempo"),
    Attribute("mode", "", -0.5, 0.5, "minor (below 0) to major (above 0)", "Major or Minor"),
    Attribute("key_clarity", "", 0, 1, "how plainly the notes belong to one key", ""),
    Attribute("mean_pitch", "MIDI note", 36, 84, "low to high register", "Mean Pitch"),
    Attribute("pitch_range", "semitones", 5, 72, "how far apart low and high notes lie", "Range"),
    Attribute("note_density", "notes/s", 0.5, 20, "how many notes are struck", "Note Density"),
    Attribute(
        "polyphony",
        "notes",
        1,
        10,
        "how many keys are held at once",
        "Average Number of Simultaneous Pitches",
    ),
    Attribute("velocity", "1-127", 20, 120, "how hard keys are struck: soft to loud", ""),
    Attribute(
        "velocity_variability", "1-127", 0, 30, "even to contrasting touch", "Variation of Dynamics"
    ),
    Attribute("articulation", "ratio", 0.1, 2, "staccato (below 0.6) to legato (1 and above)", ""),
    Attribute("note_duration", "s", 0.05, 4, "how long keys are held", "Average Note Duration"),
    Attribute(
        "rhythmic_variability",
        "ratio",
        0,
        1.5,
        "even to irregular rhythm",
        "Variability of Time Between Attacks",
    ),
    Attribute(
        "melodic_variability",
        "semitones",
        0,
        12,
        "steps to leaps in the melody",
        "Mean Melodic Interval",
    ),
    Attribute("dissonance", "0-1", 0, 0.5, "smooth to rough harmony", "Vertical Dissonance Ratio"),
    Attribute("contour", "-1..1", -1, 1, "falling to rising melody inside bars", ""),
    Attribute("density_variability", "ratio", 0, 1, "even to changing from bar to bar", ""),
)
ATTRIBUTES = tuple(row.name for row in _TABLE)
TABLE: Mapping[str, Attribute] = {row.name: row for row in _TABLE}
"""The rows by name."""

# fmt: off
FEATURES = (
    "note_density", "onset_density", "onset_polyphony", "ioi_median", "ioi_cv", "npvi", "tempo_est",
    "pulse_strength", "mean_pitch", "pitch_sd", "pitch_range", "melody_pitch", "bass_pitch",
    "share_bass", "share_high", "melodic_interval", "repeat_share", "velocity_mean", "velocity_sd",
    "velocity_p95", "velocity_change", "dur_mean", "dur_cv", "articulation", "staccato_share",
    "short_share", "long_share", "pedal_share", "polyphony", "mode_score", "key_strength",
    "is_major", "third_balance", "out_of_scale", "pc_entropy", "major_chord_share", "dissonance",
    "semitone_share", "density_cv",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class _Heard:
    """A piece in seconds and onset groups. n notes, g groups of notes struck together."""

    start: Floats  # (n,) seconds
    end: Floats
    pitch: Floats
    bar: Indices  # (n,)
    group: Indices  # (n,) ascending
    group_start: Floats  # (g,)
    group_bar: Indices
    top: Floats  # (g,) highest pitch struck
    bottom: Floats
    bars: Floats  # (bars + 1,) seconds of the bar lines

    @classmethod
    def of(cls, piece: Piece) -> _Heard:
        start, end = piece.seconds_at(piece.onset), piece.seconds_at(piece.offset)
        group = _groups(start)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        pitch = piece.pitch.astype(np.float64)
        bar = piece.bar_of()
        lines = piece.seconds_at(np.arange(piece.bars + 1) * piece.beats_per_bar)
        return cls(
            start=start,
            end=end,
            pitch=pitch,
            bar=bar,
            group=group,
            group_start=start[first],
            group_bar=bar[first],
            top=np.maximum.reduceat(pitch, first) if len(pitch) else pitch,
            bottom=np.minimum.reduceat(pitch, first) if len(pitch) else pitch,
            bars=lines,
        )


def measure(piece: Piece) -> dict[str, float]:
    """All ATTRIBUTES of a piece in natural units; nan where undefined, such as without notes."""
    found = dict.fromkeys(ATTRIBUTES, float("nan"))
    found["tempo"] = 60.0 * piece.beats / piece.seconds if piece.seconds else float("nan")
    if not len(piece):
        return found
    heard = _Heard.of(piece)
    key = find_key(piece)
    held, covered = _held_and_covered(heard, np.array([heard.start[0], heard.end.max()]))
    melody, _, outline, outline_bar = _melody(piece, heard)
    gaps = np.diff(heard.group_start)
    low, high = np.percentile(heard.pitch, (2.5, 97.5))
    inside = heard.bar < piece.bars
    struck = np.bincount(heard.bar[inside], minlength=piece.bars)
    contours = _contour_by_bar(outline, outline_bar, piece.bars)
    shares, _ = _interval_shares(heard)
    found |= {
        "mode": key.mode_score,
        "key_clarity": key.clarity,
        "mean_pitch": float(heard.pitch.mean()),
        "pitch_range": float(high - low),
        "note_density": len(piece) / _length(heard),
        "polyphony": float(held[0] / covered[0]),
        "velocity": float(piece.velocity.mean()),
        "velocity_variability": float(piece.velocity.std()),
        "articulation": _median(_articulation(piece, heard)),
        "note_duration": float((heard.end - heard.start).mean()),
        "rhythmic_variability": _variation(gaps),
        "melodic_variability": _mean(np.abs(np.diff(melody))),
        "dissonance": _mean(_roughness(shares)),
        "contour": _mean(contours[~np.isnan(contours)]),
        "density_variability": _variation(struck.astype(np.float64)),
    }
    return found


def measure_bars(piece: Piece) -> dict[str, Floats]:
    """All ATTRIBUTES of every bar: arrays (piece.bars,), nan where a bar cannot tell.

    A note belongs to the bar in which it starts; polyphony counts what sounds inside the bar.
    Mode, key_clarity and density_variability look at WINDOW_BARS bars. Silent bars have a tempo
    and a note density of 0; the rest is nan.
    """
    bars = piece.bars
    lines_in_beats = np.arange(bars + 1) * piece.beats_per_bar
    heard = _Heard.of(piece)
    seconds = np.diff(heard.bars)
    found = {name: np.full(bars, np.nan) for name in ATTRIBUTES}
    found["tempo"] = 60.0 * piece.beats_per_bar / seconds
    found["note_density"] = np.zeros(bars)
    if not len(piece):
        return found
    inside = heard.bar < bars
    bar, velocity = heard.bar[inside], piece.velocity[inside].astype(np.float64)
    pitch = heard.pitch[inside]
    count = np.bincount(bar, minlength=bars).astype(np.float64)
    found["note_density"] = count / seconds

    windows = rolling_sum(pitch_class_weights(piece, lines_in_beats), WINDOW_BARS)
    sounds = windows.sum(axis=1) > 0
    correlations = key_correlations(windows)
    major, minor = correlations[:, :12].max(axis=1), correlations[:, 12:].max(axis=1)
    found["mode"] = np.where(sounds, major - minor, np.nan)
    found["key_clarity"] = np.where(sounds, np.clip(np.maximum(major, minor), 0, 1), np.nan)

    found["mean_pitch"], _ = _moments(bar, pitch, bars)
    low, high = _quantiles(bar, pitch, bars, (0.025, 0.975))
    found["pitch_range"] = high - low
    held, covered = _held_and_covered(heard, heard.bars)
    found["polyphony"] = _ratio(held, covered)
    found["velocity"], found["velocity_variability"] = _moments(bar, velocity, bars)
    touch = _articulation(piece, heard)[inside]
    told = ~np.isnan(touch)
    found["articulation"] = _quantiles(bar[told], touch[told], bars, (0.5,))[0]
    found["note_duration"], _ = _moments(bar, (heard.end - heard.start)[inside], bars)

    gaps, gap_bar = np.diff(heard.group_start), heard.group_bar[:-1]
    gaps, gap_bar = gaps[gap_bar < bars], gap_bar[gap_bar < bars]
    mean, deviation = _moments(gap_bar, gaps, bars)
    several = np.bincount(gap_bar, minlength=bars) > 1
    found["rhythmic_variability"] = np.where(several, deviation / mean, np.nan)

    melody, melody_bar, outline, outline_bar = _melody(piece, heard)
    arrived = melody_bar[1:] < bars
    steps = np.abs(np.diff(melody))[arrived]
    found["melodic_variability"], _ = _moments(melody_bar[1:][arrived], steps, bars)
    found["contour"] = _contour_by_bar(outline, outline_bar, bars)

    shares, at = _interval_shares(heard)
    heard_in = heard.group_bar[at]
    rough = _roughness(shares)[heard_in < bars]
    found["dissonance"], _ = _moments(heard_in[heard_in < bars], rough, bars)

    full = rolling_sum(np.ones(bars), WINDOW_BARS)
    mean = rolling_sum(count, WINDOW_BARS) / full
    spread = np.sqrt(np.maximum(rolling_sum(count**2, WINDOW_BARS) / full - mean**2, 0.0))
    found["density_variability"] = np.where(full > 1, _ratio(spread, mean), np.nan)
    return found


def matrix(measured: Iterable[Mapping[str, float]]) -> Floats:
    """(n, 16) float64 rows in the order of ATTRIBUTES."""
    rows = [[row[name] for name in ATTRIBUTES] for row in measured]
    return np.array(rows, dtype=np.float64).reshape(-1, len(ATTRIBUTES))


def features(piece: Piece) -> Floats:
    """(39,) float64 in the order of FEATURES; nan where undefined.

    pedal_share is nan for a piece without pedal events: its source may not have recorded any.
    """
    found = dict.fromkeys(FEATURES, float("nan"))
    if len(piece):
        heard = _Heard.of(piece)
        found |= _time_features(piece, heard)
        found |= _pitch_features(heard)
        found |= _touch_features(piece, heard)
        found |= _harmony_features(piece, heard)
    return np.array([found[name] for name in FEATURES])


def _time_features(piece: Piece, heard: _Heard) -> dict[str, float]:
    gaps = np.diff(heard.group_start)
    length = _length(heard)
    per_second = np.bincount((heard.start - heard.start[0]).astype(np.int64))
    tempo, strength = _pulse(heard, piece)
    contrast = np.abs(np.diff(gaps)) / (gaps[1:] + gaps[:-1])
    return {
        "note_density": len(piece) / length,
        "onset_density": len(heard.group_start) / length,
        "onset_polyphony": len(piece) / len(heard.group_start),
        "ioi_median": _median(gaps),
        "ioi_cv": _variation(gaps),
        "npvi": 200.0 * _mean(contrast),
        "tempo_est": tempo,
        "pulse_strength": strength,
        "density_cv": _variation(per_second.astype(np.float64)),
    }


def _pitch_features(heard: _Heard) -> dict[str, float]:
    low, high = np.percentile(heard.pitch, (2.5, 97.5))
    steps = np.abs(np.diff(heard.top))
    return {
        "mean_pitch": float(heard.pitch.mean()),
        "pitch_sd": float(heard.pitch.std()),
        "pitch_range": float(high - low),
        "melody_pitch": float(np.percentile(heard.top, 60)),
        "bass_pitch": float(np.percentile(heard.bottom, 20)),
        "share_bass": float((heard.pitch < 55).mean()),
        "share_high": float((heard.pitch >= 73).mean()),
        "melodic_interval": _mean(steps),
        "repeat_share": _mean(steps == 0),
    }


def _touch_features(piece: Piece, heard: _Heard) -> dict[str, float]:
    velocity = piece.velocity.astype(np.float64)
    duration = heard.end - heard.start
    length = _length(heard)
    following = np.append(heard.group_start, np.nan)[heard.group + 1]
    touch = np.minimum(duration / (following - heard.group_start[heard.group]), 2.0)
    touch = touch[~np.isnan(touch)]
    down = piece.seconds_at(piece.pedal)
    share = float((down[:, 1] - down[:, 0]).sum() / length) if len(down) else float("nan")
    return {
        "velocity_mean": float(velocity.mean()),
        "velocity_sd": float(velocity.std()),
        "velocity_p95": float(np.percentile(velocity, 95)),
        "velocity_change": _mean(np.abs(np.diff(velocity))),
        "dur_mean": float(duration.mean()),
        "dur_cv": _variation(duration),
        "articulation": _mean(touch),
        "staccato_share": _mean(touch < 0.6),
        "short_share": float((duration < 0.15).mean()),
        "long_share": float((duration > 1.0).mean()),
        "pedal_share": share,
        "polyphony": float(duration.sum() / length),
    }


def _harmony_features(piece: Piece, heard: _Heard) -> dict[str, float]:
    # No note counts for more than 1.5 s, so that a last chord does not settle the key.
    counted = np.minimum(heard.end - heard.start, 1.5) * piece.velocity
    weight = np.bincount(heard.pitch.astype(np.int64) % 12, weights=counted, minlength=12)
    ratings = key_correlations(weight)[0]
    key = int(ratings.argmax())
    mode_score = float(ratings[:12].max() - ratings[12:].max())
    share = weight / weight.sum()
    from_tonic = np.roll(share, -(key % 12))
    scale = list(MAJOR_SCALE) if key < 12 else sorted({*NATURAL_MINOR, *HARMONIC_MINOR})
    thirds = from_tonic[4] + from_tonic[3]
    some = share[share > 0]
    seconds = np.arange(0.0, _length(heard) + 1.0) + heard.start[0]
    windows = pitch_class_weights(piece, piece.beats_at(seconds))
    windows = windows[windows.sum(axis=1) > 0]
    triads = windows @ _TRIADS.T
    major, minor = triads[:, :12].max(axis=1), triads[:, 12:].max(axis=1)
    plain = np.abs(major - minor) > 1e-9
    shares, _ = _interval_shares(heard)
    return {
        "mode_score": mode_score,
        "key_strength": float(np.clip(ratings[key], 0.0, 1.0)),
        "is_major": float(key < 12),
        "third_balance": float((from_tonic[4] - from_tonic[3]) / thirds) if thirds else 0.0,
        "out_of_scale": float(1.0 - from_tonic[scale].sum()),
        "pc_entropy": float(-(some * np.log2(some)).sum()),
        "major_chord_share": _mean((major > minor)[plain]),
        "dissonance": _mean(_roughness(shares)),
        "semitone_share": _mean(shares[:, 1]),
    }


_TRIADS = np.array(
    [np.roll(np.eye(12)[[0, third, 7]].sum(axis=0), root) for third in (4, 3) for root in range(12)]
)
#: Roughness of interval classes 0..6: unison, minor second, major second, minor third, major third,
#: fourth, tritone, each with its inversion. The order is that of Malmberg (1918) and Huron (1994);
#: the numbers reproduce the published figures of EMOPIA.
ROUGHNESS = np.array([0.0, 1.0, 0.5, 0.15, 0.05, 0.05, 0.9])


def _groups(start: Floats) -> Indices:
    """(n,) number of the onset group of each note: a gap over SAME_ONSET opens a new one."""
    return np.cumsum(np.diff(start, prepend=start[:1]) > SAME_ONSET)


def _length(heard: _Heard) -> float:
    """Seconds from the first onset to the last release, at least 1: one note is no density."""
    return float(max(heard.end.max() - heard.start[0], 1.0))


def _sounding(heard: _Heard) -> NDArray[np.bool_]:
    """(g, 132) which keys are down when each group has been struck.

    A key let go within SAME_ONSET of the next group (legato overlap) is not held into it.
    """
    last = np.searchsorted(heard.group_start, heard.end - SAME_ONSET)
    last = np.maximum(last, heard.group + 1)
    change = np.zeros((len(heard.group_start) + 1, 132), dtype=np.int32)
    key = heard.pitch.astype(np.int64)
    np.add.at(change, (heard.group, key), 1)
    np.add.at(change, (last, key), -1)
    return np.cumsum(change, axis=0)[:-1] > 0


def _interval_shares(heard: _Heard) -> tuple[Floats, Indices]:
    """Shares (m, 7) of interval classes 0..6 among pairs of keys down, and their groups (m,).

    Only groups in which at least two keys are down.
    """
    classes = _sounding(heard).reshape(-1, 11, 12).sum(axis=1, dtype=np.float64)
    pairs = np.empty((len(classes), 7))
    pairs[:, 0] = (classes * (classes - 1)).sum(axis=1) / 2
    for step in range(1, 7):
        pairs[:, step] = (classes * np.roll(classes, -step, axis=1)).sum(axis=1)
    pairs[:, 6] /= 2  # each tritone was met from both ends
    total = pairs.sum(axis=1)
    several = np.flatnonzero(total > 0)
    return pairs[several] / total[several, None], several


def _roughness(shares: Floats) -> Floats:
    return np.asarray(shares @ ROUGHNESS)


def _melody(piece: Piece, heard: _Heard) -> tuple[Floats, Indices, Floats, Indices]:
    """Pitches (m,) and bars (m,) of the melody, and of its outline, of which contour is told.

    Voice 0 where both voices are there (its highest note where it has chords). Else the skyline:
    the highest note struck, unless a higher key is still down; its outline is the highest key down
    at every onset, for a skyline takes each note above a held one and drops those below, so it
    would rise by construction (mean contour of EMOPIA .52, of the outline .08).
    """
    mine = piece.voice == MELODY
    if mine.any() and not mine.all():
        start, pitch = heard.start[mine], heard.pitch[mine]
        first = np.flatnonzero(np.diff(_groups(start), prepend=-1))
        line, bar = np.maximum.reduceat(pitch, first), heard.bar[mine][first]
        return line, bar, line, bar
    highest = 131.0 - np.argmax(_sounding(heard)[:, ::-1], axis=1)
    struck = heard.top >= highest
    return heard.top[struck], heard.group_bar[struck], highest, heard.group_bar


def _articulation(piece: Piece, heard: _Heard) -> Floats:
    """(n,) duration over the time to the next onset of its voice, at most 2; nan for the last."""
    ratio = np.full(len(piece), np.nan)
    for voice in range(len(VOICES)):
        mine = piece.voice == voice
        start = heard.start[mine]
        following = np.append(start, np.nan)[
            np.searchsorted(start, start + SAME_ONSET, side="right")
        ]
        ratio[mine] = (heard.end[mine] - start) / (following - start)
    return np.asarray(np.minimum(ratio, 2.0))


def _contour_by_bar(melody: Floats, bar: Indices, bars: int) -> Floats:
    """(bars,) what a melody gains inside a bar over the way it went, -1..1; nan where it stays."""
    same = (bar[1:] == bar[:-1]) & (bar[1:] < bars)
    steps, where = np.diff(melody)[same], bar[1:][same]
    net = np.bincount(where, weights=steps, minlength=bars)
    way = np.bincount(where, weights=np.abs(steps), minlength=bars)
    return _ratio(net, way)


def _held_and_covered(heard: _Heard, edges: Floats) -> tuple[Floats, Floats]:
    """Between edges: key seconds held (polyphony's numerator), and seconds with any key down."""
    held = np.diff(held_until(heard.start, heard.end, edges))
    reach = np.maximum.accumulate(heard.end)
    opens = np.flatnonzero(np.append(True, heard.start[1:] > reach[:-1]))
    closes = reach[np.append(opens[1:] - 1, len(reach) - 1)]
    covered = np.diff(held_until(heard.start[opens], closes, edges))
    return held, np.where(covered > 1e-6, covered, 0.0)


def _pulse(heard: _Heard, piece: Piece) -> tuple[float, float]:
    """Tempo (bpm) and height of the autocorrelation peak of the onsets; prior around 110 bpm.

    Wrong by an octave half of the time; kept as features, never as the tempo of a piece.
    """
    rate = 50.0
    when = ((heard.start - heard.start[0]) * rate).astype(np.int64)
    if len(heard.group_start) < 4 or when[-1] < rate:
        return float("nan"), float("nan")
    curve = np.bincount(when, weights=piece.velocity).astype(np.float64)
    curve = np.convolve(curve, np.hanning(7)[1:-1], mode="same")
    curve -= curve.mean()
    size = 1 << (2 * len(curve) - 1).bit_length()
    power = np.abs(np.fft.rfft(curve, size)) ** 2
    echo = np.fft.irfft(power, size)[: len(curve)]
    lags = np.arange(int(rate * 60 / 240), min(int(rate * 60 / 40), len(curve) - 1) + 1)
    if echo[0] <= 0 or not len(lags):
        return float("nan"), float("nan")
    bpm = 60.0 * rate / lags
    prior = np.exp(-0.5 * (np.log2(bpm / 110.0) / 0.6) ** 2)
    best = int(np.argmax(echo[lags] * prior))
    return float(bpm[best]), float(echo[lags[best]] / echo[0])


def _moments(bar: Indices, values: Floats, bars: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the values of each bar; nan where there is none."""
    count = np.bincount(bar, minlength=bars)
    mean = _ratio(np.bincount(bar, weights=values, minlength=bars), count)
    apart = (values - mean[bar]) ** 2
    return mean, np.sqrt(_ratio(np.bincount(bar, weights=apart, minlength=bars), count))


def _quantiles(bar: Indices, values: Floats, bars: int, levels: tuple[float, ...]) -> list[Floats]:
    """Quantiles (linear interpolation, as numpy's) of the values of each bar; nan without any."""
    order = np.lexsort((values, bar))
    ranked = np.append(values[order], np.nan)
    count = np.bincount(bar, minlength=bars)
    first = np.cumsum(count) - count
    found = []
    for level in levels:
        place = level * np.maximum(count - 1, 0)
        below = first + np.floor(place).astype(np.int64)
        above = first + np.ceil(place).astype(np.int64)
        low, high = ranked[below], ranked[above]
        found.append(np.where(count > 0, low + (high - low) * (place - np.floor(place)), np.nan))
    return found


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """top / bottom, nan where bottom is 0."""
    some = bottom > 0
    return np.where(some, top / np.where(some, bottom, 1), np.nan)


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _median(values: Floats) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _variation(values: Floats) -> float:
    """Standard deviation over mean; nan for fewer than two values or a mean of 0."""
    return float(values.std() / values.mean()) if len(values) > 1 and values.any() else float("nan")
