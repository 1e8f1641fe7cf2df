"""Performance: targets are reached, rules are heard, and what must not move stays."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.music_attributes import ATTRIBUTES, measure, measure_bars
from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.music_pedal import pedalling
from pipelines.music_performance import PerformanceError, perform

BARS = 17


def song(tempo: float = 96.0) -> Piece:
    """Sixteen bars of melody, arpeggios and bass, and a last chord of one bar."""
    random = np.random.default_rng(0)
    notes: list[tuple[float, float, int, int]] = []
    chords = ((48, 60, 64, 67), (45, 57, 60, 64), (41, 57, 60, 65), (43, 59, 62, 67))
    scale, step = (72, 74, 76, 77, 79, 81, 84), 3
    rhythms = ((1, 0.5, 0.5, 1, 1), (1.5, 0.5, 2), (0.5, 0.5, 0.5, 0.5, 1, 1), (3, 1))
    for bar in range(BARS - 1):
        bass, *chord = chords[bar % 4]
        notes += [(4 * bar + 2 * half, 2.0, bass, ACCOMPANIMENT) for half in range(2)]
        for eighth, place in enumerate([0, 1, 2, 1] * 2):
            notes.append((4 * bar + eighth / 2, 0.5, chord[place], ACCOMPANIMENT))
        at = 4.0 * bar
        for length in rhythms[bar % 4]:
            step = int(np.clip(step + random.integers(-2, 3), 0, 6))
            notes.append((at, length, scale[step], MELODY))
            at += length
    notes += [(4.0 * (BARS - 1), 4.0, pitch, ACCOMPANIMENT) for pitch in (36, 48, 60, 64, 67)]
    notes.append((4.0 * (BARS - 1), 4.0, 72, MELODY))
    onset, duration, pitch, voice = zip(*notes, strict=True)
    return Piece.of(onset, duration, pitch, 64, voice, tempo=tempo, bars=BARS)


def chorale() -> Piece:
    """A four-part chorale by Bach, with unisons, ties and an upbeat."""
    corpus = pytest.importorskip("music21.corpus")
    rows = [
        (float(note.offset), float(note.duration.quarterLength), pitch.midi, min(part, 1))
        for part, staff in enumerate(corpus.parse("bach/bwv66.6").parts)
        for note in staff.flatten().stripTies().notes
        for pitch in note.pitches
    ]
    onset, duration, pitch, voice = zip(*rows, strict=True)
    return Piece.of(onset, duration, pitch, 64, voice, tempo=80.0)


def targets(piece: Piece, **named: float | np.ndarray) -> np.ndarray:
    rows = np.full((piece.bars, len(ATTRIBUTES)), np.nan)
    for name, value in named.items():
        rows[:, ATTRIBUTES.index(name)] = value
    return rows


def matched(written: Piece, played: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the same notes in both, in the order of the written one."""
    assert len(written) == len(played)
    own = np.lexsort((written.onset, written.pitch))
    theirs = np.lexsort((played.onset, played.pitch))
    assert np.array_equal(written.pitch[own], played.pitch[theirs])
    back = np.empty(len(own), dtype=np.int64)
    back[own] = theirs
    return np.arange(len(own)), back


def lateness(written: Piece, played: Piece) -> np.ndarray:
    """(n,) seconds by which each written note is played late."""
    own, theirs = matched(written, played)
    return written.seconds_at(played.onset)[theirs] - written.seconds_at(written.onset)[own]


def check_playable(written: Piece, played: Piece) -> None:
    start, end = played.seconds_at(played.onset), played.seconds_at(played.offset)
    assert played.seconds == written.seconds
    assert np.array_equal(played.tempo, written.tempo)
    assert played.bars == written.bars
    assert (end - start).min() > 0.04 - 1e-6
    assert start.min() >= 0
    assert end.max() <= played.seconds + 1e-6
    assert played.velocity.min() >= 1
    assert played.velocity.max() <= 127
    for pitch in np.unique(played.pitch):
        mine = played.pitch == pitch
        order = np.argsort(start[mine])
        assert np.all(end[mine][order][:-1] <= start[mine][order][1:] + 1e-9)
    edges = played.pedal.ravel()
    assert np.all(np.diff(edges) > 0)
    assert len(edges) == 0 or edges[-1] <= played.beats + 1e-9


@pytest.mark.parametrize("piece", [song(), song(168.0), chorale()], ids=["song", "fast", "chorale"])
def test_a_sweep_lands_on_velocity_spread_and_articulation(piece: Piece) -> None:
    asked, found = [], []
    for velocity in (30, 70, 105):
        for spread in (4, 14):
            for touch in (0.35, 0.6, 0.9, 1.1):
                named = {"velocity": velocity, "velocity_variability": spread}
                played = perform(piece, targets(piece, articulation=touch, **named), seed=3)
                check_playable(piece, played)
                got = measure(played)
                asked.append((velocity, spread, touch))
                found.append([got[name] for name in (*named, "articulation")])
    asked, found = np.array(asked), np.array(found)
    for column, within in enumerate((3.0, 2.0, 0.08)):
        assert np.corrcoef(asked[:, column], found[:, column])[0, 1] > 0.95
        assert np.abs(asked[:, column] - found[:, column]).max() < within


def test_bars_follow_their_own_targets_without_a_step_at_the_line() -> None:
    piece = song()
    rows = targets(piece, velocity_variability=6.0, articulation=0.9)
    rows[:, ATTRIBUTES.index("velocity")] = np.where(np.arange(BARS) < 8, 40.0, 95.0)
    played = perform(piece, rows, seed=1)
    bars = measure_bars(played)["velocity"]
    assert np.corrcoef(bars, rows[:, ATTRIBUTES.index("velocity")])[0, 1] > 0.95
    # The change takes a bar: notes either side of the line differ by less than half of it.
    near = np.abs(played.onset - 32.0)
    before = played.velocity[(played.onset < 31.9) & (near < 1.0)].mean()
    after = played.velocity[(played.onset > 31.9) & (near < 1.0)].mean()
    assert 0 < after - before < 0.5 * 55


def test_amount_zero_is_mechanical_at_the_target_levels() -> None:
    piece = song()
    played = perform(piece, targets(piece, velocity=57, articulation=0.5), seed=1, amount=0.0)
    assert np.all(played.velocity == 57)
    assert not len(played.pedal)
    assert np.abs(lateness(piece, played)).max() < 1e-9
    assert measure(played)["articulation"] == pytest.approx(0.5, abs=0.02)


def test_nothing_asked_keeps_written_lengths_and_plays_a_moderate_touch() -> None:
    piece = song()
    played = perform(piece, targets(piece), seed=1)
    assert measure(played)["articulation"] == pytest.approx(measure(piece)["articulation"], abs=0.1)
    assert 60 < measure(played)["velocity"] < 85
    one_row = perform(piece, targets(piece)[0], seed=1)
    assert np.array_equal(one_row.velocity, played.velocity)


def test_same_seed_same_playing_another_seed_another_hand() -> None:
    piece = song()
    rows = targets(piece, velocity=70, velocity_variability=9, articulation=0.9)
    first, again, other = (perform(piece, rows, seed) for seed in (5, 5, 6))
    for name in ("onset", "duration", "velocity", "pedal"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.onset, other.onset)
    assert np.corrcoef(first.velocity, other.velocity)[0, 1] > 0.8


def test_the_tune_is_louder_and_a_little_before_its_chord() -> None:
    piece = song()
    rows = targets(piece, velocity=70, velocity_variability=11, articulation=0.95, tempo=70)
    played = perform(piece, rows, seed=1)
    tune = played.voice == MELODY
    assert 6 < played.velocity[tune].mean() - played.velocity[~tune].mean() < 26
    late = lateness(piece, played)
    on_beat = np.isin(piece.onset, piece.onset[piece.voice == MELODY])
    lead = late[on_beat & (piece.voice == ACCOMPANIMENT)].mean()
    lead -= late[on_beat & (piece.voice == MELODY)].mean()
    assert 0.005 < lead < 0.03


def test_downbeats_are_accented_and_phrases_swell() -> None:
    piece = Piece.of(np.arange(64) / 1.0, 1.0, 60, tempo=100.0)  # one pitch: metre and phrase alone
    played = perform(piece, targets(piece, velocity=64, velocity_variability=10), seed=2)
    beat = np.arange(64) % 4
    assert played.velocity[beat == 0].mean() > played.velocity[beat % 2 == 1].mean() + 2
    phrases = played.velocity.reshape(4, 16)
    assert np.all(phrases[:, 6:12].mean(axis=1) > phrases[:, :4].mean(axis=1))
    assert np.all(phrases[:, 6:12].mean(axis=1) > phrases[:, -3:].mean(axis=1))
    marked = perform(
        piece, targets(piece, velocity=64, velocity_variability=10), seed=2, phrases=[0, 8]
    )
    assert marked.velocity[16:24].mean() > played.velocity[16:20].mean()


def test_bar_lines_stay_and_slow_music_ends_slower() -> None:
    piece = song(70.0)
    slow = perform(piece, targets(piece, articulation=1.0, tempo=70), seed=1)
    late = lateness(piece, slow)
    lines = (piece.onset % 4 == 0) & (piece.onset < 4 * (BARS - 3))
    assert np.abs(late[lines]).max() < 0.06
    assert late[piece.onset == 4 * (BARS - 1)].min() > 0.15
    brisk = perform(piece, targets(piece, articulation=0.5, tempo=150), seed=1)
    assert np.abs(lateness(piece, brisk)[piece.onset == 4 * (BARS - 1)]).max() < 0.1


def test_hand_noise_is_a_few_milliseconds_and_order_is_kept() -> None:
    piece = Piece.of(np.arange(200) / 4, 0.25, 60 + np.arange(200) % 2, tempo=120.0)
    played = perform(piece, targets(piece, tempo=180, articulation=0.6), seed=1)
    late = lateness(piece, played)[:160]
    quick = late - np.convolve(late, np.ones(33) / 33, mode="same")
    assert 0.0005 < quick[20:140].std() < 0.01
    assert np.all(np.diff(piece.seconds_at(piece.onset) + lateness(piece, played)) > 0)


def test_pedal_only_where_bound_and_changed_with_the_harmony() -> None:
    piece = song(76.0)
    bound = perform(piece, targets(piece, articulation=1.0, tempo=76), seed=1)
    dry = perform(piece, targets(piece, articulation=0.4, tempo=76), seed=1)
    assert not len(dry.pedal)
    assert len(bound.pedal) >= BARS - 1
    # Up just after every bar line, where the harmony changes; down within half a beat of it.
    for bar in range(1, BARS - 1):
        struck = bound.onset[np.abs(bound.onset - 4 * bar) < 0.3]
        up = bound.pedal[np.abs(bound.pedal[:, 1] - struck.min()) < 0.1, 1]
        down = bound.pedal[(bound.pedal[:, 0] > 4 * bar) & (bound.pedal[:, 0] < 4 * bar + 0.9), 0]
        assert len(up) == 1
        assert len(down) == 1
        # The pedal is down before the keys of the new chord are let go.
        held = bound.offset[np.isin(bound.onset, struck)]
        assert down[0] < held.min()


def test_pedal_changes_inside_a_bar_where_the_chord_does() -> None:
    chords = [(48, 64, 67), (48, 64, 67), (43, 62, 71), (43, 62, 71)] * 2
    onset = np.repeat(np.arange(8.0), 3)
    piece = Piece.of(onset, 1.0, np.ravel(chords), tempo=60.0)
    start, end = piece.seconds_at(piece.onset), piece.seconds_at(piece.offset)
    none = np.zeros(len(piece), dtype=bool)
    found = pedalling(piece, none, start, end, np.ones(9))
    assert np.round(found[:, 1]).tolist() == [2, 4, 6, 8]
    assert not len(pedalling(piece, none, start, end, np.zeros(9)))


def test_swing_only_if_asked() -> None:
    piece = Piece.of(np.arange(32) / 2, 0.5, 60 + np.arange(32) % 3, tempo=120.0)
    rows = targets(piece, tempo=120, articulation=0.7)
    plain = lateness(piece, perform(piece, rows, seed=1))
    swung = lateness(piece, perform(piece, rows, seed=1, swing=1.0))
    assert np.abs(plain[1::2]).max() < 0.05
    assert (swung - plain)[1:-8:2].mean() == pytest.approx(0.5 / 6, abs=0.01)
    assert np.abs((swung - plain)[:-8:2]).max() < 0.01


def test_one_key_is_one_note() -> None:
    piece = Piece.of(
        [0, 0, 1, 1.02, 2], [1, 2, 1, 1, 1], [60, 60, 64, 64, 60], 64, [0, 1, 1, 0, 1], tempo=240
    )
    played = perform(piece, targets(piece), seed=0)
    check_playable(piece, played)
    assert played.pitch.tolist() == [60, 64, 60]


def test_quick_repeats_and_odd_metres_stay_playable() -> None:
    quick = Piece.of(np.arange(120) / 8, 1 / 8, 60, tempo=140.0)
    check_playable(quick, perform(quick, targets(quick, articulation=0.2), seed=4, amount=2.0))
    odd = Piece.of(np.arange(30) / 2, 0.5, 60 + np.arange(30) % 5, beats_per_bar=2.5, tempo=66.0)
    check_playable(odd, perform(odd, targets(odd, articulation=1.0, tempo=66), seed=4))
    changing = Piece.of(
        np.arange(32), 1.0, 60 + np.arange(32) % 7, tempo=[(0, 60), (7.5, 90), (20, 72)]
    )
    check_playable(changing, perform(changing, targets(changing, articulation=1.0), seed=4))


def test_no_notes_is_no_performance_but_a_piece() -> None:
    empty = Piece.of([], [], [], bars=4)
    assert len(perform(empty, targets(empty), seed=0)) == 0
    assert perform(empty, targets(empty), seed=0).bars == 4


def test_bad_arguments_are_one_line() -> None:
    piece = song()
    with pytest.raises(PerformanceError, match=r"^targets: \(17, 16\)[^\n]+$"):
        perform(piece, np.zeros((3, 16)), seed=0)
    with pytest.raises(PerformanceError, match=r"^performance: [^\n]+$"):
        perform(piece, targets(piece), seed=0, amount=3.0)
    with pytest.raises(PerformanceError, match=r"^swing: [^\n]+$"):
        perform(piece, targets(piece), seed=0, swing=-1.0)


def test_a_rolled_last_chord_is_held() -> None:
    chord = [48, 55, 60, 64]
    piece = Piece.of(
        [0, 1, 2, 3, 4, 4.5, 5, 5.5],
        [1, 1, 1, 1, 4, 3.5, 3, 2.5],
        [72, 71, 72, 74, *chord],
        64,
        [0] * 4 + [1] * 4,
        bars=2,
    )
    row = np.full((2, len(ATTRIBUTES)), np.nan)
    row[:, ATTRIBUTES.index("articulation")] = 0.8
    played = perform(piece, row, seed=1)
    held = played.onset >= 3.9
    assert held.sum() == len(chord)
    assert played.offset[held].min() > 6.5
