"""Notes in and out: an untrusted MIDI file to a Piece, a Piece with its records to a MIDI file.

Standard MIDI Files 1.0 (MIDI Manufacturers Association 1996), formats 0 and 1, also wrapped as
RMID. The reader is our own walk over the bytes, bounded at every step: parsers in C++ are faster
but take the whole process down when hostile bytes reach a fault of theirs. A three-minute piece
takes milliseconds either way. Tempo, velocity, pedal (controller 64) and both voices survive a
round trip exactly, notes to within one tick of 1/480 beat.

The records lie in the first track at tick 0: text events `affect i/n {...}` and `parameters ...`,
and a copyright line that names the DigitalSourceType. No record holds a time, so the same piece
with the same records is the same bytes. This file deliberately knows neither tokens nor emotions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.piece import ACCOMPANIMENT, MELODY, VOICES, Piece
from adapters.voices import find_melody
from pipelines.media_records import (
    MediaError,
    check_size,
    damaged,
    found_records,
    joined_parts,
    printable,
    read_input,
    record_bytes,
    record_parts,
)

MAX_BYTES = 5 * 2**20
MAX_SECONDS = 3600.0
MAX_TRACKS = 256
MAX_PARTS = 16  # of a score that are kept: an orchestra's sections, and as many as MIDI channels
MAX_NOTES = 100_000
TICKS = 480  # to the beat, written; divides into triplets, and into 64ths
BPM = (60e6 / 0xFFFFFF, 1000.0)  # the slowest that 24 bits hold; the fastest that is music
BAR = (0.5, 64.0)  # beats: from 1/8 to what a Piece holds

_DRUMS = 9  # channel 10 of General MIDI
_PEDAL = 64  # controller number of the sustain pedal
# Channels of each voice. A key that is struck while it sounds (two parts in unison) goes to the
# next one, or no reader could tell which of the two notes a release ends.
_CHANNELS = ((0, 2, 4, 6, 8, 11, 13), (1, 3, 5, 7, 10, 12, 14))
_TEXT_BYTES = 16_000  # of JSON in one text event: some players hold a meta event in 16 bits
_TEXT, _COPYRIGHT, _NAME, _INSTRUMENT = 0x01, 0x02, 0x03, 0x04
_END, _TEMPO, _METRE = 0x2F, 0x51, 0x58
_SOURCE = re.compile(rb"DigitalSourceType: (\S{1,200})")
_FRAMES = {24: 24.0, 25: 25.0, 29: 30_000 / 1001, 30: 30.0}  # SMPTE frames a second

Floats = NDArray[np.float64]


@dataclass(slots=True)
class _Track:
    """What one track says; times in ticks."""

    name: str = ""
    notes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """(on, off, pitch, velocity, channel); off -1 where the key is never let go."""
    pedal: list[tuple[int, int, bool]] = field(default_factory=list)
    """(tick, channel, down)"""
    tempo: list[tuple[int, int]] = field(default_factory=list)
    """(tick, microseconds a quarter note)"""
    metres: list[tuple[int, int, int]] = field(default_factory=list)
    """(tick, numerator, power of the denominator)"""
    end: int = 0


def load_midi(path: Path | str, remarks: list[str] | None = None) -> Piece:
    """Read an untrusted MIDI file.

    Drums are dropped. One metre holds throughout, the one that lasts longest; bar lines are its,
    so a pickup is kept and silence is put before it. The melody is the track that is called so,
    else the highest of several that sound one note at a time, else the highest notes.

    Args:
        path: a file of at most 5 MB, an hour, 256 tracks and 100,000 notes.
        remarks: what was left out or taken for granted is appended here, a line each.

    Raises:
        MediaError: no MIDI file, too large, damaged, or without notes.
    """
    path = Path(path)
    return decode_midi(read_input(path, MAX_BYTES, "MIDI files"), printable(path), remarks)


def decode_midi(data: bytes, name: str = "MIDI", remarks: list[str] | None = None) -> Piece:
    """Read an untrusted MIDI file in memory, as `load_midi` does; `name` is for the error."""
    check_size(len(data), MAX_BYTES, "MIDI files", name)
    told = [] if remarks is None else remarks
    ticks, chunks = _chunks(data, name)
    tracks: list[_Track] = []
    count = 0
    for chunk in chunks:
        try:
            track = _read_track(chunk, MAX_NOTES - count)
        except (IndexError, ValueError) as error:
            raise MediaError(damaged(name)) from error
        count += len(track.notes)
        if count > MAX_NOTES:
            msg = f"{name}: at most {MAX_NOTES:,} notes, this has more; cut it into shorter files"
            raise MediaError(msg)
        tracks.append(track)
    ours = len(tracks) == 3 and tuple(track.name for track in tracks[1:]) == VOICES
    timed = ticks > 0
    # SMPTE ticks are fractions of a second: two beats a second then say the same
    beat = ticks if timed else -ticks / 2
    tempo = _tempo_map([t for track in tracks for t in track.tempo], beat, told) if timed else None
    tempo = np.array([[0.0, 120.0]]) if tempo is None else tempo

    rows, parts = _notes(tracks, name, told)
    onset, release = rows[:, 0] / beat, rows[:, 1] / beat
    held = np.flatnonzero(rows[:, 1] < 0)
    if len(held):
        starts = np.append(np.unique(onset), np.inf)
        following = starts[np.searchsorted(starts, onset[held], side="right")]
        release[held] = np.minimum(following, onset[held] + 1.0)
        told.append(f"{len(held)} notes are never let go; they last until the next, or a beat")
    duration = np.maximum(release - onset, 1 / TICKS)
    last = float((onset + duration).max())
    _check_length(last, tempo, name)

    changes = sorted(m for track in tracks for m in track.metres) if timed else []
    bar, first = _metre([(at / beat, top, power) for at, top, power in changes], last, told)
    shift = -first % bar
    shift = 0.0 if min(shift, bar - shift) < 1 / TICKS else shift
    if shift:
        told.append(f"it starts with a pickup; {shift:g} beats of silence are put before it")
    onset += shift
    tempo[1:, 0] += shift
    filled = (last + shift) / bar - 1e-6
    bars = max(1, int(np.ceil(filled)))
    end = max(track.end for track in tracks) / beat + shift
    if ours and tracks[0].end / beat > onset.max():
        bars = max(1, round(tracks[0].end / beat / bar))
    elif end <= 2 * (last + shift):  # a longer silence is left over from a sequencer's window
        bars = max(bars, int(end / bar + 1e-6))

    pedal = _pedals(tracks, beat) + shift
    if ours:
        voice = np.where(rows[:, 5] == 1, MELODY, ACCOMPANIMENT)
    else:
        tune = find_melody(onset, duration, rows[:, 2], rows[:, 5], parts)
        voice = np.where(tune, MELODY, ACCOMPANIMENT)
    pitch, velocity = rows[:, 2].astype(np.int16), rows[:, 3].astype(np.int16)
    keep = tempo[:, 0] < max(bars * bar, last + shift)
    return Piece.of(
        onset,
        duration,
        pitch,
        velocity,
        voice,
        tempo=tempo[keep],
        beats_per_bar=bar,
        bars=bars,
        pedal=pedal,
    )


def encode_midi(piece: Piece, metadata: Mapping[str, Any]) -> bytes:
    """Write a piece with its records: format 1, tracks for time, melody and accompaniment, piano.

    Args:
        piece: its beats_per_bar a multiple of 1/16, its tempo 4 to 1,000 quarter notes a minute.
        metadata: any of `affect` (JSON object, or its text), `parameters`, `digital_source` (str).

    Raises:
        MediaError: a metre or tempo that MIDI cannot hold, or an `affect` record over 1 MB.
    """
    timing = [(0, _meta(_NAME, b"Affect Studio"))]
    timing += [(0, _meta(kind, text)) for kind, text in _texts(metadata)]
    timing += [(0, _metre_event(piece.beats_per_bar))]
    for at, bpm in piece.tempo.tolist():
        if not BPM[0] <= bpm <= BPM[1]:
            msg = f"tempo: 4 to {BPM[1]:g} quarter notes a minute, received {bpm:g}; change it"
            raise MediaError(msg)
        micros = min(round(60e6 / bpm), 0xFFFFFF)
        timing.append((round(at * TICKS), _meta(_TEMPO, micros.to_bytes(3, "big"))))
    last = float(piece.offset.max()) if len(piece) else 0.0
    if max(piece.beats, last) * TICKS >= 2**28:  # what one delta time holds
        msg = f"piece: {piece.beats:g} beats are too long for MIDI; write a shorter piece"
        raise MediaError(msg)
    tracks = [_track_chunk(timing, round(piece.beats * TICKS))]
    for voice, name in enumerate(VOICES):
        events = _voice_events(piece, voice, name.encode())
        tracks.append(_track_chunk(events, round(piece.beats * TICKS)))
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), TICKS) + b"".join(tracks)


def read_midi_metadata(path: Path | str) -> dict[str, Any]:
    """What a MIDI file says about itself, as `encode_midi` was given it; no note is decoded.

    Raises:
        MediaError: no MIDI file, damaged, or an `affect` record that is no JSON object.
    """
    path = Path(path)
    name = printable(path)
    _, chunks = _chunks(read_input(path, MAX_BYTES, "MIDI files"), name)
    parameters, source, texts = "", "", []
    try:
        for tick, status, payload in _events(chunks[0]):
            if tick:
                break
            if status == 0xFF00 | _TEXT and payload.startswith(b"affect "):
                texts.append(payload)
            elif status == 0xFF00 | _TEXT and payload.startswith(b"parameters "):
                parameters = payload.removeprefix(b"parameters ").decode("utf-8", "replace")
            elif status == 0xFF00 | _COPYRIGHT and (found := _SOURCE.search(payload)):
                source = found[1].decode("ascii", "replace")
    except (IndexError, ValueError) as error:
        raise MediaError(damaged(name)) from error
    return found_records(joined_parts(texts), parameters, source, name)


def is_midi(magic: bytes) -> bool:
    """Whether the first 12 bytes are those of a MIDI file, wrapped as RMID or not."""
    return magic.startswith(b"MThd") or (magic[:4] == b"RIFF" and magic[8:12] == b"RMID")


# --- reading


def _chunks(data: bytes, name: str) -> tuple[float, list[bytes]]:
    """Ticks to the beat (or minus ticks a second, for SMPTE) and the bodies of all tracks."""
    if not is_midi(data[:12]):
        msg = f"{name}: its content is no MIDI file, whatever its name says; give a .mid file"
        raise MediaError(msg)
    start = data.find(b"MThd", 0, 2**16)
    if start < 0 or len(data) < start + 14:
        raise MediaError(damaged(name))
    length, kind, count, division = struct.unpack_from(">IHHH", data, start + 4)
    if length < 6 or kind > 2 or not count:
        raise MediaError(damaged(name))
    if kind == 2:
        msg = f"{name}: MIDI format 2 holds separate patterns; export it as format 0 or 1"
        raise MediaError(msg)
    if count > MAX_TRACKS:
        msg = f"{name}: at most {MAX_TRACKS} tracks, this has {count}; keep the ones that matter"
        raise MediaError(msg)
    ticks = float(division)
    if division & 0x8000:
        frames = _FRAMES.get(256 - (division >> 8), 0.0)
        ticks = -frames * (division & 0xFF)
    if not ticks:
        msg = f"{name}: its header says nothing sane about time (division {division}); export again"
        raise MediaError(msg)
    bodies: list[bytes] = []
    at = start + 8 + length
    while at + 8 <= len(data) and len(bodies) < count:
        tag, length = struct.unpack_from(">4sI", data, at)
        if tag == b"MTrk":
            if at + 8 + length > len(data):
                raise MediaError(damaged(name))
            bodies.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    if len(bodies) < count:
        raise MediaError(damaged(name))
    return ticks, bodies


def _events(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(tick, status, data) of every event; meta events have status 0xFF00 + kind.

    Raises:
        IndexError, ValueError: the bytes are no events.
    """
    at, tick, running, size = 0, 0, 0, len(body)
    while at < size:
        delta, at = _number(body, at)
        tick += delta
        status = body[at]
        if status < 0x80:
            status = running
        else:
            at += 1
        if 0x80 <= status < 0xF0:
            running = status
            width = 1 if 0xC0 <= status < 0xE0 else 2
            payload = body[at : at + width]
            if len(payload) < width or max(payload) > 127:
                raise ValueError
            at += width
        elif status in (0xFF, 0xF0, 0xF7):
            if status == 0xFF:
                status = 0xFF00 | body[at]
                at += 1
            length, at = _number(body, at)
            if at + length > size:
                raise ValueError
            payload = body[at : at + length]
            at += length
        else:
            raise ValueError
        yield tick, status, payload
        if status == 0xFF00 | _END:
            return


def _number(body: bytes, at: int) -> tuple[int, int]:
    """A variable-length number of at most four bytes and the place behind it."""
    value = 0
    for _ in range(4):
        byte = body[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    raise ValueError


def _read_track(body: bytes, most: int) -> _Track:
    """All that matters of one track; stops reading behind `most` + 1 notes."""
    track = _Track()
    sounding: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for tick, status, payload in _events(body):
        track.end = tick
        kind, channel = status & 0xF0, status & 0x0F
        if status < 0x100 and kind in (0x80, 0x90):
            pitch, velocity = payload
            struck = sounding.setdefault((channel, pitch), [])
            if kind == 0x90 and velocity:
                struck.append((tick, velocity))
            elif struck:  # the oldest first
                on, velocity = struck.pop(0)
                track.notes.append((on, tick, pitch, velocity, channel))
                if len(track.notes) > most:
                    return track
        elif status < 0x100 and kind == 0xB0 and payload[0] == _PEDAL:
            track.pedal.append((tick, channel, payload[1] >= 64))
        elif status == 0xFF00 | _TEMPO and len(payload) >= 3:
            track.tempo.append((tick, int.from_bytes(payload[:3], "big")))
        elif status == 0xFF00 | _METRE and len(payload) >= 2:
            track.metres.append((tick, payload[0], payload[1]))
        elif status in (0xFF00 | _NAME, 0xFF00 | _INSTRUMENT):
            text = payload[:200].decode("utf-8", "replace")
            track.name = f"{track.name} {text}".strip()
    for (channel, pitch), struck in sounding.items():
        track.notes += [(on, -1, pitch, velocity, channel) for on, velocity in struck]
    return track


def _notes(tracks: list[_Track], name: str, told: list[str]) -> tuple[Floats, dict[int, str]]:
    """(n, 6) on, off, pitch, velocity, channel, part; the name of each part that has notes."""
    rows = np.array(
        [(*note, index) for index, track in enumerate(tracks) for note in track.notes],
        dtype=np.float64,
    ).reshape(-1, 6)
    drums = rows[:, 4] == _DRUMS
    if drums.all():
        what = "drums only; give one with pitched notes" if len(rows) else "no notes; give another"
        msg = f"{name}: a MIDI file with {what}"
        raise MediaError(msg)
    if drums.any():
        told.append(f"{drums.sum()} notes of drums are left out")
        rows = rows[~drums]
    names = {int(part): tracks[int(part)].name for part in np.unique(rows[:, 5])}
    if len(names) == 1:  # format 0: the parts are its channels, and its name is the piece's
        (only,) = names
        ours = names[only] in VOICES
        if not ours:
            rows[:, 5] = rows[:, 4]
            names = {int(part): "" for part in np.unique(rows[:, 5])}
    if len(names) > MAX_PARTS:
        parts, counts = np.unique(rows[:, 5], return_counts=True)
        kept = parts[np.argsort(-counts, kind="stable")[:MAX_PARTS]]
        rows = rows[np.isin(rows[:, 5], kept)]
        told.append(f"the {MAX_PARTS} fullest of {len(names)} parts are kept")
        names = {int(part): names[int(part)] for part in np.sort(kept)}
    return rows, names


def _tempo_map(changes: list[tuple[int, int]], beat: float, told: list[str]) -> Floats:
    """(m, 2) rows of beat and bpm, the first at beat 0; what is no tempo is left out."""
    tempo = {0: 120.0}
    broken = 0
    for tick, micros in sorted(changes, key=lambda change: change[0]):
        bpm = 60e6 / micros if micros else np.inf
        if bpm <= BPM[1]:
            tempo[tick] = bpm
        else:
            broken += 1
    if broken:
        told.append(f"{broken} tempo marks above {BPM[1]:g} a minute are left out")
    rows = np.array(sorted(tempo.items()), dtype=np.float64)
    rows[:, 0] /= beat
    changed = np.concatenate([[True], rows[1:, 1] != rows[:-1, 1]])
    return np.asarray(rows[changed])


def _check_length(last: float, tempo: Floats, name: str) -> None:
    seconds = float(Piece.of([0.0], [1.0], 60, tempo=tempo).seconds_at(last))
    if seconds > MAX_SECONDS:
        long = f"{seconds / 3600:.1f} hours" if seconds < 1e6 else "weeks"
        msg = f"{name}: at most {MAX_SECONDS / 3600:g} hour of music, this lasts {long}; cut it"
        raise MediaError(msg)


def _metre(
    changes: list[tuple[float, int, int]], last: float, told: list[str]
) -> tuple[float, float]:
    """Beats to the bar of the metre that lasts longest, and a beat at which one of its bars starts.

    changes: (beat, numerator, power of the denominator), ascending.
    """
    spans: list[tuple[float, float]] = [(0.0, 4.0)]  # (start, beats to the bar)
    written = {4.0: "4/4"}
    broken = 0
    for at, top, power in changes:
        bar = top * 4 / 2**power if power <= 6 else 0.0
        if not BAR[0] <= bar <= BAR[1]:
            broken += 1
            continue
        written.setdefault(bar, f"{top}/{2**power}")
        if spans[-1][0] == at:
            spans.pop()
        if at < last and not (spans and spans[-1][1] == bar):
            spans.append((at, bar))
    if broken:
        told.append(f"{broken} metres that no music has are left out")
    ends = [start for start, _ in spans[1:]] + [last]
    total: dict[float, float] = {}
    for (start, bar), end in zip(spans, ends, strict=True):
        total[bar] = total.get(bar, 0.0) + end - start
    main = max(total, key=lambda bar: total[bar])
    if len(total) > 1:
        share = total[main] / last
        told.append(f"the metre changes; {written[main]}, {share:.0%} of it, holds throughout")
    longest = max(
        (span for span in zip(spans, ends, strict=True) if span[0][1] == main),
        key=lambda span: span[1] - span[0][0],
    )
    return main, longest[0][0]


def _pedals(tracks: list[_Track], beat: float) -> Floats:
    """(p, 2) beats at which the pedal of any channel is down; touching ones stay apart."""
    by_channel: dict[int, list[tuple[int, bool]]] = {}
    for track in tracks:
        for tick, channel, down in track.pedal:
            if channel != _DRUMS:
                by_channel.setdefault(channel, []).append((tick, down))
    end = max(track.end for track in tracks)
    held: list[tuple[int, int]] = []
    for presses in by_channel.values():
        start = -1
        for tick, down in [*sorted(presses, key=lambda press: press[0]), (end, False)]:
            if down and start < 0:
                start = tick
            elif not down and start >= 0:
                held.append((start, tick))
                start = -1
    return _joined(np.array(sorted(held), dtype=np.float64).reshape(-1, 2)) / beat


def _joined(spans: Floats) -> Floats:
    """Sorted spans with overlapping ones made one and empty ones left out."""
    kept: list[list[float]] = []
    for start, end in spans.tolist():
        if end <= start:
            continue
        if kept and start < kept[-1][1]:
            kept[-1][1] = max(kept[-1][1], end)
        else:
            kept.append([start, end])
    return np.array(kept, dtype=np.float64).reshape(-1, 2)


# --- writing


def _texts(metadata: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    """(kind of meta event, bytes) of the records."""
    if source := str(metadata.get("digital_source", "")):
        line = f"Synthetic: made by Affect Studio. DigitalSourceType: {source}"
        yield _COPYRIGHT, line.encode("ascii", "replace")
    if parameters := str(metadata.get("parameters", "")):
        yield _TEXT, b"parameters " + parameters.encode("utf-8", "replace")
    for part in record_parts(record_bytes(metadata), _TEXT_BYTES):
        yield _TEXT, part


def _metre_event(beats_per_bar: float) -> bytes:
    for power in (2, 3, 4, 5, 6):
        top = beats_per_bar * 2 ** (power - 2)
        if top == int(top) and 1 <= top <= 255 and BAR[0] <= beats_per_bar <= BAR[1]:
            # 24 MIDI clocks to the beat: a metronome click on each note of the denominator
            return _meta(_METRE, bytes([int(top), power, 96 >> power or 1, 8]))
    msg = (
        f"beats_per_bar: a multiple of 1/16 from {BAR[0]:g} to {BAR[1]:g}, "
        f"received {beats_per_bar:g}; choose a metre that can be written"
    )
    raise MediaError(msg)


def _voice_events(piece: Piece, voice: int, name: bytes) -> list[tuple[int, bytes]]:
    """(tick, bytes) of one voice, in order."""
    mine = piece.select(piece.voice == voice)
    on = np.rint(mine.onset * TICKS).astype(np.int64)
    off = np.maximum(np.rint(mine.offset * TICKS).astype(np.int64), on + 1)
    free = [dict[int, int]() for _ in _CHANNELS[voice]]  # of each channel: pitch -> tick
    timed: list[tuple[int, int, bytes]] = []  # the second: releases, pedal up, down, strikes
    used = 1
    for start, end, pitch, velocity in zip(
        on.tolist(), off.tolist(), mine.pitch.tolist(), mine.velocity.tolist(), strict=True
    ):
        layer = next((i for i, ends in enumerate(free) if ends.get(pitch, 0) <= start), 0)
        free[layer][pitch] = end
        used = max(used, layer + 1)
        channel = _CHANNELS[voice][layer]
        timed.append((start, 4, bytes([0x90 | channel, pitch, velocity])))
        timed.append((end, 2, bytes([0x80 | channel, pitch, 0])))
    channels = _CHANNELS[voice][:used]
    pedal = _joined(np.rint(piece.pedal[np.argsort(piece.pedal[:, 0], kind="stable")] * TICKS))
    for down, up in pedal.astype(np.int64).tolist():
        timed += [(down, 1, bytes([0xB0 | c, _PEDAL, 127])) for c in channels]
        timed += [(up, 0, bytes([0xB0 | c, _PEDAL, 0])) for c in channels]
    timed.sort(key=lambda event: event[:2])
    head = [(0, _meta(_NAME, name))]
    head += [(0, bytes([0xC0 | channel, 0])) for channel in channels]  # program 1, a grand piano
    return head + [(tick, event) for tick, _, event in timed]


def _track_chunk(events: list[tuple[int, bytes]], end: int) -> bytes:
    """A track chunk of events in order; it ends at tick `end`, or later when an event does."""
    body = bytearray()
    last = 0
    for tick, event in [*events, (max([end, *(tick for tick, _ in events)]), _meta(_END, b""))]:
        body += _variable(tick - last) + event
        last = tick
    return b"MTrk" + struct.pack(">I", len(body)) + bytes(body)


def _meta(kind: int, payload: bytes) -> bytes:
    return bytes([0xFF, kind]) + _variable(len(payload)) + payload


def _variable(value: int) -> bytes:
    """A number as MIDI's variable-length quantity."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))
