"""What renderers are steered with lies where the frames have it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image

from adapters.assets import ASSETS
from adapters.face_motion import ARKIT, Motion
from pipelines.face_mesh import Face, detect, measure
from pipelines.media import load_image
from pipelines.portrait_basis import LOWER_LIP, UPPER_LIP
from pipelines.portrait_maps import (
    cut,
    cut_face,
    face_box,
    face_share,
    landmarks,
    outlines,
    skeleton,
)
from pipelines.portrait_rig import Rig

LIPS = [i for row in (*UPPER_LIP, *LOWER_LIP) for i in row]


@cache
def face_of(name: str) -> tuple[Image.Image, Face]:
    if name == "astronaut":
        photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    else:
        photo = load_image(ASSETS / "samples" / "faces" / f"{name}.jpg").resize((320, 320))
    return photo, detect(photo)[0]


@cache
def rig_of(name: str) -> Rig:
    return Rig(*face_of(name), size=256)


def motion(*rows: dict[str, float], pose: list[tuple[float, float, float]]) -> Motion:
    curves = np.zeros((len(rows), len(ARKIT)), np.float32)
    for row, values in zip(curves, rows, strict=True):
        for name, value in values.items():
            for k, channel in enumerate(ARKIT):
                if channel in (name, name + "Left", name + "Right"):
                    row[k] = value
    return Motion(curves, np.array(pose, np.float32))


@pytest.mark.parametrize("name", ["astronaut", "cartoon", "smile"])
def test_landmarks_are_where_the_frames_have_them(name: str) -> None:
    """Measured again on the frames by the mesh network: within a sixteenth of the eyes' distance.

    The points of the photo at rest would be .2 to .5 away.
    """
    rig, (_, face) = rig_of(name), face_of(name)
    asked = motion(
        {"jawOpen": 0.6, "browInnerUp": 0.8},
        {"browDown": 0.8, "mouthFrown": 0.8},
        {"mouthSmile": 0.8},
        pose=[(10, 5, 0), (-12, -6, 8), (5, 0, -8)],
    )
    square = rig.square
    rest = square.points / square.size
    for frame, points in zip(rig.frames(asked), landmarks(rig, asked), strict=True):
        found = measure(frame, face)
        assert found is not None
        seen = (found.points - (square.left, square.top)) / square.side
        unit = square.unit / square.size
        away = np.linalg.norm(points - seen, axis=1) / unit
        assert away.mean() < 0.07
        assert away[LIPS].mean() < 0.08
        assert away.mean() < 0.4 * (np.linalg.norm(rest - seen, axis=1) / unit).mean()


def test_a_face_at_rest_keeps_its_points() -> None:
    rig = rig_of("cartoon")
    points = landmarks(rig, Motion.neutral(2))
    assert points.shape == (2, 478, 2)
    np.testing.assert_allclose(points[0] * rig.square.size, rig.square.points, atol=1e-3)


def test_skeletons_nod_and_keep_their_shoulders() -> None:
    rig = rig_of("cartoon")
    turned = landmarks(rig, motion({}, {}, pose=[(0, 0, 0), (14, 0, 0)]))
    still, moved = (np.asarray(skeleton(p, rig.square, 256)) for p in turned)
    red, orange, nose = (255, 170, 0), (85, 255, 0), (255, 0, 0)

    def place(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
        rows, columns = np.nonzero((picture == colour).all(2))
        assert len(rows), f"no {colour}"
        return np.array([columns.mean(), rows.mean()])

    for shoulder in (red, orange):
        np.testing.assert_allclose(place(still, shoulder), place(moved, shoulder), atol=0.1)
    # the person's right shoulder is on the left of the picture, the nose above the middle
    assert place(still, red)[0] < 128 < place(still, orange)[0]
    assert place(still, nose)[1] < place(still, red)[1]
    # a positive yaw turns to the image's right
    assert place(moved, nose)[0] - place(still, nose)[0] > 4
    np.testing.assert_allclose(place(still, nose), turned[0, 4] * 256, atol=2)
    assert (still.any(2).mean()) < 0.03, "black, but for the sticks"


def test_joints_outside_the_picture_are_left_out() -> None:
    """A detector does not see them either."""
    rig = rig_of("cartoon")
    points = landmarks(rig, Motion.neutral(1))[0]
    high = np.asarray(skeleton(points - (0, 0.9), rig.square, 256))
    assert not (high == (255, 0, 0)).all(2).any()
    assert (high == (255, 85, 0)).all(2).any(), "the neck is still there"


def test_outlines_are_coloured_as_the_controlnet_knows_them() -> None:
    rig = rig_of("cartoon")
    points = landmarks(rig, Motion.neutral(1))[0]
    picture = np.asarray(outlines(points, 512))
    for colour, index in (
        ((250, 200, 10), 468), ((10, 200, 250), 473), ((10, 180, 10), 13), ((10, 200, 10), 152),
        ((180, 200, 10), 159), ((10, 220, 180), 334),
    ):  # fmt: skip
        x, y = (points[index] * 512).astype(int)
        near = picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        assert (near == colour).all(1).any(), index
    white = np.asarray(outlines(points, 512, white=True))
    assert set(np.unique(white)) == {0, 255}
    assert white.any(2).sum() > picture.any(2).sum(), "white ones have a nose"


def test_face_crops_have_the_margins_of_the_preprocessing() -> None:
    """1.3 times the area of brows and jaw, three quarters of the new height above."""
    points = np.full((478, 2), 0.5)
    points[[234, 454, 152, 105]] = (0.3, 0.5), (0.7, 0.5), (0.5, 0.8), (0.5, 0.4)
    left, top, right, bottom = face_box(points)
    assert (right - left) * (bottom - top) == pytest.approx(1.3 * 0.4 * 0.4)
    assert (0.4 - top) == pytest.approx(3 * (bottom - 0.8))
    assert (0.3 - left) == pytest.approx(right - 0.7)


def test_face_crops_follow_the_face() -> None:
    rig = rig_of("cartoon")
    asked = motion({}, {}, pose=[(0, 0, 0), (0, 0, 12)])
    points = landmarks(rig, asked)
    crops = [cut(frame, rig.square, 256) for frame in rig.frames(asked)]
    still, moved = (
        np.asarray(cut_face(c, p, 128), float) for c, p in zip(crops, points, strict=True)
    )
    unmoved = np.asarray(cut_face(crops[1], points[0], 128), float)
    assert still.shape == (128, 128, 3)
    assert np.abs(moved - still).mean() < 0.8 * np.abs(unmoved - still).mean()


def test_squares_beyond_the_photo_are_filled_from_its_edge() -> None:
    photo, face = face_of("cartoon")
    left, top, right, bottom = (round(v) for v in face.box)
    tight = photo.crop((left - 8, top - 8, right + 8, bottom + 8))
    moved = face.points - (left - 8, top - 8)
    box = (8.0, 8.0, 8.0 + right - left, 8.0 + bottom - top)
    rig = Rig(tight, Face(moved, face.depth, box, 1.0, face.yaw, face.pitch, face.roll), size=128)
    assert rig.square.left < 0
    crop = np.asarray(cut(np.asarray(tight), rig.square, rig.square.side))
    assert (crop[:, 0] == crop[:, 1]).all()
    x, y = -rig.square.left, -rig.square.top
    inside = crop[y : y + tight.height, x : x + tight.width]
    assert (inside == np.asarray(tight)).all()


@pytest.mark.parametrize("name", ["astronaut", "cartoon"])
def test_faces_go_back_with_a_soft_edge(name: str) -> None:
    rig = rig_of(name)
    share = face_share(rig.square, 256)[..., 0]
    points = rig.square.points * 256 / rig.square.size
    for index in (1, 13, 152, 10, 234, 454):
        x, y = points[index].astype(int)
        assert share[y, x] == 1, index
    assert share.min() == 0
    border = np.concatenate([share[0], share[-1], share[:, 0], share[:, -1]])
    assert not border.any()
    assert max(np.abs(np.diff(share, axis=a)).max() for a in (0, 1)) < 0.2
