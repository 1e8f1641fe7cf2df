"""An emotion over the frames of a film: which moments latent frames stand for, and regions.

A video autoencoder may fold several frames into one latent frame; steering acts on latent frames.
`frame_times` says at which second each of them lies, so that a curve can be sampled there, and
`FrameTrack` holds what was sampled, for the whole picture and for regions of it. It knows nothing
of how a model is steered (frame_steering.py), nor of any word for an emotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.emotion import CORE, EmotionTimeline
from adapters.families import FAMILIES, family

FEATHER = 0.12
"""Width of a region's soft edge, as a share of the picture's shorter side. Cross-attention works on
an eighth or less of the picture's size, where a narrower edge is no edge at all."""

_BOXES = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
    "centre": (0.25, 0.25, 0.75, 0.75),
    "sky": (0.0, 0.0, 1.0, 1 / 3),
}
PLACES: tuple[str, ...] = tuple(_BOXES)
"""Names that `region_mask` knows; four shares of the picture are the other form."""

Region = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class FrameError(ValueError):
    """Frames, a region or a track that cannot be used; its one line says what can."""


@dataclass(frozen=True, slots=True)
class FrameTrack:
    """What each latent frame of a film is steered to.

    track: float32 (T, 12) intensities in CORE order, already calibrated; negative is allowed.
    residuals: float32 (T, 3) VAD that the intensities leave unexplained.
    regions: (mask (H, W) 0..1, track (T, 12), residuals (T, 3)) each; where masks overlap they
        share, where none lies the film's own track holds. Masks may have any size.

    Raises:
        FrameError: for shapes that do not fit each other, or numbers that are not finite.
    """

    track: NDArray[np.float32]
    residuals: NDArray[np.float32]
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and numbers; keep float32."""
        object.__setattr__(self, "track", _table("track", self.track, len(CORE)))
        object.__setattr__(self, "residuals", _table("residuals", self.residuals, 3))
        if len(self.residuals) != len(self.track):
            msg = (
                f"residuals: expected {len(self.track)} rows as in the track, "
                f"received {len(self.residuals)}; sample both at the same times"
            )
            raise FrameError(msg)
        regions = []
        for number, (mask, track, residuals) in enumerate(self.regions, start=1):
            share = np.asarray(mask, dtype=np.float32)
            if share.ndim != 2 or not ((share >= 0) & (share <= 1)).all():
                msg = f"region {number}: expected a mask (H, W) of shares 0..1; use region_mask"
                raise FrameError(msg)
            inner = FrameTrack(track, residuals)
            if len(inner.track) != len(self.track):
                msg = (
                    f"region {number}: expected {len(self.track)} frames as in the film, "
                    f"received {len(inner.track)}; sample all at the same times"
                )
                raise FrameError(msg)
            regions.append((share, inner.track, inner.residuals))
        object.__setattr__(self, "regions", tuple(regions))

    @classmethod
    def of(
        cls,
        timeline: EmotionTimeline,
        times: ArrayLike,
        regions: Sequence[tuple[NDArray[np.float32], EmotionTimeline]] = (),
    ) -> FrameTrack:
        """Sample a timeline, and one for each region (mask, timeline), at the `times` (T,) in s."""
        return cls(
            timeline.sample(times),
            timeline.residuals(times),
            tuple((mask, own.sample(times), own.residuals(times)) for mask, own in regions),
        )

    def __len__(self) -> int:
        """T, the number of latent frames."""
        return len(self.track)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is asked of any frame, in any region."""
        tables = [self.track, self.residuals]
        tables += [table for _, *pair in self.regions for table in pair]
        return not any(table.any() for table in tables)


def whole_frames(pipe: Any, num_frames: int) -> int:
    """How many frames the pipeline really makes when asked for `num_frames` (1 or more).

    AnimateDiff makes what is asked, Wan 4 n + 1 (its own rounding), LTX 8 n + 1, where 4 and 8 are
    what their autoencoders fold into one latent frame.
    """
    row = family(pipe)
    if num_frames < 1:
        msg = f"num_frames: expected 1 or more, received {num_frames}"
        raise FrameError(msg)
    if row.frames == "unet":
        return num_frames
    fold = _fold(pipe)
    if row.frames == "wan" and num_frames % fold != 1:  # as WanPipeline rounds before it starts
        return num_frames // fold * fold + 1
    return (num_frames - 1) // fold * fold + 1


def frame_count(pipe: Any, num_frames: int) -> int:
    """T, the latent frames of a film of `num_frames`. Raises FrameError for a still family."""
    whole = whole_frames(pipe, num_frames)
    return (whole - 1) // _fold(pipe) + 1


def frame_times(pipe: Any, num_frames: int, fps: float) -> NDArray[np.float64]:
    """(T,) seconds of the middle of each latent frame, for a film of `num_frames` at `fps`.

    The first latent frame of Wan and LTX holds one frame, every other one as many as are folded.
    """
    if not (np.isfinite(fps) and fps > 0):
        msg = f"fps: expected a positive number of frames a second, received {fps}"
        raise FrameError(msg)
    fold = _fold(pipe)
    index = np.arange(frame_count(pipe, num_frames), dtype=np.float64)
    last = fold * index
    return np.asarray(np.maximum(0.0, last - (fold - 1) / 2) / fps)


def region_mask(text: str, height: int, width: int) -> NDArray[np.float32]:
    """Where a region lies: float32 (height, width), 1 inside, 0 outside, soft edges between.

    text: one of PLACES ("sky" is the top third, "centre" the middle half), or
        "x0,y0,x1,y1" as shares of the picture from its top left corner.

    Raises:
        FrameError: for another word, or corners that are no area inside the picture.
    """
    word = text.strip().lower()
    box = _BOXES.get({"center": "centre", "middle": "centre"}.get(word, word)) or _corners(text)
    edge = FEATHER * min(height, width)
    x = _band((np.arange(width) + 0.5), box[0] * width, box[2] * width, edge, width)
    y = _band((np.arange(height) + 0.5), box[1] * height, box[3] * height, edge, height)
    return np.asarray(y[:, None] * x[None, :], dtype=np.float32)


def _corners(text: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
        inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except ValueError:
        inside = False
    if not inside:
        msg = (
            f"region: expected one of {', '.join(PLACES)}, or shares x0,y0,x1,y1 in 0..1 with "
            f"x0 < x1 and y0 < y1, received {text.strip()!r}"
        )
        raise FrameError(msg)
    return x0, y0, x1, y1


def _band(
    at: NDArray[np.float64], low: float, high: float, edge: float, size: int
) -> NDArray[np.float64]:
    """1 from `low` to `high`, .5 on them, soft over `edge`; the picture's own border is hard."""
    # A thin band keeps its middle at 1: its edges may not be wider than itself.
    edge = max(1e-6, min(edge, high - low))
    inside = np.ones_like(at)
    if low > 0:
        inside = np.minimum(inside, (at - low) / edge + 0.5)
    if high < size:
        inside = np.minimum(inside, (high - at) / edge + 0.5)
    ramp = np.clip(inside, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp))


def _fold(pipe: Any) -> int:
    """Frames in one latent frame, from the pipeline's own autoencoder."""
    row = family(pipe)
    if row.frames == "unet":
        return 1
    if row.frames == "wan":
        return int(pipe.vae_scale_factor_temporal)
    if row.frames == "ltx":
        return int(pipe.vae_temporal_compression_ratio)
    known = ", ".join(sorted({one.name for one in FAMILIES.values() if one.frames}))
    msg = f"backbone: {row.name} makes no films frame by frame; use a pipeline of {known}"
    raise FrameError(msg)


def _table(name: str, values: ArrayLike, columns: int) -> NDArray[np.float32]:
    table = np.asarray(values, dtype=np.float32)
    if table.ndim != 2 or table.shape[1] != columns or len(table) == 0:
        msg = f"{name}: expected shape (T, {columns}), one row a latent frame, got {table.shape}"
        raise FrameError(msg)
    if not np.isfinite(table).all():
        msg = f"{name}: expected finite numbers, received inf or nan; check the calibration"
        raise FrameError(msg)
    return table
