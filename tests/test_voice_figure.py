"""The picture of a converted voice: what is drawn is where and how it should be."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from adapters.emotion import Emotion
from adapters.voice_analysis import Analysis, analyse
from adapters.voice_cues import cue_table
from adapters.voice_expected import with_expected
from pipelines.curve import Curve
from pipelines.drawing import READ
from pipelines.voice_figure import (
    AFTER,
    BEFORE,
    HEIGHT,
    MET,
    MISSED,
    WIDTH,
    draw,
    pitch_range,
    small_pitch,
)
from tests import speech

PLOT = (slice(286, 640), slice(100, 1050))  # where the pitch curves are when emotions are drawn


@pytest.fixture(scope="module")
def before() -> Analysis:
    return analyse(speech.sentence(), 16000)


@pytest.fixture(scope="module")
def after() -> Analysis:
    """The same sentence six semitones higher and half as loud."""
    return analyse(0.5 * speech.sentence(pitch=120 * 2**0.5), 16000)


def near(picture: Image.Image, colour: str, off: int = 14) -> np.ndarray:
    """Where a picture has about this colour, (height, width) bool."""
    wanted = np.array(list(bytes.fromhex(colour.removeprefix("#"))))
    return np.abs(np.asarray(picture).astype(int) - wanted).max(axis=2) <= off


def emotions() -> dict[str, object]:
    times = np.linspace(0, 1.9, 9)
    flat = Curve.of(times, np.full(9, 0.5), np.full(9, -0.5))
    return {"asked": flat, "read": {"critic": flat, "reader": flat}}


def test_a_higher_voice_is_drawn_higher_by_as_much(before: Analysis, after: Analysis) -> None:
    picture = draw(before, after, **emotions())
    assert picture.size == (WIDTH, HEIGHT)
    rows = [np.nonzero(near(picture, colour)[PLOT])[0].mean() for colour in (BEFORE, AFTER)]
    low, high = pitch_range([before, after])
    six = 366 * 6 / (12 * np.log2(high / low))  # the plot has 366 pixels
    assert rows[0] - rows[1] == pytest.approx(six, abs=12)


def test_pitch_stands_at_its_time_and_nowhere_else(before: Analysis) -> None:
    """Only the middle of three vowels is kept: the curve covers its .35 s and no more."""
    x = speech.sentence()
    x[: round(0.75 * 16000)] = 0
    x[round(1.1 * 16000) :] = 0
    alone = analyse(x, 16000)
    columns = np.nonzero(near(draw(alone, alone, **emotions()), AFTER)[PLOT].any(axis=0))[0]
    left, width = 92, 1052 - 92
    start, stop = (left - 100 + width * t / alone.seconds for t in (0.75, 1.1))
    assert columns.min() == pytest.approx(start, abs=25)
    assert columns.max() == pytest.approx(stop, abs=25)


def test_what_was_slowed_down_reaches_further_right(before: Analysis) -> None:
    twice = [speech.sentence(pitch=160.0)] * 2
    slow = analyse(np.concatenate(twice), 16000)
    picture = draw(before, slow, **emotions())
    ends = [np.nonzero(near(picture, c)[PLOT].any(axis=0))[0].max() for c in (BEFORE, AFTER)]
    assert ends[1] > 1.8 * ends[0]


def test_a_cue_that_went_the_wrong_way_is_told_from_one_that_went_right(
    before: Analysis, after: Analysis
) -> None:
    """Higher and softer: pitch as anger has it, level against it."""
    rows = with_expected(cue_table(before, after), Emotion.of("anger", 1.0).array)
    table = (slice(100, 860), slice(1110, 1590))
    kept = {name: [row for row in rows if row["name"] == name] for name in ("pitch_mean", "level")}
    for name, right, wrong in (("pitch_mean", MET, MISSED), ("level", MISSED, MET)):
        picture = draw(before, after, cues=kept[name])
        # the text of the change; the samples that explain the colours are paler
        assert near(picture, right)[table].sum() > 20
        assert near(picture, wrong)[table].sum() == 0


def test_readers_are_drawn_and_similarity_is_a_length(before: Analysis) -> None:
    picture = draw(before, before, similarity=0.5, **emotions())
    assert near(picture, READ[0])[104:280, 100:1050].any()
    bar = ~near(draw(before, before, similarity=0.5), "#edeae3")[HEIGHT - 118 + 32, 1112:1564]
    assert bar.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("sound", ["silence", "noise", "an instant", "two minutes"])
def test_any_sound_can_be_drawn(sound: str, before: Analysis) -> None:
    x = {
        "silence": np.zeros(16000, np.float32),
        "noise": speech.hiss(16000),
        "an instant": np.full(1, 0.1, np.float32),
        "two minutes": np.zeros(120 * 4000, np.float32),
    }[sound]
    other = analyse(x, 4000 if sound == "two minutes" else 16000)
    long = "a title with no end " * 40
    rows = with_expected(cue_table(before, other), np.zeros(12))
    for one, two in ((before, other), (other, before), (other, other)):
        picture = draw(one, two, cues=rows, similarity=None, title=long, subtitle=long)
        assert picture.size == (WIDTH, HEIGHT)
        assert small_pitch(one, two).size == (224, 140)


def test_a_stamp_shows_the_curve_and_what_was_asked_and_read(
    before: Analysis, after: Analysis
) -> None:
    red = "#d23f31"
    for value in (0.25, 0.75):
        picture = small_pitch(
            before, after, asked=1.0, read=(value, 0.0), colour=red, size=(200, 120)
        )
        marks = near(picture, red)
        assert np.nonzero(marks[-17:].any(axis=0))[0].max() == pytest.approx(5 + 190 * value, abs=2)
        assert marks[:100].sum() > 50, "the curve itself"


def test_stamps_of_one_sheet_share_their_axes(before: Analysis, after: Analysis) -> None:
    axes = {"hertz": (60.0, 480.0), "seconds": 4.0, "colour": "#d23f31"}
    low, high = (near(small_pitch(before, voice, **axes), "#d23f31") for voice in (before, after))
    assert np.nonzero(high)[0].mean() < np.nonzero(low)[0].mean() - 5
    assert np.nonzero(low)[1].max() < 130, "1.9 s of 4"


def test_drawing_costs_a_moment(before: Analysis, after: Analysis) -> None:
    """About .25 s alone; four times that for a busy machine."""
    start = time.process_time()
    draw(before, after, cues=cue_table(before, after), similarity=0.9, **emotions())
    assert time.process_time() - start < 1.0
