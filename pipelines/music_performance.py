"""Play a written piece as a pianist would: loudness, timing, touch and pedal by rules.

The rules are those of the KTH system (Friberg, Bresin & Sundberg 2006, "Overview of the KTH rule
system for musical performance"): phrase arch, metrical accents, high loud, melodic charge, melody
above accompaniment, duration contrast, punctuation, melody lead, final ritardando, and noise of a
human hand. How much of each follows the attributes asked for, in the direction of the emotional
colouring of Bresin & Friberg 2000: slow and legato means broad arches, soft attacks of chords and a
long ending; loud and detached means contrast and a dry, even pulse.

The rules only say how notes differ from each other. How loud, how uneven and how detached a bar is
overall, the targets say, and the result is brought there by measuring it. No emotion is known here,
and no note is added or moved to another beat; the tempo map and the length in seconds stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.music_attributes import ATTRIBUTES, SAME_ONSET
from adapters.piece import MELODY, VOICES, Piece
from adapters.tonality import find_key
from pipelines.music_pedal import pedalling

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

TOGETHER = 0.04
"""Beats within which written notes are one chord; less than a triplet of sixteenths."""
SHORTEST = 0.04
"""Seconds: no key is held for less, it would be a fault and not a touch."""
KEY_RETURN = 0.012
"""Seconds a key needs to come up before it is struck again."""
PHRASE_BARS = 4
#: Seconds by which the rules may move the bar lines, ending apart: bars stay bars.
ARCH_TIMING, MELODY_LEAD, CHORD_SPREAD, HAND_NOISE = 0.030, 0.014, 0.010, 0.0035
#: Written rests are music: notes of a bar grow to twice their length at most, a note before a
#: rest by a quarter.
LENGTHENED, REST_KEPT = 2.0, 1.25
#: How far a melody note may reach into the next one, as duration over the time to it.
MELODY_OVERLAP = 1.2
#: Beyond these velocities differences shrink in place of being cut off.
SOFT_END, LOUD_END = 14.0, 112.0
#: Loudness rules in dB, about one step of velocity each (Friberg et al. 2006, tables).
MELODY_ABOVE, BASS_ABOVE, INNER_BELOW = 6.0, 1.5, 2.0
DOWNBEAT, HALF_BAR, BEAT, OFFBEAT = 3.0, 1.5, 0.6, -1.2
HIGH_LOUD = 3.0 / 12  # 3 dB an octave
PHRASE_ARCH, SUB_ARCH = 7.0, 2.5
SHORT_SOFT = 1.5
CHARGE = 0.4
UNEVEN_TOUCH = 1.2
#: Melodic charge of the semitones above the tonic (Friberg et al. 2006): about how remote a note
#: is on the circle of fifths.
MELODIC_CHARGE = np.array([0, 6.5, 2, 4.5, 4, 2.5, 6, 1, 5.5, 3, 3.5, 5])

_TEMPO, _DENSITY = ATTRIBUTES.index("tempo"), ATTRIBUTES.index("note_density")
_VELOCITY, _SPREAD = ATTRIBUTES.index("velocity"), ATTRIBUTES.index("velocity_variability")
_TOUCH = ATTRIBUTES.index("articulation")
#: Played where a target is nan: a moderate touch, mezzo forte.
PLAIN_VELOCITY, PLAIN_SPREAD = 72.0, 10.0


class PerformanceError(ValueError):
    """What cannot be played as asked; one line with what to do next."""


@dataclass(frozen=True, slots=True)
class _Score:
    """What the rules look at. n notes, g groups of notes written together."""

    group: Indices  # (n,) ascending
    beat: Floats  # (g,) written onset
    seconds: Floats  # (g,) the same by the tempo map
    melody: Mask  # (n,)
    place: Floats  # (n,) 0 the lowest of its group .. 1 the highest
    size: Indices  # (n,) notes in its group
    phrases: Floats  # (p + 1,) beats at which phrases begin, and the end


def perform(
    piece: Piece,
    targets: ArrayLike,
    seed: int,
    amount: float = 1.0,
    *,
    phrases: Sequence[int] | None = None,
    swing: float = 0.0,
) -> Piece:
    """The piece as played: onsets, durations, velocities and pedal; the same notes and seconds.

    Two notes written for one key at one time become one: a piano has one of each.

    Args:
        piece: as written; its velocities and pedal are not looked at.
        targets: (bars, 16) or (16,) values in natural units, columns as ATTRIBUTES. Read are
            velocity, velocity_variability and articulation, which are reached, and tempo and
            note_density, which colour the playing. Between bars they are interpolated, so a change
            of mood is a crescendo. nan asks nothing.
        seed: of the hand's noise; the same seed plays the same.
        amount: 0 mechanical playing at the target levels, 1 as people play, 2 exaggerated; it
            scales all that the rules do, the asked velocity_variability with it.
        phrases: bars in which phrases begin; None for every four bars.
        swing: 0 even, 1 long-short 2:1 eighths.

    Raises:
        PerformanceError: targets of another shape, amount or swing out of range.
    """
    wanted = _targets(piece, targets)
    if not 0.0 <= amount <= 2.0:
        msg = f"performance: 0 (mechanical) to 2 (exaggerated), received {amount:g}; 1 is usual"
        raise PerformanceError(msg)
    if not 0.0 <= swing <= 1.0:
        msg = f"swing: 0 (even eighths) to 1 (2:1), received {swing:g}"
        raise PerformanceError(msg)
    piece = _one_key_once(piece)
    if not len(piece):
        return Piece.of([], [], [], tempo=piece.tempo, beats_per_bar=piece.beats_per_bar,
                        bars=piece.bars)  # fmt: skip
    random = np.random.default_rng(seed)
    score = _read(piece, phrases)
    velocity = _velocities(piece, score, wanted, amount, random)
    start = _onsets(piece, score, wanted, amount, swing, random)
    end = _releases(piece, score, wanted, start, amount)
    pedal = np.zeros((0, 2))
    if amount:
        pedal = pedalling(piece, score.melody, start, end, _pedal_wish(piece, wanted))
    onset = np.maximum(piece.beats_at(start), 0.0)
    offset = np.minimum(piece.beats_at(end), piece.beats)
    return Piece.of(
        onset,
        np.maximum(offset - onset, 1e-6),
        piece.pitch,
        velocity,
        piece.voice,
        tempo=piece.tempo,
        beats_per_bar=piece.beats_per_bar,
        bars=piece.bars,
        pedal=pedal,
    )


def _targets(piece: Piece, targets: ArrayLike) -> Floats:
    """(bars, 16), checked; nan filled from the neighbouring bars, or with what asks nothing."""
    given = np.asarray(targets, dtype=np.float64)
    if given.shape not in {(len(ATTRIBUTES),), (piece.bars, len(ATTRIBUTES))}:
        msg = (
            f"targets: ({piece.bars}, {len(ATTRIBUTES)}), one row a bar, or one row for all, "
            f"received {given.shape}; plan as many bars as the piece has"
        )
        raise PerformanceError(msg)
    wanted = np.broadcast_to(given, (piece.bars, len(ATTRIBUTES))).copy()
    wanted[:, _TEMPO] = np.where(
        np.isfinite(wanted[:, _TEMPO]), wanted[:, _TEMPO], 60.0 * piece.beats / piece.seconds
    )
    own = len(piece) / piece.seconds
    plain = {_VELOCITY: PLAIN_VELOCITY, _SPREAD: PLAIN_SPREAD, _DENSITY: own, _TOUCH: np.nan}
    for column, value in plain.items():
        told = np.isfinite(wanted[:, column])
        if told.any():
            at = np.arange(piece.bars)
            wanted[:, column] = np.interp(at, at[told], wanted[told, column])
        else:
            wanted[:, column] = value
    wanted[:, _VELOCITY] = np.clip(wanted[:, _VELOCITY], 1, 127)
    wanted[:, _SPREAD] = np.clip(wanted[:, _SPREAD], 0, 40)
    wanted[:, _TOUCH] = np.clip(wanted[:, _TOUCH], 0.05, 2.0)
    return wanted


def _curve(piece: Piece, rows: Floats, beats: Floats) -> Floats:
    """Values of bars (bars,) at beats: linear from the middle of one bar to that of the next."""
    middles = (np.arange(piece.bars) + 0.5) * piece.beats_per_bar
    return np.asarray(np.interp(beats, middles, rows))


def _one_key_once(piece: Piece) -> Piece:
    """Leave the longest of notes on one key at one time; the tune's, where they are equal."""
    seconds = piece.seconds_at(piece.onset)
    order = np.lexsort((-piece.voice, piece.duration, seconds, piece.pitch))
    again = np.zeros(len(piece), dtype=bool)
    # A key cannot be struck, held its shortest time and struck again within this.
    close = np.diff(seconds[order]) < SHORTEST + KEY_RETURN
    again[order[:-1]] = close & (np.diff(piece.pitch[order]) == 0)
    return piece.select(~again)


def _read(piece: Piece, phrases: Sequence[int] | None) -> _Score:
    opens = np.diff(piece.onset, prepend=-1.0) > TOGETHER
    group = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    size = np.diff(np.append(first, len(piece)))[group]
    # Notes are sorted by onset, then pitch; within TOGETHER only the pitch counts.
    order = np.lexsort((piece.pitch, group))
    rank = np.empty(len(piece))
    rank[order] = np.arange(len(piece)) - first[group[order]]
    place = rank / np.maximum(size - 1, 1)
    melody = piece.voice == MELODY
    if melody.all() or not melody.any():
        top = rank == size - 1
        high = np.median(piece.pitch[top]) - 9  # a bass note alone is no melody
        melody = top & (piece.pitch >= high)
    if phrases is None:
        bars = list(range(0, piece.bars, PHRASE_BARS))
        if len(bars) > 1 and piece.bars - bars[-1] < 2:
            bars.pop()  # one bar is the end of the phrase before, not a phrase
    else:
        bars = sorted({0, *(int(bar) for bar in phrases if 0 <= bar < piece.bars)})
    edges = np.array([*bars, piece.bars], dtype=np.float64) * piece.beats_per_bar
    beat = piece.onset[first]
    return _Score(group, beat, piece.seconds_at(beat), melody, place, size, edges)


def _in_phrase(score: _Score, beats: Floats) -> Floats:
    """How far through its phrase each beat lies, 0..1."""
    row = np.clip(
        np.searchsorted(score.phrases, beats + 1e-6, side="right") - 1, 0, len(score.phrases) - 2
    )
    begin, end = score.phrases[row], score.phrases[row + 1]
    return np.asarray((beats - begin) / (end - begin))


def _slow(wanted: Floats) -> Floats:
    """(bars,) 0 at a brisk beat, 1 at a slow one; the feeling of a beat, not of the notes."""
    return np.clip((132.0 - wanted[:, _TEMPO]) / 62.0, 0.0, 1.0)


def _legato(wanted: Floats) -> Floats:
    """(bars,) 0 detached, 1 bound."""
    touch = np.nan_to_num(wanted[:, _TOUCH], nan=0.9)
    return np.clip((touch - 0.5) / 0.5, 0.0, 1.0)


def _pedal_wish(piece: Piece, wanted: Floats) -> Floats:
    """(beats + 1,) 0..1: where the touch is bound, the beat is not fast and notes are not many."""
    thin = np.clip((16.0 - wanted[:, _DENSITY]) / 6.0, 0.0, 1.0)
    rows = _legato(wanted) * (0.5 + 0.5 * _slow(wanted)) * thin
    return _curve(piece, rows, np.arange(round(piece.beats) + 1, dtype=np.float64))


def _velocities(
    piece: Piece, score: _Score, wanted: Floats, amount: float, random: np.random.Generator
) -> NDArray[np.int16]:
    """Rules say which notes are louder; targets say how loud, and by how much they differ."""
    level = _curve(piece, wanted[:, _VELOCITY], piece.onset)
    spread = _curve(piece, wanted[:, _SPREAD], piece.onset) * amount
    accent = _accents(piece, score, random)
    # A pattern of mean 0 and deviation 1 among the notes of the bars around each note.
    reach = 2.0 * piece.beats_per_bar
    mean, deviation = _local(piece.onset, accent, reach)
    pattern = (accent - mean) / np.maximum(deviation, 0.5)
    played = level
    shift, stretch = 0.0, 1.0
    for _ in range(6):  # keys end at 1 and 127, which bends what was asked
        exact = level + shift + spread * stretch * pattern
        played = _within_keys(exact)
        shift += float((level - played).mean())
        target, found = float(np.sqrt((spread**2).mean())), float((played - level).std())
        if found > 1e-3:
            stretch = min(3.0, stretch * target / found)
    return np.round(played).astype(np.int16)


def _within_keys(velocity: Floats) -> Floats:
    """Bend velocities beyond SOFT_END and LOUD_END so that they approach 1 and 127, in order."""
    low, high = SOFT_END - 1.0, 127.0 - LOUD_END
    bent = np.where(
        velocity > LOUD_END, LOUD_END + high * np.tanh((velocity - LOUD_END) / high), velocity
    )
    return np.where(bent < SOFT_END, SOFT_END - low * np.tanh((SOFT_END - bent) / low), bent)


def _accents(piece: Piece, score: _Score, random: np.random.Generator) -> Floats:
    """(n,) dB by which each note stands out."""
    at = np.round(score.beat / TOGETHER) * TOGETHER
    inside = np.mod(at + 1e-6, piece.beats_per_bar)
    whole = np.abs(inside - np.round(inside)) < 0.05
    accent = np.where(whole, BEAT, OFFBEAT)
    accent[np.abs(inside - piece.beats_per_bar / 2) < 0.05] = HALF_BAR
    accent[inside < 0.05] = DOWNBEAT
    x = _in_phrase(score, score.beat)
    # Rises to its summit at two thirds and falls faster than it rose; two-bar waves below it.
    arch = np.where(x < 0.65, np.sin(np.pi / 2 * x / 0.65), np.cos(np.pi / 2 * (x - 0.65) / 0.35))
    accent = accent + PHRASE_ARCH * arch
    wave = np.mod(score.beat, 2 * piece.beats_per_bar) / (2 * piece.beats_per_bar)
    accent += SUB_ARCH * np.sin(np.pi * wave)
    gap = np.diff(score.beat, append=score.beat[-1] + 1.0)
    accent -= SHORT_SOFT * np.clip(np.log2(np.median(gap) / np.maximum(gap, 1e-3)), -1, 2)
    each = accent[score.group]
    each = each + np.where(score.melody, MELODY_ABOVE, 0.0)
    several = score.size > 1
    inner = several & ~score.melody & (score.place > 0)
    each += np.where(inner, -INNER_BELOW, 0.0)
    each += np.where(several & (score.place == 0) & ~score.melody, BASS_ABOVE, 0.0)
    for line in (score.melody, ~score.melody):
        if line.any():
            each[line] += HIGH_LOUD * (piece.pitch[line] - np.median(piece.pitch[line]))
    tonic = find_key(piece).tonic
    charge = MELODIC_CHARGE[(piece.pitch.astype(np.int64) - tonic) % 12]
    each += np.where(score.melody, CHARGE * (charge - charge.mean()), 0.0)
    return np.asarray(each + UNEVEN_TOUCH * random.standard_normal(len(piece)))


def _local(at: Floats, values: Floats, reach: float) -> tuple[Floats, Floats]:
    """Mean and deviation of the values within `reach` beats of each note, by running sums."""
    low = np.searchsorted(at, at - reach, side="left")
    high = np.searchsorted(at, at + reach, side="right")
    total = np.concatenate([[0.0], np.cumsum(values)])
    square = np.concatenate([[0.0], np.cumsum(values**2)])
    count = high - low
    mean = (total[high] - total[low]) / count
    variance = (square[high] - square[low]) / count - mean**2
    return mean, np.sqrt(np.maximum(variance, 0.0))


def _onsets(
    piece: Piece,
    score: _Score,
    wanted: Floats,
    amount: float,
    swing: float,
    random: np.random.Generator,
) -> Floats:
    """(n,) seconds at which keys are struck."""
    groups = len(score.beat)
    slow = _curve(piece, _slow(wanted), score.beat)
    legato = _curve(piece, _legato(wanted), score.beat)
    broad = 0.3 + 0.7 * slow * legato
    x = _in_phrase(score, score.beat)
    # Late at first, early later: slow at both ends of the phrase, moving in its middle. At phrase
    # marks nothing is left of it.
    late = amount * ARCH_TIMING * broad * np.sin(2 * np.pi * x)
    late += amount * HAND_NOISE * _pink(groups, random)
    gap = np.diff(score.seconds, append=score.seconds[-1] + 1.0)
    before = np.concatenate([[np.inf], gap[:-1]])
    # Duration contrast: the short one of long-short comes a little later, more so when detached.
    short = (gap < 0.6 * before) & np.isfinite(before)
    late += np.where(short, amount * np.minimum(0.012, 0.08 * gap) * (1.2 - 0.6 * legato), 0.0)
    if swing:
        middle = np.abs(np.mod(score.beat, 1.0) - 0.5) < 0.05
        beat = piece.seconds_at(score.beat + 0.5) - piece.seconds_at(score.beat)
        late += np.where(middle, swing * beat / 3.0, 0.0)
    late += amount * _ritardando(piece, score, float((slow * legato)[-1]))
    # Whatever the rules add up to, notes keep their order and half of their distance.
    half = 0.5 * score.seconds
    when = np.maximum.accumulate(np.maximum(score.seconds + late, 0.0) - half) + half
    when = np.minimum(when, piece.seconds - SHORTEST)

    # Within a chord: the tune first, then upwards from the bass. All within SAME_ONSET.
    several = score.size > 1
    lead = np.where(several & ~score.melody, MELODY_LEAD * (0.6 + 0.4 * broad)[score.group], 0.0)
    rolled = np.where(several, CHORD_SPREAD * broad[score.group] * score.place, 0.0)
    rolled = np.where(score.melody, 0.0, rolled)
    loose = 0.4 * HAND_NOISE * np.clip(random.standard_normal(len(piece)), -1.5, 1.5)
    room = np.minimum(1.0, 0.2 * gap[score.group] / SAME_ONSET)  # quick notes leave no time
    within = np.clip(amount * (lead + rolled) + amount * loose, 0.0, 0.9 * SAME_ONSET) * room
    written = piece.seconds_at(piece.onset) - score.seconds[score.group]
    start = np.minimum(when[score.group] + written + within, piece.seconds - SHORTEST)
    return _keys_apart(piece, start)


def _ritardando(piece: Piece, score: _Score, broad: float) -> Floats:
    """(g,) seconds by which the last groups come later, so that the last rings shorter.

    The end of the last bar stays where it is, so there is only as much of it as the last chord has
    to give: .3 of its time, at most .45 s.
    """
    last = float(score.seconds[-1])
    most = min(0.45, 0.3 * max(0.0, piece.seconds - last)) * (0.15 + 0.85 * broad)
    begin = max(0.0, float(score.beat[-1]) - (2 if piece.bars >= 8 else 1) * piece.beats_per_bar)
    start = float(piece.seconds_at(begin))
    way = np.clip((score.seconds - start) / max(last - start, 1e-6), 0.0, 1.0)
    return np.asarray(most * way**2)


def _pink(count: int, random: np.random.Generator) -> Floats:
    """1/f noise (count,) of deviation 1, as found in tapping and playing (Gilden 1995)."""
    spectrum = np.fft.rfft(random.standard_normal(count + 16))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, n=count + 16)[:count]
    return np.asarray(np.clip(noise / max(float(noise.std()), 1e-9), -3.0, 3.0))


def _releases(piece: Piece, score: _Score, wanted: Floats, start: Floats, amount: float) -> Floats:
    """(n,) seconds at which keys are let go.

    Notes keep their share of the time to the next note of their voice, times a factor that takes
    the median share of each bar, which is what articulation measures, to the target; tune and
    accompaniment each have their own, or held chords would make the tune staccato.
    """
    written = piece.seconds_at(piece.onset)
    length = piece.seconds_at(piece.offset) - written
    struck = np.minimum.reduceat(start, np.flatnonzero(np.diff(score.group, prepend=-1)))
    before, after = np.full(len(piece), np.nan), np.full(len(piece), np.nan)
    for voice in range(len(VOICES)):
        mine = np.flatnonzero(piece.voice == voice)
        following = np.searchsorted(score.group[mine], score.group[mine], side="right")
        mine, following = mine[following < len(mine)], mine[following[following < len(mine)]]
        before[mine] = score.seconds[score.group[following]] - score.seconds[score.group[mine]]
        after[mine] = struck[score.group[following]] - start[mine]
    # What is held to the end of the piece, a rolled chord too, rings as written, at the most.
    last = np.isnan(before) | (piece.offset >= piece.beats - 0.25)
    after = np.where(last, length, np.maximum(after, 1e-3))
    ratio = np.where(last, 1.0, length / np.where(last, 1.0, before))
    rest = ~last & (before - length > np.maximum(length, 0.3))

    bar = np.minimum(piece.bar_of(), piece.bars - 1)
    target = _curve(piece, wanted[:, _TOUCH], piece.onset)
    asked = np.isfinite(target)
    target = np.where(asked, target, 1.0)
    most = np.where(score.melody, np.maximum(MELODY_OVERLAP, ratio), np.inf)
    most = np.where(rest, REST_KEPT * ratio, most)
    breath = np.where(_before_mark(score), 1.0 - 0.18 * min(amount, 1.0), 1.0)
    part = 2 * bar + score.melody
    groups = [(each, np.flatnonzero((part == each) & ~last)) for each in np.unique(part[~last])]
    fit = np.ones(2 * piece.bars)
    played = ratio
    for _ in range(12):
        scale = np.where(asked, target * fit[part], 1.0)
        played = np.minimum(ratio * np.where(last, np.minimum(scale, 1.0), scale), most) * breath
        played = np.maximum(played, SHORTEST / after)
        for index, notes in groups:
            found = float(np.median(np.minimum(played[notes], 2.0)))
            fit[index] *= (float(target[notes].mean()) / max(found, 1e-3)) ** 0.9
            fit[index] = min(fit[index], LENGTHENED / float(target[notes].mean()))
    end = np.minimum(np.maximum(start + played * after, start + SHORTEST), piece.seconds)
    return _one_note_a_key(piece, start, end)


def _before_mark(score: _Score) -> Mask:
    """(n,) the last melody notes of phrases but the last: where a breath is taken."""
    row = np.searchsorted(score.phrases, score.beat + 1e-6, side="right")
    tune = np.zeros(len(score.beat), dtype=bool)
    tune[score.group[score.melody]] = True
    found = np.zeros(len(score.beat), dtype=bool)
    for phrase in range(1, len(score.phrases) - 1):
        inside = np.flatnonzero(tune & (row == phrase))
        found[inside[-1:]] = True
    return np.asarray(found[score.group] & score.melody)


def _one_note_a_key(piece: Piece, start: Floats, end: Floats) -> Floats:
    """Let a key come up before it is struck again; `end` (n,) cut where need be."""
    order = np.lexsort((start, piece.pitch))
    same = piece.pitch[order][1:] == piece.pitch[order][:-1]
    first, second = order[:-1][same], order[1:][same]
    room = start[second] - start[first]
    end = end.copy()
    end[first] = np.minimum(
        end[first], start[first] + np.maximum(room - KEY_RETURN, np.minimum(room, SHORTEST))
    )
    return end


def _keys_apart(piece: Piece, start: Floats) -> Floats:
    """Onsets with at least SHORTEST and KEY_RETURN between strokes of one key, earlier if not."""
    start = start.copy()
    order = np.lexsort((piece.seconds_at(piece.onset), piece.pitch))
    for first, second in zip(order[-2::-1].tolist(), order[:0:-1].tolist(), strict=True):
        if piece.pitch[first] == piece.pitch[second]:
            start[first] = min(start[first], start[second] - SHORTEST - KEY_RETURN)
    return np.maximum(start, 0.0)
