"""Another face's expression: a film of a face, its mesh frame by frame, read as curves of ARKit.

    film -> 478 points a frame -> the head's turn taken out -> what moved since the face's own rest
         -> curves, by inverting the basis that draws them

Everything is relative to how this face looks at rest (the frames with the mouth shut and the eyes
open), so that a broad face is no smile. The head's turn is the rotation that fits points which no
muscle moves (Kabsch 1976); curves solve a least-squares problem with bounds (Beck & Teboulle 2009,
FISTA). What an image cannot tell, the tongue and puffed cheeks, stays at rest. It deliberately
does not know whose face will wear them. No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.face_motion import ARKIT, Motion
from pipelines.face_mesh import Face, FaceError, detect, measure, template
from pipelines.media_records import printable
from pipelines.media_video import Clip, decode_frames, probe_video
from pipelines.portrait_basis import basis

Floats = NDArray[np.float64]

FPS = 30.0  # frames of the film that are looked at
SIDE = 720  # px of the film's longer side: the mesh network sees 192 of a face
LOOKS = 12  # frames in which a first face is looked for
FEWEST = 0.3  # share of the frames in which a face has to be found
LONGEST = 1200.0  # s

_RIGID = (
    168, 6, 197, 195, 33, 133, 362, 263, 127, 356, 234, 454, 162, 389, 21, 251,
)  # fmt: skip
"""Points that bone carries: bridge of the nose, corners of the eyes, temples. Brows draw the
forehead along, which would lower the mouth of whoever is surprised."""
_LIDS = {"Right": (159, 145), "Left": (386, 374)}
"""Middle of the upper and the lower lid of the person's eyes."""
_SILENT = ("jawForward", "tongueOut", "cheekPuff")
_PLAIN = (
    "jawOpen", "mouthSmile", "mouthPucker", "mouthFunnel", "mouthUpperUp", "mouthLowerDown",
    "mouthPress", "browDown", "browInnerUp", "browOuterUp", "noseSneer", "eyeWide", "eyeSquint",
)  # fmt: skip
"""Channels that a mesh tells well; what the others would explain has to be fifty times as clear.
On one film rendered from known curves: correlation .60 instead of .42, error .09 instead of .14."""
_RIDGE, _SPARSE, _ROUNDS = (0.01, 0.5), 0.002, 160
_SMOOTH = (0.25, 0.5, 0.25)  # the network's noise lasts a frame
_BLINK = (0.2, 0.75)  # share of an eye's opening that is gone where a blink begins, and is whole
_WIDE = (0.08, 0.4)  # share that is added where an eye begins to be wide, and is fully so


def check_clip(path: Path) -> Clip:
    """What a driving film says of itself, once a face was found in it.

    Raises:
        MediaError: no film that can be read.
        FaceError: too long, or nobody's face in it.
    """
    clip = probe_video(path)
    if not 0 < clip.seconds <= LONGEST:
        msg = f"drive: {printable(path)} lasts {clip.seconds:.1f} s, allowed are up to {LONGEST:g}"
        raise FaceError(f"{msg}; cut it")
    rate = min(FPS, LOOKS / max(clip.seconds, 1 / FPS))
    for _, frame in decode_frames(path, fps=rate, side=SIDE):
        if _found(frame) is not None:
            return clip
    msg = f"drive: no face found in {printable(path)}; give a film where it is large and frontal"
    raise FaceError(msg)


def read_clip(path: Path, on_frame: Callable[[], None] | None = None) -> Motion:
    """Curves and pose of the largest face of a film, 30 frames a second or fewer.

    on_frame: called after each frame; raises to stop.

    Raises:
        FaceError: its face is seen in less than a third of the frames.
    """
    times: list[float] = []
    shapes: list[Floats] = []
    near: Face | None = None
    waited = 0
    for at, frame in decode_frames(path, fps=FPS, side=SIDE):
        face = None
        if near is not None:
            face = measure(frame, near)
        if face is None and waited % 10 == 0:  # finding takes ten times as long as following
            face = _found(frame)
        waited = 0 if face is not None else waited + 1
        near = face if face is not None else near if waited < 10 else None
        times.append(at)
        shapes.append(_shape(face))
        if on_frame is not None:
            on_frame()
    if not times:
        msg = f"drive: {printable(path)} holds no frames; give another film"
        raise FaceError(msg)
    points = np.stack(shapes)
    seen = np.isfinite(points[:, 0, 0])
    if seen.mean() < FEWEST:
        msg = (
            f"drive: a face was found in {seen.mean():.0%} of the frames of {printable(path)}, "
            f"{FEWEST:.0%} are needed; give a film where it stays large and frontal"
        )
        raise FaceError(msg)
    clock = np.array(times)
    rate = FPS if len(clock) < 2 else min(FPS, 1 / float(np.median(np.diff(clock))))
    even = np.arange(max(1, round((clock[-1] + 1 / rate) * FPS))) / FPS
    flat = points.reshape(len(points), -1)
    filled = np.stack([np.interp(even, clock[seen], column) for column in flat[seen].T], axis=1)
    return read_shapes(filled.reshape(len(even), *points.shape[1:]))


def read_shapes(points: Floats, fps: float = FPS) -> Motion:
    """Curves and pose of a mesh over time: (T, 478, 3) pixels, y UP, z to the viewer."""
    rest = _at_rest(points)
    upright, _, _ = _fitted(rest, template())
    unit = np.linalg.norm(rest[473] - rest[468])
    rest = (rest - rest[list(_RIGID)].mean(axis=0)) @ upright.T / unit
    moved = np.empty((len(points), len(rest), 2))
    pose = np.empty((len(points), 3))
    for k, shape in enumerate(points):
        turn, scale, shift = _fitted(shape, rest)
        moved[k] = (scale * shape @ turn.T + shift - rest)[:, :2]
        pose[k] = _angles(turn.T @ upright)
    curves = _solved(moved)
    for side, (above, below) in _LIDS.items():
        gap = moved[:, above, 1] - moved[:, below, 1] + (rest[above, 1] - rest[below, 1])
        gone = 1 - gap / max(1e-3, float(rest[above, 1] - rest[below, 1]))
        for name, sign, (begins, whole) in (("Blink", 1, _BLINK), ("Wide", -1, _WIDE)):
            share = np.clip((sign * gone - begins) / (whole - begins), 0, 1)
            curves[:, ARKIT.index(f"eye{name}{side}")] = share
    pose -= np.median(pose, axis=0)
    both = _smoothed(np.concatenate([curves, pose], axis=1))
    return Motion(both[:, :-3].astype(np.float32), both[:, -3:].astype(np.float32), fps)


def _found(frame: NDArray[np.uint8]) -> Face | None:
    from PIL import Image

    try:
        return detect(Image.fromarray(frame), limit=1)[0]
    except FaceError:
        return None


def _shape(face: Face | None) -> Floats:
    """(478, 3) x right, y up, z to the viewer in pixels; nan where there is no face."""
    if face is None:
        return np.full((478, 3), np.nan)
    flat = face.points.astype(np.float64) * (1, -1)
    return np.column_stack([flat, face.depth.astype(np.float64)])


def _at_rest(points: Floats) -> Floats:
    """(478, 3) the face as it rests: lips together and eyes open, the mean of such frames."""
    middle = points[len(points) // 2]
    aligned = np.empty_like(points)
    for k, shape in enumerate(points):
        turn, scale, shift = _fitted(shape, middle)
        aligned[k] = scale * shape @ turn.T + shift
    unit = np.linalg.norm(middle[473] - middle[468])
    lips = np.abs(aligned[:, 13, 1] - aligned[:, 14, 1]) / unit
    eyes = sum(aligned[:, a, 1] - aligned[:, b, 1] for a, b in _LIDS.values()) / unit
    usual = np.median(aligned, axis=0)
    off = np.linalg.norm(aligned - usual, axis=2).mean(axis=1) / unit
    cost = 3 * lips + np.maximum(0, np.median(eyes) - eyes) + 2 * off
    calm = np.argsort(cost, kind="stable")[: max(1, len(points) // 8)]
    return np.asarray(aligned[calm].mean(axis=0))


def _fitted(shape: Floats, onto: Floats) -> tuple[Floats, float, Floats]:
    """Rotation, scale and shift that lay the rigid points of one shape on another's."""
    a, b = shape[list(_RIGID)], onto[list(_RIGID)]
    a0, b0 = a.mean(axis=0), b.mean(axis=0)
    u, s, v = np.linalg.svd((b - b0).T @ (a - a0))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    turn = (u * flip) @ v
    scale = float((s * flip).sum() / np.square(a - a0).sum())
    return turn, scale, np.asarray(b0 - scale * a0 @ turn.T)


def _angles(turn: Floats) -> Floats:
    """Yaw, pitch, roll in degrees of a rotation, with the signs of `face_motion.POSE`."""
    ahead, up = turn[:, 2], turn[:, 1]
    yaw = np.arctan2(ahead[0], ahead[2])
    pitch = np.arctan2(ahead[1], np.hypot(ahead[0], ahead[2]))
    roll = np.arctan2(up[0], up[1])
    return np.asarray(np.degrees(np.array([yaw, pitch, roll])))


@cache
def _drawn() -> Floats:
    """(52, 956) what each channel moves in the picture; nothing for those it cannot tell."""
    moves = basis()[:, :, :2].copy()
    for name in _SILENT:
        moves[ARKIT.index(name)] = 0
    return np.asarray(moves.reshape(len(ARKIT), -1))


def _solved(moved: Floats) -> Floats:
    """(T, 52) curves 0..1 whose displacements are nearest to (T, 478, 2) in eye distances."""
    drawn = _drawn()
    normal = drawn @ drawn.T
    mean = float(np.trace(normal)) / len(normal)
    tied = normal + mean * np.diag([_RIDGE[not name.startswith(_PLAIN)] for name in ARKIT])
    wanted = moved.reshape(len(moved), -1) @ drawn.T - _SPARSE * mean
    step = 1 / float(np.linalg.eigvalsh(tied)[-1])
    x = y = np.zeros_like(wanted)
    pace = 1.0
    for _ in range(_ROUNDS):
        new = np.clip(y - step * (y @ tied - wanted), 0.0, 1.0)
        quicker = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        y = new + (pace - 1) / quicker * (new - x)
        x, pace = new, quicker
    return np.asarray(x)


def _smoothed(rows: Floats) -> Floats:
    if len(rows) < 3:
        return rows
    padded = np.pad(rows, ((1, 1), (0, 0)), mode="edge")
    return np.asarray(sum(w * padded[k : k + len(rows)] for k, w in enumerate(_SMOOTH)))


def worn(driven: Motion, frames: int, fps: float, head: float) -> Motion:
    """The driving motion at a film's frames; `head`: factor on the turns of the head."""
    out = driven.at(np.arange(frames) / fps, fps)
    return dataclasses.replace(out, pose=head * out.pose)
