"""The form: bars that fill the seconds, phrases that return, cadences, and modes of chords."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.music_form import PHRASE, cadence_chords, form_of, plan_bars


@pytest.mark.parametrize("seconds", [2.0, 7.3, 30.0, 61.7, 600.0])
@pytest.mark.parametrize("tempo", [40.0, 96.0, 208.0])
def test_bars_fill_the_seconds_exactly(seconds: float, tempo: float) -> None:
    bars, tempos = plan_bars(seconds, lambda _: tempo)
    assert len(tempos) == bars
    assert np.sum(240.0 / tempos) == pytest.approx(seconds, abs=1e-9)
    if bars >= 8:
        assert np.abs(tempos / tempo - 1).max() < 0.07


def test_tempo_follows_its_course_bar_by_bar() -> None:
    bars, tempos = plan_bars(40.0, lambda second: 60.0 if second < 20 else 120.0)
    lines = np.cumsum(240.0 / tempos)
    early, late = tempos[lines <= 18], tempos[lines - 240.0 / tempos >= 22]
    assert late.mean() / early.mean() == pytest.approx(2.0, rel=0.02)
    assert bars == len(tempos)


def test_pieces_of_every_length_have_a_whole_form() -> None:
    for bars in range(1, 80):
        form = form_of(bars)
        assert len(form) == bars
        assert form[-1].cadence == "final"
        assert sum(one.cadence == "final" for one in form) == 1
        for index, one in enumerate(form):
            assert one.source is None or one.source < index
            assert one.source is None or not one.cadence
        starts = [index for index, one in enumerate(form) if one.place == 0]
        assert all(form[start - 1].cadence for start in starts[1:])


def test_a_theme_returns_and_is_answered() -> None:
    form = form_of(16)
    letters = "".join(one.letter for one in form[::PHRASE])
    assert letters == "aaba"
    assert [one.source for one in form[12:14]] == [0, 1]
    assert form[3].cadence == "half"
    assert form[7].cadence == "authentic"
    assert {one.letter for one in form_of(16, form="through")} == set("abcd")
    assert all(one.source is None for one in form_of(16, form="through"))


def test_a_continued_piece_brings_its_first_theme_back() -> None:
    form = form_of(16, lead=8)
    assert form[0].letter != "a"
    returned = [one.source for one in form if one.source is not None and one.source < 8]
    assert returned
    assert min(returned) >= 4


def test_cadences_are_those_of_the_mode() -> None:
    form = form_of(8)
    half, approach, final = form[3], form[6], form[7]
    assert cadence_chords(half, False) == (None, "V")
    assert cadence_chords(approach, False) == ("IV", "V")
    assert cadence_chords(approach, True) == ("iv", "V")
    assert cadence_chords(final, True) == ("i", "i")


def test_no_bars_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="bars: at least 1, received 0"):
        form_of(0)
