"""Facial motion as numbers: the 52 channels of ARKit and the head's pose over time.

This is what a portrait's model makes, what its renderer draws and what people may edit. Curves go
out and come in as the CSV that Live Link Face records (61 columns: timecode, count, 52 channels,
head and eyes in radians) and as JSON in the layout of BEAT ("names", "frames" of "weights",
"rotation", "time"). It deliberately does not know emotions, muscles or pictures. numpy only.

Sources: Apple, ARFaceAnchor.BlendShapeLocation, for names and their order.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.files import replacing

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

ARKIT: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
    "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight",
    "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft",
    "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight",
    "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""Apple's names in Apple's order; left and right are the person's own."""
POSE: tuple[str, ...] = ("yaw", "pitch", "roll")
"""Degrees: + yaw turns to the person's left, + pitch looks up, + roll tilts to their left."""
CHANNELS = len(ARKIT)
FPS = 30.0
"""Frames a second of the model and of recordings."""
MOUTH: tuple[int, ...] = tuple(
    k for k, name in enumerate(ARKIT) if name.startswith(("jaw", "mouth", "tongue", "cheekPuff"))
)
"""Columns that speech moves."""
LONGEST = 3600.0
"""Seconds a motion may last."""

_HEAD = ("HeadYaw", "HeadPitch", "HeadRoll")
_EYES = (
    "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
)  # fmt: skip
_MOST_BYTES = 64 << 20


class MotionError(ValueError):
    """Curves that cannot be used; one line that says what would do."""


@dataclass(frozen=True)
class Motion:
    """T frames of a face.

    curves: float32 (T, 52) in the order of ARKIT, 0..1. pose: float32 (T, 3) degrees yaw, pitch,
    roll. fps: frames a second, 1 to 240. Values outside 0..1 are clipped.
    """

    curves: Singles
    pose: Singles
    fps: float = FPS

    def __post_init__(self) -> None:
        """Check shapes and ranges, clip, make read-only."""
        curves = np.array(self.curves, dtype=np.float32)
        pose = np.array(self.pose, dtype=np.float32)
        if curves.ndim != 2 or curves.shape[1] != CHANNELS or pose.shape != (len(curves), 3):
            msg = (
                f"motion: curves (T, {CHANNELS}) and pose (T, 3) are needed, received "
                f"{curves.shape} and {pose.shape}; give one row a frame"
            )
            raise MotionError(msg)
        if not 1 <= self.fps <= 240:
            msg = f"motion: 1 to 240 frames a second are allowed, received {self.fps:g}; resample"
            raise MotionError(msg)
        if not 1 <= len(curves) <= LONGEST * self.fps:
            msg = f"motion: 1 frame to 1 hour is allowed, received {len(curves)} frames; cut it"
            raise MotionError(msg)
        if not (np.isfinite(curves).all() and np.isfinite(pose).all()):
            msg = "motion: holds values that are no finite numbers; export it again"
            raise MotionError(msg)
        curves = curves.clip(0.0, 1.0)
        pose = pose.clip(-90.0, 90.0)
        for rows in (curves, pose):
            rows.setflags(write=False)
        object.__setattr__(self, "curves", curves)
        object.__setattr__(self, "pose", pose)
        object.__setattr__(self, "fps", float(self.fps))

    def __len__(self) -> int:
        return len(self.curves)

    @property
    def seconds(self) -> float:
        """How long the motion lasts: frames over frames a second."""
        return len(self) / self.fps

    @property
    def times(self) -> Floats:
        """(T,) seconds of the frames."""
        return np.asarray(np.arange(len(self)) / self.fps, dtype=np.float64)

    @classmethod
    def neutral(cls, frames: int, fps: float = FPS) -> Motion:
        """A face at rest that looks ahead."""
        return cls(np.zeros((frames, CHANNELS), np.float32), np.zeros((frames, 3), np.float32), fps)

    def at(self, times: ArrayLike, fps: float | None = None) -> Motion:
        """The motion at other times (n,) seconds; straight between frames, held outside.

        fps: of the result; None: that of this motion.
        """
        when = np.asarray(times, dtype=np.float64).reshape(-1)
        if not np.isfinite(when).all():
            msg = "motion: times must be finite seconds; received nan or infinity"
            raise MotionError(msg)
        place = np.clip(when * self.fps, 0.0, len(self) - 1.0)
        low = np.floor(place).astype(np.intp)
        high = np.minimum(low + 1, len(self) - 1)
        share = (place - low)[:, None].astype(np.float32)
        curves, pose = (
            (1 - share) * rows[low] + share * rows[high] for rows in (self.curves, self.pose)
        )
        return Motion(curves, pose, self.fps if fps is None else fps)

    def resampled(self, fps: float) -> Motion:
        """The same motion at another frame rate."""
        if fps == self.fps:
            return self
        frames = max(1, round(self.seconds * fps))
        return self.at(np.arange(frames) / fps, fps)

    def channel(self, name: str) -> Singles:
        """(T,) one curve, or yaw, pitch, roll, by name."""
        if name in POSE:
            return self.pose[:, POSE.index(name)]
        return self.curves[:, ARKIT.index(_known(name))]


_REGIONS = ("eye", "jaw", "mouth", "brow", "cheek", "nose", "tongue")
"""What names of channels begin with; the angles of Live Link Face begin with Left, Right, Head."""


def _known(name: str) -> str:
    if name not in ARKIT:
        msg = f"channel: {name[:40]!r} is none of the 52 of ARKit, such as jawOpen or browDownLeft"
        raise MotionError(msg)
    return name


# --- CSV, as Live Link Face writes it


def to_csv(motion: Motion) -> str:
    """A head line and 61 columns a frame; angles in radians, timecodes h:m:s:frame."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    capital = [name[0].upper() + name[1:] for name in ARKIT]
    writer.writerow(["Timecode", "BlendshapeCount", *capital, *_HEAD, *_EYES])
    look = _eye_angles(motion.curves)
    head = np.radians(motion.pose.astype(np.float64))
    for k in range(len(motion)):
        numbers = [f"{x:.5f}" for x in (*motion.curves[k], *head[k], *look[k])]
        writer.writerow([_timecode(k, motion.fps), 61, *numbers])
    return text.getvalue()


def from_csv(text: str, fps: float | None = None) -> Motion:
    """Read what Live Link Face or `to_csv` wrote: columns by name, in any order and case.

    Missing channels are 0. Time comes from the timecodes, so that dropped frames leave no jump in
    speed; fps: frames a second where there are no timecodes, or to read them with; None: found in
    the timecodes, else 60, which Live Link Face records at.

    Raises:
        MotionError: no table, no known column, a misspelt one, cells that are no numbers.
    """
    if len(text) > _MOST_BYTES:
        msg = f"curves: at most {_MOST_BYTES >> 20} MB are read, received {len(text) >> 20}; cut it"
        raise MotionError(msg)
    rows = [row for row in csv.reader(io.StringIO(text.lstrip("\ufeff"))) if any(row)]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {name: head.index(name.lower()) for name in ARKIT if name.lower() in head}
    if not columns or len(rows) < 2:
        msg = "curves: expected a CSV with a line of names such as JawOpen, received none; export "
        raise MotionError(msg + "it from Live Link Face or with --curves")
    for cell in head:  # a misspelt channel would stay at rest without a word
        if cell.startswith(_REGIONS) and cell not in {name.lower() for name in ARKIT}:
            msg = f"curves: the column {cell[:40]} is none of the 52 of ARKit, such as JawOpen; "
            raise MotionError(msg + "correct its name or leave it out")
    body = rows[1:]
    curves = np.zeros((len(body), CHANNELS))
    for name, column in columns.items():
        curves[:, ARKIT.index(name)] = _cells(body, column, name)
    pose = np.zeros((len(body), 3))
    for k, name in enumerate(_HEAD):
        if name.lower() in head:
            pose[:, k] = np.degrees(_cells(body, head.index(name.lower()), name))
    codes = [row[head.index("timecode")] for row in body] if "timecode" in head else []
    times, rate = _seconds(codes, fps)
    if times is None:
        return Motion(curves.astype(np.float32), pose.astype(np.float32), rate)
    order = np.argsort(times, kind="stable")
    times = times[order] - times[order[0]]
    if times[-1] > LONGEST:
        msg = f"curves: at most 1 hour is read, the timecodes span {times[-1] / 3600:.1f}; cut it"
        raise MotionError(msg)
    keep = np.append(True, np.diff(times) > 1e-6)
    grid = np.arange(round(times[-1] * rate) + 1) / rate
    columns_ = np.concatenate([curves, pose], axis=1)[order][keep]
    even = np.stack([np.interp(grid, times[keep], c) for c in columns_.T], axis=1)
    return Motion(
        even[:, :CHANNELS].astype(np.float32), even[:, CHANNELS:].astype(np.float32), rate
    )


def write_csv(path: Path | str, motion: Motion) -> Path:
    """Write `to_csv` whole or not at all."""
    with replacing(path) as fresh:
        fresh.write_text(to_csv(motion), encoding="utf-8")
    return Path(path)


def read_csv(path: Path | str, fps: float | None = None) -> Motion:
    """Read a CSV; see `from_csv`."""
    return from_csv(_text(path), fps)


def _text(path: Path | str) -> str:
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            msg = f"curves: at most {_MOST_BYTES >> 20} MB are read; cut {Path(path).name}"
            raise MotionError(msg)
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"curves: {Path(path).name} cannot be read as text; give a CSV or JSON of curves"
        raise MotionError(msg) from error


def _cells(body: list[list[str]], column: int, name: str) -> Floats:
    try:
        return np.array([float(row[column] or 0) for row in body], dtype=np.float64)
    except (ValueError, IndexError) as error:
        msg = f"curves: the column {name} holds something else than numbers; export it again"
        raise MotionError(msg) from error


def _timecode(frame: int, fps: float) -> str:
    """hours:minutes:seconds:frame.thousandths, the frame counted within its second."""
    second = int(frame / fps + 1e-9)
    within = frame - second * fps
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}:{within:06.3f}"


def _seconds(codes: list[str], fps: float | None) -> tuple[Floats | None, float]:
    """Seconds of timecodes, None where there are none, and frames a second."""
    parts = [code.strip().replace(";", ":").split(":") for code in codes]
    if not parts or any(len(part) != 4 for part in parts):
        return None, fps or 60.0
    try:
        numbers = np.array([[float(x) for x in part] for part in parts])
    except ValueError:
        return None, fps or 60.0
    if fps is None:
        whole = np.floor(numbers[:, 3].max()) + 1
        fps = float(min((24, 25, 30, 50, 60, 120), key=lambda rate: abs(rate - whole)))
        if whole <= 20:  # less than a second: nothing to tell it by
            fps = 30.0
    seconds = numbers[:, :3] @ np.array([3600.0, 60.0, 1.0]) + numbers[:, 3] / fps
    if len(seconds) > 1 and seconds[-1] < seconds[0]:
        seconds = np.where(seconds < seconds[0], seconds + 86400, seconds)  # past midnight
    return seconds, fps


def _eye_angles(curves: Singles) -> Floats:
    """(T, 6) radians of both eyes from the eight looks; a look of 1 is 30 degrees."""
    c = {name: curves[:, k].astype(np.float64) for k, name in enumerate(ARKIT)}
    full = np.radians(30.0)
    zero = np.zeros(len(curves))
    left = (c["eyeLookOutLeft"] - c["eyeLookInLeft"], c["eyeLookUpLeft"] - c["eyeLookDownLeft"])
    right = (
        c["eyeLookInRight"] - c["eyeLookOutRight"],
        c["eyeLookUpRight"] - c["eyeLookDownRight"],
    )
    return np.asarray(full * np.stack([*left, zero, *right, zero], axis=1))


# --- JSON, in the layout of BEAT


def to_json(motion: Motion) -> str:
    """{"names", "fps", "frames": [{"weights", "rotation" degrees, "time" seconds}]}."""
    frames = [
        {
            "weights": [round(float(x), 5) for x in curves],
            "rotation": [round(float(x), 4) for x in pose],
            "time": round(k / motion.fps, 6),
        }
        for k, (curves, pose) in enumerate(zip(motion.curves, motion.pose, strict=True))
    ]
    return json.dumps({"names": list(ARKIT), "fps": motion.fps, "frames": frames})


def from_json(text: str) -> Motion:
    """Read `to_json` or a face file of BEAT (51 names, no head).

    Raises:
        MotionError: another layout.
    """
    if len(text) > _MOST_BYTES:
        msg = f"curves: at most {_MOST_BYTES >> 20} MB are read, received {len(text) >> 20}; cut it"
        raise MotionError(msg)
    try:
        given: Any = json.loads(text)
        names = [str(name) for name in given["names"]]
        frames = given["frames"]
        weights = np.array([frame["weights"] for frame in frames], dtype=np.float64)
        pose = np.zeros((len(frames), 3))
        if frames and len(frames[0].get("rotation") or []) == 3:
            pose = np.array([frame["rotation"] for frame in frames], dtype=np.float64)
        times = np.array([float(frame.get("time", 0.0)) for frame in frames])
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        fps = float(given.get("fps") or (1 / step if step > 0 else FPS))
        if weights.shape != (len(frames), len(names)) or not len(frames):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        msg = 'curves: expected {"names": [...], "frames": [{"weights": [...]}]}; write them so'
        raise MotionError(msg) from error
    curves = np.zeros((len(frames), CHANNELS))
    places = {name.lower(): k for k, name in enumerate(ARKIT)}
    for k, name in enumerate(names):
        if name.lower() in places:
            curves[:, places[name.lower()]] = weights[:, k]
    return Motion(curves.astype(np.float32), pose.astype(np.float32), round(fps, 3))
