"""Notes in and out: real scores, two other readers as witnesses, hostile bytes, the records."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import symusic

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from adapters.voices import skyline
from pipelines.media import COMPOSITE, TRAINED, MediaError, read_metadata
from pipelines.media_midi import (
    MAX_NOTES,
    decode_midi,
    encode_midi,
    load_midi,
    read_midi_metadata,
)

TICK = 1 / 480
CORPUS = ("bach/bwv66.6", "corelli/opus3no1/1grave", "schoenberg/opus19/movement2")


# --- building files by hand


def number(value: int) -> bytes:
    """A variable-length quantity, by the book."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def chunk(body: bytes) -> bytes:
    return b"MTrk" + struct.pack(">I", len(body)) + body


def midi(*bodies: bytes, kind: int = 1, division: int = 480) -> bytes:
    head = b"MThd" + struct.pack(">IHHH", 6, kind, len(bodies), division)
    return head + b"".join(map(chunk, bodies))


END = b"\0\xff\x2f\0"
NOTE = b"\0\x90\x3c\x40" + number(480) + b"\x80\x3c\0"  # middle C, one beat


def name(text: str) -> bytes:
    return b"\0\xff\x03" + number(len(text)) + text.encode()


def metre(top: int, power: int, delta: int = 0) -> bytes:
    return number(delta) + bytes([0xFF, 0x58, 4, top, power, 24, 8])


def tempo(micros: int, delta: int = 0) -> bytes:
    return number(delta) + b"\xff\x51\x03" + micros.to_bytes(3, "big")


def tune(pitches: list[int], channel: int = 0, beats: float = 1.0) -> bytes:
    length = number(int(480 * beats))
    return b"".join(
        bytes([0, 0x90 | channel, p, 64]) + length + bytes([0x80 | channel, p, 0]) for p in pitches
    )


def one_line(error: pytest.ExceptionInfo[MediaError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 330
    return text


# --- pieces


def composed(seed: int) -> Piece:
    """Anything a Piece can be: unisons inside held notes, tempo changes, pedals that touch."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 300))
    bar = float(rng.choice([1.5, 2, 3, 3.5, 4, 6]))
    rows = 1 + int(rng.integers(0, 6))
    pedal = np.sort(rng.choice(np.arange(200 * 480), 2 * rows, replace=False) / 480).reshape(-1, 2)
    pedal[1:, 0] = np.where(rng.random(rows - 1) < 0.5, pedal[:-1, 1], pedal[1:, 0])
    changes = np.sort(rng.choice(np.arange(1, 100 * 480), rows, replace=False)) / 480
    bpm = 60e6 / rng.integers(60_000, 2_000_000, rows + 1)
    return Piece.of(
        rng.uniform(0, 200, count),
        rng.choice([0.25, 0.5, 1.0, 1 / 3, 7.7, 30.0], count),
        rng.integers(57, 64, count),  # few keys: they are struck again while they sound
        rng.integers(1, 128, count),
        rng.integers(0, 2, count) if seed % 3 else seed % 2,
        tempo=np.stack([np.concatenate([[0.0], changes]), bpm], 1),
        beats_per_bar=bar,
        bars=int(240 / bar) + int(rng.integers(0, 3)),
        pedal=pedal,
    )


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scores in the public domain as music21 writes them, a track a part."""
    from music21 import corpus

    folder = tmp_path_factory.mktemp("scores")
    written = {}
    for title in CORPUS:
        written[title] = folder / f"{title.replace('/', '-')}.mid"
        corpus.parse(title).write("midi", fp=written[title])
    return written


def rows(piece: Piece) -> list[tuple[int, ...]]:
    """Every note in ticks, sorted."""
    on, off = np.rint(piece.onset / TICK), np.rint(piece.offset / TICK)
    table = np.stack([on, piece.pitch, off, piece.velocity, piece.voice], 1)
    return sorted(map(tuple, table.astype(int).tolist()))


def assert_same(first: Piece, second: Piece) -> None:
    """Every note within a tick, all else exactly."""
    assert len(first) == len(second)
    a = np.array(rows(first))
    b = np.array(rows(second))
    assert np.abs(a - b).max() <= 1
    assert (a[:, [1, 3, 4]] == b[:, [1, 3, 4]]).all()
    assert (first.bars, first.beats_per_bar) == (second.bars, second.beats_per_bar)
    assert np.allclose(first.tempo[:, 0], second.tempo[:, 0], atol=TICK)
    assert np.allclose(60e6 / first.tempo[:, 1], 60e6 / second.tempo[:, 1], atol=0.51)
    assert first.pedal.shape == second.pedal.shape
    assert np.allclose(first.pedal, second.pedal, atol=TICK)


# --- round trips


@pytest.mark.parametrize("seed", range(12))
def test_a_composed_piece_comes_back(seed: int) -> None:
    piece = composed(seed)
    back = decode_midi(encode_midi(piece, {}))
    assert_same(piece, back)
    assert np.allclose(piece.tempo[:, 1], back.tempo[:, 1], rtol=1e-9), "whole microseconds"
    assert abs(piece.seconds - back.seconds) < 1e-3
    again = encode_midi(back, {})
    assert decode_midi(again).onset.tolist() == back.onset.tolist()
    assert encode_midi(decode_midi(again), {}) == again, "nothing drifts"


@pytest.mark.parametrize("title", CORPUS)
def test_a_real_score_comes_back(title: str, scores: dict[str, Path]) -> None:
    piece = load_midi(scores[title])
    assert len(piece) > 90
    assert {MELODY, ACCOMPANIMENT} == set(piece.voice.tolist())
    assert_same(piece, decode_midi(encode_midi(piece, {})))


@pytest.mark.parametrize("title", CORPUS)
def test_the_same_notes_as_another_reader(title: str, scores: dict[str, Path]) -> None:
    piece = load_midi(scores[title])
    other = symusic.Score(scores[title])
    beat = other.ticks_per_quarter
    found = [
        (round(note.start / beat, 3), note.pitch, round(note.end / beat, 3), note.velocity)
        for track in other.tracks
        for note in track.notes
    ]
    onset, offset = piece.onset, piece.offset
    pitches, velocities = piece.pitch.tolist(), piece.velocity.tolist()
    mine = zip(onset.round(3).tolist(), pitches, offset.round(3).tolist(), velocities, strict=True)
    assert np.allclose(sorted(mine), sorted(found), atol=0.002)


def test_other_readers_read_what_is_written() -> None:
    piece = composed(4)
    data = encode_midi(piece, {"affect": {"x": "y" * 40_000}, "parameters": "a\nb"})
    theirs = symusic.Score.from_midi(data)
    found = [
        (note.start, note.pitch, note.end, note.velocity, int(track.name != "melody"))
        for track in theirs.tracks  # one for each channel of a voice
        for note in track.notes
    ]
    assert theirs.ticks_per_quarter == 480
    assert sorted(found) == rows(piece)
    file = mido.MidiFile(file=io.BytesIO(data))
    assert (file.type, file.ticks_per_beat) == (1, 480)
    assert [track.name for track in file.tracks] == ["Affect Studio", "melody", "accompaniment"]
    assert abs(file.length - piece.seconds) < 0.01
    programs = [m.program for track in file.tracks for m in track if m.type == "program_change"]
    assert set(programs) == {0}
    longest = max(len(m.text) for m in file.tracks[0] if m.type == "text")
    assert longest < 2**16, "some players hold a text in 16 bits"
    pedals = [m for m in file.tracks[1] if m.type == "control_change" and m.control == 64]
    assert pedals


def test_a_unison_inside_a_held_note_keeps_both_lengths() -> None:
    """On one channel no reader could tell which of the two notes a release ends."""
    piece = Piece.of([0, 1, 1.5], [4, 1, 1], 60, [50, 90, 70], voice=ACCOMPANIMENT)
    back = decode_midi(encode_midi(piece, {}))
    assert back.duration.tolist() == [4, 1, 1]
    assert back.velocity.tolist() == [50, 90, 70]


def test_bars_survive_rests_and_held_notes() -> None:
    for bars, length in ((1, 6.0), (4, 2.0), (9, 3.0)):
        piece = Piece.of([0.0], [length], 60, bars=bars)
        assert decode_midi(encode_midi(piece, {})).bars == bars
    silent = Piece.of([], [], [], bars=2)
    with pytest.raises(MediaError, match="no notes"):
        decode_midi(encode_midi(silent, {}))


def test_same_piece_same_bytes() -> None:
    piece = composed(2)
    records = {"affect": {"b": 1, "a": [2]}, "digital_source": TRAINED}
    shuffled = {"digital_source": TRAINED, "affect": {"a": [2], "b": 1}}
    assert encode_midi(piece, records) == encode_midi(replace(piece), shuffled)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"beats_per_bar": 3.3}, "beats_per_bar: a multiple of 1/16"),
        ({"beats_per_bar": 0.25}, "beats_per_bar"),
        ({"tempo": 2000.0}, "tempo: 4 to 1000"),
        ({"tempo": 2.0}, "tempo: 4 to 1000"),
    ],
)
def test_what_midi_cannot_hold_is_told(change: dict[str, Any], says: str) -> None:
    with pytest.raises(MediaError, match=says) as error:
        encode_midi(Piece.of([0.0], [1.0], 60, **change), {})
    one_line(error)


# --- what a file means


def test_running_status_velocity_zero_and_no_end_of_track() -> None:
    body = b"\0\x90\x3c\x40\x60\x3e\x41\x60\x3c\0\x60\x3e\0"
    piece = decode_midi(midi(body, division=96))
    assert piece.pitch.tolist() == [60, 62]
    assert piece.onset.tolist() == [0, 1]
    assert piece.duration.tolist() == [2, 2]


def test_notes_that_are_never_let_go_end_with_the_next() -> None:
    told: list[str] = []
    body = b"\0\x90\x40\x40" + number(240) + b"\x90\x41\x40" + END
    piece = decode_midi(midi(body), remarks=told)
    assert piece.duration.tolist() == [0.5, 1]
    assert "2 notes are never let go" in told[0]


def test_a_note_of_no_length_lasts_a_tick() -> None:
    piece = decode_midi(midi(b"\0\x90\x3c\x40\0\x80\x3c\0" + END))
    assert piece.duration.tolist() == [TICK]


def test_drums_are_dropped_and_told() -> None:
    told: list[str] = []
    piece = decode_midi(midi(tune([60]), tune([36, 38], channel=9)), remarks=told)
    assert piece.pitch.tolist() == [60]
    assert told == ["2 notes of drums are left out"]
    with pytest.raises(MediaError, match="drums only"):
        decode_midi(midi(tune([36], channel=9)))


def test_the_metre_that_lasts_longest_holds() -> None:
    told: list[str] = []
    body = metre(4, 2) + tune([60] * 4) + metre(3, 2) + tune([62] * 30) + metre(6, 3) + tune([64])
    piece = decode_midi(midi(body), remarks=told)
    assert piece.beats_per_bar == 3, "6/8 is three quarter notes as well"
    assert "metre changes; 3/4, 89% of it" in told[0]


def test_a_pickup_stays_and_bar_lines_are_the_main_metres() -> None:
    told: list[str] = []
    body = tempo(500_000) + metre(1, 2) + tune([67]) + tempo(400_000) + metre(4, 2) + tune([60] * 8)
    piece = decode_midi(midi(body), remarks=told)
    assert piece.beats_per_bar == 4
    assert piece.onset.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert piece.tempo.tolist() == [[0, 120], [4, 150]]
    assert piece.bars == 3
    assert "pickup" in told[-1]


def test_a_track_called_melody_is_the_melody() -> None:
    high, low = tune([80, 81, 83]), tune([50, 52, 53])
    piece = decode_midi(midi(name("Strings") + high, name("Lead Vocal") + low))
    assert sorted(piece.pitch[piece.voice == MELODY].tolist()) == [50, 52, 53]
    piece = decode_midi(midi(name("Violin") + high, name("Cello") + low))
    assert sorted(piece.pitch[piece.voice == MELODY].tolist()) == [80, 81, 83]


def test_the_highest_line_of_a_choir_is_the_melody(scores: dict[str, Path]) -> None:
    """A chorale: the soprano, by its name, and the same from the pitches alone."""
    from music21 import corpus

    soprano = [n.pitch.midi for n in corpus.parse("bach/bwv66.6").parts[0].flatten().notes]
    data = scores["bach/bwv66.6"].read_bytes()
    for found in (data, data.replace(b"Soprano", b"Voxx   ")):
        piece = decode_midi(found)
        melody = piece.pitch[piece.voice == MELODY].tolist()
        assert set(melody) == set(soprano)
        assert abs(len(melody) - len(soprano)) <= 3, "tied notes are one"


def test_one_track_gets_its_skyline() -> None:
    """A tune over broken chords, with a rest in which only the bass sounds."""
    song = [(0, 1, 76), (1, 1, 74), (2, 2, 72), (6, 1, 74), (7, 1, 76)]
    under = [(i / 2, 0.5, 48 + 7 * (i % 2)) for i in range(16)]
    table = np.array(sorted(song + under))
    mask = skyline(table[:, 0], table[:, 1], table[:, 2])
    assert [tuple(row) for row in table[mask].tolist()] == [tuple(map(float, r)) for r in song]


def test_a_held_key_does_not_hide_the_tune() -> None:
    """Under a key that stays down the tune goes on after a beat; broken chords never join it."""
    table = np.array([(0, 4, 76), (1.5, 1, 74), (2.5, 1, 72), (2, 1, 55), (3, 1, 48)])
    table = table[np.lexsort((table[:, 2], table[:, 0]))]
    mask = skyline(table[:, 0], table[:, 1], table[:, 2])
    assert table[mask, 2].tolist() == [76, 74, 72]


def test_channels_of_format_0_are_parts() -> None:
    body = tune([80]) + tune([50, 52], channel=1)
    piece = decode_midi(midi(body, kind=0))
    assert piece.voice.tolist() == [MELODY, ACCOMPANIMENT, ACCOMPANIMENT]


def test_the_fullest_sixteen_of_many_parts_are_kept() -> None:
    told: list[str] = []
    piece = decode_midi(midi(*(tune([40 + i] * (i + 1)) for i in range(20))), remarks=told)
    assert piece.pitch.min() == 44
    assert told == ["the 16 fullest of 20 parts are kept"]


def test_smpte_time_is_seconds() -> None:
    """25 frames a second of 40 ticks: a tick is a millisecond, whatever a tempo mark says."""
    division = (256 - 25) << 8 | 40
    body = tempo(1_000_000) + b"\0\x90\x3c\x40" + number(1500) + b"\x80\x3c\0" + END
    piece = decode_midi(midi(body, division=division))
    assert piece.seconds_at(piece.offset).tolist() == pytest.approx([1.5])


def test_riff_wrapped_midi() -> None:
    data = midi(NOTE + END)
    wrapped = b"RIFF" + struct.pack("<I", len(data) + 12) + b"RMIDdata"
    assert len(decode_midi(wrapped + struct.pack("<I", len(data)) + data)) == 1


def test_pedals_of_all_channels_are_one() -> None:
    press, lift = b"\0\xb0\x40\x7f", number(960) + b"\xb0\x40\0"
    later = number(480) + b"\xb1\x40\x40" + number(960) + b"\xb1\x40\x3f"
    piece = decode_midi(midi(NOTE + END, press + lift + END, later + END))
    assert piece.pedal.tolist() == [[0, 3]]


def test_silence_of_a_sequencer_is_cut_and_a_closing_rest_kept() -> None:
    body = tune([60] * 8)
    end = b"\xff\x2f\0"
    assert decode_midi(midi(body + number(480 * 8) + end)).bars == 4
    assert decode_midi(midi(body + number(480 * 800) + end)).bars == 2
    assert decode_midi(midi(body + number(480) + end)).bars == 2, "the end mark alone fills no bar"


# --- hostile files

HOUR = 480 * 120 * 60  # ticks at 120 beats a minute
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no MIDI file"),
    "text": (b"hello, I am no MIDI file", "no MIDI file"),
    "header only": (b"MThd\0\0\0\6\0\1\0\1\1\xe0", "damaged"),
    "half a header": (b"MThd\0\0\0\6\0\1", "damaged"),
    "empty RMID": (b"RIFF\4\0\0\0RMID", "damaged"),
    "no notes": (midi(END), "no notes"),
    "division 0": (midi(NOTE, division=0), "division 0"),
    "smpte of 77 frames": (midi(NOTE, division=(256 - 77) << 8 | 40), "division"),
    "smpte of no ticks": (midi(NOTE, division=(256 - 25) << 8), "division"),
    "400 tracks": (midi(*[NOTE + END] * 400), "at most 256 tracks, this has 400"),
    "format 2": (midi(NOTE, kind=2), "format 2"),
    "format 7": (midi(NOTE, kind=7), "damaged"),
    "no tracks": (midi(), "damaged"),
    "10 hours": (midi(NOTE + number(10 * HOUR) + NOTE[1:] + END), "lasts 10.0 hours"),
    "10 hours by one note": (
        midi(b"\0\x90\x3c\x40" + number(10 * HOUR) + b"\x80\x3c\0" + END),
        "lasts 10.0 hours",
    ),
    "the longest delta": (midi(NOTE + b"\xff\xff\xff\x7f" + NOTE[1:], division=1), "weeks"),
    "a delta of five bytes": (midi(NOTE + b"\xff\xff\xff\xff\x7f" + NOTE[1:]), "damaged"),
    "a delta and no event": (midi(NOTE + b"\0"), "damaged"),
    "no status": (midi(b"\0\x3c\x40"), "damaged"),
    "a system message": (midi(b"\0\xf4\0" + NOTE), "damaged"),
    "a pitch of 200": (midi(b"\0\x90\xc8\x40" + NOTE), "damaged"),
    "a text past the end": (midi(NOTE + b"\0\xff\x01\x7fab"), "damaged"),
    "a track past the end": (midi(NOTE)[:-1], "damaged"),
    "a track too few": (midi(NOTE, NOTE)[: -len(chunk(NOTE))], "damaged"),
    "6 MB": (midi(NOTE) + bytes(6 * 2**20), "may have 5 MB"),
    "all at once": (midi(b"\0\x90\x3c\x40\0\x80\x3c\0" * (MAX_NOTES + 1)), "100,000 notes"),
    "never let go": (midi(b"\0\x90\x3c\x40" * (MAX_NOTES + 1)), "100,000 notes"),
    "in every track": (midi(*[NOTE * 1000] * 101), "100,000 notes"),
}
TAKEN: dict[str, bytes] = {
    "tempo 0": midi(tempo(0) + NOTE),
    "tempo of a microsecond": midi(tempo(1) + NOTE + tempo(0xFFFFFF) + NOTE),
    "0/4": midi(metre(0, 2) + NOTE),
    "255/255": midi(metre(255, 255) + NOTE),
    "255/64": midi(metre(255, 6) + NOTE),
    "1/64": midi(metre(1, 6) + NOTE),
    "metres mid-bar": midi(b"".join(metre(top, 2, 100) + NOTE for top in range(2, 40))),
    "short metas": midi(b"\0\xff\x58\0\0\xff\x51\0\0\xff\x03\0" + NOTE),
    "a metre after the end": midi(NOTE + metre(3, 2, 2**27)),
    "a tempo after the end": midi(NOTE + tempo(400_000, 2**27)),
    "an end after weeks": midi(NOTE + b"\xff\xff\xff\x7f\xff\x2f\0"),
    "releases alone": midi(b"\0\x80\x3c\0\0\x90\x3d\0" + NOTE),
    "sysex": midi(b"\0\xf0\x03abc\0\xf7\x01a" + NOTE),
    "rubbish behind": midi(NOTE) + b"rubbish",
    "a foreign chunk": midi(NOTE)[:14] + b"XFIH\0\0\0\2ab" + midi(NOTE)[14:],
    "a longer header": b"MThd" + struct.pack(">IHHHH", 8, 1, 1, 480, 7) + chunk(NOTE),
    "a tick a beat": midi(b"\0\x90\x3c\x40\x01\x80\x3c\0", division=1),
    "32,767 ticks a beat": midi(NOTE, division=32_767),
    "pedal down for ever": midi(b"\0\xb0\x40\x7f" + NOTE),
    "256 tracks": midi(*[NOTE + END] * 256),
    "100,000 notes": midi(b"\0\x90\x3c\x40\0\x80\x3c\0" * MAX_NOTES),
    "a name of bytes": midi(b"\0\xff\x03\x04\xff\xfe\0\n" + NOTE),
}


def assert_sane(piece: Piece) -> None:
    assert 0 < len(piece) <= MAX_NOTES
    assert np.isfinite(piece.onset).all()
    assert (piece.duration > 0).all()
    assert 0.5 <= piece.beats_per_bar <= 64
    assert 1 <= piece.bars <= 10**6
    assert 3.5 < piece.tempo[:, 1].min() <= piece.tempo[:, 1].max() <= 1000
    assert float(piece.seconds_at(piece.offset.max())) <= 3600 + 20  # a pickup of a slow bar
    assert (piece.pedal[:, 1] > piece.pedal[:, 0]).all()
    if len(piece) < 1000:
        assert_same(piece, decode_midi(encode_midi(piece, {})))


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    data, says = REFUSED[case]
    path = tmp_path / "bad\n\x1b[31m.mid"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(MediaError) as error:
        load_midi(path)
    assert says in one_line(error)
    assert "\x1b" not in str(error.value)
    assert time.perf_counter() - start < 8.0  # alone on a core well under a second


@pytest.mark.parametrize("case", TAKEN)
def test_odd_files_become_sane_pieces(case: str) -> None:
    assert_sane(decode_midi(TAKEN[case]))


def test_what_is_left_out_is_told() -> None:
    for case, says in (("tempo 0", "1 tempo marks above 1000"), ("0/4", "1 metres that no music")):
        told: list[str] = []
        decode_midi(TAKEN[case], remarks=told)
        assert says in " ".join(told)


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Cut short, bits flipped, bytes replaced, parts swapped or repeated."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        bad = bytearray(data)
        if i % 4 == 0:
            yield bytes(bad[: int(rng.integers(len(bad)))])
            continue
        for at in rng.integers(8, len(bad), int(rng.integers(1, 12))):
            if i % 4 == 1:
                bad[at] ^= 1 << int(rng.integers(8))
            elif i % 4 == 2:
                bad[at] = int(rng.choice([0, 0x7F, 0x80, 0x90, 0xF0, 0xFF, rng.integers(256)]))
            else:
                to = int(rng.integers(8, len(bad)))
                bad[at : at + 9] = bad[to : to + int(rng.integers(20))]
        yield bytes(bad)


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_crash_the_reader(seed: int, tmp_path: Path, scores: dict[str, Path]) -> None:
    base = scores["schoenberg/opus19/movement2"].read_bytes()
    ours = encode_midi(composed(seed), {"affect": {"a": 1}, "parameters": "p"})
    path = tmp_path / "x.mid"
    taken, refused = 0, []
    for data in (*mutants(base, 100, seed), *mutants(ours, 100, seed)):
        path.write_bytes(data)
        for reader in (load_midi, read_metadata):
            try:
                found = reader(path)
            except MediaError as error:
                refused.append(str(error))
            else:
                if isinstance(found, Piece):
                    assert_sane(found)
                    taken += 1
    assert taken > 10
    assert len(refused) > 100
    assert not [text for text in refused if "\n" in text or len(text) > 330]


def test_a_three_minute_piece_is_read_in_no_time() -> None:
    rng = np.random.default_rng(0)
    piece = Piece.of(rng.uniform(0, 360, 1500), 1.0, rng.integers(40, 80, 1500))
    data = encode_midi(piece, {})
    start = time.perf_counter()
    decode_midi(data)
    assert time.perf_counter() - start < 1.0  # 20 ms alone on a core


# --- records

HOSTILE = {
    "plain": "a mountain lake",
    "control": "".join(map(chr, range(32))) + "\x7f\x85\u202e\ufeff",
    "unicode": "日本語 Ünïcödé 🌊 \U0010ffff \u2028",
    "64 kB": "x\u00e9\n" * 21_846,
    "lone surrogate": "half \ud83d of a character",
    "mimic": "affect 1/1 {} parameters x DigitalSourceType: http://evil",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("source", [TRAINED, COMPOSITE])
def test_records_come_back_as_they_were(text: str, source: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "affect": {"prompt": text, "deep": [1, 2.5, None, {"x": True}]},
        "parameters": "a lake\nSteps: 20, Seed: 7, Model: é",
        "digital_source": source,
    }
    path = tmp_path / "take.mid"
    path.write_bytes(encode_midi(composed(1), given))
    assert read_metadata(path) == given == read_midi_metadata(path)
    assert_same(load_midi(path), composed(1))


def test_a_file_from_elsewhere_has_no_records(scores: dict[str, Path]) -> None:
    assert read_metadata(scores[CORPUS[0]]) == {}


def test_other_programs_see_that_it_is_synthetic() -> None:
    data = encode_midi(composed(1), {"digital_source": TRAINED})
    file = mido.MidiFile(file=io.BytesIO(data))
    line = next(m.text for m in file.tracks[0] if m.type == "copyright")
    assert line.startswith("Synthetic: made by Affect Studio.")
    assert TRAINED in line


def test_records_survive_another_program(tmp_path: Path) -> None:
    """Whoever opens and saves a file with these libraries keeps what it says about itself."""
    given = {"affect": {"x": "y" * 40_000}, "parameters": "p", "digital_source": TRAINED}
    path = tmp_path / "take.mid"
    data = encode_midi(composed(1), given)
    mido.MidiFile(file=io.BytesIO(data)).save(path)
    assert read_metadata(path) == given


def test_a_lost_part_leaves_no_half_record(tmp_path: Path) -> None:
    path = tmp_path / "take.mid"
    data = encode_midi(composed(1), {"affect": {"x": "y" * 40_000}})
    assert data.count(b"affect ") == 3
    path.write_bytes(data.replace(b"affect 2/3 ", b"effect 2/3 "))
    assert read_metadata(path) == {}


@pytest.mark.parametrize("record", ["[1, 2]", "not json", "[" * 15_000, "NaN"])
def test_hostile_records_are_refused(record: str, tmp_path: Path) -> None:
    text = b"affect 1/1 " + record.encode()
    path = tmp_path / "x.mid"
    path.write_bytes(midi(b"\0\xff\x01" + number(len(text)) + text + NOTE))
    with pytest.raises(MediaError, match="no JSON object") as error:
        read_metadata(path)
    one_line(error)
