"""Attributes of music: by hand, against jSymbolic's on real scores, and on whatever else comes."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from adapters.music_attributes import (
    ATTRIBUTES,
    FEATURES,
    TABLE,
    features,
    matrix,
    measure,
    measure_bars,
)
from adapters.piece import Piece

NAN = float("nan")


def tune(pitches, duration=1.0, velocity=80, **more) -> Piece:
    """Quarter notes one after another."""
    return Piece.of(np.arange(len(pitches)), duration, pitches, velocity, **more)


def feature(piece: Piece) -> dict[str, float]:
    return dict(zip(FEATURES, features(piece), strict=True))


def random_piece(notes: int, beats: float, seed: int = 0) -> Piece:
    rng = np.random.default_rng(seed)
    return Piece.of(
        rng.uniform(0, beats, notes).round(2),
        rng.uniform(0.1, 2, notes),
        rng.integers(30, 90, notes),
        rng.integers(30, 100, notes),
        rng.integers(0, 2, notes),
    )


def test_sixteen_attributes_with_ranges_and_thirty_nine_features():
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 16
    assert tuple(TABLE) == ATTRIBUTES
    assert all(row.low < row.high and row.text for row in TABLE.values())
    assert len(FEATURES) == len(set(FEATURES)) == 39


def test_a_scale_in_quarter_notes_by_hand():
    found = measure(tune([60, 62, 64, 65, 67, 69, 71, 72], tempo=60))
    assert found["tempo"] == pytest.approx(60)
    assert found["note_density"] == pytest.approx(1)
    assert found["note_duration"] == pytest.approx(1)
    assert found["polyphony"] == pytest.approx(1)
    assert found["velocity"] == 80
    assert found["velocity_variability"] == 0
    assert found["articulation"] == pytest.approx(1)
    assert found["rhythmic_variability"] == pytest.approx(0)
    assert found["melodic_variability"] == pytest.approx(12 / 7)
    assert found["contour"] == pytest.approx(1)
    assert found["density_variability"] == 0
    assert found["mean_pitch"] == pytest.approx(66.25)
    assert found["mode"] > 0


@pytest.mark.parametrize(("held", "expected"), [(0.25, 0.25), (0.9, 0.9), (5.0, 2.0)])
def test_articulation_is_the_share_of_the_way_to_the_next_note(held, expected):
    assert measure(tune([60, 64, 67, 72], held))["articulation"] == pytest.approx(expected)


def test_articulation_looks_at_the_next_note_of_the_same_voice():
    # Held whole notes over quarter notes: both legato, each in its own voice.
    onset = [0, 4, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    duration = [4, 4, 4, *[1] * 9]
    voice = [0] * 3 + [1] * 9
    piece = Piece.of(onset, duration, [76, 77, 79, *[48] * 9], 64, voice)
    assert measure(piece)["articulation"] == pytest.approx(1)
    assert feature(piece)["articulation"] > 1


def test_tempo_is_weighted_by_time():
    # 4 beats at 60 take 4 s, 4 beats at 120 take 2 s.
    piece = tune([60] * 8, tempo=[(0, 60), (4, 120)])
    assert measure(piece)["tempo"] == pytest.approx((60 * 4 + 120 * 2) / 6)
    assert measure_bars(piece)["tempo"] == pytest.approx([60, 120])
    assert measure_bars(piece)["note_density"] == pytest.approx([1, 2])


def test_polyphony_counts_keys_and_not_the_pedal_nor_rests():
    # A triad for one beat of each bar of four.
    onset = np.repeat([0, 4, 8], 3)
    piece = Piece.of(onset, 1, [60, 64, 67] * 3, pedal=[(0, 12)])
    assert measure(piece)["polyphony"] == pytest.approx(3)
    assert measure_bars(piece)["polyphony"] == pytest.approx([3, 3, 3])
    held = Piece.of([0, 6], [8, 2], [60, 64])
    assert measure_bars(held)["polyphony"] == pytest.approx([1, 1.5])


def test_minor_is_below_major():
    major = tune([60, 62, 64, 65, 67, 69, 71, 72, 60, 64, 67, 60])
    minor = tune([60, 62, 63, 65, 67, 68, 70, 72, 60, 63, 67, 60])
    assert measure(major)["mode"] > 0.03
    assert measure(minor)["mode"] < -0.03
    assert feature(major)["third_balance"] == 1
    assert feature(minor)["third_balance"] == -1
    assert feature(minor)["out_of_scale"] == pytest.approx(0)


def test_seconds_and_tritones_are_rougher_than_triads():
    def chord(*pitches):
        return measure(Piece.of([0] * len(pitches), 4, pitches))["dissonance"]

    assert chord(60, 64, 67) < 0.15 < chord(60, 64, 67, 70) < chord(60, 61, 66) <= 1
    assert chord(60, 67, 72) < chord(60, 64, 67)
    assert np.isnan(chord(60))


def test_rough_only_while_both_sound():
    apart = tune([60, 61, 60, 61])
    assert np.isnan(measure(apart)["dissonance"])


def test_the_melody_is_its_voice_where_there_is_one_else_the_skyline():
    # A tune below an accompaniment that leaps high above it.
    onset, voice = [0, 1, 2, 3] * 2, [0] * 4 + [1] * 4
    pitch = [60, 62, 64, 65, 84, 72, 84, 72]
    told = Piece.of(onset, 1, pitch, 64, voice)
    assert measure(told)["melodic_variability"] == pytest.approx(5 / 3)
    unknown = replace(told, voice=np.ones(8, dtype=np.int16))
    assert measure(unknown)["melodic_variability"] == pytest.approx(12)


def test_a_held_note_stays_the_melody_over_broken_chords():
    onset = [0, 4, *range(8)]
    duration = [4, 4, *[1] * 8]
    piece = Piece.of(onset, duration, [76, 77, *[48, 55, 60, 55] * 2])
    assert measure(piece)["melodic_variability"] == pytest.approx(1)
    assert feature(piece)["melodic_interval"] > 5  # the published feature is the naive skyline


def test_contour_of_bars():
    piece = tune([60, 62, 64, 65, 72, 69, 65, 60, 64, 64, 64, 64, 60, 62, 64, 60])
    contour = measure_bars(piece)["contour"]
    assert contour[:2] == pytest.approx([1, -1])
    assert np.isnan(contour[2])
    assert contour[3] == pytest.approx(0)


def test_contour_of_held_notes_falls_as_it_rises():
    # Broken chords with every key held to the bar line: up, then the same one down.
    up = [48, 52, 55, 60]
    pitch = (up + up[::-1]) * 8
    onset = np.arange(len(pitch), dtype=float)
    rising = Piece.of(onset, 4 - onset % 4, pitch)
    even = Piece.of(onset, 1, pitch)
    assert measure(rising)["contour"] == pytest.approx(1)  # a fall under held keys is not heard
    assert measure(even)["contour"] == pytest.approx(0)
    # Random notes have no direction, however long they are held.
    assert abs(measure(replace(random_piece(2000, 400), voice=np.ones(2000)))["contour"]) < 0.15


def test_bars_agree_with_the_piece_cut_into_bars():
    piece = random_piece(400, 80)
    bars = measure_bars(piece)
    # Only what is decided inside a bar: no window, no interval over the bar line.
    for name in ("mean_pitch", "pitch_range", "velocity", "velocity_variability", "note_duration"):
        for index in (0, 3, 11, 19):
            alone = piece.select(piece.bar_of() == index)
            assert bars[name][index] == pytest.approx(measure(alone)[name]), name


def test_bars_average_to_the_piece():
    piece = random_piece(2000, 400)
    whole, bars = measure(piece), measure_bars(piece)
    assert bars["note_density"].mean() == pytest.approx(whole["note_density"], rel=0.02)
    assert bars["polyphony"].mean() == pytest.approx(whole["polyphony"], rel=0.02)
    assert np.nanmean(bars["dissonance"]) == pytest.approx(whole["dissonance"], rel=0.02)


def test_transposition_moves_pitch_and_nothing_else():
    piece = random_piece(300, 60)
    before, after = measure(piece), measure(piece.transposed(5))
    assert after.pop("mean_pitch") == pytest.approx(before.pop("mean_pitch") + 5)
    assert after == pytest.approx(before)


def test_half_the_tempo_halves_density_and_leaves_ratios():
    piece = random_piece(300, 60)
    # Onsets on quarter beats, so that no group depends on the tempo.
    piece = replace(piece, onset=np.sort(np.round(piece.onset * 4) / 4))
    slow = replace(piece, tempo=np.array([[0.0, 60.0]]))
    before, after = measure(piece), measure(slow)
    assert after["note_density"] == pytest.approx(before["note_density"] / 2)
    assert after["note_duration"] == pytest.approx(before["note_duration"] * 2)
    for name in ("rhythmic_variability", "articulation", "polyphony", "mode", "contour"):
        assert after[name] == pytest.approx(before[name]), name


def test_matrix_rows_are_in_the_order_of_attributes():
    piece = random_piece(50, 20)
    rows = matrix([measure(piece), measure(piece.transposed(12))])
    assert rows.shape == (2, 16)
    assert np.diff(rows[:, ATTRIBUTES.index("mean_pitch")]) == pytest.approx([12])
    assert matrix([]).shape == (0, 16)


def test_features_tell_a_pedal_only_where_there_is_one():
    piece = tune([60, 64, 67, 72])
    assert np.isnan(feature(piece)["pedal_share"])
    assert feature(replace(piece, pedal=np.array([[0.0, 3.0]])))["pedal_share"] == 0.75


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "piece",
    [
        Piece.of([], [], [], bars=3),
        Piece.of(2.5, 0.001, 60),
        Piece.of(np.zeros(40), 1, np.arange(40, 80)),
        Piece.of(np.zeros(40), 1, 60),
        Piece.of([0, 100], 1, [60, 72]),
        Piece.of([0, 9, 17], 1, [60, 61, 62], bars=2),
        Piece.of([0, 0.01], 1, [0, 127]),
        Piece.of([0, 3], [3, 3], [60, 64], beats_per_bar=3.0, tempo=[(0, 20), (1, 300)]),
    ],
    ids=["empty", "one", "cluster", "unison", "rests", "beyond", "extremes", "waltz"],
)
def test_whatever_comes_is_measured_without_complaint(piece):
    whole, bars = measure(piece), measure_bars(piece)
    assert tuple(whole) == ATTRIBUTES
    assert all(bars[name].shape == (piece.bars,) for name in ATTRIBUTES)
    values = np.concatenate([list(whole.values()), *bars.values(), features(piece)])
    assert not np.isinf(values).any()
    assert np.isfinite(bars["tempo"]).all()
    assert np.isfinite(bars["note_density"]).all()
    if not len(piece):
        assert np.isnan([whole[name] for name in ATTRIBUTES if name != "tempo"]).all()
        assert np.isnan(features(piece)).all()


def test_bars_without_notes_tell_no_loudness():
    bars = measure_bars(Piece.of([0, 1, 8, 9], 1, [60, 62, 64, 65], [40, 50, 60, 70]))
    assert bars["velocity"] == pytest.approx([45, NAN, 65], nan_ok=True)
    assert bars["note_density"] == pytest.approx([1, 0, 1])
    assert bars["mode"] == pytest.approx(bars["mode"][[1, 1, 1]])  # all see the same five bars


def test_a_hundred_thousand_notes_are_measured_in_two_seconds():
    piece = random_piece(100_000, 7200)
    start = time.process_time()
    measure(piece), measure_bars(piece), features(piece)
    assert time.process_time() - start < 2


@pytest.fixture(scope="module", params=["bwv66.6", "bwv269"])
def score(request):
    """A chorale of Bach as music21 has it, and as a piece whose melody is the soprano."""
    music21 = pytest.importorskip("music21")
    stream = music21.corpus.parse(request.param).stripTies()
    rows = [
        (n.offset, n.quarterLength, pitch.midi, min(voice, 1))
        for voice, part in enumerate(stream.parts)
        for n in part.flatten().notes
        for pitch in n.pitches
    ]
    onset, duration, pitch, voice = np.array(rows, dtype=float).T
    tempo = float(stream.metronomeMarkBoundaries()[0][2].getQuarterBPM())
    return stream, Piece.of(onset, duration, pitch, 64, voice, tempo=tempo)


def test_the_same_numbers_as_jsymbolic(score):
    """Where our definitions are theirs. On purpose ours differ in:

    pitch_range (2.5 to 97.5 percentile, not one stray note), rhythmic_variability (their standard
    deviation over the mean, so that it does not say tempo again), polyphony (rests left out, every
    key counts, theirs counts MIDI channels), melodic intervals (of the melody, theirs of all notes
    of a channel), mode (measured, theirs is the key signature that a file claims).
    """
    stream, piece = score
    from music21.features import DataInstance, jSymbolic

    whole, also = measure(piece), feature(piece)
    data, soprano = DataInstance(stream), DataInstance(stream.parts[0])

    def theirs(name, source=data):
        return getattr(jSymbolic, name + "Feature")(source).extract().vector[0]

    gap = theirs("AverageTimeBetweenAttacks")
    for name, ours in {
        "InitialTempo": whole["tempo"],
        "NoteDensity": whole["note_density"],
        "PrimaryRegister": whole["mean_pitch"],
        "AverageNoteDuration": whole["note_duration"],
        "VariabilityOfNoteDuration": also["dur_cv"] * also["dur_mean"],
        "VariabilityOfTimeBetweenAttacks": whole["rhythmic_variability"] * gap,
        "ImportanceOfBassRegister": also["share_bass"],
        "ImportanceOfHighRegister": also["share_high"],
    }.items():
        assert ours == pytest.approx(theirs(name), rel=1e-6), name
    steps = theirs("AverageMelodicInterval", soprano)
    assert whole["melodic_variability"] == pytest.approx(steps)
    assert 0.7 * theirs("Range") < whole["pitch_range"] <= theirs("Range")
    assert abs(whole["polyphony"] - theirs("AverageNumberOfIndependentVoices")) < 0.25
