"""Music for the composer: POP909, Bach's chorales and music21's scores as sheets in C.

A sheet is what the composer sees (`music_layout.Sheet`): quantised to sixteenths by the set's own
beats, moved to tonic C, with a chord for each half bar. POP909 (Wang et al. 2020, MIT) brings
beats, keys and chords; for scores the key and the chords are found (`adapters.tonality`). Sets
that may not train shipped weights (EMOPIA, VGMIDI, Pop1K7, ASAP) have no reader here on purpose.

It deliberately does not know tokens or models. Parsed sheets are kept in one npz file, because
reading 400 scores with music21 takes minutes.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.music_sheet import STEPS, Sheet, chord_code, found_sheet, in_c, on_page

HELD_OUT = 20  # every 20th song of a set is for validation
SHORTEST = 8  # bars
ROOTS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# POP909's chord symbols as our eight qualities; what is not listed is taken by its first letters.
SHORT = {
    "maj": "maj", "maj6": "maj", "min": "min", "min6": "min", "minmaj7": "min", "7": "7",
    "maj7": "maj7", "min7": "min7", "sus2": "sus", "sus4": "sus", "sus4(b7)": "sus",
    "dim": "dim", "dim7": "dim", "hdim7": "dim", "aug": "aug",
}  # fmt: skip
# Scores whose texture a piano can play. Song collections without accompaniment are left out.
COMPOSERS = ("bach", "beethoven", "chopin", "corelli", "handel", "haydn", "joplin", "mozart",
             "schubert", "schumann_clara", "schumann_robert")  # fmt: skip


def pitch_class(name: str) -> int:
    """0..11 of a note name such as F#, Bb."""
    return (ROOTS[name[0]] + name.count("#") - name.count("b")) % 12


# POP909 ------------------------------------------------------------------------------------------


def pop909(folder: Path) -> Iterator[tuple[str, Sheet]]:
    """Every stretch of one key and metre of every song, at least eight bars long."""
    for path in sorted(folder.rglob("*.mid")):
        beats = np.loadtxt(path.with_name(f"{path.stem}_beat_midi.txt"))
        if len(beats) < 33:
            continue
        yield from ((path.stem, sheet) for sheet in _song(path, beats))


def _song(path: Path, beats: np.ndarray) -> Iterator[Sheet]:
    notes = _tracks(path)
    at = beats[:, 0]
    # The second flag marks bars of four beats or, in the few triple songs, pairs of threes.
    bars = np.flatnonzero(beats[:, 2] > 0)
    if len(bars) < 3:
        return
    per_bar = int(np.bincount(np.diff(bars)).argmax())
    if per_bar == 6:
        per_bar = 3
    if per_bar not in (3, 4):
        return
    keys = [line.split() for line in path.with_name(f"{path.stem}_key_audio.txt").open()]
    chords = [line.split() for line in path.with_name(f"{path.stem}_chord_midi.txt").open()]
    downbeats = bars[0] % per_bar
    lead = -(-int(downbeats) // per_bar) * per_bar - int(downbeats)  # beats before the first bar

    def beat(seconds: Any) -> Any:
        seconds = np.asarray(seconds, dtype=float)
        step = np.median(np.diff(at))
        inside = np.interp(seconds, at, np.arange(len(at)))
        inside = np.where(seconds < at[0], (seconds - at[0]) / step, inside)
        inside = np.where(seconds > at[-1], len(at) - 1 + (seconds - at[-1]) / step, inside)
        return inside + lead

    onset, end = beat(notes["start"]), beat(notes["end"])
    keep = onset > -0.125
    total = int(np.ceil(end.max() / per_bar)) if len(end) else 0
    piece = Piece.of(
        np.maximum(onset[keep], 0), np.maximum(end - onset, 1 / STEPS)[keep],
        notes["pitch"][keep], notes["velocity"][keep], notes["track"][keep],
        tempo=float(60 / np.median(np.diff(at))), beats_per_bar=per_bar, bars=total,
    )  # fmt: skip
    piece = on_page(_melody_of_tracks(piece))
    halves = np.zeros((total, 2), dtype=np.int16)
    middle = (np.arange(total * 2) * per_bar / 2 + per_bar / 4).reshape(total, 2)
    for start, stop, symbol in chords:
        code = _pop_chord(symbol)
        low, high = beat([float(start), float(stop)])
        halves[(middle >= low) & (middle < high)] = code
    for start, stop, name in keys:
        low, high = beat([float(start), float(stop)])
        first = 0 if len(keys) == 1 else int(np.ceil(max(low, 0) / per_bar - 0.25))
        last = total if len(keys) == 1 else min(total, int(high / per_bar + 0.25))
        if last - first < SHORTEST:
            continue
        root, mode = name.split(":")
        yield in_c(piece.between(first, last), halves[first:last], pitch_class(root), mode)


def _tracks(path: Path) -> dict[str, np.ndarray]:
    """Start and end in seconds, pitch, velocity, track (0 tune, 1 bridge, 2 piano) of all notes."""
    import symusic

    score = symusic.Score(str(path)).to("second")
    order = {"MELODY": 0, "BRIDGE": 1, "PIANO": 2}
    rows = [
        (note.time, note.time + note.duration, note.pitch, max(1, note.velocity), order[track.name])
        for track in score.tracks
        if track.name in order
        for note in track.notes
    ]
    columns = np.array(rows, dtype=float).reshape(-1, 5).T
    names = ("start", "end", "pitch", "velocity", "track")
    return dict(zip(names, columns, strict=True))


def _melody_of_tracks(piece: Piece) -> Piece:
    """The sung tune is the melody; where it rests for a bar, the bridge is."""
    bar = piece.bar_of()
    sung = np.zeros(max(piece.bars, int(bar.max(initial=0)) + 1), dtype=bool)
    sung[bar[piece.voice == 0]] = True
    tune = (piece.voice == 0) | ((piece.voice == 1) & ~sung[bar])
    return replace(piece, voice=np.where(tune, MELODY, ACCOMPANIMENT).astype(np.int16))


def _pop_chord(symbol: str) -> int:
    if symbol == "N":
        return 0
    root, quality = symbol.split("/")[0].split(":")
    return chord_code(pitch_class(root), SHORT.get(quality, "maj"))


# Scores ------------------------------------------------------------------------------------------


def scores() -> Iterator[tuple[str, Sheet]]:
    """music21's public-domain scores with two or more parts, by COMPOSERS."""
    from music21 import corpus

    for name in COMPOSERS:
        for path in corpus.getComposer(name):
            try:
                piece = score_piece(path)
            except Exception as error:  # a few files of the corpus do not parse
                print(f"{path}: {type(error).__name__}")
                continue
            if piece is None or piece.bars < SHORTEST:
                continue
            yield f"{name}/{Path(str(path)).stem}", found_sheet(piece, source=1)


def score_piece(path: Any) -> Piece | None:
    """A score as a piece: the top part is the melody. None for one part or an odd metre."""
    from music21 import converter, meter, tempo

    score = converter.parse(path)
    parts = list(score.parts)
    if len(parts) < 2:
        return None
    signatures = list(parts[0].recurse().getElementsByClass(meter.TimeSignature))
    per_bar = float(signatures[0].barDuration.quarterLength) if signatures else 4.0
    if per_bar not in (3.0, 4.0, 2.0) or len({s.ratioString for s in signatures}) > 1:
        return None
    first = parts[0].getElementsByClass("Measure").first()
    pickup = per_bar - float(first.duration.quarterLength) if first is not None else 0.0
    rows = []
    for index, part in enumerate(parts):
        for element in part.flatten().notes:
            length = float(element.duration.quarterLength)
            if length <= 0:
                continue
            for pitch in element.pitches:
                at = float(element.offset) + (pickup if pickup > 0 else 0.0)
                rows.append((at, length, pitch.midi, MELODY if index == 0 else ACCOMPANIMENT))
    if len(rows) < 40:
        return None
    marks = list(score.recurse().getElementsByClass(tempo.MetronomeMark))
    bpm = float(marks[0].getQuarterBPM() or 90.0) if marks else 90.0
    onset, length, pitch, voice = zip(*rows, strict=True)
    bars = 2 * per_bar if per_bar == 2.0 else per_bar  # two bars of 2/4 are one of 4/4
    return Piece.of(onset, length, pitch, 64, voice, tempo=bpm, beats_per_bar=bars)


# One file ----------------------------------------------------------------------------------------


def save_sheets(path: Path, named: Sequence[tuple[str, Sheet]]) -> None:
    """Keep sheets in one npz file."""
    arrays: dict[str, Any] = {}
    facts = []
    for index, (name, sheet) in enumerate(named):
        p = sheet.piece
        grid = np.stack([np.rint(p.onset * STEPS), np.rint(p.duration * STEPS), p.pitch, p.voice])
        arrays[f"n{index}"] = grid.astype(np.int32)
        arrays[f"c{index}"] = sheet.chords
        facts.append([name, p.bars, p.beats_per_bar, sheet.minor, sheet.source, sheet.bpm])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, facts=np.array(json.dumps(facts)), **arrays)


def load_sheets(path: Path) -> list[tuple[str, Sheet]]:
    """Read what `save_sheets` kept."""
    found = []
    with np.load(path) as data:
        for index, row in enumerate(json.loads(str(data["facts"]))):
            name, bars, per_bar, minor, source, bpm = row
            onset, length, pitch, voice = data[f"n{index}"]
            piece = Piece.of(
                onset / STEPS, length / STEPS, pitch, 64, voice,
                tempo=bpm, beats_per_bar=per_bar, bars=bars,
            )  # fmt: skip
            found.append((name, Sheet(piece, minor, data[f"c{index}"], source, bpm)))
    return found


def is_held_out(name: str) -> bool:
    """Whether a song is for validation: by its name, so that adding songs changes no split."""
    import hashlib

    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the sets of a music data folder into one file of sheets."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with pop909.tar.gz")
    parser.add_argument("--out", type=Path, default=Path(".work/music/sheets.npz"))
    parser.add_argument("--scores", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args(argv)
    raw = given.out.parent / "raw"
    if not (raw / "pop909").exists():
        with tarfile.open(given.data / "pop909.tar.gz") as archive:
            archive.extractall(raw, filter="data")
    named = list(pop909(raw / "pop909"))
    print(f"POP909: {len(named)} sheets, {sum(s.piece.bars for _, s in named)} bars")
    if given.scores:
        more = list(scores())
        print(f"scores: {len(more)} sheets, {sum(s.piece.bars for _, s in more)} bars")
        named += more
    save_sheets(given.out, named)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
