"""Voice: the knobs, the check of requests, and where the speech comes from.

`generate` is the voice branch of `pipelines.generate`. A recording is given, or words are spoken
neutrally first; then the same words by the same person get another emotion. Everything that a
person can get wrong is told here, before a model is loaded or a file is written.

It deliberately does not know how a run goes (pipelines.voice_session), how changes are found
(pipelines.voice_model) or rendered (pipelines.voice_render), nor how files are written. Importing
it loads no torch: the command line reads `VoiceParams` to print its help.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import Emotion, EmotionError
from pipelines import Backbone, BackboneError, Step, resolve
from pipelines.params import ParamError, Params, check_intensities, knob
from pipelines.request import Request
from pipelines.selection import check_kept, check_search
from pipelines.take import Take, prepare_out

if TYPE_CHECKING:
    from pipelines.voice_model import VoicePipeline

Singles = NDArray[np.float32]

INPUTS = ("audio", "consent")
"""What a voice request may bring: the recording, and who agreed that it is changed."""
LOCKS = ("pitch", "timing", "level", "timbre", "breath")
"""Groups of cues that are locked and weighed one by one; those of `pipelines.voice_model`."""
ENGINES = ("auto", "psola", "world")
FORMATS = ("auto", "wav", "flac", "mp3")
SHORTEST, LONGEST = (
    0.3,
    1200.0,
)  # s: a syllable to tell anything by; 20 minutes for a lecture's part
STRETCH = (0.25, 4.0)  # of `pipelines.voice_render`
MOST_GAIN = 3.0
FEWEST_BITS = 16
FEWEST_RUNS = 3  # of flat tops: one or two are a loud consonant
MOST_CLIPPED = 0.01  # share of flat samples above which the distortion is louder than any colour
CLASSES = {"VoicePipeline": "edit", "MelVoicePipeline": "mel"}
"""Class in a backbone's folder -> how it makes a voice: edits of the recording, or a new mel."""
INDEX = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"  # of `pipelines.voice_model`
CANDIDATES = 1  # the choice of two is read right a little more often (.70, .67), in twice the time


@dataclass(frozen=True, slots=True)
class VoiceParams(Params):
    """Public knobs of a voice; options, controls, manifest and README are made from these."""

    seconds: float | None = knob(
        None, "exact length of the result, as for dubbing; 1/4 to 4 times the recording",
        min=0.1, max=4 * LONGEST, step=0.1, unset="as it comes",
    )  # fmt: skip
    keep_length: bool = knob(False, "as long as the recording, so that lips stay in time")
    lock: str = knob("", "what must not change: any of pitch,timing,level,timbre,breath")
    gain: str = knob("", "how much of a change is made, for example pitch=.5,timbre=1.2")
    strength: float = knob(1.0, "how far the emotion moves the voice", min=0.0, max=2.0, step=0.05)
    expressiveness: float = knob(
        1.0,
        "guidance: how pronounced the shape of the change is; strength says how far it goes",
        min=0.0,
        max=4.0,
        step=0.1,
    )
    variation: float = knob(
        0.5, "how much a take differs from the average one, 0: not at all",
        min=0.0, max=1.5, step=0.05,
    )  # fmt: skip
    source: str = knob("", "emotion that the recording already has; it is taken away first")
    negative: str = knob("", "emotions to move away from, for example anger .5")
    candidates: int = knob(
        CANDIDATES, "takes tried for each seed; the critic keeps the best one",
        min=1, max=16, step=1,
    )  # fmt: skip
    steps: int = knob(10, "denoising steps", min=1, max=100, step=1, advanced=True)
    protect: float = knob(
        0.3, "share of colour and breath that hissing sounds are spared",
        min=0.0, max=1.0, step=0.05, advanced=True,
    )  # fmt: skip
    engine: str = knob("auto", "how pitch and time are moved: auto, psola or world", advanced=True)
    speaker: str = knob("", "voice that speaks the text, of those its engine knows")
    language: str = knob("en", "language of the text, for example en or de")
    speech: str = knob(
        "auto", "what speaks the text: auto, espeak, or a text-to-speech model's name or folder"
    )
    lora: str = knob("", "folder of a style, a LoRA trained on recordings")
    lora_weight: float = knob(
        1.0, "how strongly the style is worn, 1: as it was trained", min=0.0, max=2.0, step=0.05
    )
    format: str = knob("auto", "file that is written: auto (as the recording), wav, flac or mp3")
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of the source before it is analysed.

    ext: suffix of its own format. bits: of a sample. remarks: what a person should know about it.
    speech: the words as they were spoken, float32 (1, samples), None for a file. voice: who spoke
    them.
    """

    seconds: float
    sample_rate: int
    channels: int
    ext: str
    bits: int = 16
    remarks: tuple[str, ...] = ()
    speech: Singles | None = None
    voice: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One voice to make: the request with its params spelled out, and what they mean.

    kind: of CLASSES. gains: lock group -> factor on its change, 0 where it is locked. source,
    negative: (12,) intensities, None where none are given. recording: None for words that are not
    spoken yet.
    """

    request: Request
    params: VoiceParams
    row: Backbone
    kind: str
    gains: Mapping[str, float]
    source: tuple[float, ...] | None
    negative: tuple[float, ...] | None
    recording: Recording | None

    @property
    def moved(self) -> bool:
        """Whether an emotion is asked for at all."""
        keys = self.request.emotion.keys
        return self.params.strength > 0 and any(
            state.intensity > 0 or any(state.residual) for _, state in keys
        )

    @property
    def ext(self) -> str:
        """Suffix of the file that is written."""
        own = self.recording.ext if self.recording is not None else "wav"
        return own if self.params.format == "auto" else self.params.format

    @property
    def but_for_seed(self) -> str:
        """Equal for jobs that differ in their seed alone."""
        return self.request.changed(seed=0).key

    def seeded(self, seed: int) -> Job:
        """Return the same job with another seed."""
        return dataclasses.replace(self, request=self.request.changed(seed=seed))


def job_of(
    request: Request,
    *,
    pipeline: Any = None,
    search: bool = False,
    known: dict[str, Recording] | None = None,
) -> Job:
    """Check one request completely and decode its recording; no model is loaded for it.

    pipeline: a loaded one that is used whatever the backbone's name. search: several seeds will be
    tried (best_of), so that one candidate a seed is enough. known: recordings of this call by their
    digest, so that each is decoded once.
    """
    name = request.backbone
    row = Backbone(name, "voice", name, "", "", 0) if pipeline else resolve(name, "voice")
    if row.modality != "voice":
        msg = f"backbone: {row.name} makes {row.modality}, not voices; see `affect models list`"
        raise ParamError(msg)
    given = {"candidates": 1, **request.params} if search else request.params
    params = VoiceParams.parse(given, row.defaults)
    check_intensities(request.emotion.peak.intensity, over=params.over)
    _check_inputs(request, params)
    for knob_name, allowed in (("engine", ENGINES), ("format", FORMATS)):
        if getattr(params, knob_name) not in allowed:
            value = str(getattr(params, knob_name))[:40]
            msg = f"{knob_name}: allowed are {', '.join(allowed)}, received {value!r}; choose one"
            raise ParamError(msg)
    gains = gains_of(params)
    source, negative = (_intensities(key, getattr(params, key)) for key in ("source", "negative"))
    if params.keep_length and params.seconds is not None:
        msg = "seconds: --keep-length asks for the recording's own length; leave one of them out"
        raise ParamError(msg)
    kind = CLASSES[type(pipeline).__name__] if pipeline else kind_of(row)
    if kind == "mel":
        _check_mel(params)
    if params.lora:
        check_style(params.lora)
    recording = None
    if "audio" in request.inputs:
        known = {} if known is None else known
        digest = request.digests["audio"]
        if digest not in known:
            known[digest] = read_recording(request.inputs["audio"])
        recording = known[digest]
    request = request.changed(params=params.to_json())
    job = Job(request, params, row, kind, gains, source, negative, recording)
    if recording is not None:
        check_recording(job, recording)
    return job


def _check_inputs(request: Request, params: VoiceParams) -> None:
    """Exactly one of words and a recording; a machine's voice only where words are given."""
    if strange := sorted(set(request.inputs) - set(INPUTS)):
        msg = f"inputs: a voice takes {', '.join(INPUTS)}, received {', '.join(strange)}"
        raise ParamError(msg)
    words, recorded = bool(request.prompt.strip()), "audio" in request.inputs
    if words == recorded:
        what = "both" if words else "neither"
        msg = f"voice: needs either a recording (--audio FILE) or words (--text), received {what}"
        raise ParamError(msg)
    if recorded and (params.speaker or params.speech != "auto"):
        name = "speaker" if params.speaker else "speech"
        msg = f"{name}: says who speaks a text; the recording has its own voice, leave it out"
        raise ParamError(msg)


def gains_of(params: VoiceParams) -> dict[str, float]:
    """Factor on the change of every lock group, 0 for those that are locked.

    Raises:
        ParamError: a name that is none, a factor outside 0..3, or a group that is in both.
    """
    gains = dict.fromkeys(LOCKS, 1.0)
    for part in filter(None, (part.strip().lower() for part in params.gain.split(","))):
        name, _, text = part.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if name.strip() not in LOCKS or not 0 <= value <= MOST_GAIN:
            msg = (
                f"gain: {', '.join(LOCKS)}, each 0 to {MOST_GAIN:g}, received {part[:40]!r}; "
                "write e.g. --gain pitch=.5,timbre=1.2"
            )
            raise ParamError(msg)
        gains[name.strip()] = value
    for name in filter(None, (name.strip().lower() for name in params.lock.split(","))):
        if name not in LOCKS:
            msg = (
                f"lock: allowed are {', '.join(LOCKS)}, received {name[:40]!r}; "
                "write e.g. --lock pitch,timing"
            )
            raise ParamError(msg)
        gains[name] = 0.0
    return gains


def _intensities(name: str, text: str) -> tuple[float, ...] | None:
    """(12,) of an emotion that is written in a knob, None for nothing."""
    if not text.strip():
        return None
    try:
        return Emotion.parse(text).intensities
    except EmotionError as error:
        msg = f"{name}: {str(error).removeprefix('emotion: ')}"
        raise ParamError(msg) from error


def _check_mel(params: VoiceParams) -> None:
    """Refuse what acts on edits of a recording where a voice is made anew from its mel."""
    plain = VoiceParams()
    for name in ("seconds", "lock", "gain", "engine", "lora", "protect"):
        if getattr(params, name) != getattr(plain, name):
            msg = (
                f"{name}: acts on edits of the recording, this backbone makes its mel anew; "
                f"leave {name} out or use voice-tiny"
            )
            raise ParamError(msg)


def check_style(folder: str) -> Path:
    """The folder of a style; raises ParamError where it cannot be one."""
    path = Path(folder).expanduser()
    for head in ("prosody", "timbre"):
        if not (path / head / ADAPTER).is_file():
            msg = (
                f"lora: {path} has no {head}/{ADAPTER}; give a folder that "
                "`affect train lora --modality voice` has written"
            )
            raise ParamError(msg)
    return path


def kind_of(row: Backbone) -> str:
    """How a backbone makes a voice, by the class that its folder names; "edit" for the hub's."""
    if row.folder is None or not (row.folder / INDEX).is_file():
        return "edit"
    try:
        found = json.loads((row.folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"backbone: {row.folder / INDEX} cannot be read; save the model again"
        raise BackboneError(msg) from error
    if found not in CLASSES:
        known = " or a ".join(CLASSES)
        msg = f"backbone: {row.name} holds a {str(found)[:40]}, a voice needs a {known}"
        raise BackboneError(f"{msg}; give another folder")
    return CLASSES[found]


# Speech ------------------------------------------------------------------------------------------


def read_recording(path: Path) -> Recording:
    """Decode a recording once to tell what is wrong with it; its samples are not kept.

    Raises:
        MediaError: no sound, damaged, or too large.
        ParamError: under .3 s or over 20 minutes, of 8 bits, or clipped through and through.
    """
    from pipelines.media_records import printable
    from pipelines.media_sound import load_sound

    sound = load_sound(path)
    if sound.bits < FEWEST_BITS:
        msg = (
            f"audio: {printable(path)} has {sound.bits} bits a sample, whose hiss would be moved "
            f"with the voice; allowed are {FEWEST_BITS} or more, record or export it again"
        )
        raise ParamError(msg)
    if not SHORTEST <= sound.seconds <= LONGEST:
        msg = (
            f"audio: {printable(path)} lasts {sound.seconds:.2f} s, allowed are {SHORTEST:g} s to "
            f"{LONGEST / 60:g} minutes; {'give a longer one' if sound.seconds < 1 else 'cut it'}"
        )
        raise ParamError(msg)
    remarks = []
    runs, share = clipping(sound.waveform)
    if share > MOST_CLIPPED:
        msg = (
            f"audio: {share:.0%} of {printable(path)} are cut off flat (clipped), allowed is "
            f"{MOST_CLIPPED:.0%}; record it again at a lower level"
        )
        raise ParamError(msg)
    if runs >= FEWEST_RUNS:
        remarks.append(f"{path.name}: is clipped already; what was cut off cannot be brought back")
    return Recording(
        sound.seconds, sound.sample_rate, len(sound.waveform), sound.ext, sound.bits,
        tuple(remarks),
    )  # fmt: skip


def clipping(waveform: Singles) -> tuple[int, float]:
    """Stretches of (channels, samples) cut off flat at one extreme, and their share of all."""
    peak = float(np.abs(waveform).max())
    if peak < 0.5:
        return 0, 0.0
    runs = held = 0
    for channel in waveform:
        top = np.abs(channel) >= peak * (1 - 2.0**-14)
        flat = top[:-2] & top[1:-1] & top[2:]
        begins = int((np.diff(flat.astype(np.int8), prepend=0) == 1).sum())
        runs, held = runs + begins, held + int(flat.sum()) + 2 * begins
    return runs, held / waveform.size


def check_recording(job: Job, recording: Recording) -> None:
    """Refuse lengths, files and engines that this recording leaves no room for."""
    low, high = (limit * recording.seconds for limit in STRETCH)
    wanted = job.params.seconds
    if wanted is not None and job.gains["timing"] == 0:
        msg = "seconds: the timing is locked (--lock timing); leave one of them out"
        raise ParamError(msg)
    if wanted is not None and not low <= wanted <= high:
        msg = (
            f"seconds: the speech lasts {recording.seconds:.2f} s, so {low:.2f} to {high:.2f} can "
            f"be made of it, received {wanted:g}; choose a length between"
        )
        raise ParamError(msg)
    if job.ext == "mp3":
        from pipelines.media_sound import MP3_RATES

        if recording.channels > 2 or recording.sample_rate not in MP3_RATES:
            msg = (
                "format: MP3 holds 1 or 2 channels at common rates, this has "
                f"{recording.channels} at {recording.sample_rate} Hz; use --format flac"
            )
            raise ParamError(msg)
    if job.params.engine == "world":
        from pipelines.voice_world import RATES

        if importlib.util.find_spec("pyworld") is None:
            msg = "engine: world needs pyworld (pip install pyworld); or leave --engine out"
            raise ParamError(msg)
        if not RATES[0] <= recording.sample_rate <= RATES[1]:
            msg = f"engine: world takes 16 to 48 kHz, this has {recording.sample_rate} Hz"
            raise ParamError(f"{msg}; use psola")


def spoken(job: Job, known: dict[tuple[str, ...], Recording], offline: bool | None) -> Job:
    """A job whose words are spoken; one with a recording as it is. One reading for all seeds."""
    if job.recording is not None:
        return job
    from pipelines.speech import speak

    params = job.params
    key = (job.request.prompt, params.speech, params.speaker, params.language)
    if key not in known:
        samples, rate, voice = speak(
            job.request.prompt,
            speech=params.speech,
            speaker=params.speaker,
            language=params.language,
            offline=offline,
        )
        # Through 16 bits, as the reading is written beside the take: what it is heard as.
        whole = np.clip(np.rint(np.asarray(samples) * 2.0**15), -(2.0**15), 2.0**15 - 1)
        waveform = (whole / 2.0**15).astype(np.float32)[None, :]
        seconds = waveform.shape[1] / rate
        if not SHORTEST <= seconds <= LONGEST:
            msg = (
                f"text: spoken it lasts {seconds:.2f} s, allowed are {SHORTEST:g} s to "
                f"{LONGEST / 60:g} minutes; give {'more' if seconds < 1 else 'fewer'} words"
            )
            raise ParamError(msg)
        known[key] = Recording(seconds, rate, 1, "wav", speech=waveform, voice=voice)
    recording = known[key]
    check_recording(job, recording)
    return dataclasses.replace(job, recording=recording)


# The seam ----------------------------------------------------------------------------------------


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    pipeline: VoicePipeline | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "auto",
) -> Iterator[Step | Take]:
    """Make voices; yields `Step`s and, for each finished one, a `Take` with its .png.

    Args:
        requests: what to make. Knobs that are not given take their defaults and are spelled out
            in the take's request, as is the digest of the weights. Times of an emotion's course
            are seconds of the recording, whatever the result lasts.
        out_dir: folder of the takes and their ledger.
        best_of: N >= n; for n requests that differ in their seed alone, make N voices with seeds
            from the first one on, let the critic rank them, keep the best n. Each keeps its own
            seed, so making it again needs no search. `candidates` is then 1 unless asked for.
        pipeline: use this loaded model for all requests instead of loading their backbone.
        critic, reader: who ranks, and who reports; "auto" loads the embedded pair, None does
            without.
        batch_size: taken for the other modalities' sake; voices are made one after the other.
        device, dtype, offline: see `pipelines.load`; voice-tiny runs on the CPU unless told.
        ext: "auto"; the knob `format` says which file is written.

    Raises:
        ParamError, EmotionError, MediaError, SpeechError, BackboneError: one line each, before
            anything runs.
    """
    search = best_of is not None
    known: dict[str, Recording] = {}
    jobs = [job_of(one, pipeline=pipeline, search=search, known=known) for one in requests]
    check_kept(jobs, best_of)
    check_search(best_of, critic, batch_size)
    if ext != "auto":
        msg = f"ext: the knob format says which file a voice is written to, received {ext!r}"
        raise ParamError(f"{msg}; leave ext out")
    for job in jobs:
        if pipeline is None:
            check_here(job.row, offline=offline)
    readings: dict[tuple[str, ...], Recording] = {}
    jobs = [spoken(job, readings, offline) for job in jobs]
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.voice_session import Session

    options = {"device": device, "dtype": dtype, "offline": offline}
    return Session(out, best_of, pipeline, critic, reader, options).takes(jobs)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when a voice model's weights are not on this machine."""
    from pipelines.weights import check_own

    check_own(row, INDEX, offline=offline)
