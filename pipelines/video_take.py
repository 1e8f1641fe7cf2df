"""A finished film of a video model as a take: what is said about how it is read, and its files.

The take is an MP4 with a picture of its course (.png) beside it. Single frames, some four a second,
are read by the critic of pictures and by the independent reader; how their readings follow what was
asked, and how calmly the frames follow each other, stand in the take. It deliberately does not know
how the frames came about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.agreement import Follow, asked_track, follow, read_track
from adapters.emotion import VAD
from adapters.reading import LABELS, Reading, soft_score
from pipelines.curve import Curve
from pipelines.take import Take, write_take
from pipelines.video import Job

if TYPE_CHECKING:
    from PIL.Image import Image

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

READ_RATE, MOST_READ = 4.0, 240
"""Frames read a second, and of a film in all."""
FEWEST = 3  # moments that a course can be compared at (adapters.agreement.follow)
MEASURED = 120  # frames of which flow is measured at most: 15 s at 8 a second


@dataclass(frozen=True, slots=True)
class Made:
    """A film, how the critic reads it over time, and how it came about.

    frames: (n, H, W, 3). moments: indices of the frames that are read. texts: what the model saw.
    critic: readings at `moments`, None where nobody read. seconds: spent. notes: what went wrong.
    """

    job: Job
    frames: Frames
    moments: tuple[int, ...]
    texts: tuple[str, ...]
    weights: str
    critic: tuple[Reading, ...] | None
    seconds: float
    chosen: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def times(self) -> Floats:
        """Seconds of the frames that are read."""
        return np.asarray(self.moments, dtype=np.float64) / self.job.params.fps


def moments_of(frames: int, fps: float) -> tuple[int, ...]:
    """Frames that are read: some READ_RATE a second, at most MOST_READ, the first one always."""
    step = max(1, round(fps / READ_RATE), math.ceil(frames / MOST_READ))
    return tuple(range(0, frames, step))


# What was asked ----------------------------------------------------------------------------------


def asked_rows(job: Job, times: Floats) -> Floats:
    """(n, 13) what was asked of the whole picture at `times`, regions by the area they cover."""
    rows = asked_track(job.timeline, times)
    if not job.regions:
        return rows
    from adapters.frames import region_mask

    areas = np.array([float(region_mask(where, 64, 64).mean()) for where, _ in job.regions])
    areas /= max(1.0, areas.sum())
    own = [asked_track(course, times) for _, course in job.regions]
    total = (1 - areas.sum()) * rows
    return np.asarray(total + sum(area * one for area, one in zip(areas, own, strict=True)))


def asked_curve(job: Job) -> Curve:
    """Valence and arousal that were asked for, over the film."""
    times = np.linspace(0.0, job.seconds, max(2, min(400, round(8 * job.seconds))))
    vad = asked_rows(job, times)[:, 1:] @ VAD + job.timeline.residuals(times)
    return Curve.of(times, vad[:, 0], vad[:, 1])


def score_of(job: Job, times: Floats, readings: Sequence[Reading]) -> float:
    """How well a critic reads what was asked, at each moment what was asked of it; the mean."""
    rows = asked_rows(job, times)
    return float(np.mean([soft_score(r, q) for r, q in zip(readings, rows, strict=True)]))


# What is said ------------------------------------------------------------------------------------


def notes_of(made: Made) -> list[str]:
    """What a person should know about this result."""
    job = made.job
    notes = list(made.notes)
    if not job.params.loop and job.timeline.duration > job.seconds:
        end = job.timeline.duration
        notes.append(f"the emotion's course ends at {end:g} s, the film at {job.seconds:g}")
    return notes


def reading_of(
    made: Made, reader: Sequence[Reading] | None, extra: Sequence[str]
) -> dict[str, Any]:
    """What a take says about how it is read.

    reader: readings of the independent reader at the made film's moments. extra: more notes.
    """
    times = made.times
    asked = asked_rows(made.job, times)
    judges = {one[0].reader: one for one in (made.critic, reader) if one}
    curves = {"asked": asked_curve(made.job), **curves_of(times, judges)}
    reading: dict[str, Any] = {
        "asked": dict(zip(LABELS, map(float, asked.mean(axis=0)), strict=True)),
        "prompts": list(made.texts),
        "critic": mean_of(made.critic).to_json() if made.critic else None,
        "reader": mean_of(reader).to_json() if reader else None,
        "curve": curve_json(curves),
        "over_time": {
            "times": times.tolist(),
            "asked": asked.tolist(),
            **{
                name: [row.tolist() if np.isfinite(row).all() else None for row in read_track(one)]
                for name, one in judges.items()
            },
        },
        "follows": {name: one.to_json() for name, one in follows_of(asked, judges, times).items()},
        "motion": motion_of(made),
    }
    if notes := [*notes_of(made), *extra]:
        reading["notes"] = notes
    return reading


def follows_of(
    asked: Floats, judges: Mapping[str, Sequence[Reading]], times: Floats
) -> dict[str, Follow]:
    """How each judge's readings at `times` s follow (n, 13) asked; who says too little is left out.

    A judge that is sure of nothing at a moment says nothing there (adapters.agreement.read_track).
    """
    found = {}
    for name, readings in judges.items():
        read = read_track(readings)
        if np.isfinite(read).all(axis=1).sum() >= FEWEST:
            found[name] = follow(asked, read, step=float(np.median(np.diff(times))))
    return found


def curves_of(times: Floats, judges: Mapping[str, Sequence[Reading]]) -> dict[str, Curve]:
    """Valence and arousal over time as each judge reads them."""
    found = {}
    for name, readings in judges.items():
        vad = np.array([reading.vad_mean for reading in readings])
        found[name] = Curve.of(times, vad[:, 0], vad[:, 1])
    return found


def curve_json(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """All curves at the times of the first that was read, else at those of what was asked."""
    first = next((c for name, c in curves.items() if name != "asked"), curves["asked"])
    found: dict[str, Any] = {"times": first.times.tolist()}
    for name, curve in curves.items():
        found[name] = {
            axis: np.interp(first.times, curve.times, getattr(curve, axis)).tolist()
            for axis in ("valence", "arousal")
        }
    return found


def mean_of(readings: Sequence[Reading]) -> Reading:
    """The mean of one judge's readings."""

    def mean(name: str) -> tuple[float, ...]:
        rows = np.array([getattr(one, name) for one in readings])
        return tuple(float(x) for x in rows.mean(axis=0))

    return Reading(
        mean("probabilities"),
        mean("intensities"),
        mean("vad_mean"),
        mean("vad_variance"),
        float(np.mean([one.in_domain for one in readings])),
        readings[0].reader,
    )


def motion_of(made: Made) -> dict[str, Any]:
    """Size and length, and how calmly frames follow each other (adapters.video_metrics)."""
    frames, job = made.frames, made.job
    found: dict[str, Any] = {
        "frames": len(frames),
        "fps": job.params.fps,
        "seconds": len(frames) / job.params.fps,
        "size": [int(frames.shape[2]), int(frames.shape[1])],
    }
    if len(frames) >= 3:
        from adapters.video_metrics import flicker, loop_gap, motion_speed, warping_error

        some = frames[:MEASURED]
        found |= {
            "flicker": flicker(some),
            "warping_error": warping_error(some),
            "speed": motion_speed(some, job.params.fps),
        }
        if job.params.loop:
            found["loop_gap"] = loop_gap(frames)
    return found


# Files -------------------------------------------------------------------------------------------


def write(
    made: Made,
    reader: Sequence[Reading] | None,
    reading: Mapping[str, Any],
    out: Path,
    seconds: float,
) -> Take:
    """Write the film as the take and the picture of its course beside it, both or none."""
    from pipelines.media import encode_image
    from pipelines.media_video import encode_video, label_video

    data = encode_video(iter(made.frames), made.job.params.fps)
    picture = figure(made, reader, reading)
    height, width = made.frames.shape[1:3]
    return write_take(
        made.job.request.changed(weights=made.weights),
        lambda texts: label_video(data, texts),
        out,
        reading=reading,
        seconds=seconds,
        ext="mp4",
        chosen=made.chosen,
        companions={"png": lambda texts: encode_image(picture, "png", texts)},
        settings={"Size": f"{width}x{height}"},
    )


def figure(made: Made, reader: Sequence[Reading] | None, reading: Mapping[str, Any]) -> Image:
    """The picture of a film: its frames, the emotion asked and read over time."""
    from pipelines.video_figure import draw

    judges = {one[0].reader: one for one in (made.critic, reader) if one}
    rows = {"asked": asked_rows(made.job, made.times)}
    for name, readings in judges.items():
        strength = np.array([one.intensities for one in readings])
        rows[name] = np.hstack([1 - strength.max(axis=1, keepdims=True), strength])
    return draw(
        made.frames,
        made.job.params.fps,
        asked=asked_curve(made.job) if made.job.moved else None,
        times=made.times,
        rows=rows,
        read=curves_of(made.times, judges),
        title=_title(made.job),
        subtitle=_facts(made, reading),
    )


def _title(job: Job) -> str:
    words = " ".join(job.request.prompt.split())
    places = "; ".join(f"{where}: {course.text}" for where, course in job.regions)
    felt = job.felt or job.request.emotion.text
    return f"{words}: {felt}" + (f" ({places})" if places else "")


def _facts(made: Made, reading: Mapping[str, Any]) -> str:
    """Length, model, seed and the figures on one line."""
    job, told = made.job, reading["motion"]
    facts = [f"{told['seconds']:.1f} s at {told['fps']:g} frames a second"]
    if "init" in job.request.inputs:
        facts.append(job.request.inputs["init"].name)
    facts.append(f"{Path(job.row.name).name}, seed {job.request.seed}")
    for name, one in reading["follows"].items():
        if one["r"] is not None:
            facts.append(f"{name} follows r {one['r']:.2f} [{one['low']:.2f}, {one['high']:.2f}]")
    if "flicker" in told:
        facts.append(f"flicker {told['flicker']:.4f}")
    return " · ".join(facts)
