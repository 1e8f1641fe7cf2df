"""Play a real piece again in another mood: same notes in the same rhythm, other mode and touch.

What carries most of the emotion of a performance is not its notes: on EMOPIA, moving mode,
loudness, tempo and note lengths alone takes a clip to an asked quadrant. So `recolour` alters
those, and register and pedal, and leaves melody, rhythm and the number of notes alone: the piece
stays recognisable. Each attribute moves from the piece's OWN level by what is asked over the
centre, so a quiet piece asked for a little more stays quiet, and nothing asked gives back exactly
the piece.

It deliberately knows no emotion (targets are attributes), no file format, and no randomness. For
timing and accents of a performance see `pipelines.music_performance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.music_attributes import ATTRIBUTES, TABLE, measure
from adapters.piece import MELODY, Piece
from pipelines.music_mode import STEPS, with_mode

Floats = NDArray[np.float64]

EDITED = (
    "tempo",
    "mode",
    "mean_pitch",
    "note_density",
    "velocity",
    "velocity_variability",
    "articulation",
    "note_duration",
)
"""The attributes that a re-performance can move. note_density is moved by the tempo alone: to
strike more or fewer notes would be another piece."""
STRONGEST = 1.5

#: Shift of the mode attribute from which on third, sixth and seventh are altered. Twice the
#: distance of a quadrant from the centre (EMOPIA: .13) is intensity 1, so all three are moved
#: before that, and half of it is heard.
MODE_STEPS = (0.06, 0.12, 0.18)
#: Keys softer or louder than these are for the composer to ask, not for us to add.
SOFTEST, LOUDEST = 16, 124
MEAN_LEVELS = (28.0, 108.0)
LOWEST, HIGHEST = 21, 108  # the keys of a piano
FARTHEST = 12  # semitones of transposition
#: Tempo: as far as a performer would go with the same notes, and the range of a metronome.
TEMPO_FACTOR = 1.8
SLOWEST, FASTEST = 36.0, 240.0
#: Note lengths against the next onset of the voice: the driest touch and the longest overlap. A
#: melody that overlaps more blurs its steps; what accompanies may ring while nothing rubs.
DRIEST = 0.2
OVERLAP = (1.12, 1.7)
JOINED = 0.04  # beats of overlap at most where notes rub: a legato finger leaves after the next

#: Share of a change of note density that is taken by the tempo, of one of note length by touch.
BY_TEMPO, BY_TOUCH = 0.5, 0.5
TOGETHER = 0.06
"""Beats within which notes count as struck together: 30 ms at 120 bpm, a spread chord."""


class EditError(ValueError):
    """What was asked cannot be played on this piece; one line with what to do next."""


def recolour(
    piece: Piece,
    targets: ArrayLike,
    centre: ArrayLike,
    strength: float = 1.0,
    pins: Mapping[str, float] | None = None,
) -> Piece:
    """The piece played with other attributes; deterministic.

    targets: (bars, 16) or (16,) attribute values in natural units, columns as ATTRIBUTES; nan
    asks nothing. centre: (16,) the values that stand for no emotion: what is moved is by
    strength x (targets - centre). strength: 0..1.5; at 0, and where targets are the centre, the
    very piece is returned. pins: attributes the piece is taken TO, whatever its own level and the
    strength ("tempo": 72); a pinned mode below 0 is minor, above 0 major.

    A curve over bars is followed without jumps (between the middles of bars); mode changes at bar
    lines; the key is moved once, by the mean over the piece, and a whole texture goes up or down
    an octave in bars that ask for more than half of one beyond that.
    Every effect grows with strength and keeps its sign. EDITED names what is moved; other
    attributes are properties of the composition and are not touched.

    Raises:
        EditError: targets or centre of another shape, strength outside 0..1.5, a pin that is no
            edited attribute or out of its range.
    """
    moves = _moves(piece, targets, centre, strength)
    pinned = _pinned(piece, pins or {})
    if not len(piece) or not (any(m.any() for m in moves.values()) or pinned):
        return piece
    steps = _mode_steps(moves["mode"])
    edited = with_mode(piece, pinned_mode(pinned["mode"]) if "mode" in pinned else steps)
    edited = _in_register(edited, moves["mean_pitch"], pinned.get("mean_pitch"))
    edited = _with_velocity(edited, moves, pinned)
    edited = _with_touch(edited, moves, pinned)
    return _with_tempo(edited, moves, pinned)


def pinned_mode(value: float) -> int:
    """Steps of `with_mode` for an asked mode: all of them towards its sign."""
    return STEPS * int(np.sign(value))


def gaps(piece: Piece) -> Floats:
    """(n,) beats from each note to the next onset of its voice, to the end of the piece at last."""
    until = np.full(len(piece), max(piece.beats, float(piece.offset.max(initial=0.0))))
    for voice in np.unique(piece.voice):
        mine = np.flatnonzero(piece.voice == voice)
        onset = piece.onset[mine]
        following = np.searchsorted(onset, onset + TOGETHER, side="right")
        known = following < len(mine)
        until[mine[known]] = onset[following[known]]
    return np.maximum(until - piece.onset, TOGETHER)


def ringing(piece: Piece, longest: Floats) -> Floats:
    """(n,) beats that each note can be held before one starts that it would rub against.

    At most `longest` (n,). A second, a seventh, or the same key rubs; a third or a fifth, as in a
    broken chord, does not.
    """
    held = longest.copy()
    pitch = piece.pitch.astype(np.int64)
    first = np.searchsorted(piece.onset, piece.onset + TOGETHER, side="right")
    stop = np.searchsorted(piece.onset, piece.onset + longest - 1e-9)
    for note in range(len(piece)):
        later = np.abs(pitch[first[note] : stop[note]] - pitch[note])
        rubs = np.flatnonzero(_RUBS[later % 12] | (later == 0))
        if len(rubs):
            held[note] = piece.onset[first[note] + rubs[0]] - piece.onset[note]
    return held


_RUBS = np.isin(np.arange(12), (1, 2, 10, 11))


def pushed(value: ArrayLike, by: ArrayLike, low: ArrayLike, high: ArrayLike, knee: float) -> Floats:
    """value + by, slowed down near low and high, which it does not pass.

    Plain addition while further than a few `knee` from the limits; strictly monotone in `by`, and
    in `value` as long as value + by is; 0 moves nothing. A value beyond a limit is not pushed
    further out.
    """
    x, shift = np.asarray(value, dtype=np.float64), np.asarray(by, dtype=np.float64)
    up = shift > 0
    room = np.where(up, np.asarray(high) - x, x - np.asarray(low))
    free = np.maximum(room, 1e-6) / knee
    # Softplus and its inverse: the limit lies at infinity of the scale on which we add.
    scale = free + np.log(-np.expm1(-free)) - np.abs(shift) / knee
    moved = np.where(up, 1.0, -1.0) * (np.maximum(room, 1e-6) - knee * np.logaddexp(0.0, scale))
    return np.asarray(np.where((room > 1e-6) & (shift != 0), x + moved, x))


def _moves(
    piece: Piece, targets: ArrayLike, centre: ArrayLike, strength: float
) -> dict[str, Floats]:
    """(bars,) what is added to each edited attribute; for speeds and lengths the logarithm."""
    asked, middle = np.asarray(targets, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    width = len(ATTRIBUTES)
    if middle.shape != (width,):
        msg = f"centre: {width} attributes in the order of ATTRIBUTES, received {middle.shape}"
        raise EditError(msg)
    if asked.shape not in ((width,), (piece.bars, width)):
        msg = (
            f"targets: ({piece.bars}, {width}), a row for each bar of the piece, or ({width},); "
            f"received {asked.shape}"
        )
        raise EditError(msg)
    if not 0 <= strength <= STRONGEST:
        msg = f"strength: 0 to {STRONGEST:g}, received {strength:g}"
        raise EditError(msg)
    rows = np.broadcast_to(asked, (piece.bars, width))
    moves = {}
    for name in EDITED:
        k = ATTRIBUTES.index(name)
        if name in ("tempo", "note_density", "note_duration"):
            # Speeds and lengths are felt as ratios: 10 bpm more is nothing at 200.
            low = TABLE[name].low
            change = np.log(np.maximum(rows[:, k], low) / max(float(middle[k]), low))
        else:
            change = rows[:, k] - middle[k]
        moves[name] = strength * np.nan_to_num(change, nan=0.0)
    return moves


def _pinned(piece: Piece, pins: Mapping[str, float]) -> dict[str, float]:
    """The pins, checked."""
    for name, value in pins.items():
        if name not in EDITED:
            msg = f"pins: a re-performance sets {', '.join(EDITED)}; received {name}"
            raise EditError(msg)
        row = TABLE[name]
        if not row.low <= value <= row.high:
            msg = f"{name}: {row.low:g} to {row.high:g}, received {value:g}"
            raise EditError(msg)
    return {name: float(value) for name, value in pins.items()} if len(piece) else {}


def _curve(values: Floats, beats: Floats, piece: Piece) -> Floats:
    """Values of bars (bars,) at `beats`: straight lines between the middles of bars."""
    middles = (np.arange(piece.bars) + 0.5) * piece.beats_per_bar
    return np.asarray(np.interp(beats, middles, values))


def _mode_steps(change: Floats) -> NDArray[np.int64]:
    """(bars,) steps of `with_mode`: more the further the mode is to go."""
    return (np.sign(change) * np.searchsorted(MODE_STEPS, np.abs(change), side="right")).astype(
        np.int64
    )


def _in_register(piece: Piece, change: Floats, wanted: float | None) -> Piece:
    """Moved by whole semitones as one, so that nothing crosses; octaves where a curve asks."""
    pitch = piece.pitch.astype(np.int64)
    mean = float(change.mean()) if wanted is None else wanted - float(pitch.mean())
    down = min(0, max(LOWEST - int(pitch.min()), -FARTHEST))
    up = max(0, min(HIGHEST - int(pitch.max()), FARTHEST))
    moved = pitch + int(np.rint(pushed(0.0, mean, down, up, 0.7)))
    if wanted is None:
        bar = np.minimum(piece.bar_of(), piece.bars - 1)
        octave = (12 * np.sign(change - mean) * (np.abs(change - mean) >= 6.5)).astype(np.int64)
        for each in np.flatnonzero(octave):
            mine = bar == each
            there = moved[mine] + octave[each]
            if mine.any() and there.min() >= LOWEST and there.max() <= HIGHEST:
                moved[mine] = there
    if (moved == pitch).all():
        return piece
    return _ordered(replace(piece, pitch=moved.astype(np.int16)))


def _with_velocity(piece: Piece, moves: dict[str, Floats], pinned: Mapping[str, float]) -> Piece:
    """Louder or softer, wider or narrower around the piece's own mean; loud stays louder."""
    velocity = piece.velocity.astype(np.float64)
    mean, spread = float(velocity.mean()), float(velocity.std())
    # The whole keeps room above and below, so that a loud piece made louder is not all one level.
    level = pushed(np.full(piece.bars, mean), moves["velocity"], *MEAN_LEVELS, 6.0) - mean
    level = _curve(level, piece.onset, piece)
    if "velocity" in pinned:
        level = np.full(len(piece), pinned["velocity"] - mean)
    wider = _curve(moves["velocity_variability"], piece.onset, piece)
    if "velocity_variability" in pinned:
        wider = np.full(len(piece), pinned["velocity_variability"] - spread)
    if spread >= 1.0:  # a flat page has no spread to widen
        factor = pushed(np.zeros(len(piece)), wider / spread, -0.7, 1.5, 0.3)
        level = level + (velocity - mean) * factor
    louder = np.rint(pushed(velocity, level, SOFTEST, LOUDEST, 7.0))
    return replace(piece, velocity=np.clip(louder, 1, 127).astype(np.int16))


def _with_touch(piece: Piece, moves: dict[str, Floats], pinned: Mapping[str, float]) -> Piece:
    """Shorter or longer notes, and the pedal with them."""
    own = measure(piece)
    level = max(DRIEST, own["articulation"]) if np.isfinite(own["articulation"]) else 1.0
    legato = moves["articulation"]
    if "articulation" in pinned:
        legato = np.full(piece.bars, pinned["articulation"] - level)
    touch = np.log(np.maximum(level + legato, 0.5 * DRIEST) / level)
    length = BY_TOUCH * moves["note_duration"]
    if "note_duration" in pinned:
        length = np.full(piece.bars, np.log(pinned["note_duration"] / own["note_duration"]))
    longer = touch + length
    if not longer.any():
        return piece
    by = _curve(longer, piece.onset, piece)
    gap = gaps(piece)
    duration = piece.duration
    over = np.where(piece.voice == MELODY, *OVERLAP) * gap
    # Joined to the next note, a little into it as a hand does; longer only where nothing rubs.
    over = np.maximum(ringing(piece, over), gap + np.minimum(JOINED, 0.1 * gap))
    low = np.log(np.minimum(duration, DRIEST * np.minimum(gap, duration)))
    high = np.log(np.maximum(duration, over))
    played = np.exp(pushed(np.log(duration), by, low, high, 0.08))
    played = np.where(by > 0, np.minimum(played, np.maximum(duration, _until_again(piece))), played)
    played = np.where(by == 0, duration, played)
    return replace(piece, duration=played, pedal=_pedalled(piece, longer))


def _until_again(piece: Piece) -> Floats:
    """(n,) beats until the same key is struck again, inf if never."""
    order = np.lexsort((piece.onset, piece.pitch))
    pitch, onset = piece.pitch[order], piece.onset[order]
    wait = np.full(len(piece), np.inf)
    same = pitch[1:] == pitch[:-1]
    wait[order[:-1]] = np.where(same, onset[1:] - onset[:-1], np.inf)
    return wait


def _pedalled(piece: Piece, longer: Floats) -> Floats:
    """The pedal let go earlier where notes are shorter, held on where they are longer.

    Never beyond the next time it goes down: harmonies are not mixed.
    """
    if not len(piece.pedal):
        return piece.pedal
    down, up = piece.pedal[:, 0], piece.pedal[:, 1]
    by = _curve(longer, down, piece)
    again = np.append(down[1:], piece.beats)
    held = np.maximum(up - down, 1e-3)
    room = np.log(np.maximum(held, 0.98 * (again - down)))
    played = np.exp(pushed(np.log(held), by, np.log(0.1 * held), room, 0.1))
    return np.stack([down, np.where(by == 0, up, down + played)], axis=1)


def _with_tempo(piece: Piece, moves: dict[str, Floats], pinned: Mapping[str, float]) -> Piece:
    """The tempo map scaled; with a curve, a new tempo each beat so that it bends without steps."""
    own = 60.0 * piece.beats / piece.seconds
    log = np.log(own)
    change = moves["tempo"] + BY_TEMPO * moves["note_density"]
    if "tempo" in pinned:
        # A pin is obeyed, not approached.
        factor = np.full(piece.bars, pinned["tempo"] / own)
    else:
        low = max(np.log(SLOWEST), log - np.log(TEMPO_FACTOR))
        high = min(np.log(FASTEST), log + np.log(TEMPO_FACTOR))
        factor = np.exp(pushed(np.full(piece.bars, log), change, low, high, 0.08) - log)
        factor[change == 0] = 1.0
    if (factor == 1).all():
        return piece
    rows = piece.tempo
    if not (factor == factor[0]).all():
        at = np.union1d(rows[:, 0], np.arange(0.0, piece.beats))
        row = np.searchsorted(rows[:, 0], at, side="right") - 1
        rows = np.stack([at, rows[row, 1]], axis=1)
    # A tempo holds until the next row, so it is that of the middle of its beat.
    scaled = rows[:, 1] * _curve(factor, rows[:, 0] + 0.5, piece)
    return replace(piece, tempo=np.stack([rows[:, 0], scaled], axis=1))


def _ordered(piece: Piece) -> Piece:
    """Sorted by onset, then pitch, as every piece is."""
    order = np.lexsort((piece.pitch, piece.onset))
    return piece.select(order)
