"""Video: the knobs, the check of requests, and what is asked of each moment of a film.

`generate` is the video branch of `pipelines.generate`. An emotion may change over time, in places
of the picture (`region`) and along a preset course (`curve`); a photo may be brought that starts to
move. Everything that a person can get wrong is told here, before a model is loaded.

It deliberately does not know how a run goes (pipelines.video_session), how an emotion acts on a
model (pipelines.video_maker, adapters) nor how files are written. Importing it loads no torch: the
command line reads `VideoParams` to print its help.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import BACKBONES, Backbone, BackboneError, Step, resolve
from pipelines.media import load_image
from pipelines.params import ParamError, Params, check_intensities, checked_text, knob
from pipelines.request import Request
from pipelines.selection import check_kept, check_search
from pipelines.take import Take, prepare_out

if TYPE_CHECKING:
    from adapters.emotion import EmotionTimeline
    from pipelines.video_maker import VideoMaker

SHORTEST, LONGEST = 0.5, 60.0  # s
USUAL = 4.0  # s of a film whose emotion does not change
AFTER = 1.0  # s that the last emotion of a course is held where nothing else tells the length
CLASSES = (
    "AnimateDiffPipeline",
    "AnimateDiffVideoToVideoPipeline",
    "WanPipeline",
    "WanImageToVideoPipeline",
    "LTXPipeline",
    "LTXImageToVideoPipeline",
)
"""Pipelines of diffusers that films are made with."""
INDEX = "model_index.json"
UNNAMED = "a photo"
"""What a brought picture shows, to a model, where neither its file nor the user says it."""


@dataclass(frozen=True, slots=True)
class VideoParams(Params):
    """Public knobs of a film; options, controls, manifest and README are made from these."""

    seconds: float | None = knob(
        None, "length of the film", min=SHORTEST, max=LONGEST, step=0.1,
        unset="as the emotion's course, or 4",
    )  # fmt: skip
    fps: int = knob(8, "frames a second", min=4, max=30, step=1)
    width: int = knob(0, "width in pixels, 0: the model's own", min=0, max=4096, step=8)
    height: int = knob(0, "height in pixels, 0: the model's own", min=0, max=4096, step=8)
    steps: int = knob(20, "denoising steps", min=1, max=200, step=1)
    guidance_scale: float | None = knob(
        None, "how closely to follow the prompt; the model's own if not given",
        min=0.0, max=30.0, step=0.5, advanced=True,
    )  # fmt: skip
    negative_prompt: str = knob("", "what there should not be", advanced=True)
    style: float = knob(
        1.0, "strength of directions and sliders: how things look", min=0.0, max=2.0, step=0.05
    )
    content: float = knob(
        0.6, "strength of the content lever: what is shown", min=0.0, max=1.0, step=0.05
    )
    keep_content: bool = knob(False, "change only light, colour and composition, add nothing")
    tempo: float = knob(
        1.0, "how far the emotion's arousal sets the speed of motion", min=0.0, max=2.0, step=0.05
    )
    consistency: float = knob(
        0.0, "share of the noise that all frames have in common: what does not move stays",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    keep: float = knob(
        0.6, "with a photo or keyframes: how much of them stays, 0 nothing, 1 nearly all",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    loop: bool = knob(False, "let the end run into the beginning")
    region: str = knob("", 'emotions of places: "left:fear .9; top:awe .5" or x0,y0,x1,y1: shares')
    curve: str = knob("", "course of a single emotion: a preset's name, or FILE.json:NAME")
    keyframes: int = knob(
        0, "stills that are painted first, each with its moment's emotion, and then animated",
        min=0, max=16, step=1,
    )  # fmt: skip
    painter: str = knob(
        "", "image model of the keyframes; the film's own if left out", advanced=True
    )
    grade: float = knob(
        0.0, "tint by what films of an emotion measure: brighter, duller; a garnish",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    directions: bool = knob(True, "steer the prompt embeddings", advanced=True)
    lora: bool = knob(True, "use the emotion sliders, where there are any", advanced=True)
    calibrated: bool = knob(True, "use the stored gain, so that .5 means half", advanced=True)
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One film to make: the request with its params spelled out, and what they mean.

    timeline: the emotion over the film, presets unfolded, as the request says too. regions:
    (where, its own timeline). init: the picture that is to move. seconds: of the result. felt:
    the emotion in the words of the one who asked.
    """

    request: Request
    params: VideoParams
    row: Backbone
    timeline: EmotionTimeline
    regions: tuple[tuple[str, EmotionTimeline], ...]
    init: Path | None
    seconds: float
    felt: str = ""

    @property
    def frames(self) -> int:
        """Frames of the result."""
        return max(1, round(self.seconds * self.params.fps))

    @property
    def moved(self) -> bool:
        """Whether an emotion is asked for at all."""
        courses = (self.timeline, *(course for _, course in self.regions))
        return any(
            state.intensity > 0 or any(state.residual) for one in courses for _, state in one.keys
        )

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
    maker: Any = None,
    search: bool = False,
    known: dict[Any, Any] | None = None,
) -> Job:
    """Check one request completely and look at its picture; no model is loaded for it.

    maker: a loaded one that is used whatever the backbone's name. search, known: nothing here
    depends on them; they are those of every modality.
    """
    checked_text("prompt", request.prompt)
    name = request.backbone
    if maker is None:
        row = resolve(name, "video")
    else:
        row = Backbone(name, "video", name, "", "", 0, defaults=maker.defaults)
    if row.modality != "video":
        msg = f"backbone: {row.name} makes {row.modality}, no films; see `affect models list`"
        raise ParamError(msg)
    params = VideoParams.parse(request.params, row.defaults)
    emotion = request.emotion
    check_intensities(emotion.peak.intensity, over=params.over)
    if strange := sorted(set(request.inputs) - {"init"}):
        msg = f"inputs: a film takes init only, received {', '.join(strange)}"
        raise ParamError(msg)
    init = request.inputs.get("init")
    if init is not None:
        load_image(init)  # A broken photo must be told before anything is made.
    if not request.prompt.strip():
        request = request.changed(prompt=_shown_in(init))
    # A brought picture is in the stills' place; stills know no places, films from noise do.
    if (init is not None or params.region.strip()) and "keyframes" not in request.params:
        params = dataclasses.replace(params, keyframes=0)
    if init is not None and params.keyframes:
        msg = "keyframes: are painted first, a brought picture takes their place; leave out one"
        raise ParamError(msg)
    if params.painter:
        check_painter(params)
    seconds = length_of(emotion, params)
    regions = regions_of(params.region, over=params.over)
    timeline = course_of(emotion, params.curve, seconds)
    if maker is None:
        check_class(row)
        check_rules(row, params, init=init is not None)
    else:
        maker.check(params, init=init is not None)
    felt = ", ".join(filter(None, (emotion.text, params.curve)))
    # A preset's course is spelled out: a file of presets may change, the request says all itself.
    spelled = dataclasses.replace(params, seconds=seconds, curve="")
    request = request.changed(params=spelled.to_json(), emotion=timeline)
    return Job(request, spelled, row, timeline, regions, init, seconds, felt)


def _shown_in(init: Path | None) -> str:
    """What a film without words of its own shows: what its picture was made to show."""
    if init is None:
        msg = "prompt: empty; say what should be seen, for example 'waves against a cliff'"
        raise ParamError(msg)
    with suppress(ValueError):  # a picture from elsewhere
        return Take.read(init).request.prompt.strip() or UNNAMED
    return UNNAMED


def length_of(emotion: EmotionTimeline, params: VideoParams) -> float:
    """Seconds of the film: as asked, else as its emotion's course with a second to dwell."""
    if params.seconds is not None:
        return params.seconds
    wanted = max(USUAL, emotion.duration + AFTER if emotion.duration else 0.0)
    if wanted > LONGEST:
        msg = (
            f"emotion: its course ends at {emotion.duration:g} s, films last up to {LONGEST:g}; "
            "shorten it, or cut the film with --seconds"
        )
        raise ParamError(msg)
    return wanted


def course_of(emotion: EmotionTimeline, curve: str, seconds: float) -> EmotionTimeline:
    """The emotion over the film: its own course, or the preset that a single emotion runs through.

    Raises:
        ParamError, EmotionError: a preset for an emotion that changes by itself, or none of its
            name.
    """
    if not curve:
        return emotion
    if not emotion.is_constant:
        msg = (
            f"curve: a preset gives one emotion its course, {emotion.text!r} has one; "
            "leave out either"
        )
        raise ParamError(msg)
    from adapters.curves import preset

    return preset(curve, emotion.at(0.0), seconds)


def regions_of(text: str, *, over: bool = False) -> tuple[tuple[str, EmotionTimeline], ...]:
    """Places and their emotions: "left:fear .9; top:0s awe 0; 2s awe .5".

    A part without a place goes on with the course of the place before it.

    Raises:
        ParamError, EmotionError: no place, an unknown one, or no emotion.
    """
    from adapters.emotion import EmotionTimeline

    found: list[tuple[str, str]] = []
    for part in text.split(";"):
        where, colon, felt = part.partition(":")
        if not part.strip():
            continue
        if colon:
            found.append((where.strip(), felt.strip()))
        elif found:
            found[-1] = found[-1][0], f"{found[-1][1]}; {part.strip()}"
        else:
            msg = f'region: {part.strip()[:40]!r} names no place; write "left:fear .9; top:awe .5"'
            raise ParamError(msg)
    if found:
        from adapters.frames import region_mask

        for where, _ in found:
            region_mask(where, 64, 64)
    return tuple((where, EmotionTimeline.parse(felt, over=over)) for where, felt in found)


def check_painter(params: VideoParams) -> None:
    """Raise one line where keyframes cannot be painted by what was named."""
    row = resolve(params.painter, "image")
    if row.modality != "image":
        msg = f"painter: {row.name} makes {row.modality}, no pictures; see `affect models list`"
        raise ParamError(msg)
    if not params.keyframes:
        msg = "painter: paints keyframes, of which there are none; give --keyframes or leave it out"
        raise ParamError(msg)


def check_class(row: Backbone) -> None:
    """Raise one line when a backbone's folder holds something else than a model of films."""
    if row.folder is None or row.base or not (row.folder / INDEX).is_file():
        return
    try:
        found = json.loads((row.folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
        found = found[-1] if isinstance(found, list) else found
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"backbone: {row.folder / INDEX} cannot be read; save the model again"
        raise BackboneError(msg) from error
    if found not in CLASSES:
        msg = (
            f"backbone: {row.name} holds a {str(found)[:40]}, a film needs one of "
            f"{', '.join(CLASSES)}; give another folder"
        )
        raise BackboneError(msg)


def check_rules(row: Backbone, params: VideoParams, *, init: bool) -> None:
    """Raise one line where a model whose weights are here cannot make what is asked for."""
    from pipelines.video_rules import facts_of, fault_of

    facts = facts_of(row)
    if facts is not None and (why := fault_of(facts, params, init=init)):
        raise ParamError(why)


# The seam ----------------------------------------------------------------------------------------


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    maker: VideoMaker | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "auto",
) -> Iterator[Step | Take]:
    """Make films; yields `Step`s and, for each finished one, a `Take`.

    Args:
        requests: what to make. Knobs that are not given take the backbone's or the general
            default and are spelled out in the take's request, as are the weights' digests. Times
            of an emotion's course are seconds of the film.
        out_dir: folder of the takes and their ledger.
        best_of: N >= n; for n requests that differ in their seed alone, make N films with seeds
            from the first one on, let the critic rank them, keep the best n. Each keeps its own
            seed, so making it again needs no search.
        maker: use this loaded model for all requests instead of loading their backbone.
        critic, reader: who ranks, and who reports; they read single frames, some four a second.
            "auto" loads the embedded pair of pictures, None does without.
        batch_size: frames that are decoded at once; halved when memory runs out.
        device, dtype, offline: see `pipelines.load`.
        ext: "mp4"; "auto" is the same.

    Raises:
        ParamError, EmotionError, MediaError, BackboneError: one line each, before anything runs.
        MemoryError: when not even one film fits.
    """
    if ext not in ("auto", "mp4"):
        msg = f"ext: films are written as mp4, received {ext[:20]!r}; leave it out"
        raise ParamError(msg)
    check_search(best_of, critic, batch_size)
    jobs = [job_of(request, maker=maker) for request in requests]
    check_kept(jobs, best_of)
    for job in jobs if maker is None else ():
        check_here(job.row, offline=offline)
        if job.params.painter:
            check_here(resolve(job.params.painter, "image"), offline=offline)
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.video_session import Session

    options = {"device": device, "dtype": dtype, "offline": offline}
    return Session(out, best_of, maker, critic, reader, batch_size, options).takes(jobs)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when weights of a row, or of the painter it is built on, are not here."""
    from pipelines.weights import check_embedded
    from pipelines.weights import check_here as check_hub

    if row.base:
        check_here(BACKBONES[row.base], offline=offline)
    if row.embedded:
        check_embedded(row)
    check_hub(row, offline=offline)
