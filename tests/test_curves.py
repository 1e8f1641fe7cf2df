"""Pieces of emotion curves hold the same values; joins, shifts and presets."""

import numpy as np
import pytest

from adapters.curves import JUMP, TOLERANCE, cut, join, shifted
from adapters.emotion import Emotion, EmotionError, EmotionTimeline

STORM = EmotionTimeline.parse(
    "0s contentment .4; 2s fear .9; 4s awe .7; 9s happiness .2 + love .3; 20s neutral"
)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 2), (1, 3), (0.3, 7.2), (2, 4), (3.99, 4.01), (5, 30), (0, 20)]
)
def test_a_piece_has_the_values_of_the_whole(start, end):
    piece = cut(STORM, start, end)
    times = np.linspace(0, end - start, 401)
    assert np.abs(piece.sample(times) - STORM.sample(times + start)).max() <= TOLERANCE
    assert np.abs(piece.residuals(times) - STORM.residuals(times + start)).max() <= TOLERANCE
    assert len(piece.keys) <= 25
    assert EmotionTimeline.parse(piece.text) == piece


def test_a_cut_at_nothing_is_the_same_timeline():
    assert cut(STORM, 0, 20) == STORM


def test_where_nothing_changes_one_key_is_left():
    assert cut(STORM, 21, 25) == EmotionTimeline.constant(Emotion.neutral())
    constant = EmotionTimeline.parse("fear .9")
    assert cut(constant, 3, 8) == constant


def test_a_cut_keeps_what_goes_over_full_intensity():
    wild = EmotionTimeline.parse("0s fear .4; 4s anger 1.4", over=True)
    piece = cut(wild, 1, 4)
    assert piece.at(3.0).intensity == pytest.approx(1.4)
    times = np.linspace(0, 3, 50)
    assert np.abs(piece.sample(times) - wild.sample(times + 1)).max() <= TOLERANCE


@pytest.mark.parametrize("bounds", [(2, 2), (3, 1), (-1, 2), (0, float("nan"))])
def test_a_cut_of_nothing_is_refused(bounds):
    with pytest.raises(EmotionError, match="start") as refused:
        cut(STORM, *bounds)
    assert "\n" not in str(refused.value)


def test_pieces_joined_again_are_the_whole():
    whole = join([(cut(STORM, 0, 2), 2), (cut(STORM, 2, 7.5), 5.5), (cut(STORM, 7.5, 20), 12.5)])
    times = np.linspace(0, 20, 999)
    assert np.abs(whole.sample(times) - STORM.sample(times)).max() <= 2 * TOLERANCE


def test_curves_that_do_not_meet_jump_at_the_cut():
    parse = EmotionTimeline.parse
    whole = join(
        [(parse("fear .9"), 2), (parse("0s awe .2; 3s love .9"), 2), (parse("love .1"), 1)]
    )
    assert whole.at(2 - JUMP).text == "fear 0.9"
    assert whole.at(2.0).text == "awe 0.2"
    assert whole.at(4.0).text == "love 0.1"
    assert whole.at(1.0).text == "fear 0.9"
    half = parse("0s awe .2; 3s love .9").at(1.0)
    assert whole.at(3.0).array == pytest.approx(half.array, abs=0.02)


def test_parts_without_length_cannot_be_joined():
    with pytest.raises(EmotionError, match="part"):
        join([(STORM, 0.0)])
    with pytest.raises(EmotionError, match="none"):
        join([])


def test_shifting_moves_time_alone():
    times = np.linspace(0, 25, 200)
    later = shifted(STORM, 3)
    assert later.sample(times + 3) == pytest.approx(STORM.sample(times), abs=1e-6)
    assert later.at(1.0) == STORM.at(0.0)
    earlier = shifted(STORM, -3)
    inside = np.linspace(0, 17, 200)
    assert np.abs(earlier.sample(inside) - STORM.sample(inside + 3)).max() <= TOLERANCE
    assert shifted(STORM, -30) == EmotionTimeline.constant(Emotion.neutral())
