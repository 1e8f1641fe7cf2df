"""Portraits: the knobs, the check of requests, and where photo, speech and motion come from.

`generate` is the portrait branch of `pipelines.generate`. A photo or drawing is given; a recording
to say, a film whose expression is taken over, or curves may come with it. Everything that a person
can get wrong is told here, before a model is loaded or a file is written.

It deliberately does not know how a run goes (pipelines.portrait_session), how motion is made
(pipelines.portrait_maker) or rendered (pipelines.portrait_rig), nor how files are written.
Importing it loads no torch: the command line reads `PortraitParams` to print its help.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import Backbone, BackboneError, Step, resolve
from pipelines.params import ParamError, Params, check_intensities, knob
from pipelines.request import Request
from pipelines.selection import check_kept, check_search
from pipelines.take import Take, prepare_out

if TYPE_CHECKING:
    from adapters.face_motion import Motion
    from pipelines.media_video import Clip
    from pipelines.portrait_model import PortraitPipeline
    from pipelines.portrait_photo import Photo
    from pipelines.portrait_polishers import Polisher

INPUTS = ("image", "audio", "drive", "curves", "consent")
"""What a portrait request may bring: the picture, what it says, whose expression it wears."""
SHORTEST, LONGEST = 0.2, 1200.0  # s: a syllable; 20 minutes are a lecture's part
USUAL = 5.0  # s of a face that says nothing
AFTER = 1.0  # s that the last emotion of a course is held where nothing else tells the length
FPS = (25, 30)
CLASSES = ("PortraitPipeline",)
INDEX = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"
STILLS = ("png", "jpg", "webp")
PUBLISHED = ("88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",)
"""sha256 of pictures of real people that are free for any use: Eileen Collins, photographed by
NASA, public domain, as scikit-image ships it (skimage/data/astronaut.png)."""


@dataclass(frozen=True, slots=True)
class PortraitParams(Params):
    """Public knobs of a portrait; options, controls, manifest and README are made from these."""

    seconds: float | None = knob(
        None, "length of the film; of a still the moment of the emotion's course that it shows",
        min=0.0, max=LONGEST, step=0.1, unset="as the speech, the film or the course",
    )  # fmt: skip
    still: bool = knob(False, "one retouched picture of the whole photo instead of a film")
    fps: int = knob(30, "frames a second: 25 or 30", min=25, max=30, step=5)
    lips: float = knob(
        1.0, "how far the words move the mouth, 0: it stays shut", min=0.0, max=2.0, step=0.05
    )
    expression: float = knob(
        1.0, "how far the emotion moves the face, 0: not at all", min=0.0, max=2.0, step=0.05
    )
    head: float = knob(
        0.5, "how much the head moves, 0: it is held still", min=0.0, max=2.0, step=0.05
    )
    blink: float = knob(
        1.0, "how often the eyes blink, 1: as people do", min=0.0, max=3.0, step=0.1
    )
    gaze: float = knob(
        0.5, "how much the eyes wander, 0: they look ahead", min=0.0, max=2.0, step=0.1
    )
    neutralise: float = knob(
        1.0, "how far the photo's own smile gives way to what is asked",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    face: int = knob(0, "which of several faces, 0: the largest", min=0, max=7, step=1)
    points: str = knob(
        "", "five places x,y in the picture where no face is found: pupils, nose tip, mouth corners"
    )
    size: int = knob(
        512, "most pixels a side at which the face is rendered", min=256, max=1024, step=32
    )
    audio_scale: float = knob(
        1.0, "guidance by the sound: above 1 the mouth follows it further",
        min=0.0, max=4.0, step=0.1, advanced=True,
    )  # fmt: skip
    emotion_scale: float = knob(
        1.0, "guidance by the emotion: above 1 it is acted out further",
        min=0.0, max=4.0, step=0.1, advanced=True,
    )  # fmt: skip
    style_scale: float = knob(
        1.0, "guidance by the style", min=0.0, max=4.0, step=0.1, advanced=True
    )
    steps: int = knob(10, "denoising steps", min=1, max=100, step=1, advanced=True)
    candidates: int = knob(
        1, "motions tried for each seed; the critic keeps the best one", min=1, max=16, step=1
    )
    lora: str = knob("", "folder of a style, a LoRA trained on recordings of a face")
    lora_weight: float = knob(
        1.0, "how strongly the style is worn, 1: as it was trained", min=0.0, max=2.0, step=0.05
    )
    polish: str = knob(
        "", "paint the face again with a video model: animatediff, wan-animate, a folder or hub id"
    )
    polish_strength: float = knob(
        0.4, "how far it is painted again, 0: not at all; .3 to .5 keep the person",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speech:
    """What is known of a recording before it is analysed."""

    seconds: float
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class Job:
    """One portrait to make: the request with its params spelled out, and what they mean.

    speech: of the audio, clip: of the film that drives, curves: those that replace the model; None
    where there is none. seconds: of the result, 0 for a still. ext: suffix of the file.
    """

    request: Request
    params: PortraitParams
    row: Backbone
    photo: Photo
    speech: Speech | None
    clip: Clip | None
    curves: Motion | None
    seconds: float
    ext: str = "mp4"

    @property
    def frames(self) -> int:
        """Frames of the result."""
        return 1 if self.params.still else max(1, round(self.seconds * self.params.fps))

    @property
    def moved(self) -> bool:
        """Whether an emotion is asked for at all."""
        keys = self.request.emotion.keys
        return self.params.expression > 0 and any(
            state.intensity > 0 or any(state.residual) for _, state in keys
        )

    @property
    def drawn(self) -> bool:
        """Whether the model draws motion, so that seeds differ."""
        if self.params.still or self.curves is not None:
            return False
        return self.clip is None or self.speech is not None

    @property
    def polished(self) -> bool:
        """Whether a model of diffusers paints the face again."""
        return bool(self.params.polish) and self.params.polish_strength > 0

    @property
    def but_for_seed(self) -> str:
        """Equal for jobs that differ in their seed alone."""
        return self.request.changed(seed=0).key

    def seeded(self, seed: int) -> Job:
        """Return the same job with another seed."""
        return dataclasses.replace(self, request=self.request.changed(seed=seed))


Known = dict[tuple[str, ...], Any]
"""What was found in input files in one call, so that each is looked at once."""


def job_of(
    request: Request,
    *,
    pipeline: Any = None,
    polisher: Any = None,
    search: bool = False,
    known: Known | None = None,
    offline: bool | None = None,
    ext: str = "auto",
) -> Job:
    """Check one request completely and look at its inputs; no model is loaded for it.

    pipeline, polisher: loaded ones that are used whatever the names. search: several seeds will be
    tried (best_of), so that one candidate a seed is enough. known: of this call. offline: whether
    to look for weights on this machine alone. ext: of stills.
    """
    name = request.backbone
    row = Backbone(name, "portrait", name, "", "", 0) if pipeline else resolve(name, "portrait")
    if row.modality != "portrait":
        msg = f"backbone: {row.name} makes {row.modality}, no portraits; see `affect models list`"
        raise ParamError(msg)
    given = {"candidates": 1, **request.params} if search else request.params
    params = PortraitParams.parse(given, row.defaults)
    check_intensities(request.emotion.peak.intensity, over=params.over)
    if params.fps not in FPS:
        msg = f"fps: allowed are 25 and 30, received {params.fps}; choose one"
        raise ParamError(msg)
    _check_inputs(request, params)
    suffix = _suffix(params, ext)
    if params.lora:
        check_style(params.lora)
    if not pipeline:
        check_class(row)
    known = {} if known is None else known
    if params.polish and polisher is None:
        from pipelines.portrait_polishers import check_polisher

        name = params.polish
        _once(known, ("polish", name), lambda: check_polisher(name, offline=offline))
    inputs, digests = request.inputs, request.digests
    speech = clip = curves = None
    if "audio" in inputs:
        speech = _once(known, ("audio", digests["audio"]), lambda: read_speech(inputs["audio"]))
    if "curves" in inputs:
        curves = _once(known, ("curves", digests["curves"]), lambda: read_curves(inputs["curves"]))
    from pipelines.portrait_photo import read_photo

    place = ("image", digests["image"], str(params.face), params.points)
    photo = _once(known, place, lambda: read_photo(inputs["image"], params.face, params.points))
    if photo.path != inputs["image"]:
        photo = dataclasses.replace(photo, path=inputs["image"])
    if "drive" in inputs:
        from pipelines.portrait_drive import check_clip

        clip = _once(known, ("drive", digests["drive"]), lambda: check_clip(inputs["drive"]))
    seconds = _length(request, params, speech, clip, curves)
    request = request.changed(params=params.to_json())
    return Job(request, params, row, photo, speech, clip, curves, seconds, suffix)


def _once(known: Known, key: tuple[str, ...], look: Any) -> Any:
    if key not in known:
        known[key] = look()
    return known[key]


def _check_inputs(request: Request, params: PortraitParams) -> None:
    """A picture, and of what moves it only what fits together."""
    inputs = set(request.inputs)
    if strange := sorted(inputs - set(INPUTS)):
        msg = f"inputs: a portrait takes {', '.join(INPUTS)}, received {', '.join(strange)}"
        raise ParamError(msg)
    if "image" not in inputs:
        msg = "image: a portrait needs a picture with a face; give --image FILE"
        raise ParamError(msg)
    if {"curves", "drive"} <= inputs:
        msg = "curves: they replace what a film would drive; give either --curves-in or --drive"
        raise ParamError(msg)
    if params.still and (odd := inputs & {"audio", "drive"}):
        name = min(odd)
        msg = f"still: one picture has no time for {name}; leave --{name} or --still out"
        raise ParamError(msg)
    if "curves" in inputs:
        plain = PortraitParams()
        for name in ("lips", "head", "blink", "gaze", "lora"):
            if getattr(params, name) != getattr(plain, name):
                msg = f"{name}: acts on the model's motion, which the curves replace; edit the "
                raise ParamError(f"{msg}curves, or leave {name} out")


def _suffix(params: PortraitParams, ext: str) -> str:
    """Suffix of the file that is written."""
    allowed = STILLS if params.still else ("mp4",)
    if ext == "auto":
        return allowed[0]
    if ext not in allowed:
        what = "stills are written as" if params.still else "films are written as"
        msg = f"ext: {what} {', '.join(allowed)}, received {ext[:20]!r}; choose one or leave it out"
        raise ParamError(msg)
    return ext


def _length(
    request: Request,
    params: PortraitParams,
    speech: Speech | None,
    clip: Clip | None,
    curves: Motion | None,
) -> float:
    """Seconds of the result."""
    if params.still:
        return 0.0
    there = curves.seconds if curves is not None else clip.seconds if clip is not None else None
    if params.seconds is not None:
        if params.seconds < SHORTEST:
            msg = (
                f"seconds: a film lasts {SHORTEST:g} to {LONGEST:g}, received {params.seconds:g}; "
                "give more, or --still"
            )
            raise ParamError(msg)
        if there is not None and params.seconds > there + 0.05:
            what = "curves last" if curves is not None else "driving film lasts"
            msg = f"seconds: the {what} {there:.2f}, received {params.seconds:g}; give less"
            raise ParamError(msg)
        return params.seconds
    if there is None and speech is not None:
        there = speech.seconds
    if there is None:
        course = request.emotion.duration
        return min(max(USUAL, course + AFTER if course else 0.0), LONGEST)
    if not SHORTEST <= there <= LONGEST:
        msg = f"seconds: a film lasts {SHORTEST:g} to {LONGEST:g}, this would be {there:.2f}; "
        raise ParamError(msg + ("give something longer" if there < 1 else "cut it, or --seconds"))
    return there


def check_style(folder: str) -> Path:
    """The folder of a style; raises ParamError where it cannot be one."""
    path = Path(folder).expanduser()
    if not (path / ADAPTER).is_file():
        msg = (
            f"lora: {path} has no {ADAPTER}; give a folder that "
            "`affect train lora --modality portrait` has written"
        )
        raise ParamError(msg)
    return path


def check_class(row: Backbone) -> None:
    """Raise one line when a backbone's folder holds something else than a model of portraits."""
    if row.folder is None or not (row.folder / INDEX).is_file():
        return
    try:
        found = json.loads((row.folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
        found = found[-1] if isinstance(found, list) else found
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"backbone: {row.folder / INDEX} cannot be read; save the model again"
        raise BackboneError(msg) from error
    if found not in CLASSES:
        msg = f"backbone: {row.name} holds a {str(found)[:40]}, a portrait needs a {CLASSES[0]}"
        raise BackboneError(f"{msg}; give another folder")


# Inputs ------------------------------------------------------------------------------------------


def read_speech(path: Path) -> Speech:
    """Decode a recording once to tell what is wrong with it; its samples are not kept.

    Raises:
        MediaError: no sound, damaged, or too large.
        ParamError: under .2 s or over 20 minutes.
    """
    from pipelines.media_records import printable
    from pipelines.media_sound import load_sound

    sound = load_sound(path)
    if not SHORTEST <= sound.seconds <= LONGEST:
        msg = (
            f"audio: {printable(path)} lasts {sound.seconds:.2f} s, allowed are {SHORTEST:g} s to "
            f"{LONGEST / 60:g} minutes; {'give a longer one' if sound.seconds < 1 else 'cut it'}"
        )
        raise ParamError(msg)
    return Speech(sound.seconds, sound.sample_rate, len(sound.waveform))


def read_curves(path: Path) -> Motion:
    """Curves of a CSV (Live Link Face) or JSON (BEAT) file, told apart by their first character.

    Raises:
        MotionError: no such table.
    """
    from adapters.face_motion import MotionError, from_json, read_csv
    from pipelines.media_records import check_file, printable

    check_file(path, 64 * 2**20, "curves")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"curves: {printable(path)} cannot be read as text; give a CSV or JSON of curves"
        raise MotionError(msg) from error
    return from_json(text) if text.lstrip()[:1] == "{" else read_csv(path)


# The seam ----------------------------------------------------------------------------------------


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    pipeline: PortraitPipeline | None = None,
    polisher: Polisher | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "auto",
) -> Iterator[Step | Take]:
    """Make portraits; yields `Step`s and, for each finished one, a `Take`.

    Args:
        requests: what to make. Knobs that are not given take their defaults and are spelled out
            in the take's request, as is the digest of the weights. Times of an emotion's course
            are seconds of the result.
        out_dir: folder of the takes and their ledger.
        best_of: N >= n; for n requests that differ in their seed alone, make N motions with seeds
            from the first one on, let the critic rank them, render the best n. Each keeps its own
            seed, so making it again needs no search. `candidates` is then 1 unless asked for.
        pipeline: use this loaded model for all requests instead of loading their backbone.
        polisher: use this loaded one for all requests that are polished, whatever name they give.
        critic, reader: who ranks motions, and who reports on rendered faces; "auto" loads the
            embedded pair, None does without.
        batch_size: frames that are rendered at once; None lets it fit the device.
        device, dtype, offline: see `pipelines.load`; portrait-tiny runs on the CPU unless told,
            what polishes on the best device there is.
        ext: of stills "png", "jpg" or "webp"; films are "mp4"; "auto" is the first that fits.

    Raises:
        ParamError, EmotionError, MediaError, FaceError, MotionError, BackboneError, ImportError:
            one line each, before anything runs.
    """
    search = best_of is not None
    check_search(best_of, critic, batch_size)
    for request in requests if pipeline is None else ():
        check_here(resolve(request.backbone, "portrait"), offline=offline)
    known: Known = {}
    jobs = [
        job_of(
            one, pipeline=pipeline, polisher=polisher, search=search, known=known,
            offline=offline, ext=ext,
        )
        for one in requests
    ]  # fmt: skip
    check_kept(jobs, best_of)
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.portrait_session import Session

    options = {
        "device": device, "dtype": dtype, "offline": offline, "batch_size": batch_size,
        "polisher": polisher,
    }  # fmt: skip
    return Session(out, best_of, pipeline, critic, reader, options).takes(jobs)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when a portrait model's weights are not on this machine."""
    from pipelines.weights import check_own

    check_own(row, INDEX, offline=offline)
