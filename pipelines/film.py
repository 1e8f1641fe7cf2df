"""Film: one emotion over time that drives pictures, voices, faces and music into one file.

`generate` is the film branch of `pipelines.generate`. A scene (pipelines.film_scene) says what is
shown, said and written; every part of it is an ordinary take of its own modality, asked for with
the piece of the emotion's curve that it plays in. Everything that a person can get wrong is told
here, before a model is loaded: the parts' requests are checked by those who will make them.

It deliberately does not know how a run goes (pipelines.film_session), how parts are found again
(pipelines.film_parts) nor how a film is cut. Importing it loads no torch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.emotion import EmotionTimeline
from pipelines import Backbone, Step
from pipelines.film_lines import Path as Place
from pipelines.film_scene import Scene, laid_out, scene_of
from pipelines.film_table import SceneError, Where
from pipelines.params import ParamError, Params, check_intensities, knob
from pipelines.request import Request
from pipelines.take import Take, prepare_out

BACKBONE = "film"
"""A film has no model of its own; its parts have."""
SCENE, CONSENT = "scene", "consent"
USUAL_SEED = 7


@dataclass(frozen=True, slots=True)
class FilmParams(Params):
    """Public knobs of a film besides its scene; what is in it, the scene says."""

    draft: bool = knob(False, "half the size and fewer steps, to see whether a scene works")
    music: bool = knob(True, "music, where the scene has some; off: none")
    titles: bool = knob(True, "titles, where the scene has some; off: none")
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One film to make: the request, and its scene with a time for everything.

    spoken: seconds of what is said, by its place in the scene.
    """

    request: Request
    params: FilmParams
    row: Backbone
    scene: Scene
    spoken: Mapping[Place, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the film."""
        width, height = self.scene.width, self.scene.height
        if not self.params.draft:
            return width, height
        return width // 4 * 2, height // 4 * 2  # even, as films must be

    @property
    def rows(self) -> list[Backbone]:
        """The backbones of its parts, whose weights a film needs."""
        from pipelines.film_parts import rows_of

        return rows_of(self)

    @property
    def frames(self) -> int:
        """Frames of the film."""
        return round(self.scene.seconds * self.scene.fps)

    @property
    def but_for_seed(self) -> str:
        """Equal for jobs that differ in their seed alone."""
        return self.request.changed(seed=0).key

    def seeded(self, seed: int) -> Job:
        """Return the same job with another seed."""
        return dataclasses.replace(self, request=self.request.changed(seed=seed))


def request_of(
    scene: Scene,
    *,
    seed: int | None = None,
    emotion: EmotionTimeline | None = None,
    params: Mapping[str, Any] | None = None,
    known: dict[Any, Any] | None = None,
) -> Request:
    """The request of a scene that was read. seed, emotion: in place of the scene's own.

    A preset's course is spelled out, so that the request says all by itself. known: for `job_of`,
    so that words are spoken once for both.
    """
    felt = scene.emotion if emotion is None else emotion
    if scene.curve and emotion is None:
        felt = laid_out(scene, spoken_of(scene, {} if known is None else known)).emotion
    own = USUAL_SEED if scene.seed is None else scene.seed
    return Request(
        modality="film",
        prompt=scene.title,
        emotion=felt,
        seed=own if seed is None else seed,
        backbone=BACKBONE,
        params={SCENE: scene.record(), **(params or {})},
        inputs={name: path.resolve() for name, path in scene.files().items()},
    )


def job_of(
    request: Request,
    *,
    where: Where | None = None,
    search: bool = False,
    known: dict[Any, Any] | None = None,
) -> Job:
    """Check one request completely, its parts too; no model is loaded for it.

    where: the file that the scene was read from, so that faults are told with its lines. known: of
    this call, so that each recording is decoded and each text spoken once.
    """
    del search  # nothing is tried with several seeds
    known = {} if known is None else known
    given = dict(request.params)
    record = given.pop(SCENE, None)
    if not isinstance(record, Mapping):
        msg = "scene: a film needs one; make it with `affect make film SCENE.toml`"
        raise ParamError(msg)
    params = FilmParams.parse(given)
    check_intensities(request.emotion.peak.intensity, over=params.over)
    where = Where("scene") if where is None else where

    def file_of(place: Place, _: str) -> Path:
        name = ".".join(str(part) for part in place)
        if name not in request.inputs:
            raise where.about(place, "the file that belongs here is not among the inputs")
        return request.inputs[name]

    scene = scene_of(record, where, file_of, request.emotion, over=params.over)
    if strange := sorted(set(request.inputs) - set(scene.files()) - {CONSENT}):
        msg = f"inputs: the scene names no {strange[0]}; leave it out"
        raise ParamError(msg)
    if not params.music:
        scene = dataclasses.replace(scene, music=None)
    if not params.titles:
        scene = dataclasses.replace(scene, titles=())
    spoken = spoken_of(scene, known)
    scene = laid_out(scene, spoken)
    spelled = request.changed(params={SCENE: dict(record), **params.to_json()})
    job = Job(spelled, params, Backbone(BACKBONE, "film", BACKBONE, "", "", 0), scene, spoken)
    from pipelines.film_parts import check_parts

    check_parts(job, known)
    return job


def spoken_of(scene: Scene, known: dict[Any, Any]) -> dict[Place, float]:
    """Seconds of everything that is said, by its place; words are spoken once to tell.

    Raises:
        SceneError: a recording that cannot be read, words that cannot be spoken.
    """
    from pipelines.film_parts import speech_request
    from pipelines.voice import job_of as voice_job
    from pipelines.voice import spoken

    found: dict[Place, float] = {}
    readings = known.setdefault("readings", {})
    recordings = known.setdefault("recordings", {})
    for speech in scene.speeches():
        calm = EmotionTimeline.parse("neutral")
        try:
            request = speech_request(scene, speech, calm, 0)
            job = spoken(voice_job(request, known=recordings), readings, None)
        except SceneError:
            raise
        except (ValueError, OSError) as error:
            key = "audio" if speech.audio is not None else "text"
            raise scene.where.wrapped((*speech.place, key), error) from error
        if job.recording is not None:
            found[speech.place] = job.recording.seconds
    return found


# The seam ----------------------------------------------------------------------------------------


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "auto",
) -> Iterator[Step | Take]:
    """Make films; yields `Step`s, then a `Take` for each finished film with its .png.

    The parts are takes too, in the same folder with lines of their own in its ledger; a film that
    was interrupted goes on with those that are there. They are not yielded.

    Args:
        requests: what to make; see `request_of`.
        out_dir: folder of the takes and their ledger.
        best_of: None; what is tried several times is said by knobs of the parts (candidates).
        critic, reader: who reads the pictures; "auto" loads the embedded pair of images, None does
            without. Voices, faces and music are read by those of their own.
        batch_size, device, dtype, offline: of the parts; see their modalities.
        ext: "auto" or "mp4".

    Raises:
        SceneError, ParamError, EmotionError, MediaError, BackboneError: one line each, before
            anything runs.
    """
    if best_of is not None:
        msg = "best_of: a film is made once; ask for candidates in the params of its shots"
        raise ParamError(msg)
    if ext not in ("auto", "mp4"):
        msg = f"ext: films are written as mp4, received {ext[:20]!r}; leave it out"
        raise ParamError(msg)
    known: dict[Any, Any] = {}
    jobs = [job_of(one, known=known) for one in requests]
    from pipelines.weights import check_row

    for row in itertools.chain.from_iterable(job.rows for job in jobs):
        check_row(row, offline=offline)
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.film_session import Session

    options = {"device": device, "dtype": dtype, "offline": offline, "batch_size": batch_size}
    return Session(out, critic, reader, options, known).takes(jobs)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Nothing to check: a film has no weights of its own, and `generate` looks for its parts'."""
    del row, offline
