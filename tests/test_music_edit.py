"""A piece played again in another mood: real scores, and what the rules of harmony say of them."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from music21 import corpus
from scipy.stats import spearmanr

from adapters.music_attributes import ATTRIBUTES, measure
from adapters.piece import MELODY, Piece
from adapters.tonality import find_key
from pipelines.music_edit import EDITED, EditError, gaps, pushed, recolour
from pipelines.music_mode import STEPS, with_mode

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
CENTRE = np.array([86, 0.1, 0.87, 63, 36, 6.7, 3.7, 64, 14, 1, 0.56, 0.36, 2.5, 0.12, 0, 0.2])
REAL = {
    "chorale": "bach/bwv253",  # A major
    "chorale in minor": "bach/bwv66.6",  # F sharp minor, visits A major
    "rag": "joplin/maple_leaf_rag.mxl",  # A flat major, trio in D flat
}


@functools.cache
def score(name: str) -> Piece:
    """A public-domain score with hands that are not flat: louder on the beat and in the tune."""
    rows = []
    for voice, part in enumerate(corpus.parse(REAL[name]).parts):
        for note in part.flatten().notes:
            length = float(note.duration.quarterLength)
            rows += [(float(note.offset), length, p.midi, min(voice, 1)) for p in note.pitches]
    onset, duration, pitch, voice = np.array([row for row in rows if row[1] > 0]).T
    accents = 56 + 12 * (onset % 2 == 0) + 8 * (voice == MELODY) + np.round(onset % 7)
    return Piece.of(
        onset,
        duration,
        pitch.astype(int),
        accents.astype(int),
        voice.astype(int),
        tempo=[(0.0, 96.0), (16.0, 108.0)],
        beats_per_bar=2.0 if name == "rag" else 4.0,
        pedal=[(0.0, 1.5), (2.0, 3.5), (4.0, 7.9)],
    )


def moved(**changes: float) -> np.ndarray:
    """The centre with some attributes moved."""
    targets = CENTRE.copy()
    for name, change in changes.items():
        targets[ATTRIBUTES.index(name)] += change
    return targets


def equal(a: Piece, b: Piece) -> bool:
    names = ("onset", "duration", "pitch", "velocity", "voice", "tempo", "pedal")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return same and (a.bars, a.beats_per_bar) == (b.bars, b.beats_per_bar)


def chord(*pitches: int, at: float, length: float = 2.0) -> list[tuple[float, float, int, int]]:
    """A chord of a melody note (the last) over the rest."""
    return [(at, length, p, 0 if p == pitches[-1] else 1) for p in pitches]


def written(rows: list[tuple[float, float, int, int]]) -> Piece:
    onset, duration, pitch, voice = np.array(rows).T
    return Piece.of(onset, duration, pitch.astype(int), 70, voice.astype(int))


def cadence(*, minor: bool = False) -> Piece:
    """I vi IV V7 | I twice, in C: enough to tell the key."""
    third, sixth = (63, 68) if minor else (64, 69)
    rows = []
    for start in (0.0, 12.0):
        rows += chord(48, 55, third, 72, at=start)
        rows += chord(sixth - 24, 60, third, 72, at=start + 2)
        rows += chord(41, 60, 65, sixth, at=start + 4)
        rows += chord(43, 59, 65, 67, at=start + 6)
        rows += chord(48, 55, third, 72, at=start + 8, length=4.0)
    return written(rows)


def classes(piece: Piece, at: float) -> set[int]:
    return set((piece.pitch[piece.onset == at] % 12).tolist())


@pytest.mark.parametrize("name", REAL)
def test_nothing_asked_is_the_very_piece(name: str) -> None:
    piece = score(name)
    everything = CENTRE + 1.0
    assert equal(recolour(piece, everything, CENTRE, 0.0), piece)
    assert equal(recolour(piece, CENTRE, CENTRE, 1.0), piece)
    assert equal(recolour(piece, np.full(16, np.nan), CENTRE, 1.0), piece)


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("velocity", 30),
        ("velocity", -30),
        ("velocity_variability", 8),
        ("velocity_variability", -6),
        ("tempo", 40),
        ("tempo", -30),
        ("articulation", 0.3),
        ("articulation", -0.4),
        ("mean_pitch", 8),
        ("mean_pitch", -8),
    ],
)
@pytest.mark.parametrize("name", ["chorale", "rag"])
def test_effects_grow_with_strength(name: str, attribute: str, change: float) -> None:
    piece = score(name)
    own = measure(piece)[attribute]
    targets = moved(**{attribute: change})
    shifts = np.array(
        [measure(recolour(piece, targets, CENTRE, s))[attribute] - own for s in STRENGTHS]
    )
    assert shifts[0] == 0
    assert (np.sign(shifts[1:]) == np.sign(change)).all()
    assert spearmanr(STRENGTHS, np.abs(shifts)).statistic == pytest.approx(1.0)
    assert (np.diff(np.abs(shifts)) > 0).all()


@pytest.mark.parametrize("change", [-0.3, 0.3])
@pytest.mark.parametrize("name", REAL)
def test_mode_goes_in_steps_and_never_back(name: str, change: float) -> None:
    piece = score(name)
    altered = []
    for strength in STRENGTHS:
        played = recolour(piece, moved(mode=change), CENTRE, strength)
        was = set(zip(piece.onset.tolist(), piece.pitch.tolist(), strict=True))
        now = set(zip(played.onset.tolist(), played.pitch.tolist(), strict=True))
        altered.append(was - now)
    already = find_key(piece).minor == (change < 0)
    for fewer, more in itertools.pairwise(altered):
        assert fewer <= more
    assert bool(altered[-1]) is not already
    if not already:
        assert find_key(played).minor == (change < 0)
        assert find_key(played).tonic == find_key(piece).tonic


@pytest.mark.parametrize("change", [-0.3, 0.3])
@pytest.mark.parametrize("name", REAL)
def test_melody_rhythm_stays(name: str, change: float) -> None:
    piece = score(name)
    targets = moved(mode=change, velocity=30, tempo=30, articulation=change, mean_pitch=5)
    played = recolour(piece, targets, CENTRE, 1.5)
    tune, new = piece.voice == MELODY, played.voice == MELODY
    assert np.array_equal(np.unique(piece.onset[tune]), np.unique(played.onset[new]))
    assert len(played) >= 0.95 * len(piece)
    shared = np.intersect1d(piece.onset, played.onset)
    assert len(shared) >= 0.95 * len(np.unique(piece.onset))
    assert played.pitch.min() >= 21
    assert played.pitch.max() <= 108
    assert (played.bars, played.beats_per_bar) == (piece.bars, piece.beats_per_bar)


def test_cadence_keeps_its_leading_tone_in_minor() -> None:
    minor = with_mode(cadence(), -STEPS)
    assert classes(minor, 0.0) == {0, 3, 7}
    assert classes(minor, 2.0) == {8, 0, 3}  # VI, not a triad on a natural sixth
    assert classes(minor, 4.0) == {5, 8, 0}  # iv
    assert classes(minor, 6.0) == {7, 11, 5}  # V7 as it was
    assert classes(minor, 20.0) == {0, 3, 7}


def test_major_and_back_is_the_piece() -> None:
    piece = cadence()
    assert equal(with_mode(with_mode(piece, -STEPS), STEPS), piece)
    assert equal(with_mode(cadence(minor=True), STEPS), piece)


def test_steps_alter_the_third_first_but_leave_no_augmented_chord() -> None:
    piece = cadence()
    first, second = with_mode(piece, -1), with_mode(piece, -2)
    assert classes(first, 0.0) == {0, 3, 7}
    assert classes(first, 2.0) == {8, 0, 3}
    assert classes(first, 4.0) == {5, 9, 0}  # the Dorian fourth
    assert classes(second, 4.0) == {5, 8, 0}


def test_rising_scale_to_the_leading_tone_is_melodic_minor() -> None:
    rows = [row for row in zip(*_columns(cadence()), strict=True) if row[0] < 12]
    scale = [67, 69, 71, 72]
    rows += [(12 + 0.5 * k, 0.5, p, 0) for k, p in enumerate(scale)] + [(12.0, 1.5, 43, 1)]
    rows += [(12.0, 1.5, 62, 1), (12.0, 1.5, 59, 1), (14.0, 2.0, 48, 1), (14.0, 2.0, 63 + 1, 1)]
    minor = with_mode(written(rows), -STEPS)
    tune = (minor.voice == MELODY) & (minor.onset >= 12)
    assert minor.pitch[tune].tolist() == scale


def _columns(piece: Piece) -> tuple[list[float], ...]:
    return tuple(a.tolist() for a in (piece.onset, piece.duration, piece.pitch, piece.voice))


def test_applied_dominant_follows_the_root_it_leads_to() -> None:
    """E7 before A minor, inside C major, becomes E flat 7 before A flat."""
    rows = list(zip(*_columns(cadence()), strict=True))
    rows += chord(40, 56, 62, 71, at=24.0) + chord(45, 57, 64, 72, at=26.0)
    rows += chord(43, 59, 65, 71, at=28.0) + chord(48, 55, 64, 72, at=30.0)
    minor = with_mode(written(rows), -STEPS)
    assert classes(minor, 24.0) == {3, 7, 1, 10}
    assert classes(minor, 26.0) == {8, 0, 3}
    assert classes(minor, 28.0) == {7, 11, 5}


def test_no_two_notes_on_one_key() -> None:
    for name in REAL:
        for step in (-STEPS, STEPS):
            played = with_mode(score(name), step)
            order = np.lexsort((played.onset, played.pitch))
            same = np.diff(played.pitch[order]) == 0
            struck = np.abs(np.diff(played.onset[order])) < 1e-9
            was = score(name)
            before = len(was) - len(set(zip(was.onset, was.pitch, strict=True)))
            assert (same & struck).sum() <= before


def test_a_curve_is_followed_bar_by_bar() -> None:
    piece = score("rag")
    rows = np.tile(CENTRE, (piece.bars, 1))
    half = np.linspace(-1, 1, piece.bars)
    rows[:, ATTRIBUTES.index("velocity")] += 25 * half
    rows[:, ATTRIBUTES.index("tempo")] += 30 * half
    rows[:, ATTRIBUTES.index("mode")] += 0.3 * half
    played = recolour(piece, rows, CENTRE)
    shift = played.velocity.astype(float) - piece.velocity
    bar = piece.bar_of()
    means = np.array([shift[bar == k].mean() for k in range(piece.bars) if (bar == k).any()])
    assert means[0] < -20
    assert means[-1] > 20
    assert np.abs(np.diff(means)).max() < 3
    ratio = played.tempo[:, 1] / np.where(played.tempo[:, 0] < 16, 96.0, 108.0)
    assert (np.diff(ratio) >= 0).all()
    assert np.diff(ratio).max() < 0.02
    changed = played.pitch != piece.pitch
    assert changed[bar < piece.bars // 4].any()
    assert not changed[bar > piece.bars // 2].any()  # major, asked for major


def test_loud_stays_louder_and_the_hand_has_limits() -> None:
    piece = score("rag")
    for change in (-90, 90):
        played = recolour(piece, moved(velocity=change, velocity_variability=20), CENTRE, 1.5)
        assert played.velocity.min() >= 1
        assert played.velocity.max() <= 127
        order = np.argsort(piece.velocity, kind="stable")
        assert (np.diff(played.velocity[order].astype(int)) >= 0)[
            np.diff(piece.velocity[order]) > 0
        ].all()
        assert (np.sign(played.velocity.astype(int) - piece.velocity) == np.sign(change)).all()


def test_longer_notes_do_not_run_into_themselves() -> None:
    piece = score("rag")
    played = recolour(piece, moved(articulation=0.9, note_duration=1.0), CENTRE, 1.5)
    order = np.lexsort((played.onset, played.pitch))
    wait = np.diff(played.onset[order])
    same = (np.diff(played.pitch[order]) == 0) & (wait > 0)
    was = piece.duration[order][:-1]
    assert (played.duration[order][:-1] <= np.maximum(wait, was) + 1e-9)[same].all()
    assert measure(played)["dissonance"] <= measure(piece)["dissonance"] + 0.02
    assert (played.pedal[:, 1] >= piece.pedal[:, 1]).all()
    assert (played.pedal[:-1, 1] <= played.pedal[1:, 0]).all()
    short = recolour(piece, moved(articulation=-0.5), CENTRE)
    assert (short.duration < piece.duration).all()
    assert (short.pedal[:, 1] < piece.pedal[:, 1]).all()


def test_pins_are_obeyed_whatever_the_piece_was() -> None:
    piece = score("chorale")
    played = recolour(
        piece,
        CENTRE,
        CENTRE,
        0.5,
        pins={"tempo": 72, "velocity": 90, "mode": -0.2, "mean_pitch": 66},
    )
    found = measure(played)
    assert found["tempo"] == pytest.approx(72, abs=0.01)
    assert found["velocity"] == pytest.approx(90, abs=1.5)
    assert found["mean_pitch"] == pytest.approx(66, abs=0.6)
    assert find_key(played).minor
    assert equal(recolour(piece, CENTRE, CENTRE, pins={"mode": 0.2}), piece)


def test_bad_requests_are_one_line() -> None:
    piece = score("chorale")
    cases = [
        ((np.zeros((3, 16)), CENTRE, 1.0, None), r"\(10, 16\)"),
        ((CENTRE, CENTRE[:5], 1.0, None), "centre"),
        ((CENTRE, CENTRE, 1.6, None), "0 to 1.5, received 1.6"),
        ((CENTRE, CENTRE, float("nan"), None), "0 to 1.5"),
        ((CENTRE, CENTRE, 1.0, {"polyphony": 3.0}), "polyphony"),
        ((CENTRE, CENTRE, 1.0, {"tempo": 900.0}), "40 to 200, received 900"),
    ]
    for arguments, text in cases:
        with pytest.raises(EditError, match=text) as caught:
            recolour(piece, *arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="steps"):
        with_mode(piece, [1, 2])


def test_small_pieces() -> None:
    silence = Piece.of([], [], [], bars=4)
    strong = moved(**dict.fromkeys(EDITED, 0.3))
    assert recolour(silence, strong, CENTRE) is silence
    lone = Piece.of([0.5], [1.0], [60], 64)
    played = recolour(lone, moved(velocity=20, tempo=20, mode=-0.3, articulation=-0.5), CENTRE)
    assert len(played) == 1
    assert played.velocity[0] > 64
    low = Piece.of([0.0, 1.0], [1.0, 1.0], [21, 108], 64)
    assert np.array_equal(recolour(low, moved(mean_pitch=9), CENTRE).pitch, low.pitch)


def test_pushed_is_addition_away_from_its_limits() -> None:
    assert pushed(64.0, 10.0, 16, 124, 7.0) == pytest.approx(74, abs=0.1)
    steps = [float(pushed(100.0, by, 16, 124, 7.0)) for by in range(0, 200, 5)]
    assert steps[0] == 100
    assert (np.diff(steps) > 0).all()
    assert steps[-1] <= 124
    assert pushed(126.0, 5.0, 16, 124, 7.0) == 126


def test_gaps_go_to_the_next_onset_of_the_voice() -> None:
    piece = Piece.of([0, 0.02, 1, 2.5], [1, 1, 1, 1], [60, 64, 62, 48], 64, [0, 0, 0, 1])
    assert gaps(piece) == pytest.approx([1, 0.98, 3, 1.5])
