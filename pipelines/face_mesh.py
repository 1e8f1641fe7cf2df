"""Finding faces: 478 points, a box, a score and the turn of the head, in photos and drawings.

Two stages, because the mesh network's own detector misses faces below a fifth of the picture: the
full-range detector (BlazeFace, Bazarevsky et al. 2019) on the whole picture, then the mesh network
(Kartynnik et al. 2019, "Real-time Facial Surface Geometry from Monocular Video") on a square crop
of each find. Where the detector finds nothing, the mesh network is asked for the picture itself,
which is what finds most drawings; where that fails too, five points placed by hand will do.

The networks are those inside the wheel of mediapipe 0.10.14, the last version that carries them;
nothing is fetched. This file does not know what the points are used for.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.assets import ASSETS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["POINTS", "Face", "FaceError", "choose", "detect", "from_five", "measure", "template"]

POINTS = 478
"""468 points of the mesh, then five of each iris (468 and 473 are the iris centres)."""

EYE_CENTRES = (468, 473)  # image left (the person's right) first
OVAL_TOP, CHIN, TEMPLE_LEFT, TEMPLE_RIGHT = 10, 152, 127, 356
FIVE = (468, 473, 1, 61, 291)
"""What `from_five` asks for: iris left and right in the image, nose tip, mouth corners."""

_DETECT_SIDE = 1280  # long side the detector sees: it resamples to 192 anyway
_MESH_SIDE = 384  # side of the crop the mesh sees: it resamples to 192 as well
_MARGIN = 2.0  # crop side over box side; measured best on group pictures
_SMALL_SIDE = 800  # px of a picture below which faces of 3 % have no features
_MIN_SIDE = 40  # px of a picture: below this no eye has a pupil
_lock = threading.Lock()  # mediapipe's graphs take one picture at a time


class FaceError(ValueError):
    """No usable face, or points that are none. One line that says what to try."""


@dataclass(frozen=True)
class Face:
    """One face. Arrays are not to be written to.

    Attributes:
        points: (478, 2) float32 pixels, x to the right, y down.
        depth: (478,) float32 pixels towards the viewer, 0 at the middle of the head.
        box: left, top, right, bottom of the points, pixels.
        score: 0..1, how sure the detector is; 1 for points placed by hand.
        yaw, pitch, roll: degrees; yaw > 0 turns to the image's right, pitch > 0 looks up,
            roll > 0 leans to the image's right.
        warnings: lines for people, empty for a good frontal face.
    """

    points: np.ndarray
    depth: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    yaw: float
    pitch: float
    roll: float
    warnings: tuple[str, ...] = ()

    @property
    def eye_distance(self) -> float:
        """Distance of the iris centres in pixels, foreshortening undone; the unit of the rig."""
        flat = float(np.hypot(*(self.points[EYE_CENTRES[1]] - self.points[EYE_CENTRES[0]])))
        return flat / max(float(np.cos(np.radians(self.yaw))), 0.5)


def detect(image: Image.Image, *, limit: int = 8) -> list[Face]:
    """Find faces, the largest first.

    Args:
        image: any size from 40 px; read as RGB.
        limit: at most so many faces are measured.

    Raises:
        FaceError: the picture is too small, or holds no face; the line says what to try.
        ImportError: mediapipe is not installed; the line says how.
    """
    picture = np.asarray(image.convert("RGB"))
    if min(picture.shape[:2]) < _MIN_SIDE:
        msg = (
            f"image: a face needs at least {_MIN_SIDE} px a side, received "
            f"{picture.shape[1]}x{picture.shape[0]}; use a larger picture"
        )
        raise FaceError(msg)
    with _lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype")
        faces: list[Face] = []
        for box, score in _boxes(picture)[:limit]:
            face = _mesh(picture, box, score)
            if face is not None and all(_overlap(face.box, other.box) < 0.4 for other in faces):
                faces.append(face)
        if not faces:
            height, width = picture.shape[:2]
            for scale in (1.0, 1.35):  # a face that fills the picture needs air around it
                side = max(height, width) / _MARGIN * scale
                whole = (width / 2 - side / 2, height / 2 - side / 2, side, side)
                face = _mesh(picture, whole, 0.4, least=0.5)
                if face is not None:
                    faces.append(face)
                    break
    if not faces:
        msg = (
            f"image: no face found in {picture.shape[1]}x{picture.shape[0]} px; try a picture "
            "where the face is larger, frontal and whole, or place five points by hand "
            "(eyes, nose tip, mouth corners)"
        )
        raise FaceError(msg)
    return sorted(faces, key=lambda f: (f.box[0] - f.box[2]) * (f.box[3] - f.box[1]))


def choose(faces: Sequence[Face], index: int | None = None) -> Face:
    """The face with this number, counted from 0 in the order of `detect`; None: the largest."""
    if index is None:
        index = 0
    if not 0 <= index < len(faces):
        msg = (
            f"face: the picture has {len(faces)}, numbered 0 to {len(faces) - 1}, received "
            f"{index}; choose one of these"
        )
        raise FaceError(msg)
    return faces[index]


def measure(frame: np.ndarray, near: Face) -> Face | None:
    """The mesh again on a rendered frame, (H, W, 3) uint8, where `near` was; None: not found."""
    left, top, right, bottom = near.box
    side = max(right - left, bottom - top)
    box = ((left + right - side) / 2, (top + bottom - side) / 2, side, side)
    with _lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype")
        return _mesh(frame, box, near.score)


def from_five(image: Image.Image, five: Sequence[tuple[float, float]]) -> Face:
    """A face from five points placed by hand: the template, laid through them.

    Args:
        image: the picture they lie in; only its size is read.
        five: pixels of the pupils (image left, image right), nose tip, mouth corners (left, right).

    Raises:
        FaceError: another number of points, outside the picture, or in another order.
    """
    given = np.asarray(five, dtype=np.float64)
    if given.shape != (5, 2) or not np.isfinite(given).all():
        msg = f"points: five pairs x, y are needed, received shape {given.shape}; give all five"
        raise FaceError(msg)
    width, height = image.size
    if (given < 0).any() or (given > (width, height)).any():
        msg = f"points: must lie inside {width}x{height} px; place them on the picture"
        raise FaceError(msg)
    eyes, mouth = given[1] - given[0], given[4] - given[3]
    down = (given[3] + given[4] - given[0] - given[1]) / 2
    if eyes @ mouth <= 0 or eyes[0] * down[1] - eyes[1] * down[0] <= 0 or np.hypot(*eyes) < 6:
        msg = (
            "points: expected left pupil, right pupil, nose tip, left and right mouth corner as "
            "seen in the picture, at least 6 px apart; place them in this order"
        )
        raise FaceError(msg)
    points, depth = _lay(template(), given)
    return _face(points, depth, 1.0, (height, width))


@functools.cache
def template() -> np.ndarray:
    """(478, 3) a neutral face in eye distances: x right, y UP, z to the viewer, eyes at y = 0.

    Measured on a face drawn for this project and made symmetric.
    """
    table = json.loads((ASSETS / "portrait" / "template.json").read_text(encoding="utf-8"))
    points = np.asarray(table["points"], dtype=np.float64)
    points.setflags(write=False)
    return points


def _lay(shape: np.ndarray, five: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The template through five points: best similarity, then a smooth bend for the rest."""
    base = shape[list(FIVE), :2] * (1, -1)
    centre_a, centre_b = base.mean(0), five.mean(0)
    a, b = (base - centre_a) @ (1, 1j), (five - centre_b) @ (1, 1j)
    turn = (np.conj(a) @ b) / (np.conj(a) @ a)  # similarity as one complex number
    flat = shape[:, :2] * (1, -1)
    moved = (flat - centre_a) @ (1, 1j) * turn
    points = np.stack([moved.real, moved.imag], 1) + centre_b

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(p[:, None] - q[None], axis=-1)
        return np.asarray(np.exp(-((distance / 1.2) ** 2)))

    left = five - points[list(FIVE)]
    weights = np.linalg.solve(kernel(base, base) + 1e-6 * np.eye(5), left)
    return points + kernel(flat, base) @ weights, shape[:, 2] * abs(turn)


def _boxes(picture: np.ndarray) -> list[tuple[tuple[float, float, float, float], float]]:
    """((left, top, width, height) px, score) of the detectors' finds, the largest first."""
    height, width = picture.shape[:2]
    side = max(height, width)
    halves = [(left * side / 4, top * side / 4) for top in range(3) for left in range(3)]
    finds: list[tuple[tuple[float, float, float, float], float]] = []
    # full range, then short range on the whole; of pictures that can hold more and smaller faces,
    # full range on nine overlapping quarters too, which finds faces of 3 % of the picture's width
    looks = [(1, 0.3, [(0.0, 0.0)], side), (0, 0.5, [(0.0, 0.0)], side), (1, 0.5, halves, side / 2)]
    for number, (reach, least, corners, reached) in enumerate(looks):
        if finds and (number == 1 or side < _SMALL_SIDE):
            continue
        for left, top in corners:
            if left >= width or top >= height:
                continue
            view = (left, top, reached, reached)
            small = _resized(picture, view, _DETECT_SIDE, _DETECT_SIDE)
            for item in _detector(reach, least).process(small).detections or ():
                box = item.location_data.relative_bounding_box
                x, y = left + box.xmin * reached, top + box.ymin * reached
                square = (x, y, box.width * reached, box.height * reached)
                corners_of = (x, y, x + square[2], y + square[3])
                others = [(a, b, a + w, b + h) for (a, b, w, h), _ in finds]
                if all(_overlap(corners_of, other) < 0.3 for other in others):
                    finds.append((square, float(item.score[0])))
    return sorted(finds, key=lambda f: -f[0][2] * f[0][3])


def _mesh(
    picture: np.ndarray,
    box: tuple[float, float, float, float],
    score: float,
    least: float = 0.1,
) -> Face | None:
    """The mesh network on a square crop around `box` (left, top, width, height)."""
    side = max(box[2], box[3]) * _MARGIN
    left, top = box[0] + box[2] / 2 - side / 2, box[1] + box[3] / 2 - side / 2
    crop = _resized(picture, (left, top, side, side), _MESH_SIDE, _MESH_SIDE)
    found = _network(least).process(crop).multi_face_landmarks
    if not found:
        return None
    raw = np.array([(p.x, p.y, p.z) for p in found[0].landmark], dtype=np.float64)
    points = raw[:, :2] * side + (left, top)
    depth = -raw[:, 2] * side  # the network's z grows away from the viewer
    face = _face(points, depth, score, picture.shape[:2])
    inside = ((points >= 0) & (points <= picture.shape[1::-1])).all(1).mean()
    return face if inside > 0.75 and face.eye_distance > 4 else None


def _face(points: np.ndarray, depth: np.ndarray, score: float, shape: tuple[int, ...]) -> Face:
    """Put together what is known about one set of points; `shape` is (height, width, ...)."""
    middle = (depth[TEMPLE_LEFT] + depth[TEMPLE_RIGHT]) / 2
    depth = depth - middle
    across = points[TEMPLE_RIGHT] - points[TEMPLE_LEFT]
    eyes = points[EYE_CENTRES[1]] - points[EYE_CENTRES[0]]
    up = points[OVAL_TOP] - points[CHIN]
    yaw = np.degrees(np.arctan2(depth[TEMPLE_LEFT] - depth[TEMPLE_RIGHT], np.hypot(*across)))
    # forehead and chin lie about equally deep in a face that looks ahead
    pitch = np.degrees(np.arctan2(depth[CHIN] - depth[OVAL_TOP], np.hypot(*up)))
    roll = np.degrees(np.arctan2(eyes[1], eyes[0]))
    low, high = points.min(0), points.max(0)
    size = float(np.hypot(*eyes))
    warnings = []
    if score < 0.5:
        warnings.append(f"the detector is only {score:.2f} sure that this is a face")
    if abs(yaw) > 35:
        warnings.append(f"the head is turned by {abs(yaw):.0f} degrees; up to 35 looks right")
    if abs(pitch) > 30:
        warnings.append(f"the head is tilted by {abs(pitch):.0f} degrees; up to 30 looks right")
    if size < 24:
        warnings.append(f"the eyes are {size:.0f} px apart; 24 and more look right")
    if (low < 0).any() or (high > (shape[1], shape[0])).any():
        warnings.append("the face is cut off by the edge of the picture")
    return Face(
        points.astype(np.float32),
        depth.astype(np.float32),
        (float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        score,
        float(yaw),
        float(pitch),
        float(roll),
        tuple(warnings),
    )


def _resized(
    picture: np.ndarray, box: tuple[float, float, float, float], width: int, height: int
) -> np.ndarray:
    """A square cut-out, grey where it leaves the picture; `box` is left, top, width, height."""
    from PIL import Image

    left, top, wide, high = box
    side = max(wide, high)
    scale = side / max(width, height)
    image = Image.fromarray(picture)
    corners = (left, top, left + width * scale, top + height * scale)
    data = (scale, 0.0, corners[0], 0.0, scale, corners[1])
    if scale > 2:  # the affine sampler takes four pixels: shrink by whole numbers first
        factor = int(scale)
        image = image.reduce(factor)
        data = (scale / factor, 0.0, left / factor, 0.0, scale / factor, top / factor)
    cut = image.transform(
        (width, height),
        Image.Transform.AFFINE,
        data,
        resample=Image.Resampling.BILINEAR,
        fillcolor=(127, 127, 127),
    )
    return np.asarray(cut)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return wide * high / (area - wide * high)


@functools.cache
def _solutions() -> Any:
    """mediapipe's face networks, without the parts of it that need a display.

    Its drawing helpers import OpenCV, whose wheel needs libGL, which servers do not have. They are
    never called here, so an empty module stands in for the import and is taken away again.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")
    stand_in = "cv2" not in sys.modules
    if stand_in:
        sys.modules["cv2"] = types.ModuleType("cv2")
    try:
        from mediapipe import solutions
    except ImportError as error:
        msg = (
            "portraits need mediapipe 0.10.14 (the last with its networks inside), which is not "
            "installed or broken here; run: pip install -c constraints.txt -e .[portrait]"
        )
        raise ImportError(msg) from error
    finally:
        if stand_in:
            del sys.modules["cv2"]
    return solutions


@functools.cache
def _detector(reach: int, least: float) -> Any:
    with _quiet():
        made = _solutions().face_detection.FaceDetection(
            model_selection=reach, min_detection_confidence=least
        )
        made.process(np.zeros((64, 64, 3), np.uint8))
    return made


@functools.cache
def _network(least: float) -> Any:
    with _quiet():
        made = _solutions().face_mesh.FaceMesh(
            static_image_mode=True,
            refine_landmarks=True,
            max_num_faces=1,
            min_detection_confidence=least,
        )
        made.process(np.zeros((64, 64, 3), np.uint8))
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr while a network starts: its C++ part writes lines that say nothing."""
    sys.stderr.flush()
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
        warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype")
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
