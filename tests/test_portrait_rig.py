"""Rigs leave still what should be still and move what should move."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from adapters import facs
from adapters.assets import ASSETS
from adapters.face_motion import ARKIT, Motion
from pipelines.face_mesh import Face, detect, measure
from pipelines.media import load_image
from pipelines.portrait_rig import Rig


@cache
def photo(name: str) -> Image.Image:
    if name == "astronaut":
        return Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    return load_image(ASSETS / "samples" / "faces" / f"{name}.jpg")


@cache
def face_of(name: str) -> Face:
    return detect(photo(name))[0]


@cache
def rig_of(name: str, size: int = 256) -> Rig:
    return Rig(photo(name), face_of(name), size=size)


def curves(**values: float) -> np.ndarray:
    """(52,) of keywords; a name without its side means both."""
    out = np.zeros(len(ARKIT), np.float32)
    for name, value in values.items():
        for k, channel in enumerate(ARKIT):
            if channel in (name, name + "Left", name + "Right"):
                out[k] = value
    return out


def moved(name: str, pose: tuple[float, float, float] = (0, 0, 0), **values: float) -> Face:
    """The mesh measured again on a frame."""
    frame = rig_of(name).frame(curves(**values), np.array(pose))
    found = measure(frame, face_of(name))
    assert found is not None, "the face is no longer found"
    return found


def gap(face: Face, above: int, below: int) -> float:
    return float(face.points[below, 1] - face.points[above, 1]) / face.eye_distance


@pytest.mark.parametrize("name", ["astronaut", "cartoon", "closed", "glasses", "smile"])
def test_a_face_at_rest_is_the_photo(name: str) -> None:
    frame = rig_of(name).frame(np.zeros(len(ARKIT)))
    assert frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - np.asarray(photo(name)).astype(int)).max() <= 2


@pytest.mark.parametrize("name", ["closed", "astronaut"])
def test_nothing_moves_outside_the_box(name: str) -> None:
    rig = rig_of(name)
    rng = np.random.default_rng(3)
    frame = rig.frame(rng.uniform(0, 1, len(ARKIT)), np.array([12.0, -9.0, 11.0]))
    left, top, right, bottom = rig.box
    outside = np.ones(frame.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert (frame[outside] == np.asarray(photo(name))[outside]).all()
    assert (frame[~outside] != np.asarray(photo(name))[~outside]).any()


def test_every_channel_but_the_tongue_is_seen() -> None:
    rig = rig_of("closed")
    rest, ajar = (rig.frame(curves(jawOpen=jaw)).astype(int) for jaw in (0.0, 0.5))
    for k, channel in enumerate(ARKIT):
        closes = channel == "mouthClose"  # what is open
        values = curves(jawOpen=0.5 * closes)
        values[k] = 1
        change = rig.frame(values).astype(int) - (ajar if closes else rest)
        seen = (np.abs(change).max(2) > 12).sum()
        assert seen == 0 if channel == "tongueOut" else seen > 8, channel


def test_mouths_open_lids_close_brows_rise() -> None:
    for name in ("closed", "cartoon"):
        rest = face_of(name)
        assert gap(moved(name, jawOpen=0.6), 13, 14) > gap(rest, 13, 14) + 0.15
        assert gap(moved(name, browInnerUp=1), 107, 133) > gap(rest, 107, 133) + 0.02
        if name != "cartoon":  # whose eyes are larger than the mesh believes
            assert gap(moved(name, eyeWide=1), 159, 145) > gap(rest, 159, 145)
        smile, frown = moved(name, mouthSmile=0.9), moved(name, mouthFrown=0.9)
        lift = [float(f.points[[61, 291], 1].mean() - f.points[[0, 17], 1].mean()) for f in
                (smile, rest, frown)]  # fmt: skip
        assert lift[0] < lift[1] < lift[2]


def test_a_blink_covers_the_iris_and_leaves_no_slit() -> None:
    for name in ("closed", "old", "astronaut"):
        face, rig = face_of(name), rig_of(name)
        frame = rig.frame(curves(eyeBlink=1))
        for iris in (468, 473):
            x, y = face.points[iris].astype(int)
            reach = max(int(0.05 * face.eye_distance), 2)
            part = np.s_[y - reach : y + reach, x - reach : x + reach]
            before, after = (a[part].mean(2) for a in (np.asarray(photo(name)), frame))
            dark = np.quantile(after, 0.1) / max(np.quantile(before, 0.1), 1)
            assert dark > 1.6, f"{name}: the pupil still shows"
        shut = measure(frame, face)
        assert shut is not None
        assert gap(shut, 159, 145) < 0.6 * gap(face, 159, 145)


def smiling(face: Face) -> float:
    """How high the corners of the mouth lie above its middle, eye distances."""
    low = face.points[[0, 17], 1].mean() - face.points[[61, 291], 1].mean()
    return float(low) / face.eye_distance


def felt(name: str, expression: str, intensity: float, size: int = 256) -> np.ndarray:
    """The frame of an expression of the table."""
    drawn, pose = facs.expression(intensity * facs.named(expression))
    return rig_of(name, size).frame(drawn[0], pose[0])


def test_lids_rise_as_far_whatever_the_brows_do() -> None:
    """Found on a contact sheet: brows that rose drew the lids up to twice as far."""
    face = face_of("closed")
    x, y = face.points[468].astype(int)
    reach = int(0.4 * face.eye_distance)
    found = []
    for brows in (0.0, 1.0):
        values = curves(eyeWide=1, browInnerUp=brows, browOuterUp=brows)
        column = rig_of("closed").frame(values)[y - reach : y, x - 2 : x + 3].mean(1)
        found.append(int((column.min(1) > 165).sum()))  # white: light and hardly coloured
    assert found[0] > 3
    assert abs(found[1] - found[0]) <= 0.3 * found[0]


def test_no_lash_is_taken_for_the_white_behind_a_lid() -> None:
    for name in ("old", "smile", "cartoon"):
        for eye in rig_of(name, 512).eyes.values():
            white = eye.texture[0, :3].mean(0)
            assert float(white.min()) > 0.55 * float(white.max()), name


def test_jaws_drop_after_a_smile_is_taken_back() -> None:
    """Found on a contact sheet: surprised photos kept their smile, and lost their teeth."""
    for name in ("smile", "astronaut"):
        rest = face_of(name)
        for intensity, open_ in ((0.3, -0.01), (1.0, 0.2)):
            frame = felt(name, "surprise", intensity)
            found = measure(frame, rest)
            assert found is not None
            assert smiling(found) < smiling(rest) - 0.05
            assert gap(found, 13, 14) > open_
        # the row of the photo hangs from the skull: a strip of it is seen under the lip
        x, y = found.points[13].astype(int)
        reach = round(0.12 * rest.eye_distance)
        under = felt(name, "surprise", 1.0, 512)[y - 1 : y + reach, x - reach : x + reach]
        white = (under.min(2) > 110) & (np.ptp(under, axis=2) < 60)
        assert white.sum() > 15, f"{name}: no teeth under the upper lip"


def test_a_tongue_comes_between_open_teeth() -> None:
    rig = rig_of("closed")
    a, b = (rig.frame(curves(jawOpen=0.5, tongueOut=out)).astype(int) for out in (0, 1))
    change = np.abs(a - b).max(2)
    found = measure(a.astype(np.uint8), face_of("closed"))
    assert found is not None
    rows = np.flatnonzero((change > 12).any(1))
    assert (change > 12).sum() > 60
    assert found.points[13, 1] - 3 <= rows.min()  # behind the lips it stays
    assert rows.max() <= found.points[14, 1] + 3


def test_a_smile_gives_way_to_anger_but_stays_at_rest() -> None:
    anger = curves(browDown=1, eyeSquint=0.6, mouthPress=0.4, mouthFrown=0.3)
    for name in ("smile", "astronaut"):
        rest = smiling(face_of(name))
        smiles = Rig(photo(name), face_of(name), size=256, neutralise=0)
        frames = [rig.frame(anger) for rig in (smiles, rig_of(name))]
        kept, gone = (measure(frame, face_of(name)) for frame in frames)
        assert kept is not None
        assert gone is not None
        assert smiling(gone) < smiling(kept) - 0.03
        assert smiling(gone) < rest - 0.06
        assert gap(gone, 13, 14) < 0.4 * gap(face_of(name), 13, 14)


def test_heads_turn_the_way_they_are_told() -> None:
    for k, name in enumerate(("yaw", "pitch", "roll")):
        pose = np.zeros(3)
        pose[k] = 8
        one, other = (
            getattr(moved("closed", tuple(s * pose)), name)
            for s in (1, -1)  # type: ignore[arg-type]
        )
        assert one - other > 4, name


def test_glasses_stay_when_the_brows_move() -> None:
    rig = rig_of("glasses")
    assert rig.glasses is not None
    assert all(rig_of(name).glasses is None for name in ("closed", "old", "smile"))
    still = np.asarray(photo("glasses"))
    frame = rig.frame(curves(browDown=1, noseSneer=1))
    x, y = face_of("glasses").points[6].astype(int)
    low = slice(y + 8, y + 60)  # the lower rims, clear of brows
    dark = (still[low].max(2) < 60) & (np.abs(np.arange(640) - x) < 110)
    assert dark.sum() > 200
    assert np.abs(frame[low][dark].astype(int) - still[low][dark].astype(int)).mean() < 12


def test_no_hair_of_the_brows_fills_the_place_of_glasses() -> None:
    """Found on a contact sheet: blots above the frame when the brows rose."""
    rig = rig_of("glasses", 512)
    assert rig.glasses is not None
    bare, frame = rig.face[0].mean(0), rig.glasses[0, 3] == 1
    face = face_of("glasses")
    skin = np.asarray(photo("glasses")).mean(2)[tuple(face.points[151].astype(int)[::-1])] / 255
    above = frame & (torch.arange(len(frame))[:, None] < rig.square.points[[159, 386], 1].mean())
    assert int(above.sum()) > 100
    assert float(torch.quantile(bare[above], 0.1)) > 0.62 * skin


def test_batches_equal_singles() -> None:
    rng = np.random.default_rng(1)
    motion = Motion(rng.uniform(0, 0.6, (5, len(ARKIT))), rng.uniform(-6, 6, (5, 3)))
    rig = rig_of("closed")
    one = list(rig.frames(motion, batch=1))
    all_ = list(rig.frames(motion, batch=5))
    worst = max(np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(one, all_, strict=True))
    assert worst <= 1


def test_lips_stay_shut_between_words() -> None:
    """What neutralises follows the sequence, not the frame: no flutter between two syllables."""
    from pipelines.portrait_source import shares, smoothed

    jaw = np.zeros((90, len(ARKIT)), np.float32)
    jaw[[30, 31, 40, 41], ARKIT.index("jawOpen")] = 0.4
    gaps = smoothed(shares(jaw)[1], 30)
    assert gaps[28:43].min() > 0.95
    assert gaps[0] == 0
    assert np.abs(np.diff(gaps)).max() < 0.2


def test_words_take_a_smile_back_to_a_level_mouth_and_no_further() -> None:
    """Found in a film: a photo that smiles looked sad while it said something without emotion."""
    said = curves(mouthPucker=0.7, mouthFunnel=0.4)
    for name in ("smile", "astronaut"):
        rest = smiling(face_of(name))
        words, raised, sad = (
            measure(rig_of(name).frame(values), face_of(name))
            for values in (said, curves(browInnerUp=0.9), curves(browInnerUp=0.9, mouthFrown=0.5))
        )
        assert words is not None
        assert raised is not None
        assert sad is not None
        assert smiling(sad) + 0.03 < smiling(raised) < rest - 0.05
        assert smiling(words) < rest - 0.03


def test_a_mouth_is_level_before_it_falls() -> None:
    """Half a second before somebody is surprised the smile has gone, but nobody is sad."""
    from pipelines.portrait_source import LEVEL, shares, smoothed

    course = np.zeros((60, len(ARKIT)), np.float32)
    course[30:] = curves(browInnerUp=1, eyeWide=1)
    share = smoothed(shares(course, LEVEL)[0], 30, LEVEL)
    assert share[0] == 0
    assert share[20] == pytest.approx(LEVEL, abs=0.02)
    assert share[-1] == 1
    assert (np.diff(share) >= -1e-6).all()


def test_small_large_and_cut_photos() -> None:
    base = photo("astronaut")
    for image in (base.resize((128, 128)), base.crop((150, 20, 330, 300)), base.convert("CMYK")):
        face = detect(image)[0]
        rig = Rig(image, face, size=256)
        frame = rig.frame(curves(jawOpen=0.7, eyeBlink=1), np.array([8.0, 4.0, -8.0]))
        assert frame.shape == (image.height, image.width, 3)
        rest = rig.frame(curves())
        assert np.abs(rest.astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() <= 2


def test_faces_larger_than_the_size_stay_the_photo_at_rest_and_move() -> None:
    image = photo("closed").resize((1000, 1000), Image.Resampling.BICUBIC)
    rig = Rig(image, detect(image)[0], size=192)
    rest = rig.frame(curves()).astype(int)
    assert np.abs(rest - np.asarray(image).astype(int)).max() <= 2
    assert np.abs(rig.frame(curves(jawOpen=1)).astype(int) - rest).max() > 60


def test_enlarging_leaves_no_rim_where_the_head_was() -> None:
    """Found on a contact sheet: the faint outline of the hair stayed in the background."""
    pose, image, face = np.array([9.0, 4.0, 7.0]), photo("dark"), face_of("dark")
    small, whole = (
        Rig(image, face, size=size).frame(curves(), pose).astype(int) for size in (384, 1024)
    )
    wall = np.abs(small - whole).max(2)[100:300, 130:190]  # left of the head after the turn
    assert np.quantile(wall, 0.999) < 8


def test_wrong_arguments_are_one_line() -> None:
    for arguments, word in (({"size": 10}, "size"), ({"neutralise": 2.0}, "neutralise")):
        with pytest.raises(ValueError, match=word) as told:
            Rig(photo("closed"), face_of("closed"), **arguments)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="batch"):
        next(rig_of("closed").frames(Motion.neutral(1), batch=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_draws_the_same() -> None:
    rng = np.random.default_rng(1)
    motion = Motion(rng.uniform(0, 0.6, (4, len(ARKIT))), rng.uniform(-6, 6, (4, 3)))
    fast = Rig(photo("closed"), face_of("closed"), size=256, device="cuda")
    for a, b in zip(fast.frames(motion), rig_of("closed").frames(motion), strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).mean() < 0.5
