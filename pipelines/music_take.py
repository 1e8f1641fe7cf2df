"""A finished piece as a take: what is said about how it is read, and its three files.

The take is the .mid, with the sound (.wav) and the picture (.png) beside it under the same name.
Its reading tells what was asked, how the critic reads the notes and the independent reader hears
the sound, as a whole and bar by bar, and the attributes that were asked for and measured. It
deliberately does not know how the piece came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.music_attributes import ATTRIBUTES, measure
from adapters.piece import Piece
from adapters.reading import LABELS, Reading
from adapters.tonality import find_key
from pipelines.curve import Curve
from pipelines.music import Job
from pipelines.music_figure import piano_roll
from pipelines.music_plan import Plan, asked_curve, asked_label, bar_lines
from pipelines.piano import SAMPLE_RATE
from pipelines.take import Take, write_take


@dataclass(frozen=True, slots=True)
class Made:
    """A piece as it will be heard, how it came about and how the critic reads its notes.

    first: bars at its start that were given, not made. chosen: how it was picked among candidates.
    """

    job: Job
    piece: Piece
    plan: Plan | None
    weights: str
    critic: Reading | None
    chosen: Mapping[str, Any] | None
    seconds: float


def curves_of(made: Made, sound: Any, critic: Any, reader: Any) -> dict[str, Curve]:
    """Asked and read valence and arousal in time: "asked", then both readers by their names."""
    curves = {"asked": asked_curve(made.job.request.emotion, made.piece.seconds)}
    for judge, item in ((critic, made.piece), (reader, sound)):
        if judge is not None:
            curves[judge.name] = Curve.of(*judge.read_over_time(item))
    return curves


def label_of(job: Job, piece: Piece) -> NDArray[np.float64]:
    """(13,) the soft label that a piece was asked to be read as."""
    return asked_label(job.request.emotion, piece.seconds)


def notes_of(job: Job, plan: Plan | None) -> list[str]:
    """What a person should know about how a request was understood."""
    notes = list(job.remarks)
    course = job.request.emotion.duration
    length = job.params.seconds
    if length is not None and course > length:
        notes.append(f"the emotion's course ends at {course:g} s, the music at {length:g} s")
    for name, value in job.pins.attributes.items() if job.composed and plan is not None else ():
        played = float(plan.targets[:, ATTRIBUTES.index(name)].mean())
        if name != "tempo" and abs(played - value) > 1e-6:
            notes.append(f"{name}={value:g} is beyond this composer; {played:g} is asked of it")
    if plan is None and job.kind == "recolour":
        notes.append("neither emotion nor attributes are asked for: the file is played as it is")
    return notes


def reading_of(made: Made, heard: Reading | None, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """What a take says about how it is read: asked, by the critic, by the reader, bar by bar."""
    job, piece, plan = made.job, made.piece, made.plan
    label = zip(LABELS, map(float, label_of(job, piece)), strict=True)
    weight = np.diff(bar_lines(piece))[-plan.bars :] if plan is not None else np.ones(1)
    asked = None if plan is None else np.average(plan.targets, axis=0, weights=weight)
    measured = measure(piece)
    key = find_key(piece)
    lines = bar_lines(piece)
    reading: dict[str, Any] = {
        "asked": dict(label),
        "critic": made.critic.to_json() if made.critic is not None else None,
        "reader": heard.to_json() if heard is not None else None,
        "attributes": {
            "asked": None
            if asked is None
            else dict(zip(ATTRIBUTES, map(float, asked), strict=True)),
            "measured": {name: _number(value) for name, value in measured.items()},
        },
        "curve": _curve_json((lines[1:] + lines[:-1]) / 2, curves),
        "piece": {
            "key": key.name,
            "bars": piece.bars,
            "beats_per_bar": piece.beats_per_bar,
            "tempo": piece.beats * 60 / piece.seconds,
            "notes": len(piece),
            "seconds": piece.seconds,
        },
    }
    if notes := notes_of(job, plan):
        reading["notes"] = notes
    return reading


def _curve_json(times: np.ndarray, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """All curves at the middles of the bars, null where a reader could not tell."""
    found: dict[str, Any] = {"times": [float(t) for t in times]}
    for name, curve in curves.items():
        found[name] = {}
        for axis in ("valence", "arousal"):
            values = getattr(curve, axis)
            known = np.isfinite(values)
            at = np.interp(times, curve.times[known], values[known]) if known.any() else None
            found[name][axis] = None if at is None else [float(x) for x in at]
    return found


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write(
    made: Made,
    sound: np.ndarray,
    curves: Mapping[str, Curve],
    reading: Mapping[str, Any],
    out: Path,
    seconds: float,
) -> Take:
    """Write the notes as the take, its sound and its picture beside it, all of them or none."""
    from pipelines.media import encode_image
    from pipelines.media_midi import encode_midi
    from pipelines.media_sound import encode_sound

    job, piece = made.job, made.piece
    read = {name: curve for name, curve in curves.items() if name != "asked"}
    asked = curves["asked"] if made.plan is not None else None
    picture = piano_roll(piece, asked=asked, read=read, title=_title(job), subtitle=_facts(made))
    return write_take(
        job.request.changed(weights=made.weights),
        lambda texts: encode_midi(piece, texts),
        out,
        reading=reading,
        seconds=seconds,
        ext="mid",
        chosen=made.chosen,
        companions={
            "wav": lambda texts: encode_sound(sound, SAMPLE_RATE, texts),
            "png": lambda texts: encode_image(picture, "png", texts),
        },
    )


def _title(job: Job) -> str:
    emotion = job.request.emotion.text
    return f"{job.request.prompt}: {emotion}" if job.request.prompt.strip() else emotion


def _facts(made: Made) -> str:
    """Key, metre, tempo, length and origin on one line."""
    job, piece = made.job, made.piece
    key = find_key(piece)
    bpm = sorted({round(float(x)) for x in (piece.tempo[:, 1].min(), piece.tempo[:, 1].max())})
    facts = [
        f"{key.name.removesuffix('m')} {'minor' if key.minor else 'major'}",
        f"{piece.beats_per_bar:g}/4",
        f"{' to '.join(map(str, bpm))} bpm",
        f"{piece.bars} bars",
    ]
    if job.kind == "compose":
        facts.append(f"{Path(job.row.name).name}, seed {job.request.seed}")
    else:
        told = {"continue": "continued", "recolour": "re-coloured", "transfer": "transferred"}
        name = job.request.inputs["onto" if job.kind == "transfer" else job.kind].name
        facts.append(f"{name}, {told[job.kind]}")
    return " · ".join(facts)
