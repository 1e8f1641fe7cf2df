"""The run behind portrait's `generate`: hear, draw motion, choose, render, measure, read, write.

One `Session` is one call. The work runs in a thread of its own that looks at a stop flag after
every denoising step, batch of frames and frame of a driving film. Of the candidates of a take the
critic, which reads curves, keeps one; only that one is rendered, frame by frame into the film. The
independent reader sees the mesh that is measured again on rendered frames and has no part in the
choice. It deliberately does not know how requests are checked (pipelines.portrait), how motion is
made (pipelines.portrait_maker) or takes are stored (pipelines.portrait_take).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from adapters.face_motion import Motion
from adapters.reading import Reading, soft_score
from pipelines import Backbone, Step
from pipelines.curve import Curve
from pipelines.face_mesh import Face, measure
from pipelines.portrait import ADAPTER, Job
from pipelines.portrait_figure import close_up, moments
from pipelines.portrait_maker import (
    DRIVE,
    HEAR,
    POLISH,
    READ,
    RENDER,
    SETUP,
    STEP,
    Done,
    Report,
    Sounds,
    motion_of,
    times_of,
)
from pipelines.portrait_take import (
    POINTS,
    Film,
    Made,
    asked_curve,
    label_of,
    notes_of,
    read_curve,
    reading_of,
    write,
)
from pipelines.selection import (
    candidate_seed,
    chosen_of,
    contenders,
    groups,
    judges,
    ranked,
    recorded,
    untold,
)
from pipelines.take import Take
from pipelines.voice_session import folder_of
from pipelines.worker import in_thread, one_pool

BATCH, BATCH_GPU = 8, 64
"""Frames rendered at once: so many fit a processor's cache, or fill an accelerator."""
MEASURED, MOST_MEASURED = 10, 600
"""Frames a second that are measured again, and of a film in all."""
PREVIEW = 320  # px that a preview's longer side has at least
WINDOW = 0.25  # s between readings over time

_LAST: dict[str, Any] = {}  # The model used last: the next call need not load it again.
_PAINTER: dict[str, Any] = {}  # So with what paints faces again.


@functools.cache
def embedded_critic(name: str) -> Any:
    """Load a shipped critic of portraits once a process."""
    from adapters.motion_critic import load_portrait_critic

    return load_portrait_critic(name)


def loaded(row: Backbone, *, device: str | None, dtype: Any) -> Any:
    """Return the model of a backbone, the one used last again if it is the same."""
    key = f"{row.weights} {row.revision} {device} {dtype}"
    if key in _LAST:
        return _LAST[key]
    from pipelines.portrait_model import PortraitPipeline

    pipe = PortraitPipeline.load(folder_of(row))
    if device is not None:
        pipe.to(device)
    if dtype is not None:
        pipe.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    _LAST.clear()
    _LAST[key] = pipe
    return pipe


def painter(text: str, *, device: str | None, dtype: Any, offline: bool | None) -> Any:
    """Return what paints faces again, the one used last again if it is the same."""
    key = f"{text} {device} {dtype}"
    if key not in _PAINTER:
        from pipelines.portrait_polishers import load_polisher

        _PAINTER.clear()
        _PAINTER[key] = load_polisher(text, device=device, dtype=dtype, offline=offline)
    return _PAINTER[key]


def weights_of(pipe: Any, lora: str) -> str:
    """16 hex digits of all weights of a model, and of the style that it wears."""
    h = hashlib.sha256()
    for key, tensor in sorted(pipe.denoiser.state_dict().items()):
        h.update(key.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    h.update(pipe.denoiser.scale.numpy().tobytes())
    if not lora:
        return h.hexdigest()[:16]
    style = hashlib.sha256((Path(lora).expanduser() / ADAPTER).read_bytes())
    return f"{h.hexdigest()[:16]}+{style.hexdigest()[:16]}"


@dataclass(slots=True)
class Session:
    """The state of one `generate` call."""

    out: Path
    best_of: int | None
    pipeline: Any
    critic: Any
    reader: Any
    options: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    told: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)
    sounds: dict[str, Sounds | None] = field(default_factory=dict)
    driven: dict[str, Motion] = field(default_factory=dict)
    rigs: dict[tuple[Any, ...], tuple[Any, Face]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        """Make all jobs; see `pipelines.portrait.generate`."""
        with one_pool():
            yield from recorded(self._takes(jobs), jobs, self.best_of, self.out)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        yield self._step("load")
        self.critic, self.reader, notes = judges(
            self.critic, self.reader, "portrait", embedded_critic,
            needed=self.best_of is not None, missing=(OSError, ValueError, ImportError),
        )  # fmt: skip
        self.pending += notes
        pools = [(contenders(same, self.best_of), len(same)) for same in groups(jobs)]
        if self.best_of is None:  # each is written as soon as it is made
            pools = [([job], 1) for job in jobs]
        self.total = sum(
            sum(self._drawing(job) for job in pool) + keep * _rendering(pool[0])
            for pool, keep in pools
        )
        self.total += sum(clip.seconds * 30 * DRIVE for clip in _clips(jobs))
        yield self._step("load", self._news(jobs))
        judge = self.critic.name if self.best_of is not None else None
        for pool, keep in pools:
            for made in (yield from ranked(pool, keep, self._made, self._score, judge)):
                yield from self._written(made)

    def _made(self, job: Job) -> Iterator[Any]:
        return self._in_thread(functools.partial(self._draw, job))

    def _in_thread(self, work: Callable[[Report], Any]) -> Iterator[Any]:
        """Run work in a thread; yields a Step for all it reports, then what it returns.

        One CPU thread always: their number changes the last digits of what is drawn, and a take
        must not depend on how busy the machine was.
        """
        last = time.monotonic()
        for event in in_thread(work, threads=1, name="affect-portrait"):
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if isinstance(event, Done):
                self.done = min(self.done + event.work, self.total)
                yield self._step(event.stage, preview=event.preview)
            else:
                yield event

    # Preparing -----------------------------------------------------------------------------------

    def _pipeline(self, job: Job) -> Any:
        given = self.options.get("device"), self.options.get("dtype")
        return self.pipeline or loaded(job.row, device=given[0], dtype=given[1])

    def _weights(self, job: Job, pipe: Any) -> str:
        key = f"{job.row.weights} {job.params.lora}"
        if key not in self.digests:
            self.digests[key] = weights_of(pipe, job.params.lora)
        return self.digests[key]

    def _sounds(self, job: Job, report: Report) -> Sounds | None:
        """The sound of a job: its recording, else that of its driving film; the last is kept."""
        inputs, digests = job.request.inputs, job.request.digests
        name = next((n for n in ("audio", "drive") if n in inputs), None)
        if name is None:
            return None
        if digests[name] not in self.sounds:
            from pipelines.media_sound import load_sound
            from pipelines.media_video import decode_track

            self.sounds.clear()
            sound = load_sound(inputs[name]) if name == "audio" else decode_track(inputs[name])
            found = None
            if sound is not None:
                stopped = functools.partial(report, Done("analyse", 0.0))
                found = Sounds.of(sound.waveform, sound.sample_rate, stopped)
            self.sounds[digests[name]] = found
        return self.sounds[digests[name]]

    def _driven(self, job: Job, report: Report) -> Motion | None:
        """The motion of a job's driving film; the last one is kept."""
        if job.clip is None:
            return None
        digest = job.request.digests["drive"]
        if digest not in self.driven:
            from pipelines.portrait_drive import read_clip

            self.driven.clear()
            path = job.request.inputs["drive"]
            self.driven[digest] = read_clip(path, lambda: report(Done("analyse", DRIVE)))
        return self.driven[digest]

    def _rig(self, job: Job) -> tuple[Any, Face]:
        """The rig of a job's photo at the size of its result, and its face there."""
        from pipelines.portrait_rig import Rig

        params = job.params
        size = None if params.still else job.photo.film_size(params.size)
        digest = job.request.digests["image"]
        key = (digest, params.face, params.points, params.size, params.neutralise, size)
        if key not in self.rigs:
            self.rigs.clear()
            image, face = job.photo.opened(size)
            self.rigs[key] = (
                Rig(
                    image,
                    face,
                    size=params.size,
                    neutralise=params.neutralise,
                    device=self.options.get("device") or "cpu",
                ),
                face,
            )
        return self.rigs[key]

    def _painter(self, job: Job) -> Any:
        """What paints the face of a job again; None where nothing does."""
        if not job.polished:
            return None
        if self.options.get("polisher") is not None:
            return self.options["polisher"]
        names = ("device", "dtype", "offline")
        return painter(job.params.polish, **{name: self.options.get(name) for name in names})

    def _painted(
        self, frames: Iterator[np.ndarray], made: Made, rig: Any, by: Any, report: Report
    ) -> Generator[np.ndarray]:
        """Frames with the face painted again; as they are where nobody paints."""
        if by is None:
            return cast("Generator[np.ndarray]", frames)
        from pipelines.portrait_polish import polish

        job, emotion = made.job, made.job.request.emotion
        strength, times = job.params.polish_strength, times_of(job)
        whole = len(made.motion) * strength * POLISH
        painted = polish(
            frames,
            rig,
            made.motion,
            by,
            generator=torch.Generator().manual_seed(job.request.seed),
            strength=strength,
            track=emotion.sample(times),
            residuals=emotion.residuals(times),
            on_step=lambda _, total: report(Done("polish", whole / total)),
        )
        return cast("Generator[np.ndarray]", painted)

    def _news(self, todo: Sequence[Job]) -> tuple[str, ...]:
        """Warnings that were not told yet."""
        notes, self.pending = self.pending, []
        if self.critic is None and any(job.params.candidates > 1 for job in todo):
            notes.append("there is no critic to choose by: one candidate is made for each take")
        return untold(notes, self.told)

    def _step(self, stage: str, notes: tuple[str, ...] = (), preview: Any = None) -> Step:
        eta = self.seconds / self.done * (self.total - self.done) if self.done else None
        return Step(round(100 * self.done), round(100 * self.total), eta, stage, notes, preview)

    # Drawing -------------------------------------------------------------------------------------

    def _candidates(self, job: Job) -> int:
        """How many are made: more than one only where they can differ and be told apart."""
        return job.params.candidates if job.drawn and self.critic is not None else 1

    def _drawing(self, job: Job) -> float:
        """Seconds that the motions of a job take on one core, about."""
        if not job.drawn:
            return 0.0
        return job.seconds * (HEAR + STEP * job.params.steps) * self._candidates(job)

    def _draw(self, job: Job, report: Report) -> Made:
        """The best motion of one job."""
        begun = time.monotonic()
        job.request.check_inputs()
        pipe = self._pipeline(job)
        weights = self._weights(job, pipe)
        sounds = self._sounds(job, report)
        # The sound of a driving film is heard in the result, but the film itself moves the mouth.
        said = sounds if "audio" in job.request.inputs else None
        report(Done("analyse", job.seconds * HEAR if sounds is not None else 0.0))
        driven = self._driven(job, report)
        best: tuple[float, Motion, Reading | None] | None = None
        scores: list[float] = []
        for take in range(self._candidates(job)):
            seed = candidate_seed(job.request.seed, take)
            motion = motion_of(job, pipe, seed, sounds=said, driven=driven, report=report)
            read = self.critic.read([motion])[0] if self.critic is not None else None
            scores.append(_score(job, read))
            if best is None or scores[-1] > best[0]:
                best = scores[-1], motion, read
        if best is None:
            msg = "candidates: allowed 1 or more"
            raise ValueError(msg)
        score, motion, read = best
        chosen = None
        if len(scores) > 1:
            chosen = chosen_of(len(scores), 1, score, scores, self.critic.name)
        return Made(job, motion, sounds, weights, read, chosen, time.monotonic() - begun)

    def _score(self, made: Made) -> float:
        return _score(made.job, made.critic)

    # Rendering and writing -----------------------------------------------------------------------

    def _written(self, made: Made) -> Iterator[Step | Take]:
        """Render, read and write what was kept."""
        begun = time.monotonic()
        yield self._step("render", untold(notes_of(made), self.told))
        film: Film | None = None
        for event in self._in_thread(functools.partial(self._render, made)):
            if isinstance(event, Film):
                film = event
            else:
                yield event
        if film is None:
            msg = "render: nothing was rendered"
            raise RuntimeError(msg)
        reading, curves = None, {"asked": asked_curve(made)}
        for event in self._in_thread(functools.partial(self._read, made, film)):
            if isinstance(event, tuple):
                reading, more = event
                curves |= more
            else:
                yield event
        yield self._step("read", untold(notes_of(made, film), self.told))
        told = reading_of(made, film, reading, curves)
        if film.painter:
            made = dataclasses.replace(made, weights=f"{made.weights}-{film.painter}")
        spent = time.monotonic() - begun
        yield write(made, film, curves, told, self.out, made.seconds + spent)

    def _render(self, made: Made, report: Report) -> Film:
        """The film of a motion, its faces for the figure and the meshes measured on them."""
        from pipelines.media_video import encode_video

        job, motion = made.job, made.motion
        report(Done("render", 0.0))
        by = self._painter(job)
        rig, face = self._rig(job)
        report(Done("render", SETUP))
        batch = self.options.get("batch_size")
        batch = batch or (BATCH if rig.device.type == "cpu" else BATCH_GPU)
        shown = {} if job.params.still else dict.fromkeys(moments(motion))
        stride = max(1, round(motion.fps / MEASURED), -(-len(motion) // MOST_MEASURED))
        measured: list[np.ndarray] = []
        picture: np.ndarray | None = None

        painted = self._painted(rig.frames(motion, batch=batch), made, rig, by, report)

        def frames() -> Iterator[np.ndarray]:
            nonlocal picture
            waiting = 0
            for k, pixels in enumerate(painted):
                if k in shown:
                    shown[k] = close_up(Image.fromarray(pixels), face.box)
                if self.reader is not None and k % stride == 0:
                    found = measure(pixels, face)
                    measured.append(found.points if found else np.full((478, 2), np.nan))
                picture = pixels
                yield pixels
                waiting += 1
                if waiting == batch or k == len(motion) - 1:
                    step = max(1, max(pixels.shape) // PREVIEW)
                    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
                    report(Done("render", waiting * RENDER, small))
                    waiting = 0

        data = b""
        with closing(painted):
            if job.params.still:
                for _ in frames():
                    pass
            else:
                sound = made.sounds
                data = encode_video(
                    frames(),
                    job.params.fps,
                    waveform=sound.waveform if sound is not None else None,
                    sample_rate=sound.sample_rate if sound is not None else 0,
                )
        rest = None
        if self.reader is not None:
            found = measure(rig.photo, face)
            rest = found.points if found is not None else None
        meshes = np.array(measured) if rest is not None else None
        photo = close_up(Image.fromarray(rig.photo), face.box)
        still = Image.fromarray(picture) if job.params.still and picture is not None else None
        return Film(
            data, still, (rig.photo.shape[1], rig.photo.shape[0]), tuple(shown.values()), photo,
            meshes, rest, stride / motion.fps, by.digest if by is not None else "",
        )  # fmt: skip

    def _read(
        self, made: Made, film: Film, report: Report
    ) -> tuple[Reading | None, dict[str, Curve]]:
        """What the independent reader reads, and both over time."""
        found: dict[str, Curve] = {}
        reading = None
        step = max(WINDOW, made.motion.seconds / POINTS)
        if self.critic is not None and not made.job.params.still:
            found[self.critic.name] = read_curve(
                *self.critic.read_over_time(made.motion, step=step)
            )
        report(Done("read", len(made.motion) * READ / 2))
        landmarks = film.landmarks
        if self.reader is not None and landmarks is not None:
            reading = self.reader.read([landmarks])[0]
            if not made.job.params.still:
                times, readings = self.reader.read_over_time(landmarks, 1 / film.step, step=step)
                found[self.reader.name] = read_curve(times, readings)
        report(Done("read", len(made.motion) * READ / 2))
        return reading, found


def _score(job: Job, read: Reading | None) -> float:
    """How well the critic reads what was asked; 0 without one."""
    return 0.0 if read is None else float(soft_score(read, label_of(job)))


def _rendering(job: Job) -> float:
    """Seconds that rendering and reading a job take on one core, about."""
    painted = job.params.polish_strength * POLISH if job.polished else 0.0
    return job.frames * (RENDER + READ + painted) + SETUP


def _clips(jobs: Sequence[Job]) -> list[Any]:
    """The driving films of jobs, each once."""
    return list({j.request.digests["drive"]: j.clip for j in jobs if j.clip is not None}.values())
