"""A finished voice as a take: what is said about how it is read, and its files.

The take is the sound, in the format, sample rate and channels of the recording, with a picture
(.png) beside it; of words that were spoken here also the neutral reading (.neutral.wav). Its
reading tells what was asked, how the critic and the independent reader hear the result, as a whole
and over time, what became of the cues, whether it is still the same person saying the same. It
deliberately does not know how the voice came about.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import VAD, Emotion, EmotionTimeline
from adapters.reading import LABELS, Reading
from adapters.voice_analysis import Analysis, VoiceError
from adapters.voice_cues import cue_table
from adapters.voice_expected import with_expected
from adapters.voice_speaker import intelligibility, speaker_similarity
from pipelines.curve import Curve
from pipelines.manifest import ManifestError, rows
from pipelines.media import TRAINED
from pipelines.take import Request, Take, digital_source, write_take
from pipelines.voice import Job
from pipelines.voice_maker import Candidate, Source

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.float64]

POINTS = 400
"""Most points of a curve over time."""
LOUDER_THAN_ASKED = 1.0  # dB of level that nobody asked for and that is worth a note


@dataclass(frozen=True, slots=True)
class Made:
    """A voice as it will be heard, how it came about and how the critic reads it.

    against: whether the readers know the recording as the person's neutral voice. chosen: how it
    was picked among candidates. seconds: spent.
    """

    job: Job
    source: Source
    result: Candidate
    weights: str
    against: bool
    critic: Reading | None
    chosen: Mapping[str, Any] | None
    seconds: float

    @property
    def same(self) -> bool:
        """Whether the result is the recording, sample by sample."""
        return self.result.engine == "none"

    @property
    def in_phase(self) -> NDArray[np.float32]:
        """The result as readers hear it: channels that are wired the wrong way round turned."""
        turned = (self.source.signs < 0).any()
        return self.result.waveform * self.source.signs if turned else self.result.waveform

    @property
    def length(self) -> float:
        """Seconds of the result."""
        return float(self.result.waveform.shape[1] / self.source.sample_rate)


def label_of(job: Job, source: Source) -> Floats:
    """(13,) soft label of what was asked, neutral first: its mean where somebody speaks."""
    times, said = source.analysis.times, source.analysis.speech
    states = job.request.emotion.sample(times[said] if said.any() else times).astype(np.float64)
    total = states.sum(axis=1, keepdims=True)
    labels = np.hstack([np.maximum(0.0, 1.0 - total), states / np.maximum(1.0, total)])
    mean = labels.mean(axis=0)
    return np.asarray(mean / mean.sum())


def asked_curve(made: Made) -> Curve:
    """Valence and arousal that were asked for, at the seconds of the RESULT."""
    seconds = made.source.seconds
    times = np.linspace(0.0, seconds, int(np.clip(round(4 * seconds), 2, POINTS)))
    emotion = made.job.request.emotion
    vad = emotion.sample(times) @ VAD + emotion.residuals(times)
    return Curve.of(np.interp(times, *made.result.warp), vad[:, 0], vad[:, 1])


def read_curve(times: Floats, readings: Sequence[Reading]) -> Curve:
    """What a reader read over time; nan where nobody speaks."""
    vad = np.array([_told(r) for r in readings])
    vad = vad.reshape(-1, 3)
    return Curve.of(times, vad[:, 0], vad[:, 1])


def _told(reading: Reading) -> tuple[float, ...]:
    """Valence, arousal, dominance; nan where nobody speaks, which reads as neutral for sure."""
    return (math.nan,) * 3 if reading.probabilities[0] == 1 else reading.vad_mean


def notes_of(made: Made) -> list[str]:
    """What a person should know about this result."""
    job, source = made.job, made.source
    notes = list(job.recording.remarks) if job.recording is not None else []
    if not source.people:
        notes.append("nobody speaks in the recording: it is left as it is")
    elif made.same and job.source is not None:
        notes.append(
            "source: nothing is taken away where the emotion asked for is neutral; "
            "ask for a little of one"
        )
    elif made.same and (job.params.negative or job.request.emotion.peak.intensity > 0):
        notes.append("nothing is changed: no strength or no emotion is asked for, or all is locked")
    if (source.signs < 0).any() and not made.same:
        notes.append("two channels are wired the wrong way round; they are kept so")
    if source.plain is not source.waveform and (source.signs > 0).all() and not made.same:
        notes.append("the recording had a constant offset, which is taken out")
    if source.people > 1:
        notes.append("two registers were heard, as of two people; each is moved from its own")
    course = job.request.emotion.duration
    if course > source.seconds:
        notes.append(
            f"the emotion's course ends at {course:g} s, the speech at {source.seconds:.1f}"
        )
    off = _level_change(made) - made.result.asked_db
    if source.people and abs(off) > LOUDER_THAN_ASKED:
        way = "quieter" if off < 0 else "louder"
        notes.append(f"{abs(off):.1f} dB {way} than asked: the recording is near full scale")
    return notes


def reading_of(made: Made, heard: Reading | None, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """What a take says about how it is read.

    heard: by the independent reader. curves: "asked" and those of readers by their names.
    """
    job, source = made.job, made.source
    before, after = source.analysis, made.result.analysis
    asked = label_of(job, source) if job.moved else np.zeros(len(LABELS))
    locks = [name for name, gain in job.gains.items() if gain == 0]
    reading: dict[str, Any] = {
        "asked": dict(zip(LABELS, map(float, label_of(job, source)), strict=True)),
        "critic": made.critic.to_json() if made.critic is not None else None,
        "reader": heard.to_json() if heard is not None else None,
        "against": "the recording" if made.against else None,
        "curve": _curve_json(curves),
        "cues": [
            {key: _number(value) for key, value in {**row, **_kept(made, row)}.items()}
            for row in with_expected(cue_table(before, after), asked[1:], locks)
        ],
        "speaker_similarity": _compared(speaker_similarity, before, after),
        "intelligibility": _compared(intelligibility, before, after),
        "voice": {
            "seconds": made.length,
            "source_seconds": source.seconds,
            "sample_rate": source.sample_rate,
            "channels": len(source.waveform),
            "engine": made.result.engine,
            "people": source.people,
            "level_change_db": _level_change(made),
            "level_asked_db": made.result.asked_db,
            "f0_before": _pitch(before),
            "f0_after": _pitch(after),
            "peak": float(np.abs(made.result.waveform).max()),
        },
        "consent": consent_of(job.request),
    }
    if job.recording is not None and job.recording.voice:
        reading["voice"]["spoken_by"] = job.recording.voice
    if notes := notes_of(made):
        reading["notes"] = notes
    return reading


def consent_of(request: Request) -> str:
    """Whether who speaks agreed: "given", "not needed" (nobody real speaks) or "not stated"."""
    if "consent" in request.inputs:
        return "given"
    if "audio" not in request.inputs or request.digests["audio"] in shipped_digests():
        return "not needed"
    return "not needed" if digital_source(request) == TRAINED else "not stated"


@functools.cache
def shipped_digests() -> frozenset[str]:
    """Digests of every file that ships with the project."""
    try:
        return frozenset(digest for row in rows().values() for digest in row["files"].values())
    except ManifestError:
        return frozenset()


def _compared(meter: Any, before: Analysis, after: Analysis) -> float | None:
    """A meter of two voices; None where too little is said to tell."""
    try:
        return float(meter(before, after))
    except VoiceError:
        return None


def _level_change(made: Made) -> float:
    if not made.source.people or not made.result.analysis.speech.any():
        return 0.0
    return made.result.analysis.level - made.source.analysis.level


def _pitch(analysis: Analysis) -> float | None:
    """Median Hz where somebody speaks with a pitch."""
    tone = analysis.f0[analysis.voiced & analysis.speech]
    return float(np.median(tone)) if len(tone) else None


def _kept(made: Made, row: Mapping[str, object]) -> dict[str, float]:
    """What a cue was brought to, where it was, in place of what its emotion usually does."""
    change = made.result.kept.get(str(row["name"]))
    return {} if change is None else {"expected": change}


def _number(value: Any) -> Any:
    """Plain JSON: None for what could not be told."""
    if value is None or isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None


def _curve_json(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """All curves at the times of the first one that was read, null where nobody speaks."""
    times = next((c.times for name, c in curves.items() if name != "asked"), None)
    times = curves["asked"].times if times is None else times
    found: dict[str, Any] = {"times": [float(t) for t in times]}
    for name, curve in curves.items():
        rows = {}
        for axis in ("valence", "arousal"):
            values = getattr(curve, axis)
            same = len(curve.times) == len(times) and np.array_equal(curve.times, times)
            at = values if same else np.interp(times, curve.times, values)
            rows[axis] = [_number(x) for x in at]
        found[name] = rows
    return found


# Files -------------------------------------------------------------------------------------------


def write(
    made: Made,
    curves: Mapping[str, Curve],
    reading: Mapping[str, Any],
    out: Path,
    seconds: float,
) -> Take:
    """Write the sound as the take, its picture and the neutral reading beside it, all or none."""
    from pipelines.media import encode_image
    from pipelines.media_sound import encode_sound, relabel_sound

    job, rate = made.job, made.source.sample_rate
    picture = figure(made, curves, reading)
    companions: dict[str, Any] = {"png": lambda texts: encode_image(picture, "png", texts)}
    request = job.request.changed(weights=made.weights)
    if job.recording is not None and job.recording.speech is not None:
        companions["neutral.wav"] = lambda texts: encode_sound(
            made.source.waveform, rate, _neutral(texts, request), "wav"
        )

    def sound(texts: Mapping[str, Any]) -> bytes:
        audio, recording = job.request.inputs.get("audio"), job.recording
        if made.same and audio is not None and recording is not None and recording.ext == job.ext:
            return relabel_sound(audio.read_bytes(), texts, audio.name)  # the very samples
        bits = 24 if recording is not None and recording.bits > 16 else 16
        return encode_sound(made.result.waveform, rate, texts, job.ext, bits)

    return write_take(
        request,
        sound,
        out,
        reading=reading,
        seconds=seconds,
        ext=job.ext,
        chosen=made.chosen,
        companions=companions,
        settings={"Engine": made.result.engine},
    )


def figure(made: Made, curves: Mapping[str, Curve], reading: Mapping[str, Any]) -> Image:
    """The picture of a take: pitch before and after, the emotion asked and read, the cues."""
    from pipelines.voice_figure import draw

    return draw(
        made.source.analysis,
        made.result.analysis,
        asked=curves["asked"] if made.job.moved else None,
        read={name: curve for name, curve in curves.items() if name != "asked"},
        cues=reading["cues"],
        similarity=reading["speaker_similarity"],
        title=_title(made.job),
        subtitle=_facts(made),
    )


def _neutral(texts: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The records of a neutral reading: making it again gives it, and not the take beside it."""
    plain = request.changed(emotion=EmotionTimeline.constant(Emotion.neutral()))
    record = {
        **texts["affect"],
        "key": plain.key,
        "request": plain.to_json(),
        "reading": None,
        "chosen": None,
    }
    return {**texts, "affect": record}


def _title(job: Job) -> str:
    words = " ".join(job.request.prompt.split())
    emotion = job.request.emotion.text
    return f"{words}: {emotion}" if words else emotion


def _facts(made: Made) -> str:
    """Length, register, engine and origin on one line."""
    job, before, after = made.job, _pitch(made.source.analysis), _pitch(made.result.analysis)
    length = made.length
    facts = [f"{length:.1f} s" if made.same else f"{made.source.seconds:.1f} to {length:.1f} s"]
    if before and after:
        facts.append(f"{before:.0f} to {after:.0f} Hz")
    audio = job.request.inputs.get("audio")
    facts.append(audio.name if audio is not None else f"spoken by {job.recording.voice}")  # type: ignore[union-attr]
    facts.append(f"{Path(job.row.name).name}, seed {job.request.seed}")
    return " · ".join(facts)
