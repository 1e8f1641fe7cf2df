"""Pieces of emotion curves hold the same values; joins, shifts and presets."""

import json

import numpy as np
import pytest

from adapters.curves import JUMP, SHIPPED, TOLERANCE, cut, join, preset, presets, shifted
from adapters.emotion import CORE, Emotion, EmotionError, EmotionTimeline

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


# Presets


@pytest.mark.parametrize("name", list(presets()))
@pytest.mark.parametrize("emotion", [*CORE, "neutral", "happiness .5 + fear .4"])
def test_every_preset_of_every_emotion_is_a_curve_no_stronger_than_asked(name, emotion):
    asked = Emotion.parse(emotion)
    curve = preset(name, asked, 6.0)
    assert curve.duration <= 6.0
    states = curve.sample(np.linspace(0, 6, 61))
    assert states.sum(axis=1).max() <= asked.intensity + 1e-5
    assert EmotionTimeline.parse(curve.text) == curve


def test_the_shipped_table_passes_the_check_of_ones_own():
    curve = preset(f"{SHIPPED}:recover", Emotion.of("fear", 0.8), 4)
    assert curve == preset("recover", Emotion.of("fear", 0.8), 4)


def test_presets_take_the_course_they_are_named_for():
    fear = Emotion.of("fear", 0.8)
    assert preset("hold", fear, 5) == EmotionTimeline.constant(fear)
    up = preset("escalate", fear, 5)
    assert up.at(0.0).intensity < up.at(2.0).intensity < up.at(5.0).intensity
    assert up.at(5.0).dominant == "anger"
    sad = preset("leap", Emotion.of("sadness", 0.8), 5).at(5.0)
    assert sad.vad[1] > 0.3
    assert sad.vad[0] < 0
    rest = preset("recover", fear, 5)
    assert rest.at(0.0) == fear
    assert rest.at(5.0).dominant == "contentment"
    assert rest.at(5.0).vad[1] < fear.vad[1]


def test_an_emotion_lasts_as_long_as_it_was_seen_to_last():
    starts = {n: preset("drift", Emotion.of(n), 10).keys[1][0] for n in ("fear", "anger", "love")}
    assert starts == {"fear": 5.3, "anger": 4.6, "love": 4.0}
    assert preset("drift", Emotion.parse("fear .4 + love .4"), 10).keys[1][0] == 4.65


def test_a_file_of_ones_own_is_read_again_after_it_was_edited(tmp_path):
    file = tmp_path / "mine.json"
    keys = [{"at": 0, "state": {"self": 0.2}}, {"at": 1, "state": {"calm": 1}}]
    table = {"leads": {"calm": {"fear": {"boredom": 1}}}, "presets": {"dull": {"keys": keys}}}
    file.write_text(json.dumps(table))
    assert preset(f"{file}:dull", Emotion.of("fear", 0.5), 2).text == "0s fear 0.1; 2s boredom 0.5"
    assert preset(str(file), Emotion.of("fear", 0.5), 2).at(2.0).dominant == "boredom"
    keys[1]["at"] = 0.5
    file.write_text(json.dumps(table))
    assert preset(str(file), Emotion.of("fear", 0.5), 2).duration == 1.0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[]", "not like"),
        ('{"presets": {}}', "no presets"),
        ('{"presets": {"a": {"keys": [{"at": 2, "state": {"self": 1}}]}}}', "0 to 1"),
        ('{"presets": {"a": {"keys": [{"at": 0, "state": {"self": 0.8, "leap": 0.8}}]}}}', "more"),
        ('{"presets": {"a": {"keys": [{"at": 0, "state": {"sself": 1}}]}}}', "sself"),
        ('{"presets": {"a": {"keys": [{"at": 0, "states": {}, "state": {}}]}}}', "states"),
        ('{"presets": {"a": {"keys": [{"state": {"self": 1}}]}}}', "at"),
        ('{"leads": {"up": {"joy": {}}}, "presets": {"a": {"keys": []}}}', "joy"),
    ],
)
def test_a_file_with_an_error_is_refused_in_one_line(tmp_path, content, says):
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(EmotionError, match=says) as refused:
        preset(f"{file}:a", Emotion.of("fear"), 2)
    assert "mine.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(EmotionError, match="did you mean escalate"):
        preset("esclate", Emotion.of("fear"), 2)
    with pytest.raises(EmotionError, match="seconds"):
        preset("hold", Emotion.of("fear"), -1)
    with pytest.raises(EmotionError, match=r"nothing\.json cannot be read"):
        preset(f"{tmp_path}/nothing.json:a", Emotion.of("fear"), 2)
    late = {"keys": [{"at": 0.8, "state": {}}, {"at": 0.2, "state": {"self": 1}}]}
    (tmp_path / "late.json").write_text(json.dumps({"presets": {"late": late}}))
    with pytest.raises(EmotionError, match="follow each other"):
        preset(f"{tmp_path}/late.json", Emotion.of("fear"), 2)
