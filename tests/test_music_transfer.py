"""Elements of one real piece on another: only what was named moves, and nothing onto itself."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from music21 import corpus

from adapters.music_attributes import measure
from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from adapters.tonality import chord_of, find_key
from pipelines.music_transfer import (
    ELEMENTS,
    TransferError,
    matched_bars,
    parse_elements,
    transfer,
)

REAL = {
    "chorale": ("bach/bwv253", 4.0, 84.0),  # A major
    "chorale in minor": ("bach/bwv66.6", 4.0, 70.0),
    "rag": ("joplin/maple_leaf_rag.mxl", 2.0, 92.0),
    "minuet": ("bach/bwv269", 3.0, 112.0),  # 3/4
}
PAIRS = [("rag", "chorale"), ("chorale in minor", "rag"), ("chorale", "minuet"), ("minuet", "rag")]
# Which attributes an element may change; what follows from it is meant to.
NOTES = {"note_density", "density_variability", "rhythmic_variability", "polyphony", "dissonance"}
NOTES |= {"velocity", "velocity_variability", "note_duration", "articulation", "contour"}
CHORDS = {"mode", "key_clarity", "mean_pitch", "pitch_range", "melodic_variability", "polyphony"}
CHORDS |= {"dissonance", "contour"}
# Where two voices meet on one key, one of the notes goes.
MET = {"note_density", "note_duration", "velocity", "velocity_variability", "articulation"}
MET |= {"density_variability"}
MAY_CHANGE = {
    "rhythm": NOTES | {"mean_pitch", "pitch_range", "melodic_variability", "mode", "key_clarity"},
    "pitch": NOTES | CHORDS,
    "harmony": CHORDS | MET,
    "mode": CHORDS | MET,
    "register": {"mean_pitch", "pitch_range", "mode", "key_clarity", "polyphony", "dissonance"}
    | {"melodic_variability"}
    | MET,
    "velocity": {"velocity", "velocity_variability"},
    "articulation": {"articulation", "note_duration", "polyphony", "dissonance"}
    | {"mode", "key_clarity"},  # both are weighted by duration
    "tempo": {"tempo", "note_density", "note_duration", "rhythmic_variability"},
    "pedal": set(),
}


@functools.cache
def score(name: str) -> Piece:
    path, beats, tempo = REAL[name]
    rows = []
    for voice, part in enumerate(corpus.parse(path).parts):
        for note in part.flatten().notes:
            length = float(note.duration.quarterLength)
            rows += [(float(note.offset), length, p.midi, min(voice, 1)) for p in note.pitches]
    onset, duration, pitch, voice = np.array([row for row in rows if row[1] > 0]).T
    # Hands of its own for each piece, so that a transfer of dynamics has something to carry.
    loud = 40 + tempo / 4 + 12 * (onset % beats == 0) + np.round(onset % (5 + len(name) % 3))
    touch = np.where(np.floor(onset) % 3 == 0, 0.5 + len(name) / 40, 0.9)
    return Piece.of(
        onset,
        duration * touch,
        pitch.astype(int),
        loud.astype(int),
        voice.astype(int),
        tempo=[(0.0, tempo), (8.0, tempo * 1.1), (20.0, tempo * 0.9)],
        beats_per_bar=beats,
        pedal=[(k * beats + 0.1, k * beats + beats - 0.2 * (k % 3)) for k in range(int(tempo) % 9)],
    )


def equal(a: Piece, b: Piece) -> bool:
    names = ("onset", "duration", "pitch", "velocity", "voice", "tempo", "pedal")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return same and (a.bars, a.beats_per_bar) == (b.bars, b.beats_per_bar)


def tune(piece: Piece) -> Piece:
    return piece.select(piece.voice == MELODY)


def bar_line(pitches: list[int], onsets: list[float], lengths: list[float], **kw: float) -> Piece:
    """A melody alone."""
    return Piece.of(onsets, lengths, pitches, 64, MELODY, **kw)  # type: ignore[arg-type]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("name", REAL)
def test_a_piece_keeps_its_own_elements_exactly(name: str, element: str) -> None:
    assert equal(transfer([element], score(name), score(name)), score(name))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("source", "onto"), PAIRS)
def test_each_element_changes_only_its_own_dimension(source: str, onto: str, element: str) -> None:
    before = score(onto)
    after = transfer([element], score(source), before)
    was, now = measure(before), measure(after)
    # What counts as struck together is measured in seconds, hence a little play.
    same = {name: np.isclose(was[name], now[name], rtol=0.02, atol=0.005) for name in was}
    changed = {name for name in was if not same[name]}
    assert changed <= MAY_CHANGE[element]
    assert (after.bars, after.beats_per_bar) == (before.bars, before.beats_per_bar)
    if element != "tempo":
        assert np.array_equal(after.tempo, before.tempo)
    if element != "pedal":
        assert np.array_equal(after.pedal, before.pedal)
    if element not in ("rhythm", "pitch"):
        assert set(after.onset) <= set(before.onset)
        assert len(after) >= 0.93 * len(before)
        assert np.array_equal(np.unique(tune(after).onset), np.unique(tune(before).onset))
    assert after.pitch.min() >= 21
    assert after.pitch.max() <= 108


@pytest.mark.parametrize(("source", "onto"), PAIRS)
def test_elements_arrive(source: str, onto: str) -> None:
    given, before = score(source), score(onto)
    theirs, was = measure(given), measure(before)

    def nearer(name: str, element: str) -> bool:
        now = measure(transfer([element], given, before))[name]
        if abs(was[name] - theirs[name]) < 3:  # nothing to carry
            return True
        return abs(now - theirs[name]) < 0.5 * abs(was[name] - theirs[name]) + 1e-6

    assert nearer("velocity", "velocity")
    assert nearer("tempo", "tempo")
    assert nearer("mean_pitch", "register")
    assert find_key(transfer(["mode"], given, before)).minor == find_key(given).minor


def test_rhythm_deals_the_pitches_in_order() -> None:
    source = bar_line([60, 60, 60, 60], [0, 0.5, 1, 3], [0.5, 0.25, 2, 1])
    onto = bar_line([64, 65, 67, 72], [0, 1, 2, 3], [1, 1, 1, 1])
    dealt = transfer(["rhythm"], source, onto)
    assert dealt.pitch.tolist() == [64, 65, 67, 72]
    assert dealt.onset.tolist() == [0, 0.5, 1, 3]
    assert dealt.duration.tolist() == [0.5, 0.25, 2, 1]


def test_more_onsets_repeat_and_fewer_are_shared_by_two() -> None:
    eight = bar_line([60] * 8, [k / 2 for k in range(8)], [0.5] * 8)
    two = bar_line([60, 62], [0, 2], [2, 2])
    four = bar_line([64, 65, 67, 72], [0, 1, 2, 3], [1, 1, 1, 1])
    more = transfer(["rhythm"], eight, four)
    assert more.onset.tolist() == eight.onset.tolist()
    assert list(dict.fromkeys(more.pitch.tolist())) == [64, 65, 67, 72]
    assert (np.diff(more.pitch) >= 0).all()
    fewer = transfer(["rhythm"], two, four)
    assert fewer.pitch.tolist() == [64, 65, 67, 72]
    assert fewer.onset.tolist() == [0, 1, 2, 3]
    uneven = bar_line(
        [64, 65, 67, 69, 71, 72], [0, 0.5, 1, 2, 2.5, 3.5], [0.5, 0.5, 1, 0.5, 1, 0.5]
    )
    longest = transfer(["rhythm"], two, uneven)
    assert len(longest) == 4
    assert {67, 71} <= set(longest.pitch.tolist())


def test_chords_stay_together_and_arpeggios_become_them() -> None:
    held = Piece.of([0, 0, 0], [4, 4, 4], [48, 55, 64], 64, ACCOMPANIMENT)
    broken = Piece.of([0, 1, 2, 3], [1] * 4, [48, 52, 55, 59], 64, ACCOMPANIMENT)
    repeated = transfer(["rhythm"], broken, held)
    assert repeated.onset.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    together = transfer(["rhythm"], held, broken)
    assert together.onset.tolist() == [0, 0, 0]
    assert together.pitch.tolist() == [48, 52, 55]  # the major seventh does not join


def test_pitch_keeps_the_rhythm() -> None:
    source, onto = score("chorale"), score("rag")
    sung = transfer(["pitch"], source, onto)
    assert set(sung.onset) <= set(onto.onset)
    assert find_key(sung).tonic == find_key(source).tonic
    first = source.bar_of() == 0
    assert sung.pitch[0] in source.pitch[first]


def test_velocity_takes_level_accent_and_distribution() -> None:
    source = Piece.of(range(8), [1] * 8, [60] * 8, [90, 50, 70, 50, 60, 20, 40, 20], MELODY)
    onto = Piece.of(range(8), [1] * 8, range(60, 68), 64, MELODY)
    assert transfer(["velocity"], source, onto).velocity.tolist() == source.velocity.tolist()
    halves = Piece.of(np.arange(16) / 2, [0.5] * 16, [60] * 16, 64, MELODY)
    played = transfer(["velocity"], source, halves).velocity
    assert sorted(set(played.tolist())) >= [20]
    assert played[0] == 90
    assert played[:8].mean() > played[8:].mean() + 20
    rag = transfer(["velocity"], score("rag"), score("chorale"))
    given = score("rag").velocity[score("rag").bar_of() < score("chorale").bars]
    assert abs(np.median(rag.velocity) - np.median(given)) <= 2


def test_harmony_takes_the_chords_in_the_own_key() -> None:
    def chords(tonic: int, steps: list[list[int]]) -> Piece:
        rows = [(2.0 * k, tonic + s) for k, step in enumerate(steps) for s in step]
        onset, pitch = zip(*rows, strict=True)
        return Piece.of(onset, 2.0, pitch, 64, ACCOMPANIMENT)

    one, four, five, six = [0, 4, 7, 12], [-7, 0, 5, 9], [-5, -1, 2, 7], [-3, 0, 4, 9]
    source = chords(50, [one, six, four, five, one, four, five, one])  # D
    onto = chords(48, [one, one, five, one, one, five, five, one])  # C
    moved = transfer(["harmony"], source, onto)
    found = [chord_of(np.unique(moved.pitch[moved.onset == 2.0 * k] % 12)) for k in range(8)]
    assert [c.root for c in found if c] == [0, 9, 5, 7, 0, 5, 7, 0]
    assert np.array_equal(moved.pitch[moved.onset == 0], onto.pitch[onto.onset == 0])


def test_pedal_and_tempo_are_fitted() -> None:
    source = replace(score("chorale"), pedal=np.array([[0.0, 3.0], [4.5, 9.0]]))
    onto = Piece.of(np.arange(96.0), 1.0, 60, 64, MELODY)
    pedalled = transfer(["pedal"], source, onto).pedal
    assert pedalled[:2].tolist() == source.pedal.tolist()
    assert pedalled[2:].tolist() == [[64.0, 67.0], [68.5, 73.0]]  # bars 16 and 17 take from 0, 1
    assert (pedalled[:-1, 1] <= pedalled[1:, 0]).all()
    late = replace(source, pedal=np.array([[0.0, 3.0], [source.beats - 0.03, source.beats]]))
    assert transfer(["pedal"], late, late).pedal.tolist() == late.pedal.tolist()
    slower = transfer(["tempo"], source, onto)
    assert slower.tempo[:, 1].tolist() == source.tempo[:, 1].tolist()
    assert measure(slower)["tempo"] == pytest.approx(measure(source)["tempo"])


def test_bars_match_by_their_place_in_the_phrase() -> None:
    source = Piece.of([0.0], [4.0], [60], bars=10)
    onto = Piece.of([0.0], [4.0], [60], bars=19)
    bars = matched_bars(source, onto)
    assert bars[:10].tolist() == list(range(10))
    assert bars[10:].tolist() == [2, 3, 4, 5, 6, 7, 0, 1, 2]
    assert (bars % 4 == np.arange(19) % 4).all()
    short = Piece.of([0.0], [4.0], [60], bars=3)
    assert matched_bars(short, onto)[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_metres_are_matched_beat_by_beat() -> None:
    waltz = bar_line([60, 62, 64], [0, 1, 2], [1, 0.5, 0.5], beats_per_bar=3.0)
    march = bar_line([60, 62, 64, 65], [0, 1, 2, 3], [1, 1, 1, 1])
    assert transfer(["rhythm"], waltz, march).onset.tolist() == [0, 1, 2, 3]
    assert transfer(["rhythm"], waltz, march).duration.tolist() == [1, 0.5, 0.5, 0.5]
    three = transfer(["rhythm"], march, waltz)
    assert three.onset.tolist() == [0, 1, 2]
    assert three.beats_per_bar == 3.0
    cut = replace(march, beats_per_bar=2.0, bars=2)
    assert transfer(["rhythm"], cut, march) is march
    assert transfer(["rhythm"], march, cut) is cut


def test_silent_bars_and_single_voices() -> None:
    gap = Piece.of([0, 12], [4, 4], [60, 62], [80, 40], MELODY)
    steady = score("chorale").between(0, 4)
    for element in ELEMENTS:
        forth, back = transfer([element], gap, steady), transfer([element], steady, gap)
        assert len(forth) > 0
        assert set(np.unique(forth.voice)) == {MELODY, ACCOMPANIMENT}
        assert set(np.unique(back.voice)) == {MELODY}
        assert not ((back.onset >= 4) & (back.onset < 12)).any()
    under = Piece.of([0, 0, 2, 2], [2] * 4, [48, 64, 50, 65], 64, ACCOMPANIMENT)
    sung = transfer(["rhythm"], under, gap)
    assert sung.onset[:2].tolist() == [0, 2]


def test_several_elements_together() -> None:
    source, onto = score("rag"), score("chorale")
    both = transfer(["velocity", "rhythm"], source, onto)
    assert equal(both, transfer(["velocity"], source, transfer(["rhythm"], source, onto)))
    everything = transfer(ELEMENTS, source, onto)
    assert measure(everything)["tempo"] == pytest.approx(measure(source)["tempo"])
    assert everything.bars == onto.bars


def test_parse_elements() -> None:
    assert parse_elements("rhythm,velocity") == ("rhythm", "velocity")
    assert parse_elements(" Velocity , rhythm, rhythm") == ("rhythm", "velocity")
    for text, said in [
        ("rythm", "did you mean rhythm"),
        ("velocitys", "did you mean velocity"),
        ("timbre,colour", "there are pitch, rhythm"),
        (" , ", "name elements"),
    ]:
        with pytest.raises(TransferError, match=said) as caught:
            parse_elements(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(TransferError, match="no element"):
        transfer(["chord"], score("rag"), score("rag"))
    silence = Piece.of([], [], [], bars=4)
    with pytest.raises(TransferError, match=r"^from: the piece has no notes"):
        transfer(["rhythm"], silence, score("rag"))
    with pytest.raises(TransferError, match=r"^onto: the piece has no notes"):
        transfer(["rhythm"], score("rag"), silence)
