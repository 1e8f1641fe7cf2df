"""The pictures that diffusers renderers are steered with, drawn from the mesh that moves a photo.

* a skeleton on black, as the preprocessing of Wan-Animate draws what its detector found (Cheng et
  al. 2025, "Wan-Animate", arXiv 2509.14055): nose, eyes, ears, neck and shoulders in the colours of
  OpenPose;
* the face of each frame, cut out with the margins of that preprocessing;
* the mesh's outlines in the colours that the ControlNet of MediaPipe faces was trained on
  (CrucibleAI/ControlNetMediaPipeFace), or white on black for ControlNets of lines and edges;
* the share of each pixel that a repainted face takes when it goes back into the photo.

Points come from the curves, not from a detector, so that drawings work as photos do. It knows no
models and no emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from pipelines import portrait_source
from pipelines.portrait_basis import LOWER_LIP, UPPER_LIP, basis
from pipelines.portrait_field import OVAL, Frame

if TYPE_CHECKING:
    from adapters.face_motion import Motion
    from pipelines.portrait_rig import Rig

__all__ = ["cut", "cut_face", "face_box", "face_share", "landmarks", "outlines", "skeleton"]

_EYES = {
    "right": (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7, 33),
    "left": (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249, 263),
}
_BROWS = {
    "right": ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107)),
    "left": ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336)),
}
_NOSE = ((168, 6, 197, 195, 5, 4), (48, 64, 98, 97, 2, 326, 327, 294, 278))
_LIPS = (*UPPER_LIP, *LOWER_LIP)
_CLOSED_OVAL = (*OVAL, OVAL[0])
# The person's right is on the left of the picture: point 33 and iris 468.
_COLOURS = {
    "head": (10, 200, 10), "mouth": (10, 180, 10),
    "right eye": (180, 200, 10), "right brow": (180, 220, 10), "right iris": (250, 200, 10),
    "left eye": (10, 200, 180), "left brow": (10, 220, 180), "left iris": (10, 200, 250),
}  # fmt: skip
_IRIS = {"right": 468, "left": 473}

# OpenPose's joints that a portrait shows, their colours, and the bones with theirs.
_JOINTS = {
    "nose": (255, 0, 0), "neck": (255, 85, 0), "right shoulder": (255, 170, 0),
    "left shoulder": (85, 255, 0), "right eye": (170, 0, 255), "left eye": (255, 0, 255),
    "right ear": (255, 0, 170), "left ear": (255, 0, 85),
}  # fmt: skip
_BONES = (
    ("neck", "right shoulder", (255, 0, 0)), ("neck", "left shoulder", (255, 85, 0)),
    ("neck", "nose", (0, 0, 255)), ("nose", "right eye", (85, 0, 255)),
    ("right eye", "right ear", (170, 0, 255)), ("nose", "left eye", (255, 0, 255)),
    ("left eye", "left ear", (255, 0, 170)),
)  # fmt: skip
_ON_FACE = {"nose": 4, "right eye": 468, "left eye": 473, "right ear": 234, "left ear": 454}
# Eye distances from the chin down to the line of the shoulder joints, and outwards to each: read
# off our sample portraits. Anatomy has 2 and 2.9 (eyes 63 mm apart); portraits are foreshortened.
_NECK_DOWN, _SHOULDER_OUT = 1.1, 2.5

# Corners of the 68-point face that Wan-Animate's boxes are put around: the jaw from ear to ear and
# the brows; the forehead lies outside.
_FACE_68 = (*OVAL[7:30], *(i for rows in _BROWS.values() for row in rows for i in row))
_AREA = 1.3  # of the box that is cut out over the box of those points, as in the preprocessing

_INNER, _OUTER = 1.25, 1.7  # radii of the oval between which a repainted face fades out
_BORDER = 0.08  # of the crop's side along which nothing is left of it


def landmarks(rig: Rig, motion: Motion) -> np.ndarray:
    """(T, 478, 2) float32: the mesh of every frame, 0..1 across and down the rig's square."""
    frame = rig.square
    moves = basis()[:, :, :2]
    pixels = (moves[..., :1] * frame.across - moves[..., 1:] * frame.down) * frame.unit
    own = np.stack([
        -rig.own_smile * pixels[_columns("mouthSmileLeft", "mouthSmileRight")].sum(0),
        portrait_source.closing(frame),
    ])  # fmt: skip
    pixels = np.concatenate([pixels, own]).reshape(len(pixels) + 2, -1)
    points = np.empty((len(motion), len(frame.points), 2), np.float32)
    weights, turn = rig.moves(motion)
    points[:] = frame.points + (weights.cpu().numpy() @ pixels).reshape(points.shape)
    for i, place in enumerate(frame.points):
        points[:, i] += rig.fields.carried(turn, place, float(frame.depth[i])).cpu().numpy()
    return points / frame.size


def _columns(*names: str) -> list[int]:
    from adapters.face_motion import ARKIT

    return [ARKIT.index(name) for name in names]


def skeleton(points: np.ndarray, rest: Frame, size: int) -> Image.Image:
    """What a detector of bodies finds in one frame, drawn as Wan-Animate was trained on.

    points: (478, 2) of `landmarks`. rest: the face at rest; shoulders stay where its neck is,
    because the renderer leaves them still. size: pixels a side.
    """
    where = {name: points[i] * size for name, i in _ON_FACE.items()}
    scale = size / rest.size
    neck = rest.points[152] + _NECK_DOWN * rest.unit * rest.down
    where["neck"] = neck * scale
    for name, side in (("right shoulder", -1), ("left shoulder", 1)):
        where[name] = (neck + side * _SHOULDER_OUT * rest.unit * rest.across) * scale
    seen = {name: place for name, place in where.items() if (place >= 0).all()}
    seen = {name: place for name, place in seen.items() if (place < size).all()}
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    thick = max(size // 200 - 1, 1)
    for one, other, colour in _BONES:
        if one in seen and other in seen:
            draw.polygon(_stick(seen[one], seen[other], thick), tuple(int(0.6 * c) for c in colour))
    for name, (x, y) in seen.items():
        draw.ellipse((x - thick, y - thick, x + thick, y + thick), _JOINTS[name])
    return picture


def _stick(one: np.ndarray, other: np.ndarray, thick: float) -> list[tuple[float, float]]:
    """A flat ellipse from one joint to another, as the corners of a polygon."""
    middle, half = (one + other) / 2, (other - one) / 2
    length = max(float(np.hypot(*half)), 1e-6)
    side = np.array([-half[1], half[0]]) / length * thick
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)[:, None]
    return [(float(x), float(y)) for x, y in middle + np.cos(turn) * half + np.sin(turn) * side]


def outlines(points: np.ndarray, size: int, *, white: bool = False) -> Image.Image:
    """The mesh's outlines on black: coloured for the ControlNet of MediaPipe faces, or white.

    points: (478, 2) of `landmarks`. White ones have a nose as well, for ControlNets of edges.
    """
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    width = max(1, round(2 * size / 512))  # two pixels in the 512 that it was trained at

    def line(rows: Sequence[int], colour: str) -> None:
        fill = (255, 255, 255) if white else _COLOURS[colour]
        draw.line([tuple(p) for p in points[list(rows)] * size], fill, width)

    line(_CLOSED_OVAL, "head")
    for row in _LIPS:
        line(row, "mouth")
    for side in ("right", "left"):
        line(_EYES[side], f"{side} eye")
        for row in _BROWS[side]:
            line(row, f"{side} brow")
        x, y = points[_IRIS[side]] * size
        fill = (255, 255, 255) if white else _COLOURS[f"{side} iris"]
        draw.rectangle((x - width, y - width, x + width - 1, y + width - 1), fill)
    if white:
        for row in _NOSE:
            line(row, "head")
    return picture


def face_box(points: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the face in one frame, with the margins of Wan-Animate.

    points: (478, 2) in any unit; the box is in the same. 1.3 times the area of the box around brows
    and jaw, three quarters of what is added in height above it.
    """
    low, high = points[list(_FACE_68)].min(0), points[list(_FACE_68)].max(0)
    wide, tall = (high - low) * (_AREA**0.5 - 1) / (2, 4)
    return (
        float(low[0] - wide), float(low[1] - 3 * tall),
        float(high[0] + wide), float(high[1] + tall),
    )  # fmt: skip


def cut(frame: np.ndarray, square: Frame, size: int) -> Image.Image:
    """The rig's square of a full frame (H, W, 3) uint8 at `size` pixels; beyond the edge, the edge.

    Used for what is painted over, so the whole square is kept, whatever its size in the photo.
    """
    rows = np.clip(np.arange(square.top, square.top + square.side), 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(square.left, square.left + square.side), 0, frame.shape[1] - 1)
    crop = Image.fromarray(frame[np.ix_(rows, columns)])
    return crop if size == square.side else crop.resize((size, size), Image.Resampling.LANCZOS)


def cut_face(crop: Image.Image, points: np.ndarray, size: int) -> Image.Image:
    """The face of one frame, size x size: `face_box` of its points, cut from its square crop.

    Not rounded to whole pixels: a box that jumps would read as a nod.
    """
    box = tuple(float(np.clip(v, 0, 1)) * crop.width for v in face_box(points))
    return crop.resize((size, size), Image.Resampling.BICUBIC, box=box)


def face_share(square: Frame, size: int) -> np.ndarray:
    """(size, size, 1) float32 0..1: how much of each pixel a repainted face takes.

    1 on the face and what it moves, falling smoothly to 0 around it and before the crop's border.
    """
    oval = square.points[list(OVAL)] * (size / square.size)
    middle = oval.mean(0)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    angle = np.arctan2(oval[:, 1] - middle[1], oval[:, 0] - middle[0])
    order = np.argsort(angle)
    ring = np.interp(
        np.arctan2(y - middle[1], x - middle[0]), angle[order],
        np.hypot(*(oval - middle).T)[order], period=2 * np.pi,
    )  # fmt: skip
    away = (_OUTER - np.hypot(x - middle[0], y - middle[1]) / ring) / (_OUTER - _INNER)
    edge = np.minimum(np.minimum(x, size - x), np.minimum(y, size - y)) - 0.5
    share = _smooth(away) * _smooth(edge / (_BORDER * size))
    return share[..., None].astype(np.float32)


def _smooth(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
