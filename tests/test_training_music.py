"""The recipe of music-tiny: sheets, windows, hidden attributes, a run that resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.music_composer import Composer
from pipelines.music_layout import BAR_CONTROLS, LEFT, PIECE_CONTROLS, Layout, make_tokenizer
from pipelines.music_sheet import chord_code, found_sheet
from training.music import (
    CONTEXT,
    fit_edges,
    ignored_tokens,
    loss_of,
    main,
    make_model,
    padded,
    ready,
    window,
)
from training.music_data import is_held_out, load_sheets, pop909, save_sheets


def song(seed: int, bars: int = 20) -> Piece:
    """Triads under a random walk in C major."""
    rng = np.random.default_rng(seed)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    rows = []
    degree = 7
    for bar in range(bars):
        root = int(rng.choice([0, 3, 4, 5]))
        for beat in range(4):
            degree = int(np.clip(degree + rng.integers(-2, 3), 3, 14))
            pitch = 60 + 12 * (degree // 7) + int(scale[degree % 7])
            rows.append((bar * 4 + beat, 1.0, pitch, MELODY))
        for step in (0, 2, 4):
            tone = root + step
            pitch = 48 + int(scale[tone % 7]) + 12 * (tone // 7)
            rows.append((bar * 4.0, 4.0, pitch, ACCOMPANIMENT))
    onset, length, pitches, voice = zip(*rows, strict=True)
    return Piece.of(onset, length, pitches, 64, voice, tempo=80 + 10 * (seed % 5))


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("music") / "sheets.npz"
    save_sheets(path, [(f"song {seed}", found_sheet(song(seed))) for seed in range(24)])
    return path


def test_sheets_are_kept_exactly(sheets: Path) -> None:
    found = dict(load_sheets(sheets))
    sheet = found_sheet(song(3))
    kept = found["song 3"]
    assert kept.piece.onset.tolist() == sheet.piece.onset.tolist()
    assert kept.piece.pitch.tolist() == sheet.piece.pitch.tolist()
    assert kept.chords.tolist() == sheet.chords.tolist()
    assert (kept.minor, kept.bpm) == (sheet.minor, sheet.bpm)


def test_a_song_is_held_out_by_its_name_alone() -> None:
    share = np.mean([is_held_out(f"{number:03d}") for number in range(2000)])
    assert 0.03 < share < 0.07
    assert is_held_out("007") == is_held_out("007")


def test_a_window_says_what_the_music_is(sheets: Path) -> None:
    layout = Layout(make_tokenizer())
    named = [sheet for _, sheet in load_sheets(sheets)]
    edges = fit_edges(named)
    made = ready(named[0], layout, edges)
    tokens = window(made, 0, layout, None)
    assert len(tokens) <= CONTEXT + 1
    names = {number: name for name, number in layout.tokenizer.vocab.items()}
    said = [names[token] for token in tokens]
    assert [word.split("_")[0] for word in said[: len(PIECE_CONTROLS)]] == list(PIECE_CONTROLS)
    first = said.index("Bar_None")
    assert [word.split("_")[0] for word in said[first + 1 : first + 7]] == list(BAR_CONTROLS)
    assert said[-1] == "Bar_None"  # a song that fits is read to its end
    assert sum(word.startswith("Left") for word in said) == LEFT
    notes = layout.notes(made.notes[0])
    assert len(notes) == 7


def test_attributes_are_hidden_whole_and_the_manner_never(sheets: Path) -> None:
    layout = Layout(make_tokenizer())
    named = [sheet for _, sheet in load_sheets(sheets)]
    made = ready(named[0], layout, fit_edges(named))
    unknown = {int(ids[-1]) for name, ids in layout.control.items() if name != "Source"}
    rng = np.random.default_rng(0)
    rows = [window(made, 0, layout, rng) for _ in range(200)]
    bare = sum(unknown <= set(row) and _all_hidden(row, layout) for row in rows)
    assert 8 < bare < 40  # a tenth
    source = int(layout.control["Source"][-1])
    assert not any(source in row for row in rows)


def _all_hidden(row: list[int], layout: Layout) -> bool:
    known = {int(i) for n, ids in layout.control.items() if n != "Source" for i in ids[:-1]}
    return not known & set(row)


def test_given_tokens_are_not_learned(sheets: Path) -> None:
    layout = Layout(make_tokenizer())
    named = [sheet for _, sheet in load_sheets(sheets)]
    made = ready(named[0], layout, fit_edges(named))
    torch.manual_seed(0)
    model = make_model(layout.size, width=64, layers=1)
    tokens = padded([window(made, 0, layout, None)], layout.pad)
    ignored = ignored_tokens(layout)
    loss_of(model, tokens, ignored).backward()
    other = tokens.clone()
    place = int((other[0] == layout.control["Density"][0]).nonzero()[0]) if (
        other[0] == layout.control["Density"][0]
    ).any() else len(PIECE_CONTROLS) + 1  # fmt: skip
    assert bool(ignored[other[0, place]])
    assert not bool(ignored[layout.chord[1]])
    assert not bool(ignored[layout.bar])


def test_a_run_learns_stops_and_goes_on_as_if_it_had_not(sheets: Path, tmp_path: Path) -> None:
    given = ["--sheets", str(sheets), "--width", "64", "--layers", "1", "--batch", "4"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    model = tmp_path / "model"
    main([*given, "--run", str(whole), "--steps", "40", "--out", str(model)])
    losses = [json.loads(line)["loss"] for line in (whole / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    composer = Composer.load(model, device="cpu")
    assert sum(p.numel() for p in composer.model.parameters()) < 200_000
    main([*given, "--run", str(halves), "--steps", "20"])
    main([*given, "--run", str(halves), "--steps", "40"])
    again = [json.loads(line)["step"] for line in (halves / "log.jsonl").read_text().splitlines()]
    assert again == [20, 40]


def test_pop909_is_read_with_its_beats_keys_and_chords(tmp_path: Path) -> None:
    import symusic

    score = symusic.Score(480)
    for name, pitches in (("MELODY", (67, 69, 71, 72)), ("PIANO", (55, 59, 62, 55))):
        track = symusic.Track(name)
        for bar in range(12):
            for step, pitch in enumerate(pitches):
                start = 960 * (bar * 4 + step) // 2
                track.notes.append(symusic.Note(start, 240, pitch, 80))
        score.tracks.append(track)
    score.tempos.append(symusic.Tempo(0, 60.0))
    score.dump_midi(str(tmp_path / "001.mid"))
    beats = [f"{i * 1.0} {float(i % 2 == 0)} {float(i % 4 == 0)}" for i in range(48)]
    (tmp_path / "001_beat_midi.txt").write_text("\n".join(beats))
    (tmp_path / "001_key_audio.txt").write_text("0.0\t48.0\tG:maj\n")
    (tmp_path / "001_chord_midi.txt").write_text("0.0\t24.0\tG:maj\n24.0\t48.0\tD:7/3\n")
    found = list(pop909(tmp_path))
    assert len(found) == 1
    name, sheet = found[0]
    assert name == "001"
    assert sheet.bpm == pytest.approx(60.0)
    assert sheet.piece.bars == 12
    assert sheet.piece.pitch[sheet.piece.voice == MELODY][:4].tolist() == [72, 74, 76, 77]
    assert sheet.chords[0].tolist() == [chord_code(0, "maj")] * 2
    assert sheet.chords[-1].tolist() == [chord_code(7, "7")] * 2
