"""A finished film as a take: what is said about how it is read, and its files.

The take is the film (MP4, its sound in it) with a picture of its course (.png) beside it. Its
reading tells what was asked, how every track is read over time, how far each follows what was asked
and how they agree, how loud it is, and which takes it is made of. It deliberately does not know how
those were made nor how they were cut.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.agreement import asked_track
from adapters.reading import LABELS, Reading
from pipelines.film import Job
from pipelines.film_figure import Drawn, draw
from pipelines.film_parts import Part
from pipelines.film_sound import RATE, Mix
from pipelines.film_tracks import Told
from pipelines.take import Take, write_take

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

Floats = NDArray[np.float64]

POINTS = 400
"""Most points of the sound in the picture."""


@dataclass(frozen=True, slots=True)
class Made:
    """A film that was cut.

    parts: with their takes. data: the encoded film, without records. stills: (seconds, frame) for
    the picture. told: all tracks. read: mean readings of the pictures by their judges. again: how
    many parts were made before. seconds: spent.
    """

    job: Job
    parts: Sequence[tuple[Part, Take]]
    data: bytes
    stills: Sequence[tuple[float, Image]]
    mix: Mix | None
    told: Told
    read: Mapping[str, Reading]
    again: int
    seconds: float


def label_of(job: Job) -> Floats:
    """(13,) soft label of what was asked, neutral first: its mean over the film."""
    times = np.linspace(0.0, job.scene.seconds, 200)
    return np.asarray(asked_track(job.scene.emotion, times).mean(axis=0))


def weights_of(parts: Sequence[tuple[Part, Take]]) -> str:
    """16 hex digits of all parts' weights: other weights, another film."""
    told = [f"{part.role} {part.place} {take.request.weights}" for part, take in parts]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def reading_of(made: Made) -> dict[str, Any]:
    """What a take says about how it is read."""
    job, told, mix = made.job, made.told, made.mix
    names = list(made.read)
    reading: dict[str, Any] = {
        "asked": dict(zip(LABELS, map(float, label_of(job)), strict=True)),
        "critic": made.read[names[0]].to_json() if names else None,
        "reader": made.read[names[1]].to_json() if len(names) > 1 else None,
        "tracks": {track.name: _track_json(track) for track in told.tracks},
        "follows": {name: found.to_json() for name, found in told.follows.items()},
        "agreement": told.agreement.to_json() if told.agreement is not None else None,
        "film": {
            "seconds": job.scene.seconds,
            "frames": job.frames,
            "fps": job.scene.fps,
            "size": list(job.size),
            "shots": [shot_json(shot) for shot in job.scene.shots],
            "loudness": _number(mix.loudness) if mix is not None else None,
            "peak": _number(mix.peak) if mix is not None else None,
            "music_steps_back_db": float(mix.gain.min()) if mix is not None else None,
        },
        "parts": [
            {
                "of": part.name,
                "role": part.role,
                "modality": take.request.modality,
                "start": part.start,
                "seconds": part.seconds,
                "key": take.request.key,
                "sha256": take.sha256,
            }
            for part, take in made.parts
        ],
        "consent": consent_of(made.parts),
    }
    return reading


def shot_json(shot: Any) -> dict[str, Any]:
    """A shot as it was laid out."""
    start, end = shot.span
    return {"kind": shot.kind, "start": start, "end": end, "shows": name_of(shot)}


def name_of(shot: Any) -> str:
    """What a shot shows, for people."""
    return str(shot.about or (shot.file.name if shot.file is not None else shot.kind))


def consent_of(parts: Sequence[tuple[Part, Take]]) -> str:
    """Whether those whose voices and faces are in it agreed: the least that a part says."""
    told = [str((take.reading or {}).get("consent", "not needed")) for _, take in parts]
    for answer in ("not stated", "given"):
        if answer in told:
            return answer
    return "not needed"


def _track_json(track: Any) -> dict[str, Any]:
    """A track's curves on their own times, null where it says nothing."""
    return {
        name: {
            "times": [float(t) for t in curve.times],
            "valence": [_number(x) for x in curve.valence],
            "arousal": [_number(x) for x in curve.arousal],
        }
        for name, curve in track.curves.items()
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


# Files -------------------------------------------------------------------------------------------


def write(made: Made, out: Path) -> Take:
    """Write the film as the take and its picture beside it, both or none."""
    from pipelines.media import encode_image
    from pipelines.media_video import label_video

    job = made.job
    picture = figure(made)
    return write_take(
        job.request.changed(weights=weights_of(made.parts)),
        lambda texts: label_video(made.data, texts),
        out,
        reading=reading_of(made),
        seconds=made.seconds,
        ext="mp4",
        companions={"png": lambda texts: encode_image(picture, "png", texts)},
        settings={"Size": f"{job.size[0]}x{job.size[1]}"},
    )


def figure(made: Made) -> Image:
    """The picture of a film's course."""
    job, mix = made.job, made.mix
    scene = job.scene
    level = np.zeros(0)
    if mix is not None:
        size = max(1, mix.waveform.shape[1] // POINTS)
        whole = mix.waveform[:, : mix.waveform.shape[1] // size * size].mean(axis=0)
        level = np.sqrt((whole.reshape(-1, size).astype(np.float64) ** 2).mean(axis=1))
    facts = [
        f"{scene.seconds:g} s at {scene.fps} frames a second",
        f"{job.size[0]} x {job.size[1]}",
        f"{len(scene.shots)} shots",
        f"seed {job.request.seed}",
    ]
    if mix is not None and math.isfinite(mix.loudness):
        facts.append(f"{mix.loudness:.1f} LUFS at {RATE / 1000:g} kHz, peak {mix.peak:.1f} dB")
    drawn = Drawn(
        title=" · ".join(filter(None, [scene.title, job.request.emotion.text])),
        subtitle=" · ".join(facts),
        seconds=scene.seconds,
        emotion=scene.emotion,
        stills=made.stills,
        shots=[(*shot.span, name_of(shot)) for shot in scene.shots],
        level=level,
        gain=mix.gain if mix is not None and scene.music is not None else np.zeros(0),
    )
    return draw(drawn, made.told)
