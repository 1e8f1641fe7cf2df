"""The picture of a portrait that moves, and stamps of it: what is drawn is where it should be."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from adapters.face_motion import ARKIT, Motion
from pipelines.curve import Curve
from pipelines.drawing import READ
from pipelines.portrait_figure import (
    COLD,
    FACES,
    GREEN,
    HEIGHT,
    LEFT,
    RIGHT,
    WARM,
    WIDTH,
    close_up,
    draw,
    loudness,
    moments,
)
from pipelines.portrait_sheet import stamp, strongest

SHUT = "#8b93a3"
PLOT = slice(round(LEFT) + 3, round(RIGHT) - 3)


def near(picture: Image.Image, colour: str, off: int = 14) -> np.ndarray:
    """Where a picture has about this colour, (height, width) bool."""
    wanted = np.array(list(bytes.fromhex(colour.removeprefix("#"))))
    return np.abs(np.asarray(picture).astype(int) - wanted).max(axis=2) <= off


def motion(frames: int = 120, pose: float = 0.0, **channels: float | np.ndarray) -> Motion:
    """A face at rest but for some channels; yaw of `pose` degrees."""
    curves = np.zeros((frames, len(ARKIT)), np.float32)
    for name, value in channels.items():
        curves[:, ARKIT.index(name)] = value
    turn = np.zeros((frames, 3), np.float32)
    turn[:, 0] = pose
    return Motion(curves, turn, 30.0)


def faces(count: int = FACES) -> list[Image.Image]:
    """Squares of one colour each, so that their places can be told."""
    return [Image.new("RGB", (64, 64), (255, 25 * k, 255 - 25 * k)) for k in range(count)]


def height_of(picture: Image.Image, colour: str, rows: slice) -> int:
    """Height in pixels of a level line, in some rows of the picture: where it is most this colour.

    A line of two pixels may stand on three, none of which has its full colour.
    """
    wanted = np.array(list(bytes.fromhex(colour.removeprefix("#"))))
    off = np.abs(np.asarray(picture)[rows, PLOT].astype(int) - wanted).mean(axis=(1, 2))
    assert off.min() < off[5:-5].max() - 30, "there is such a line"
    return int(off.argmin())


# With no emotion drawn the four rows fill the sheet from 255 to 948, 9 pixels between them.
BROWS, LIDS, MOUTH, HEAD = (slice(y, y + 167) for y in (255, 431, 606, 781))


def test_a_muscle_is_drawn_as_far_as_it_contracts() -> None:
    half, one = (height_of(draw(motion(browInnerUp=x), faces()), COLD, BROWS) for x in (0.5, 1.0))
    row = (BROWS.stop - BROWS.start) / 2 - 6
    assert half - one == pytest.approx(row / 2, abs=2)
    lowered = draw(motion(browDownLeft=1.0, browDownRight=1.0), faces())
    middle = (BROWS.stop - BROWS.start) / 2
    assert height_of(lowered, WARM, BROWS) - middle == pytest.approx(row, abs=3)


def test_one_side_is_half_of_both() -> None:
    both, left = (
        height_of(draw(motion(**channels), faces()), GREEN, MOUTH)
        for channels in ({"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}, {"mouthSmileLeft": 1.0})
    )
    assert left - both == pytest.approx(((MOUTH.stop - MOUTH.start) / 2 - 6) / 2, abs=3)


def test_a_blink_stands_at_its_time_also_in_ten_minutes() -> None:
    for frames in (120, 18000):
        lids = np.zeros(frames)
        lids[frames // 4 : frames // 4 + 4] = 1
        picture = draw(motion(frames, eyeBlinkLeft=lids, eyeBlinkRight=lids), faces())
        deep = near(picture, SHUT)[LIDS][-20:, PLOT]
        assert deep.any(), "not averaged away"
        where = np.nonzero(deep)[1].mean() / (RIGHT - LEFT)
        assert where == pytest.approx(0.25 + 2 / frames, abs=0.02)


def test_the_head_has_an_axis_of_its_own_and_stillness_is_not_blown_up() -> None:
    middle = (HEAD.stop - HEAD.start) / 2
    still = height_of(draw(motion(pose=1.0), faces()), COLD, HEAD)
    assert 5 < middle - still < 0.25 * middle
    assert height_of(draw(motion(pose=40.0), faces()), COLD, HEAD) < 0.2 * middle
    assert height_of(draw(motion(pose=-40.0), faces()), COLD, HEAD) > 1.8 * middle


def test_faces_stand_at_their_times_and_the_photo_before_them() -> None:
    picture = draw(motion(), faces(), Image.new("RGB", (50, 50), "#00ff00"))
    assert near(picture, "#00ff00")[100:230, 40:170].mean() > 0.9
    for k, frame in enumerate(moments(motion())):
        x = LEFT + (RIGHT - LEFT) * (frame + 0.5) / 120
        colour = f"#{255:02x}{25 * k:02x}{255 - 25 * k:02x}"
        where = np.nonzero(near(picture, colour, 6)[100:220])[1]
        assert where.mean() == pytest.approx(x, abs=8)


def test_moments_are_even_and_show_open_eyes() -> None:
    lids = np.zeros(120)
    lids[3:9] = 1.0  # in the middle of the first part
    found = moments(motion(eyeBlinkLeft=lids, eyeBlinkRight=lids))
    assert len(found) == FACES
    assert all(k * 12 <= frame < (k + 1) * 12 for k, frame in enumerate(found))
    assert not lids[found].any()
    asleep = moments(motion(eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    assert asleep == moments(motion()), "who sleeps is shown asleep"
    assert moments(motion(3)) == [0, 1, 2]
    assert moments(motion(1)) == [0]


def test_emotion_and_speech_are_drawn_where_they_are() -> None:
    times = np.linspace(0, 4, 9)
    flat = Curve.of(times, np.full(9, 0.5), np.full(9, -0.5))
    plain = draw(motion(), faces())
    picture = draw(motion(), faces(), asked=flat, read={"critic": flat, "reader": flat})
    for colour in READ:
        assert near(picture, colour)[266:420, PLOT].any()
    assert not near(plain, READ[0])[200:260, PLOT].any()
    sound = np.concatenate([np.zeros(8000), 0.5 * np.ones(8000)])
    spoken = draw(motion(), faces(), speech=loudness(sound, 16000))
    heard = np.nonzero(near(spoken, "#e9dfc8")[MOUTH, PLOT].any(axis=0))[0]
    assert heard.min() / (RIGHT - LEFT) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (2, 2), (31, 10), (40000, 10)])
def test_any_motion_can_be_drawn(frames: int, count: int) -> None:
    moved = motion(frames, jawOpen=np.linspace(0, 1, frames), pose=-90.0)
    long = "a title with no end " * 40
    nothing = np.zeros(0)
    silent = (None, nothing, np.zeros(5), loudness(np.zeros((2, 7)), 16000))
    for speech in silent if frames == 1 else silent[:1]:
        picture = draw(moved, faces(count), speech=speech, title=long, subtitle=long)
        assert picture.size == (WIDTH, HEIGHT)


def test_loudness_is_of_all_channels_and_bounded() -> None:
    level = loudness(np.stack([np.ones(48000), np.zeros(48000)]), 48000)
    assert level.max() == 1.0
    assert 90 < len(level) <= 110
    assert len(loudness(np.ones(48000 * 60), 48000)) <= 2000


def test_a_close_up_is_a_square_inside_the_picture() -> None:
    picture = Image.new("RGB", (640, 400))
    for box in ((300, 100, 400, 220), (0, 0, 80, 100), (600, 350, 640, 400), (0, 0, 640, 400)):
        cut = close_up(picture, box)
        assert cut.width == cut.height <= 400
    assert close_up(picture, (300, 100, 400, 220), air=0.0).size == (120, 120)


# Stamps ------------------------------------------------------------------------------------------


def test_a_stamp_shows_the_face_and_what_was_asked_and_read() -> None:
    red = "#d23f31"
    for value in (0.25, 0.75):
        picture = stamp(faces(1)[0], asked=1.0, read=(value, 0.0), colour=red, size=(200, 220))
        marks = near(picture, red)[-17:]
        assert np.nonzero(marks.any(axis=0))[0].max() == pytest.approx(5 + 190 * value, abs=2)
        assert near(picture, "#ff00ff")[5:190, 5:195].all()
    assert near(stamp(faces(1)[0]), "#ff00ff")[5:-5, 5:-5].all(), "not read, no foot"


def test_the_strongest_frame_has_the_expression_and_open_eyes() -> None:
    brows, lids, jaw = np.zeros(120), np.zeros(120), np.zeros(120)
    brows[60:100] = 0.8
    lids[70:95] = 1.0
    jaw[10:20] = 1.0
    found = strongest(motion(browInnerUp=brows, eyeBlinkLeft=lids, eyeBlinkRight=lids, jawOpen=jaw))
    assert 60 <= found < 70 or 95 <= found < 100
    assert strongest(motion(121)) == 60


def test_drawing_costs_a_moment() -> None:
    """About .2 s alone; five times that for a busy machine."""
    start = time.process_time()
    draw(motion(3000, jawOpen=0.3), faces())
    assert time.process_time() - start < 1.0
