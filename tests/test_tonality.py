"""Keys, scales and chords: theory by hand, and the keys of real chorales."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.piece import Piece
from adapters.tonality import (
    CHORD_TONES,
    QUALITIES,
    chord_of,
    chords_of,
    find_key,
    find_keys,
    keys_over_time,
    pitch_class_weights,
    scale_of,
)

# Roots and fifths doubled: a cadence I IV V I in C.
CADENCE = [[48, 60, 64, 67], [53, 60, 65, 69], [55, 62, 67, 71], [48, 60, 64, 72]]


def chorale(chords: list[list[int]], semitones: int = 0, start: float = 0.0) -> Piece:
    rows = [(start + 4 * i, 4.0, pitch + semitones) for i, c in enumerate(chords) for pitch in c]
    return Piece.of(*zip(*rows, strict=True))


@pytest.mark.parametrize("tonic", range(12))
def test_a_cadence_is_heard_in_its_key_wherever_it_lies(tonic):
    key = find_key(chorale(CADENCE, tonic))
    assert (key.tonic, key.minor) == (tonic, False)
    assert key.mode_score > 0.05
    assert key.clarity > 0.8


def test_the_parallel_minor_is_minor_and_scores_below():
    minor = [[p - (p % 12 in (4, 9)) for p in chord] for chord in CADENCE]
    key = find_key(chorale(minor))
    assert key.name == "Cm"
    assert key.mode_score < -0.05


def test_the_key_does_not_depend_on_loudness_or_length_of_the_piece():
    piece = chorale(CADENCE)
    twice = piece.then(piece)
    assert find_key(piece) == pytest.approx(find_key(twice))


@pytest.mark.parametrize("nothing", [[], [0.0] * 12, [1.0] * 12, Piece.of([], [], [], bars=2)])
def test_nothing_and_everything_have_no_clear_key(nothing):
    key = find_key(nothing)
    assert key.clarity == 0
    assert key.mode_score == 0


def test_rows_of_histograms_are_found_as_each_alone():
    rows = np.random.default_rng(3).random((50, 12))
    for found, row in zip(find_keys(rows), rows, strict=True):
        assert found == pytest.approx(find_key(row))


def test_a_modulation_is_followed_and_one_strange_chord_is_not():
    steady = chorale(CADENCE * 3)
    first, second = steady.transposed(0), steady.transposed(6)
    keys = keys_over_time(first.then(second), bars=4)
    assert len(keys) == 24
    names = [key.name for key in keys]
    assert names[:10] == ["C"] * 10
    assert names[14:] == ["F#"] * 10
    odd = [*CADENCE * 2, [49, 61, 65, 68], *CADENCE * 2]
    assert {key.tonic for key in keys_over_time(chorale(odd), bars=1, change=1.0)} == {0}
    assert len({key.tonic for key in keys_over_time(chorale(odd), bars=1, change=0.0)}) > 1


def test_silent_bars_take_the_key_around_them():
    keys = keys_over_time(Piece.of([0, 0, 0], 4, [62, 66, 69], bars=20), bars=4)
    assert {key.tonic for key in keys} == {2}


def test_scales():
    assert scale_of(find_key(chorale(CADENCE, 2))) == (2, 4, 6, 7, 9, 11, 1)
    minor = find_key([2, 0, 1, 1, 0, 1, 0, 2, 1, 0, 1, 0])
    assert scale_of(minor) == (0, 2, 3, 5, 7, 8, 10)
    assert scale_of(minor, harmonic=True) == (0, 2, 3, 5, 7, 8, 11)


@pytest.mark.parametrize("root", range(12))
@pytest.mark.parametrize("quality", QUALITIES)
def test_every_chord_is_known_from_its_tones_and_bass(quality, root):
    tones = [(root + step) % 12 for step in CHORD_TONES[QUALITIES.index(quality)]]
    chord = chord_of(tones, bass=root + 36)
    assert chord == (root, quality)
    assert set(chord.tones) == set(tones)
    assert chord_of(set(tones), bass=root) == chord


def test_an_inversion_keeps_its_root():
    assert chord_of({0, 4, 7}, bass=4) == (0, "major")
    assert chord_of({9, 0, 4}, bass=0) == (9, "minor")


def test_a_passing_note_does_not_rename_a_triad():
    weights = np.zeros(12)
    weights[[0, 4, 7, 2]] = 4, 4, 4, 0.5
    assert chord_of(weights) == (0, "major")


def test_no_chord_where_nothing_sounds():
    assert chord_of([]) is None
    assert chord_of(np.zeros(12)) is None
    roots, qualities = chords_of(np.zeros((3, 12)), [-1, 0, 60])
    assert roots.tolist() == qualities.tolist() == [-1, -1, -1]


def test_weights_are_the_beats_held_between_edges():
    rng = np.random.default_rng(0)
    piece = Piece.of(rng.uniform(0, 30, 200), rng.uniform(0.1, 6, 200), rng.integers(30, 90, 200))
    edges = np.linspace(0, 40, 23)
    found = pitch_class_weights(piece, edges)
    for low, high, row in zip(edges[:-1], edges[1:], found, strict=True):
        inside = np.clip(piece.offset, low, high) - np.clip(piece.onset, low, high)
        expected = np.bincount(piece.pitch % 12, weights=inside, minlength=12)
        np.testing.assert_allclose(row, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "key"),
    [("bwv66.6", "F#m"), ("bwv269", "G"), ("bwv347", "A"), ("bwv244.46", "Bm")],
)
def test_chorales_of_bach_have_the_key_of_their_signature(name, key):
    corpus = pytest.importorskip("music21").corpus
    notes = corpus.parse(name).stripTies().flatten().notes
    rows = [(n.offset, n.quarterLength, p.midi) for n in notes for p in n.pitches]
    piece = Piece.of(*np.array(rows, dtype=float).T)
    assert find_key(piece).name == key
