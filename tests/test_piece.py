"""A piece: sorting, checks, the time map, cutting, joining, transposing, the pedal."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.piece import ACCOMPANIMENT, MELODY, Piece, PieceError


def small() -> Piece:
    return Piece.of(
        [4, 0, 1, 5],
        [1, 1, 4, 0.5],
        [60, 72, 64, 60],
        [70, 80, 60, 50],
        [ACCOMPANIMENT, MELODY, ACCOMPANIMENT, ACCOMPANIMENT],
        tempo=[[0, 60], [4, 120]],
        pedal=[[0, 3]],
    )


def test_notes_are_sorted_with_all_that_belongs_to_them() -> None:
    piece = small()
    assert piece.onset.tolist() == [0, 1, 4, 5]
    assert piece.pitch.tolist() == [72, 64, 60, 60]
    assert piece.velocity.tolist() == [80, 60, 70, 50]
    assert piece.voice.tolist() == [MELODY, ACCOMPANIMENT, ACCOMPANIMENT, ACCOMPANIMENT]
    assert (piece.bars, len(piece)) == (2, 4)


def test_seconds_follow_the_tempo_map_and_back() -> None:
    piece = small()
    assert piece.seconds_at([0, 4, 6]).tolist() == [0, 4, 5]
    assert piece.seconds == pytest.approx(6.0)
    beats = np.linspace(0, 8, 33)
    np.testing.assert_allclose(piece.beats_at(piece.seconds_at(beats)), beats, atol=1e-12)


def test_a_cut_keeps_its_tempo_and_ends_what_is_held() -> None:
    second = small().between(1, 2)
    assert second.onset.tolist() == [0, 1]
    assert second.tempo.tolist() == [[0, 120]]
    first = small().between(0, 1)
    assert first.duration.tolist() == [1, 3]
    assert first.seconds == pytest.approx(4.0)
    assert len(second.pedal) == 0


def test_cut_and_joined_it_is_whole_again() -> None:
    piece = small()
    whole = piece.between(0, 1).then(piece.between(1, 2))
    assert whole.onset.tolist() == piece.onset.tolist()
    assert whole.pitch.tolist() == piece.pitch.tolist()
    assert whole.seconds == pytest.approx(piece.seconds)
    with pytest.raises(PieceError, match="join pieces of one metre"):
        piece.then(Piece.of([0], 1, 60, beats_per_bar=3))


def test_transposing_stays_on_the_keyboard() -> None:
    piece = Piece.of([0, 1, 2], 1, [0, 60, 127])
    assert piece.transposed(5).pitch.tolist() == [5, 65, 120]
    assert piece.transposed(-3).pitch.tolist() == [9, 57, 124]
    assert piece.transposed(0).pitch.tolist() == [0, 60, 127]


def test_the_pedal_holds_and_a_new_stroke_ends() -> None:
    held = Piece.of([0, 1, 2], 0.5, [60, 64, 60], pedal=[[0, 3]])
    assert held.sounding().tolist() == [2.0, 2.0, 1.0]
    dry = Piece.of([0, 1, 2], 0.5, [60, 64, 60])
    assert dry.sounding().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "tells"),
    [
        ({"duration": 0}, "longer than 0"),
        ({"onset": [-1.0]}, "0 or later"),
        ({"onset": [float("nan")]}, "finite"),
        ({"pitch": [128]}, "0 to 127"),
        ({"velocity": [0]}, "1 to 127"),
        ({"pitch": [60, 61]}, "one value a note"),
        ({"tempo": [[1, 60]]}, "first at beat 0"),
        ({"tempo": [[0, 0]]}, "bpm above 0"),
        ({"beats_per_bar": 0}, "beats_per_bar"),
    ],
)
def test_what_is_no_piece_is_one_line(change: dict, tells: str) -> None:
    given = {"onset": [0.0], "duration": 1.0, "pitch": [60], **change}
    with pytest.raises(PieceError, match=tells) as told:
        Piece.of(**given)
    assert "\n" not in str(told.value)


def test_no_notes_are_a_piece_of_one_silent_bar() -> None:
    piece = Piece.of([], [], [])
    assert (len(piece), piece.bars, piece.seconds) == (0, 1, 2.0)
    assert piece.sounding().tolist() == []
