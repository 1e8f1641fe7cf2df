"""A finished portrait as a take: what is said about how it is read, and its files.

The take is the film (MP4, the sound in it) with a picture of its course (.png) and its curves
(.csv, as Live Link Face writes them) beside it; of a still the picture and the curves. Its reading
tells what was asked, how the critic reads the curves and the independent reader the rendered face,
what moved and whether it is still the same face. It deliberately does not know how the motion came
about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters import facs
from adapters.emotion import VAD
from adapters.face_geometry import Landmarks, drift
from adapters.face_motion import Motion, to_csv
from adapters.reading import LABELS, Reading
from pipelines.curve import Curve
from pipelines.media import TRAINED
from pipelines.portrait import PUBLISHED, Job
from pipelines.portrait_maker import Sounds
from pipelines.take import Request, Take, digital_source, write_take
from pipelines.voice_take import shipped_digests

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

Floats = NDArray[np.float64]

POINTS = 400
"""Most points of a curve over time."""
_APART = 0.1  # s by which sound and film may differ without a note


@dataclass(frozen=True, slots=True)
class Made:
    """A motion, how it came about and how the critic reads it.

    sounds: what is heard in the result. chosen: how it was picked among candidates. seconds: spent.
    """

    job: Job
    motion: Motion
    sounds: Sounds | None
    weights: str
    critic: Reading | None
    chosen: Mapping[str, Any] | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Film:
    """A motion as it was rendered.

    data: the encoded film, without records. still: the picture of a still. size: width, height.
    faces: for the figure. photo: the face at rest. meshes: (T, 478, 2) pixels, nan where no face
    was found, rest: (478, 2) of the photo, None where nobody reads; step: seconds between them.
    painter: digest of the weights that painted the face again, empty where none did.
    """

    data: bytes
    still: Image | None
    size: tuple[int, int]
    faces: tuple[Image, ...]
    photo: Image
    meshes: NDArray[np.float32] | None
    rest: NDArray[np.float32] | None
    step: float
    painter: str = ""

    @property
    def landmarks(self) -> Landmarks | None:
        """What a reader reads; frames without a face take the mesh before them."""
        if self.meshes is None or self.rest is None:
            return None
        seen = np.isfinite(self.meshes[:, 0, 0])
        if not seen.any():
            return None
        last = np.maximum.accumulate(np.where(seen, np.arange(len(seen)), 0))
        last[: int(np.argmax(seen))] = int(np.argmax(seen))
        return Landmarks(self.meshes[last].astype(np.float64), self.rest.astype(np.float64))


def label_of(job: Job) -> Floats:
    """(13,) soft label of what was asked, neutral first: its mean over the result."""
    emotion = job.request.emotion
    if job.params.still:
        at = job.params.seconds
        state = emotion.peak if at is None else emotion.at(at)
        label = np.asarray(state.soft_label(), dtype=np.float64)
        return np.asarray(label / label.sum())
    count = int(np.clip(job.frames, 2, 2000))
    states = emotion.sample(np.linspace(0.0, job.seconds, count)).astype(np.float64)
    total = states.sum(axis=1, keepdims=True)
    labels = np.hstack([np.maximum(0.0, 1.0 - total), states / np.maximum(1.0, total)])
    mean = labels.mean(axis=0)
    return np.asarray(mean / mean.sum())


def asked_curve(made: Made) -> Curve:
    """Valence and arousal that were asked for, over the result."""
    seconds = made.motion.seconds
    times = np.linspace(0.0, seconds, int(np.clip(round(4 * seconds), 2, POINTS)))
    emotion = made.job.request.emotion
    vad = emotion.sample(times) @ VAD + emotion.residuals(times)
    return Curve.of(times, vad[:, 0], vad[:, 1])


def read_curve(times: Any, readings: Sequence[Reading]) -> Curve:
    """What a reader read over time."""
    vad = np.array([reading.vad_mean for reading in readings]).reshape(-1, 3)
    return Curve.of(times, vad[:, 0], vad[:, 1])


def notes_of(made: Made, film: Film | None = None) -> list[str]:
    """What a person should know about this result."""
    job, photo = made.job, made.job.photo
    notes = [f"image: {warning}" for warning in photo.face.warnings]
    if photo.faces > 1:
        notes.append(
            f"image: {photo.faces} faces were found, face {job.params.face} moves (--face chooses)"
        )
    if not job.params.still:
        size = photo.film_size(job.params.size)
        if any(abs(a - b) > 1 for a, b in zip(size, photo.size, strict=True)):
            notes.append(
                f"image: {photo.width}x{photo.height} px are scaled to {size[0]}x{size[1]} for the "
                "film; --still keeps them"
            )
    sounds = made.sounds
    if sounds is not None:
        whose = "audio:" if "audio" in job.request.inputs else "drive: its sound"
        if not sounds.speaking and "audio" in job.request.inputs:
            notes.append("audio: nobody speaks in the recording; the lips stay at rest")
        if sounds.seconds > job.seconds + _APART:
            notes.append(f"{whose} lasts {sounds.seconds:.1f} s, cut to {job.seconds:.1f}")
        elif sounds.seconds < job.seconds - _APART:
            notes.append(f"{whose} lasts {sounds.seconds:.1f} s, then it is silent")
    course = job.request.emotion.duration
    if not job.params.still and course > job.seconds:
        notes.append(f"the emotion's course ends at {course:g} s, the film at {job.seconds:.1f}")
    if film is not None and film.meshes is not None and film.landmarks is None:
        notes.append("no face is found again in the rendered frames; the reader reads nothing")
    return notes


def reading_of(
    made: Made, film: Film, heard: Reading | None, curves: Mapping[str, Curve]
) -> dict[str, Any]:
    """What a take says about how it is read.

    heard: by the independent reader. curves: "asked" and those of readers by their names.
    """
    job = made.job
    reading: dict[str, Any] = {
        "asked": dict(zip(LABELS, map(float, label_of(job)), strict=True)),
        "critic": made.critic.to_json() if made.critic is not None else None,
        "reader": heard.to_json() if heard is not None else None,
        "curve": None if job.params.still else curve_json(curves),
        "motion": _motion_json(made, film),
        "identity": float(drift(found).mean()) if (found := film.landmarks) is not None else None,
        "consent": consent_of(job.request),
    }
    if notes := notes_of(made, film):
        reading["notes"] = notes
    return reading


def _motion_json(made: Made, film: Film) -> dict[str, Any]:
    """What moved, in plain numbers."""
    job, motion = made.job, made.motion
    gap = facs.lip_gap(motion.curves)
    shut = motion.channel("eyeBlinkLeft") > 0.5
    blinks = int((np.diff(shut.astype(int)) > 0).sum() + int(shut[0]))
    source = "curves" if job.curves is not None else "drive" if job.clip is not None else "model"
    face = job.photo.face
    return {
        "source": "muscles" if job.params.still and job.curves is None else source,
        "frames": len(motion),
        "fps": motion.fps,
        "seconds": 0.0 if job.params.still else motion.seconds,
        "size": list(film.size),
        "photo": [job.photo.width, job.photo.height],
        "face": {
            "box": [float(x) for x in face.box],
            "score": face.score,
            "yaw": face.yaw,
            "pitch": face.pitch,
            "eye_distance": face.eye_distance,
            "of": job.photo.faces,
        },
        "speaking": made.sounds is not None and made.sounds.speaking,
        "lip_gap": float(gap.mean()),
        "lip_gap_most": float(gap.max()),
        "blinks": blinks,
        "head": {name: float(np.ptp(motion.channel(name))) for name in ("yaw", "pitch", "roll")},
    }


def curve_json(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """All curves at the times of the first one that was read, null where nothing is."""
    first = next((c for name, c in curves.items() if name != "asked"), curves["asked"])
    found: dict[str, Any] = {"times": [float(t) for t in first.times]}
    for name, curve in curves.items():
        found[name] = {
            axis: [
                float(x) if math.isfinite(x) else None
                for x in np.interp(first.times, curve.times, getattr(curve, axis))
            ]
            for axis in ("valence", "arousal")
        }
    return found


def consent_of(request: Request) -> str:
    """Whether whose face and voice it is agreed: "given", "not needed" or "not stated"."""
    if "consent" in request.inputs:
        return "given"
    return "not needed" if _nobodys(request) or digital_source(request) == TRAINED else "not stated"


def _nobodys(request: Request, depth: int = 3) -> bool:
    """Whether all faces and voices of a request ship with the project, or were made of such."""
    for name in ("image", "audio", "drive"):
        if name not in request.inputs or request.digests[name] in shipped_digests():
            continue
        if request.digests[name] in PUBLISHED:
            continue
        made = None
        with suppress(ValueError, OSError):
            made = Take.read(request.inputs[name])
        if made is None or not made.request.inputs or not depth:
            return False
        if made.sha256 != request.digests[name] or not _nobodys(made.request, depth - 1):
            return False
    return True


# Files -------------------------------------------------------------------------------------------


def write(
    made: Made,
    film: Film,
    curves: Mapping[str, Curve],
    reading: Mapping[str, Any],
    out: Path,
    seconds: float,
) -> Take:
    """Write the film or still as the take, its picture and curves beside it, all or none."""
    from pipelines.media import encode_image
    from pipelines.media_video import label_video

    job, still = made.job, film.still
    companions: dict[str, Any] = {"csv": to_csv(made.motion).encode()}
    if still is None:
        picture = figure(made, film, curves)
        companions["png"] = lambda texts: encode_image(picture, "png", texts)

    def encoded(texts: Mapping[str, Any]) -> bytes:
        if still is not None:
            return encode_image(still, job.ext, texts)
        return label_video(film.data, texts)

    return write_take(
        job.request.changed(weights=made.weights),
        encoded,
        out,
        reading=reading,
        seconds=seconds,
        ext=job.ext,
        chosen=made.chosen,
        companions=companions,
        settings={"Size": f"{film.size[0]}x{film.size[1]}"},
    )


def figure(made: Made, film: Film, curves: Mapping[str, Curve]) -> Image:
    """The picture of a film: its faces, the emotion asked and read, the muscles over time."""
    from pipelines.portrait_figure import draw, loudness

    sounds = made.sounds
    speech = None
    if sounds is not None and sounds.speaking:
        heard = sounds.waveform[:, : round(made.motion.seconds * sounds.sample_rate)]
        level = loudness(heard, sounds.sample_rate)
        whole = made.motion.seconds * sounds.sample_rate / max(1, heard.shape[1])
        speech = np.pad(level, (0, max(0, round(len(level) * (whole - 1)))))
    return draw(
        made.motion,
        film.faces,
        film.photo,
        asked=curves["asked"] if made.job.moved else None,
        read={name: curve for name, curve in curves.items() if name != "asked"},
        speech=speech,
        title=_title(made.job),
        subtitle=_facts(made),
    )


def _title(job: Job) -> str:
    words = " ".join(job.request.prompt.split())
    emotion = job.request.emotion.text
    return f"{words}: {emotion}" if words else emotion


def _facts(made: Made) -> str:
    """Length, origin, model and seed on one line."""
    from pathlib import Path

    job, inputs = made.job, made.job.request.inputs
    facts = [f"{made.motion.seconds:.1f} s at {made.motion.fps:g} frames a second"]
    facts += [inputs[name].name for name in ("image", "audio", "drive", "curves") if name in inputs]
    if job.polished:
        painter = f"{Path(job.params.polish).name} {job.params.polish_strength:g}"
        facts.append(f"painted again by {painter}")
    facts.append(f"{Path(job.row.name).name}, seed {job.request.seed}")
    return " · ".join(facts)
