"""The parts of a film: which requests they are, and which of them have been made already.

A part is an ordinary request of its own modality, with the piece of the film's emotion that it
plays in, a length and a seed that follow from the scene. So a part is known by its key: one that
lies in the output folder, whole, is taken up instead of being made again.

It deliberately does not know how parts are made nor how they are cut together.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.curves import cut
from adapters.emotion import EmotionTimeline
from pipelines import DEFAULTS, MAKERS, Backbone, ledger, media, resolve
from pipelines.film_lines import Path as Place
from pipelines.film_scene import Scene, Shot, Speech
from pipelines.film_table import SceneError
from pipelines.params import ParamError
from pipelines.request import MAX_SEED, Request
from pipelines.take import Take

if TYPE_CHECKING:
    from pipelines.film import Job

SHORTEST_MUSIC = 2.0  # s that a piece lasts at least
SHORTEST_VIDEO = 0.5  # s that moving pictures of a model last at least
DRAFT: dict[str, dict[str, Any]] = {
    "image": {"steps": 8},
    "video": {"steps": 6},
    "portrait": {"steps": 4, "size": 256},
    "voice": {"steps": 5},
    "music": {"candidates": 1},
}
_CHOSEN = ("backbone", "seed")
"""Keys among the knobs of a part that are no knobs: which model, which seed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One take that a film is made of.

    name: for people. place: in the scene. role: "voice", "picture" or "music". says: place of the
    speech whose finished voice moves the lips, None without. start: s of the film that it begins
    at, seconds: that it lasts.
    """

    name: str
    place: Place
    role: str
    request: Request
    says: Place | None
    start: float
    seconds: float

    def with_voice(self, voice: Path) -> Part:
        """The same with the voice that it says."""
        inputs = {**self.request.inputs, "audio": voice.resolve()}
        return replace(self, request=self.request.changed(inputs=inputs))


def parts_of(job: Job) -> list[Part]:
    """All parts of a film that are made, in the order of their making: voices, pictures, music."""
    scene = job.scene
    found: list[Part] = []
    for speech in scene.speeches():
        shot = _shot_of(scene, speech)
        start = speech.at + ((shot.start or 0.0) if shot is not None else 0.0)
        seconds = job.spoken[speech.place]
        felt = speech.emotion or cut(scene.emotion, start, start + seconds)
        request = _finished(job, speech_request(scene, speech, felt, job.request.seed))
        name = f"voice of {_named(speech.place)}" if shot is not None else _named(speech.place)
        found.append(Part(name, speech.place, "voice", request, None, start, seconds))
    for index, shot in enumerate(scene.shots):
        made = _picture(job, shot, beyond(scene, index))
        if made is not None:
            says = shot.speech.place if shot.speech and made.modality == "portrait" else None
            start, end = shot.span
            name = _named(shot.place)
            found.append(Part(name, shot.place, "picture", made, says, start, end - start))
    if scene.music is not None:
        seconds = max(SHORTEST_MUSIC, scene.seconds)
        knobs = {"seconds": seconds}
        place: Place = ("music",)
        request = _request(
            scene, "music", scene.title, scene.emotion, knobs, scene.music.params,
            job.request.seed, place,
        )  # fmt: skip
        request = _finished(job, request)
        found.append(Part("music", place, "music", request, None, 0.0, seconds))
    return found


def beyond(scene: Scene, index: int) -> float:
    """Seconds that a shot goes on for under the one that dissolves in over it."""
    if index + 1 == len(scene.shots) or scene.shots[index + 1].transition != "dissolve":
        return 0.0
    return scene.shots[index + 1].transition_seconds


def piece(scene: Scene, shot: Shot, more: float = 0.0) -> EmotionTimeline:
    """The emotion of a shot from its beginning on."""
    start, end = shot.span
    return shot.emotion or cut(scene.emotion, start, end + more)


def moving(scene: Scene, shot: Shot) -> bool:
    """Whether a model of moving pictures makes a shot; else a camera moves over a still.

    So also where the embedded model is not here; one that was asked for by name has to be.
    """
    if shot.kind != "prompt" or shot.still:
        return False
    own = {**scene.defaults.get("video", {}), **shot.params}
    return "backbone" in own or _video_here()


@functools.cache
def _video_here() -> bool:
    from pipelines import video

    try:
        video.check_here(resolve(DEFAULTS["video"], "video"), offline=True)
    except (ValueError, OSError):
        return False
    return True


def speech_request(scene: Scene, speech: Speech, felt: EmotionTimeline, seed: int) -> Request:
    """The request of what is said: as long as it was spoken, so that a shot's length is known."""
    inputs = {} if speech.audio is None else {"audio": speech.audio}
    return _request(
        scene, "voice", speech.text, felt, {"keep_length": True}, speech.params, seed,
        speech.place, inputs,
    )  # fmt: skip


def _picture(job: Job, shot: Shot, more: float) -> Request | None:
    """The request of what a shot shows; None for what is brought."""
    scene, seconds = job.scene, (shot.seconds or 0.0) + more
    felt = piece(scene, shot, more)
    knobs: dict[str, Any] = {}
    inputs: dict[str, Path] = {}
    if shot.kind == "portrait" and shot.file is not None:
        modality, inputs = "portrait", {"image": shot.file}
        side = math.ceil(max(job.size) / 32) * 32
        knobs = {"seconds": seconds, "fps": 30 if scene.fps in (30, 60) else 25}
        knobs["size"] = min(max(side, 256), 1024)
    elif moving(scene, shot):
        modality, knobs = "video", {"seconds": max(SHORTEST_VIDEO, seconds)}
    elif shot.kind == "prompt":
        # One picture holds one emotion: that of the middle of the shot.
        modality, felt = "image", EmotionTimeline.constant(felt.at((shot.seconds or 0.0) / 2))
    else:
        return None
    request = _request(
        scene, modality, shot.about, felt, knobs, shot.params, job.request.seed, shot.place, inputs
    )
    return _finished(job, request)


def _request(
    scene: Scene,
    modality: str,
    prompt: str,
    felt: EmotionTimeline,
    knobs: Mapping[str, Any],
    own: Mapping[str, Any],
    seed: int,
    place: Place,
    inputs: Mapping[str, Path] | None = None,
) -> Request:
    """A part's request: knobs of the film under those of the scene's defaults under its own."""
    given = {**knobs, **scene.defaults.get(modality, {}), **own}
    for name in ("seconds", "keep_length", "still"):
        if name in own or name in scene.defaults.get(modality, {}):
            where = (*place, "params") if name in own else ("defaults", modality)
            msg = f"{name} follows from the scene; leave it out here"
            raise scene.where.about(where, msg)
    chosen = {name: given.pop(name) for name in _CHOSEN if name in given}
    try:
        return Request(
            modality=modality,
            prompt=prompt,
            emotion=felt,
            seed=chosen.get("seed", part_seed(seed, place, modality)),
            backbone=str(chosen.get("backbone", DEFAULTS[modality])),
            params=given,
            inputs=inputs or {},
        )
    except ValueError as error:
        raise scene.where.wrapped(place, error) from error


def _finished(job: Job, request: Request) -> Request:
    """A part's request as a draft, with whose consent there is, beyond full intensity if asked."""
    params = dict(request.params)
    if job.params.draft:
        params |= DRAFT[request.modality]
    if job.params.over:
        params.setdefault("over", True)
    inputs = dict(request.inputs)
    if "consent" in job.request.inputs and {"image", "audio"} & set(inputs):
        inputs["consent"] = job.request.inputs["consent"]
    return request.changed(params=params, inputs=inputs)


def part_seed(seed: int, place: Place, modality: str) -> int:
    """The seed of a part: another for each, and the same for the same film."""
    digest = hashlib.sha256(f"{seed} {modality} {place}".encode()).digest()
    return int.from_bytes(digest[:6], "big") % (MAX_SEED + 1)


def _shot_of(scene: Scene, speech: Speech) -> Shot | None:
    return next((shot for shot in scene.shots if shot.place == speech.place), None)


def _named(place: Place) -> str:
    name, *rest = place
    return " ".join([str(name).removesuffix("s"), *(str(int(i) + 1) for i in rest)])


# Checks ------------------------------------------------------------------------------------------


def check_parts(job: Job, known: dict[Any, Any]) -> None:
    """Have every part's request checked by its modality, and look at what is brought.

    Raises:
        SceneError: the first fault, with the place in the scene.
    """
    scene = job.scene
    for part in parts_of(job):
        try:
            checked(part.request, known.setdefault(part.request.modality, {}))
        except SceneError:
            raise
        except (ValueError, OSError) as error:
            raise scene.where.wrapped(_blamed(scene, part, str(error)), error) from error
    for shot in scene.shots:
        if shot.file is None or shot.kind == "portrait":
            continue
        place = (*shot.place, shot.kind)
        try:
            if shot.kind == "image":
                media.load_image(shot.file)
            else:
                _check_clip(shot)
        except (ValueError, OSError) as error:
            raise scene.where.wrapped(place, error) from error


def _check_clip(shot: Shot) -> None:
    """Refuse a clip that ends before its shot does; a dissolve may hold its last frame."""
    from pipelines.media_video import probe_video

    clip = probe_video(shot.file or Path())
    needed = shot.begin + (shot.seconds or 0.0)
    if clip.seconds + 0.1 < needed:
        msg = f"lasts {clip.seconds:.2f} s, this shot shows it until {needed:g}; shorten the shot"
        raise ParamError(msg)


def checked(request: Request, known: dict[Any, Any]) -> Any:
    """The job of a part's request, checked by its modality; it spells out all knobs."""
    maker: Any = import_module(MAKERS[request.modality])
    if request.modality == "image":
        return maker.job_of(request, None)
    if request.modality == "music":
        return maker.job_of(request)
    return maker.job_of(request, known=known)


def rows_of(job: Job) -> list[Backbone]:
    """The backbones that make a film's parts, each once."""
    named = {(part.request.backbone, part.request.modality): None for part in parts_of(job)}
    return [resolve(backbone, modality) for backbone, modality in named]


def _blamed(scene: Scene, part: Part, said: str) -> Place:
    """The place in the scene that an error of a part is about, as far as its text tells."""
    about = said.partition(":")[0].strip()
    about = next((k for k, path in part.request.inputs.items() if str(path) == about), about)
    if about == "params" and (quoted := re.search(r"'([^']+)' is not known", said)):
        about = quoted.group(1)
    if part.role == "music":
        return ("music", "params", about)
    own = "params" if part.role == "picture" or part.place[0] == "voice" else "voice"
    shot = next((shot for shot in scene.shots if shot.place == part.place), None)
    keys = {"image": "portrait", "text": "text", "audio": "audio", "prompt": "prompt"}
    if about in keys:
        return (*part.place, keys[about])
    if about in ("emotion", "seconds"):
        return (*part.place, about)
    return (*part.place, own, about) if shot is None or about else part.place


# What has been made ------------------------------------------------------------------------------


class Shelf:
    """The finished takes of an output folder, by what was asked for."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines = [line for line in ledger.read(out) if line.get("status") == "done"]

    def find(self, request: Request, row: Backbone) -> Take | None:
        """A take of this request (with its knobs spelled out) that is there and whole.

        One that is older than the weights that would make it now is not: they may be others.
        """
        wanted = request.changed(weights="").key
        newest = _newest(row, str(request.params.get("painter") or ""))
        for line in reversed(self.lines):
            asked = line.get("request")
            if not isinstance(asked, Mapping) or asked.get("modality") != request.modality:
                continue
            if asked.get("seed") != request.seed or asked.get("prompt") != request.prompt:
                continue
            with suppress(ValueError, OSError, KeyError, TypeError):
                if Request.from_json(asked).changed(weights="").key != wanted:
                    continue
                take = self._whole(line, newest)
                if take is not None:
                    return take
        return None

    def _whole(self, line: Mapping[str, Any], newest: float) -> Take | None:
        """The take of a ledger's line if its files are those that were written."""
        path = self.out / str(line["path"])
        if not path.is_file() or path.stat().st_mtime < newest:
            return None
        take = Take.read(path)
        if take.sha256 != line["sha256"]:
            return None
        beside = tuple(self.out / str(name) for name in line.get("companions") or ())
        for file in beside:
            if file.suffix == ".csv":
                if not file.is_file():
                    return None
            elif media.read_metadata(file).get("affect", {}).get("key") != take.request.key:
                return None
        return replace(take, companions=beside)


def _newest(row: Backbone, painter: str = "") -> float:
    """When what makes a part changed last, as far as it lies in folders; 0 for the hub's.

    painter: the knob of moving pictures; they are painted by it, and by the row's own base.
    """
    rows = [row]
    rows += [resolve(name, "image") for name in (row.base, painter) if name]
    folders = [one.folder for one in rows]
    files = [
        file
        for folder in folders
        if folder is not None and folder.is_dir()
        for file in folder.rglob("*")
        if file.suffix in (".json", ".safetensors")
    ]
    return max((file.stat().st_mtime for file in files), default=0.0)
