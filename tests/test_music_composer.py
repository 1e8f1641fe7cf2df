"""Tokens, sampling and composing, with a tiny random Llama and a real MidiTok tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.music_attributes import ATTRIBUTES
from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.music_composer import Composer, Composition, biases, recast, recast_pitch
from pipelines.music_layout import BAR_CONTROLS, PIECE_CONTROLS, Edges, Layout, make_tokenizer
from pipelines.music_sheet import (
    CHORDS,
    HIGHEST,
    LOWEST,
    STEPS,
    bar_attributes,
    chord_code,
    found_sheet,
    on_page,
    repeats,
)
from training.music import Average, export, make_model

# Ordinary values of the sixteen attributes, in the order of ATTRIBUTES.
ORDINARY = (96, 0.1, 0.85, 62, 36, 5.5, 3.0, 64, 12, 1.0, 0.5, 0.35, 2.5, 0.06, 0.0, 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composer's folder with random weights, written as the recipe writes it."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), width=64, layers=2)
    edges = Edges(
        {
            name: tuple(np.linspace(-1, 1, steps - 1))
            for name, steps in (PIECE_CONTROLS | BAR_CONTROLS).items()
        }
    )
    path = tmp_path_factory.mktemp("music") / "tiny"
    export(model, Average(model, 0.9), tokenizer, edges, path)
    return path


@pytest.fixture(scope="module")
def composer(folder: Path) -> Composer:
    return Composer.load(folder, device="cpu")


def targets(bars: int, **wanted: float) -> np.ndarray:
    """(bars, 16): ordinary music but for what is wanted."""
    rows = np.tile(np.array(ORDINARY, dtype=float), (bars, 1))
    for name, value in wanted.items():
        rows[:, ATTRIBUTES.index(name)] = value
    return rows


def tune(bars: int = 4) -> Piece:
    """A scale over held triads in G major."""
    onset = [bar * 4 + beat for bar in range(bars) for beat in range(4)]
    pitch = [67 + (0, 2, 4, 5)[beat] for _ in range(bars) for beat in range(4)]
    low = [(bar * 4, key) for bar in range(bars) for key in (43, 50, 59)]
    return Piece.of(
        onset + [at for at, _ in low],
        [1.0] * len(onset) + [4.0] * len(low),
        pitch + [key for _, key in low],
        70,
        [MELODY] * len(onset) + [ACCOMPANIMENT] * len(low),
    )


def test_a_page_survives_its_tokens() -> None:
    layout = Layout(make_tokenizer())
    piece = on_page(tune())
    for bar in range(piece.bars):
        part = piece.between(bar, bar + 1)
        notes = layout.notes(layout.bar_tokens(part, [], (1, 1)))
        back = [(at / STEPS, pitch, steps / STEPS, voice) for at, pitch, steps, voice in notes]
        given = zip(part.onset, part.pitch, part.duration, part.voice, strict=True)
        assert sorted(back) == sorted((o, int(p), d, int(v)) for o, p, d, v in given)


def test_the_note_tokens_are_midi_toks() -> None:
    import symusic

    tokenizer = make_tokenizer()
    layout = Layout(tokenizer)
    piece = on_page(tune(1).select(tune(1).voice == MELODY))
    ids = [layout.bar, *layout.voice_tokens(piece)]
    score = tokenizer.decode([ids])
    assert isinstance(score, symusic.core.ScoreTick)
    ticks = score.ticks_per_quarter
    found = [(n.time / ticks, n.pitch, n.duration / ticks) for n in score.tracks[0].notes]
    assert found == list(zip(piece.onset, piece.pitch, piece.duration, strict=True))
    encoded = [token for token in tokenizer.encode(score)[0].tokens if "TimeSig" not in token]
    assert [tokenizer[token] for token in encoded] == ids


def test_the_tokenizer_is_read_back_from_the_folder(folder: Path, composer: Composer) -> None:
    fresh = Layout(make_tokenizer())
    assert composer.layout.size == fresh.size
    assert composer.layout.kind == fresh.kind
    assert {name: ids.tolist() for name, ids in composer.layout.control.items()} == {
        name: ids.tolist() for name, ids in fresh.control.items()
    }


def test_a_bar_is_described_by_its_notes() -> None:
    bars = bar_attributes(on_page(tune()))
    assert bars["Density"].tolist() == [7] * 4
    assert bars["Polyphony"][0] == pytest.approx(4.0)
    assert bars["Contour"][0] > 2
    assert repeats(on_page(tune())).tolist() == [0, 1, 1, 1]


def test_a_sheet_stands_in_c_with_its_chords() -> None:
    sheet = found_sheet(tune())
    assert not sheet.minor
    assert sheet.piece.pitch.min() % 12 == 0
    assert (sheet.chords == chord_code(0, "maj")).mean() > 0.5


@pytest.mark.parametrize("beats", [4.0, 3.0])
def test_every_piece_parses_fills_its_time_and_ends(composer: Composer, beats: float) -> None:
    one = Composition(targets(9), 9 * beats * 60 / 96, seed=3, tonic=7, beats_per_bar=beats)
    piece = composer.compose([one])[0]
    assert piece.bars == 9
    assert piece.seconds == pytest.approx(one.seconds, abs=1e-3)
    assert piece.pitch.min() >= LOWEST
    assert piece.pitch.max() <= HIGHEST
    assert set(np.unique(piece.bar_of())) == set(range(9))
    last = piece.select(piece.bar_of() == 8)
    assert last.offset.max() == pytest.approx(9 * beats)
    assert set((last.pitch % 12).tolist()) <= {7, 11, 2}
    assert (last.pitch[last.voice == MELODY] % 12 == 7).all()


def test_the_same_seed_is_the_same_piece_and_another_is_not(composer: Composer) -> None:
    one = Composition(targets(4), 10.0, seed=5)
    first, again = composer.compose([one]), composer.compose([one])
    other = composer.compose([Composition(targets(4), 10.0, seed=6)])
    assert first[0].pitch.tolist() == again[0].pitch.tolist()
    assert first[0].pitch.tolist() != other[0].pitch.tolist()


def test_a_batch_equals_singles(composer: Composer) -> None:
    ones = [Composition(targets(bars), bars * 2.5, seed=bars, tonic=0) for bars in (2, 5, 4)]
    batch = composer.compose(ones)
    for one, together in zip(ones, batch, strict=True):
        alone = composer.compose([one])[0]
        assert alone.pitch.tolist() == together.pitch.tolist()
        assert alone.onset.tolist() == together.onset.tolist()


def test_a_theme_comes_back(composer: Composer) -> None:
    piece = composer.compose([Composition(targets(16), 40.0, seed=1, tonic=0)])[0]
    bar, melody = piece.bar_of(), piece.voice == MELODY
    same = [
        piece.pitch[(bar == there) & melody].tolist()
        == piece.pitch[(bar == here) & melody].tolist()
        for there, here in ((0, 4), (1, 5), (0, 12), (1, 13))
    ]
    assert sum(same) >= 2


def test_a_pinned_mode_and_the_key_hold(composer: Composer) -> None:
    for mode, third in ((-0.3, 3), (0.3, 4)):
        one = Composition(targets(8, mode=mode, dissonance=0.0), 20.0, seed=2, tonic=0)
        piece = composer.compose([one])[0]
        counts = np.bincount(piece.pitch % 12, minlength=12)
        assert counts[third] > 2 * counts[7 - third]


def test_the_mode_follows_a_course_bar_by_bar(composer: Composer) -> None:
    course = targets(12, dissonance=0.0)
    course[:, ATTRIBUTES.index("mode")] = [0.3] * 3 + [-0.3] * 6 + [0.3, 0.3, 0.3]
    piece = composer.compose([Composition(course, 30.0, seed=8, tonic=0)])[0]
    bar = piece.bar_of()
    for inside, third in ((bar < 3, 4), ((bar >= 3) & (bar < 9), 3), (bar >= 9, 4)):
        counts = np.bincount(piece.pitch[inside] % 12, minlength=12)
        assert counts[third] > counts[7 - third]


def test_a_continuation_follows_what_was_there(composer: Composer) -> None:
    one = Composition(targets(8), 20.0, seed=4, tonic=7, lead=tune(8))
    piece = composer.compose([one])[0]
    assert piece.bars == 8
    assert piece.seconds == pytest.approx(20.0, abs=1e-3)


def test_progress_is_told_and_can_stop_the_work(composer: Composer) -> None:
    class Stop(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def on_bar(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 3:
            raise Stop

    with pytest.raises(Stop):
        composer.compose([Composition(targets(8), 20.0, seed=1)], on_bar)
    assert seen[-1][1] == 8
    assert 3 <= seen[-1][0] < 8


def test_bright_targets_favour_major_chords_and_sour_ones_strange_notes() -> None:
    row, dark = targets(1, mode=0.4)[0], targets(1, mode=-0.4)[0]
    major, minor = chord_code(0, "maj"), chord_code(9, "min")
    bright_chords, _ = biases(row, minor=False)
    dark_chords, _ = biases(dark, minor=False)
    assert bright_chords[major] - bright_chords[minor] > dark_chords[major] - dark_chords[minor]
    _, plain = biases(targets(1, dissonance=0.0)[0], minor=False)
    _, sour = biases(targets(1, dissonance=0.15)[0], minor=False)
    strange = 61 - LOWEST
    assert plain[strange] < sour[strange] < 0
    assert plain[60 - LOWEST] == 0


def test_chords_and_notes_change_mode_and_come_back() -> None:
    assert recast(chord_code(0, "maj"), minor=True) == chord_code(0, "min")
    assert recast(chord_code(9, "min"), minor=True) == chord_code(8, "maj")
    assert recast(chord_code(7, "7"), minor=True) == chord_code(7, "7")
    assert [recast_pitch(recast_pitch(p, True), False) for p in (60, 64, 69, 71)] == [
        60,
        64,
        69,
        71,
    ]
    assert all(0 <= recast(code, minor) < CHORDS for code in range(CHORDS) for minor in (0, 1))


def test_an_adapter_leaves_no_trace(composer: Composer, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    styled = get_peft_model(make_model(composer.layout.size, width=64, layers=2), config)
    styled.save_pretrained(tmp_path / "style")
    one = Composition(targets(3), 8.0, seed=9)
    before = composer.compose([one])[0].pitch.tolist()
    with composer.adapted(tmp_path / "style", 1.0):
        during = composer.compose([one])[0].pitch.tolist()
    assert composer.compose([one])[0].pitch.tolist() == before
    assert during != before
    with composer.adapted(tmp_path / "style", 0.0):
        assert composer.compose([one])[0].pitch.tolist() == before


def test_a_folder_without_controls_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no controls\.json") as told:
        Composer.load(tmp_path)
    assert "\n" not in str(told.value)
