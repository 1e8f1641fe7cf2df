"""What each of ARKit's 52 channels does to the 478 points of a face.

Written by hand at some 60 anchors per channel (assets/portrait/basis.json: where the lip corner
goes when jawOpen is 1, and so on) and spread over the other points by a smooth field that does not
leak from the lower lip to the upper one, nor across an eye. Sizes are in eye distances, rounded
from displacements measured on ICT-FaceKit (Li et al. 2020, "Learning Formation of
Physically-Based Face Attributes", MIT licence), except where the table's `gains` says otherwise:
an anatomically true frown of the brows is too small to be read in a photo.

Knows nothing about pictures. numpy only.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np

from adapters.assets import ASSETS
from adapters.face_motion import ARKIT
from pipelines.face_mesh import POINTS, Face, template

__all__ = ["LOWER_LIP", "UPPER_LIP", "basis", "displaced", "eye_axes", "mirror"]

UPPER_LIP = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
)
"""Inner, then outer edge of the upper lip, image left to right."""
LOWER_LIP = (
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
)
"""The same of the lower lip; the first and last points are the corners."""

_OUTLINE = [397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172]
_SPREAD = 0.42  # eye distances over which an anchor's influence falls to 1/e
_SPLIT = 0.6  # how far apart the two lips are for the field, eye distances
_RIDGE = 0.02


@functools.cache
def table() -> dict[str, Any]:
    """assets/portrait/basis.json."""
    loaded: dict[str, Any] = json.loads(
        (ASSETS / "portrait" / "basis.json").read_text(encoding="utf-8")
    )
    return loaded


@functools.cache
def mirror() -> np.ndarray:
    """(478,) the point opposite to each."""
    text = (ASSETS / "portrait" / "template.json").read_text(encoding="utf-8")
    return np.asarray(json.loads(text)["mirror"])


@functools.cache
def basis() -> np.ndarray:
    """(52, 478, 3) displacement at 1, eye distances: x right in the picture, y UP, z to the viewer.

    In the order of ARKIT. Iris points follow gaze, lid points follow the lids.
    """
    names = table()["anchors"]
    anchors = np.array([*names.values()])
    place = _places()
    near = _kernel(place[anchors], place[anchors])
    spread = _kernel(place, place[anchors]) @ np.linalg.inv(near + _RIDGE * np.eye(len(anchors)))
    order = {name: i for i, name in enumerate(names)}
    out = np.zeros((len(ARKIT), POINTS, 3))
    for k, channel in enumerate(ARKIT):
        flipped = channel.endswith("Right") and channel not in table()["shapes"]
        if channel == "jawRight" or channel == "mouthRight":
            flipped = True
        source = channel.replace("Right", "Left") if flipped else channel
        values = np.zeros((len(anchors), 3))
        for name, value in table()["shapes"].get(source, {}).items():
            values[order[name]] = value
        field = spread @ values * table()["gains"].get(source.removesuffix("Left"), 1.0)
        # the bone under the outline stays when the skin of the chin is drawn up
        rim = field[_OUTLINE, 1]
        field[_OUTLINE, 1] = np.where(rim > 0, 0.3 * rim, rim)
        if flipped:
            field = field[mirror()] * (-1, 1, 1)
        out[k] = field
    out.setflags(write=False)
    return out


def displaced(face: Face, curves: np.ndarray) -> np.ndarray:
    """(..., 478, 2) pixels: the points of `face` moved by curves (..., 52), head pose left out."""
    across, down = eye_axes(face)
    moved = np.tensordot(np.asarray(curves, np.float64), basis()[:, :, :2], axes=(-1, 0))
    pixels = moved[..., :1] * across - moved[..., 1:2] * down
    return np.asarray(face.points + pixels * face.eye_distance)


def eye_axes(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors across and down the face in its picture, along and square to the eyes."""
    turn = np.radians(face.roll)
    across = np.array([np.cos(turn), np.sin(turn)])
    return across, np.array([-across[1], across[0]])


def _places() -> np.ndarray:
    """(478, 4) where the field sees each point: the template, with the lips and lids pulled apart.

    A fourth coordinate puts the lower lip and the chin on one side and the upper lip on the other
    near the mouth; at its corners and in the cheeks they meet again.
    """
    points = template()
    x, y = points[:, 0], points[:, 1]
    corner = points[308]
    seam = corner[1] + (points[13, 1] - corner[1]) * np.clip(1 - (x / corner[0]) ** 2, 0, 1)
    lower = np.sign(seam - y)
    lower[list(UPPER_LIP[0][1:-1])] = -1
    lower[list(LOWER_LIP[0][1:-1])] = 1
    reach = np.clip(1.25 - np.abs(x) / corner[0], 0, 1) ** 0.5
    height = np.exp(-(((y - seam) / 0.45) ** 2))
    split = lower * reach * height * _SPLIT
    for side in (1, -1):  # eyes: the lids meet in their corners as well
        inner, outer = (points[i] for i in ((362, 263) if side > 0 else (133, 33)))
        middle, half = (inner + outer) / 2, abs(outer[0] - inner[0]) / 2
        u, v = (x - middle[0]) / half, (y - middle[1]) / half
        open_ = np.clip(1.1 - np.abs(u), 0, 1) ** 0.5 * np.exp(-((v / 0.9) ** 2))
        split = split + np.sign(-v) * open_ * 0.3
    return np.asarray(np.c_[points * (1, 1, 0.5), split])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return np.asarray(np.exp(-((distance / _SPREAD) ** 2)))
