"""Figures of musicality on pieces whose values are known: composed extremes and real scores."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest

from adapters import musicality as m
from adapters.musicality import FIGURES, musicality
from adapters.musicality_gap import compare, overlap_area, table
from adapters.piece import Piece
from adapters.tonality import find_key

# Four bars that close: I IV V I under a tune, written out by hand.
TUNE = [(64, 60, 62, 64), (65, 69, 67, 65), (67, 65, 62, 59), (60, 60, 64, 60)]
CHORDS = [(48, 52, 55), (53, 57, 60), (43, 50, 59), (48, 52, 55)]


def phrase(shift: int = 0) -> Piece:
    """Four bars in C, closing V-I: quarters in voice 0 over one chord a bar in voice 1."""
    rows = [(4 * b + i, 1, p, 80, 0) for b, bar in enumerate(TUNE) for i, p in enumerate(bar)]
    rows += [(4 * b, 4, p - 12, 60, 1) for b, chord in enumerate(CHORDS) for p in chord]
    a = np.array(rows, dtype=float)
    return Piece.of(a[:, 0], a[:, 1], a[:, 2] + shift, a[:, 3], a[:, 4])


def noise(bars: int = 16, seed: int = 0) -> Piece:
    """Any pitch anywhere: what no figure may take for music."""
    draw = np.random.default_rng(seed)
    n = bars * 10
    onset = draw.integers(0, bars * 16 - 4, n) / 4
    return Piece.of(onset, draw.choice([0.5, 1.0], n), draw.integers(40, 84, n), bars=bars)


@functools.cache
def score(name: str, bars: int | None = None) -> Piece:
    """A score of the music21 corpus: the top part is the tune, repeats are not played."""
    from music21 import corpus

    work = corpus.parse(name)
    meter = next(iter(work.recurse().getElementsByClass("TimeSignature")))
    first = work.parts[0].getElementsByClass("Measure")[0]
    metre = float(meter.barDuration.quarterLength)
    upbeat = (metre - float(first.duration.quarterLength)) % metre
    rows = []
    for index, part in enumerate(work.parts):
        for note in part.flatten().notes:
            for pitch in note.pitches:
                length = float(note.duration.quarterLength)
                if length > 0:
                    rows.append((float(note.offset) + upbeat, length, pitch.midi, min(index, 1)))
    a = np.array(rows)
    piece = Piece.of(a[:, 0], a[:, 1], a[:, 2], 70, a[:, 3], tempo=90, beats_per_bar=metre)
    return piece.between(0, min(bars or piece.bars, piece.bars))


def test_every_figure_is_a_plain_number_with_a_text() -> None:
    values = musicality(phrase())
    assert list(values) == list(FIGURES)
    assert all(type(value) is float for value in values.values())


def test_silence_is_told_and_everything_else_is_undefined() -> None:
    values = musicality(Piece.of([], [], [], bars=4))
    assert values["empty_bars"] == 1.0
    assert values["silence"] == pytest.approx(8.0)
    assert values["stuck_notes"] == 0.0
    defined = {name for name, value in values.items() if np.isfinite(value)}
    assert defined == {"empty_bars", "silence", "stuck_notes"}


def test_gaps_are_measured_in_seconds_at_both_ends_and_inside() -> None:
    inside = Piece.of([0, 7], [1, 1], 60, tempo=60, bars=2)
    assert m.silence(inside) == pytest.approx(6.0)
    assert m.silence(Piece.of([5], [3], 60, tempo=60, bars=2)) == pytest.approx(5.0)
    assert m.silence(Piece.of([0], [1], 60, tempo=60, bars=2)) == pytest.approx(7.0)
    held = Piece.of([0, 7], [1, 1], [60, 62], tempo=60, bars=2, pedal=[[0.5, 6.5]])
    assert m.silence(held) == pytest.approx(0.5)
    assert m.empty_bars(Piece.of([0, 12], [8, 4], 60, bars=4)) == pytest.approx(0.25)


def test_one_stuck_note() -> None:
    values = musicality(Piece.of([0.0], [64.0], [60], bars=16))
    assert values["stuck_notes"] == 1
    assert values["pitch_class_entropy_1"] == 0
    assert values["empty_bars"] == 0
    assert values["melody_range"] == 0
    assert np.isnan(values["leap_share"])
    hammered = Piece.of(np.arange(64) / 2, 0.5, 60)
    assert m.stuck_notes(hammered) == 1
    assert m.stuck_notes(Piece.of(np.arange(16) / 2, 0.5, 60)) == 0  # allowed: not over 16
    assert m.stuck_notes(Piece.of([0, 8], [8, 4], 60)) == 0  # two whole bars are allowed
    pulse = np.tile(np.arange(32), 2)  # a pedal point under a tune that moves is music
    moving = Piece.of(pulse, 1, np.r_[np.full(32, 48), 60 + np.arange(32) % 5])
    assert m.stuck_notes(moving) == 0


def test_an_exact_repeat_is_a_structure_and_a_loop() -> None:
    once = phrase().then(phrase(5))
    twice = once.then(once)
    values = musicality(twice)
    assert values["longest_repeat"] == 8
    assert values["bars_exact"] == pytest.approx(0.5)
    assert values["loop"] == 0  # eight bars are a section, not a loop
    assert values["structure_8_16"] == pytest.approx(0.5, abs=0.02)  # one repeat
    assert values["self_repetition"] > 0.5
    looped = phrase().then(phrase()).then(phrase()).then(phrase())
    assert musicality(looped)["loop"] == 12
    assert musicality(looped)["longest_repeat"] == 8
    assert musicality(looped)["structure_4_8"] > 0.7


def test_a_varied_return_is_not_an_exact_one() -> None:
    ornamented = phrase()
    extra = Piece.of([1.5, 9.5], 0.5, [62, 64], 80, 0, bars=4)
    both = Piece.of(
        np.r_[ornamented.onset, extra.onset],
        np.r_[ornamented.duration, extra.duration],
        np.r_[ornamented.pitch, extra.pitch],
        70,
        np.r_[ornamented.voice, extra.voice],
        bars=4,
    )
    values = musicality(phrase().then(noise(4)).then(both))
    assert values["bars_exact"] == pytest.approx(2 / 12)
    assert 0 < values["bars_varied"] <= 2 / 12
    assert values["longest_repeat"] == 1


def test_repetition_of_a_tune_does_not_depend_on_its_key() -> None:
    moved = phrase().then(phrase(3))
    line = m.melody(moved)
    assert m.self_repetition(line) > 0.2
    assert m.self_repetition(m.melody(noise(8))) == 0


def test_noise_is_not_music() -> None:
    found, real = musicality(noise()), musicality(score("bach/bwv66.6"))
    assert found["pitch_class_entropy_4"] > 3.2 > real["pitch_class_entropy_4"]
    assert found["scale_consistency"] < 0.75 < 0.9 < real["scale_consistency"]
    assert found["structure_4_8"] == 0
    assert found["bars_exact"] == found["self_repetition"] == found["longest_repeat"] == 0
    assert found["clash_share"] > 0.15 > 0.1 > real["clash_share"]
    assert found["leap_share"] > 0.6 > 0.3 > real["leap_share"]
    assert found["key_stability"] < 0.5 < real["key_stability"]


def test_a_bach_chorale() -> None:
    """BWV 253 in A major stays in its key and closes V-I on a long chord, as chorales do."""
    values = musicality(score("bach/bwv253"))
    assert values["final_tonic"] == values["final_cadence"] == values["long_tonic_end"] == 1
    assert values["key_stability"] == 1
    assert values["empty_bars"] == values["stuck_notes"] == values["loop"] == 0
    assert values["melody_range"] == 10
    assert musicality(score("bach/bwv66.6"))["final_cadence"] == 1  # F sharp minor, from the V


def test_a_joplin_rag() -> None:
    """Maple Leaf Rag: strains of sixteen bars, each with returning bars; the tune leaps."""
    rag = score("joplin/maple_leaf_rag", 64)
    values = musicality(rag)
    assert values["groove_consistency"] > 0.7
    assert values["bars_exact"] > 0.2
    assert values["structure_4_8"] > 0.1
    assert values["longest_repeat"] >= 4
    assert values["leap_share"] > musicality(score("bach/bwv66.6"))["leap_share"]
    assert values["stuck_notes"] == 0


def test_groove_counts_positions_not_notes() -> None:
    beats = Piece.of(np.arange(32), 1, 60)
    assert m.groove(beats) == {"groove_consistency": 1.0, "groove_similarity": 1.0}
    alternating = Piece.of([0, 1, 2, 3, 4, 8, 9, 10, 11, 12], 0.5, 60)
    found = m.groove(alternating)
    assert found["groove_consistency"] == pytest.approx(1 - 3 / 16)
    assert found["groove_similarity"] == pytest.approx(1 - (4 / 6) * 3 / 16)


def test_entropy_counts_notes_in_bits() -> None:
    two = Piece.of(np.arange(8), 1, [60, 67] * 4)
    assert m.pitch_class_entropy(two, 1) == pytest.approx(1.0)
    chromatic = Piece.of(np.arange(12) / 3, 0.3, 60 + np.arange(12))
    assert m.pitch_class_entropy(chromatic, 4) == pytest.approx(np.log2(12))
    assert m.scale_consistency(chromatic) == pytest.approx(7 / 12)


def test_a_piece_that_changes_key_is_less_stable() -> None:
    home = phrase().then(phrase()).then(phrase())
    away = phrase().then(phrase(6)).then(phrase(1))
    assert m.key_stability(home, find_key(home)) == 1.0
    assert m.key_stability(away, find_key(away)) < 0.7


def test_cadences() -> None:
    closed = phrase().then(phrase())
    found = m.cadences(closed, find_key(closed))
    assert found == {"cadence_rate": 1.0, "final_cadence": 1.0, "final_tonic": 1.0}
    half = closed.between(0, 7)  # the second phrase breaks off on V
    found = m.cadences(half, find_key(closed))
    assert found == {"cadence_rate": 1.0, "final_cadence": 0.0, "final_tonic": 0.0}
    assert m.long_tonic_end(closed, find_key(closed)) == 1.0
    assert m.long_tonic_end(half, find_key(closed)) == 0.0
    static = Piece.of(np.arange(0, 32, 4).repeat(3), 4, [48, 52, 55] * 8)
    assert m.cadences(static, find_key(static))["cadence_rate"] == 0.0  # nothing moved to I


def test_clashes_need_keys_down_together() -> None:
    cluster = Piece.of([0, 0, 1, 1, 2, 2], 1, [60, 61, 60, 73, 60, 64])
    assert m.clashes(cluster) == {"clash_share": pytest.approx(2 / 3), "clash_run": 2.0}
    legato = Piece.of([0, 1, 2], 1.1, [60, 61, 62])  # fingers that overlap by a hair
    assert m.clashes(legato)["clash_share"] == 0


def test_the_tune_is_voice_0_or_the_skyline() -> None:
    assert m.melody(phrase()).pitch.tolist() == [p for bar in TUNE for p in bar]
    plain = Piece.of([0, 0, 1, 2, 4], [4, 1, 1, 1, 1], [72, 48, 52, 55, 60])
    assert m.melody(plain).pitch.tolist() == [72, 60]


def test_short_pieces_leave_long_structures_undefined() -> None:
    values = musicality(phrase())
    assert values["structure_2_4"] == 0.0
    assert np.isnan(values["structure_4_8"])
    assert np.isnan(values["structure_8_16"])
    with_odd_metre = Piece.of(np.arange(7), 1, 60, beats_per_bar=3.5)
    assert musicality(with_odd_metre)["empty_bars"] == 0


def test_the_gap_tells_noise_from_more_of_the_same() -> None:
    real = [musicality(phrase(k).then(phrase(k + 5)).then(phrase(k))) for k in range(-5, 7)]
    same = compare(real[:6], real[6:])
    rows = {row.name: row for row in compare([musicality(noise(12, s)) for s in range(8)], real)}
    assert [row.name for row in same] == list(FIGURES)
    assert rows["self_repetition"].overlap < 0.2
    assert rows["self_repetition"].generated[0] == 0
    low, high = rows["pitch_class_entropy_1"].generated[1:]
    assert low < rows["pitch_class_entropy_1"].generated[0] < high
    assert rows["final_tonic"].counts == (8, 12)
    text = table(list(rows.values()))
    assert len(text.splitlines()) == 2 + len(FIGURES)
    assert text.splitlines()[-1].startswith("| long_tonic_end |")
    empty = compare([], real)[0]
    assert np.isnan(empty.generated[0])
    assert np.isnan(empty.gap)
    assert "| - |" in table([empty])


def test_overlap_area_is_one_for_the_same_distribution_and_falls_with_distance() -> None:
    draw = np.random.default_rng(1)
    real, more = draw.normal(0, 1, 200), draw.normal(0, 1, 200)
    near = overlap_area(more, real)
    apart = [overlap_area(more + shift, real) for shift in (1, 2, 4, 8)]
    assert near > 0.95
    assert near > apart[0] > apart[1] > apart[2] > apart[3]
    assert apart[3] < 0.01
    assert overlap_area(np.zeros(5), np.zeros(5)) == 1.0


def test_a_long_piece_is_quick() -> None:
    piece = noise(150)
    began = time.perf_counter()
    musicality(piece)
    assert time.perf_counter() - began < 0.5
