"""The run behind film's `generate`: make or find the parts, cut, mix, read, write.

One `Session` is one call. Parts are made through `pipelines.generate`, voices first, since they
move the lips, then pictures, then music; each is on the disk with a ledger line before the next
begins, so whoever stops a film loses one part at most. The cut runs in a thread that looks at a
stop flag after every few frames. It deliberately does not know how requests are checked
(pipelines.film), which parts there are (pipelines.film_parts) or what is said about the result
(pipelines.film_take).
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

import pipelines
from adapters.emotion import VAD
from adapters.reading import Reading
from pipelines import Step
from pipelines.film import Job
from pipelines.film_cut import Material, Shown, Words, frames
from pipelines.film_figure import moments
from pipelines.film_lines import Path as Place
from pipelines.film_parts import Part, Shelf, beyond, checked, part_seed, parts_of, piece
from pipelines.film_scene import Shot
from pipelines.film_sound import RATE, Mix, Placed, mix
from pipelines.film_take import Made, write
from pipelines.film_tracks import (
    Piece,
    Told,
    Track,
    of_faces,
    of_music,
    of_pictures,
    of_voices,
    told,
)
from pipelines.selection import judges, recorded
from pipelines.take import Take
from pipelines.video_take import mean_of
from pipelines.worker import in_thread, one_pool

log = logging.getLogger("affect")

# Seconds on one core that a second of each takes, about, and once for each part.
WORK = {"voice": 1.0, "image": 0.5, "video": 8.0, "portrait": 2.5, "music": 0.3}
ONCE = {"voice": 1.5, "image": 5.0, "video": 3.0, "portrait": 3.0, "music": 5.0}
CUT, READ = 0.5, 0.6
EVERY = 12  # frames between two looks at the stop flag
READ_RATE, MOST_READ = 2.0, 400  # pictures read a second, and of a film in all
READ_SIDE, STILL_SIDE, PREVIEW_SIDE = 256, 320, 320  # px of the longer side

_SILENT = "then it is silent"

Report = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A stretch of work in a thread."""

    stage: str
    work: float
    preview: Any = None


@dataclass(slots=True)
class Cut:
    """A film as it was cut, and the frames of it that are read and shown."""

    data: bytes
    mix: Mix | None
    seen: list[tuple[float, Image.Image | None]]
    stills: list[tuple[float, Image.Image]]


@dataclass(slots=True)
class Session:
    """The state of one `generate` call. known: what its checks have read, by modality."""

    out: Path
    critic: Any
    reader: Any
    options: dict[str, Any] = field(default_factory=dict)
    known: dict[Any, Any] = field(default_factory=dict)
    done: float = 0.0
    total: float = 0.0
    spent: float = 0.0
    told: set[str] = field(default_factory=set)

    def takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        """Make all jobs; see `pipelines.film.generate`."""
        with one_pool():
            yield from recorded(self._takes(jobs), jobs, None, self.out)

    def _takes(self, jobs: list[Job]) -> Iterator[Step | Take]:
        self.total = sum(_work(job) for job in jobs)
        yield self._step("load")
        for job in jobs:
            yield from self._film(job)

    def _step(
        self, stage: str, notes: tuple[str, ...] = (), preview: Any = None, more: float = 0.0
    ) -> Step:
        done = min(self.done + more, self.total)
        eta = self.spent / done * (self.total - done) if done and self.spent else None
        return Step(round(100 * done), round(100 * self.total), eta, stage, notes, preview)

    def _film(self, job: Job) -> Iterator[Step | Take]:
        begun, whole = time.monotonic(), self.done + _work(job)
        job.request.check_inputs()
        made: dict[tuple[str, Place], tuple[Part, Take]] = {}
        again = 0
        for part in parts_of(job):
            if part.says is not None:
                part = part.with_voice(made["voice", part.says][1].path)
            start = time.monotonic()
            for event in self._part(part):
                if isinstance(event, Take):
                    made[part.role, part.place] = part, event
                    again += event.seconds is None
                else:
                    yield event
            self.done += _work_of(part)
            self.spent += time.monotonic() - start
        if stills := _stood_in(job, made):
            yield self._step("load", (stills,))
        if again:
            yield self._step("load", (f"{again} of {len(made)} parts were made before",))
        cut: Cut | None = None
        for event in self._in_thread(functools.partial(self._cut, job, made)):
            if isinstance(event, Cut):
                cut = event
            else:
                yield event
        if cut is None:
            msg = "film: nothing was cut"
            raise RuntimeError(msg)
        notes: tuple[str, ...] = ()
        found: tuple[Told, Mapping[str, Reading]] | None = None
        for event in self._in_thread(functools.partial(self._read, job, made, cut)):
            if isinstance(event, tuple):
                told_, read, notes = event
                found = told_, read
            else:
                yield event
        if found is None:
            msg = "film: nothing was read"
            raise RuntimeError(msg)
        self.done = whole
        yield self._step("read", notes)
        parts = list(made.values())
        spent = time.monotonic() - begun
        film = Made(job, parts, cut.data, cut.stills, cut.mix, found[0], found[1], again, spent)
        yield write(film, self.out)

    # Parts ---------------------------------------------------------------------------------------

    def _part(self, part: Part) -> Iterator[Step | Take]:
        """The take of a part: one that lies there already, else a new one."""
        job = checked(part.request, self.known.setdefault(part.request.modality, {}))
        take = Shelf(self.out).find(job.request, job.row)
        if take is not None:
            log.info("%s was made before: %s", part.name, take.path)
            yield take
            return
        options: dict[str, Any] = {k: v for k, v in self.options.items() if v is not None}
        events = pipelines.generate(part.request, out_dir=self.out, **options, **_ext(part))
        whole = _work_of(part)
        begun = time.monotonic()
        earlier = self.spent
        with closing(cast("Any", events)):
            for event in events:
                if isinstance(event, Take):
                    yield event
                    continue
                share = event.index / event.total if event.total else 0.0
                self.spent = earlier + time.monotonic() - begun
                notes = self._fresh(part, event.notes)
                yield self._step(event.stage, notes, event.preview, whole * min(share, 1.0))
        self.spent = earlier

    def _fresh(self, part: Part, notes: tuple[str, ...]) -> tuple[str, ...]:
        """A part's warnings that no other has told; a face is silent after its words on purpose."""
        new = [note for note in notes if note not in self.told and not note.endswith(_SILENT)]
        self.told.update(new)
        return tuple(f"{part.name}: {note}" for note in new)

    def _in_thread(self, work: Callable[[Report], Any]) -> Iterator[Any]:
        """Run work in a thread of one CPU thread; yields a Step for all it reports, its result."""
        last = time.monotonic()
        for event in in_thread(work, threads=1, name="affect-film"):
            now = time.monotonic()
            self.spent, last = self.spent + now - last, now
            if isinstance(event, Done):
                self.done = min(self.done + event.work, self.total)
                yield self._step(event.stage, preview=event.preview)
            else:
                yield event

    # Cutting -------------------------------------------------------------------------------------

    def _cut(
        self, job: Job, made: Mapping[tuple[str, Place], tuple[Part, Take]], report: Report
    ) -> Cut:
        """The encoded film, its sound, and what is seen of it."""
        from pipelines.media_video import encode_video

        scene = job.scene
        report(Done("cut", 0.0))
        read = itertools.count(1)

        def look() -> None:
            if next(read) % EVERY == 0:
                report(Done("cut", 0.0))

        sound = mixed(job, made, look)
        rate = min(READ_RATE, MOST_READ / scene.seconds)
        read_at = {round(t * scene.fps) for t in np.arange(0.5 / rate, scene.seconds, 1 / rate)}
        shown_at = {round(float(t) * scene.fps) for t in moments(scene.seconds)}
        cut = Cut(b"", sound, [], [])
        shots = shown(job, made)
        faces = [
            (one.first, one.first + one.count)
            for one, shot in zip(shots, scene.shots, strict=True)
            if shot.kind == "portrait"
        ]

        def seen(i: int, pixels: np.ndarray) -> None:
            if i in read_at:
                face = any(first <= i < end for first, end in faces)
                cut.seen.append((i / scene.fps, None if face else _small(pixels, READ_SIDE)))

        def pictures() -> Iterator[np.ndarray]:
            titles = [_words(title, scene.fps) for title in scene.titles]
            film = frames(
                shots, titles, size=job.size, fps=scene.fps,
                fade_out=round(scene.fade_out * scene.fps), seen=seen, look=look,
            )  # fmt: skip
            for i, pixels in enumerate(film):
                if i in shown_at:
                    cut.stills.append((i / scene.fps, _small(pixels, STILL_SIDE)))
                yield pixels
                if i % EVERY == EVERY - 1:
                    report(Done("cut", CUT * EVERY / scene.fps, _small(pixels, PREVIEW_SIDE)))

        waveform = None if sound is None else sound.waveform
        cut.data = encode_video(pictures(), scene.fps, waveform=waveform, sample_rate=RATE)
        return cut

    # Reading -------------------------------------------------------------------------------------

    def _read(
        self,
        job: Job,
        made: Mapping[tuple[str, Place], tuple[Part, Take]],
        cut: Cut,
        report: Report,
    ) -> tuple[Told, Mapping[str, Reading], tuple[str, ...]]:
        """All tracks, the mean readings of the pictures, and notes on judges that are missing."""
        from pipelines import music_session, portrait_session, session, voice_session

        scene = job.scene
        critic, reader, notes = judges(
            self.critic, self.reader, "image", session.embedded_critic,
            needed=False, missing=(OSError, ValueError, ImportError),
        )  # fmt: skip
        tracks: list[Track | None] = []
        pictures, read = of_pictures(cut.seen, [one for one in (critic, reader) if one is not None])
        tracks.append(pictures)
        report(Done("read", READ * scene.seconds / 2))
        pieces: dict[str, list[Piece]] = {}
        for part, take in made.values():
            kind = take.request.modality
            pieces.setdefault(kind, []).append(Piece(take, part.start, part.seconds))
        sessions = {"portrait": portrait_session, "voice": voice_session, "music": music_session}
        for kind, module in sessions.items():
            if kind not in pieces or self.critic is None:
                continue
            judge, _, more = judges(
                "auto", None, kind, module.embedded_critic,
                needed=False, missing=(OSError, ValueError, ImportError),
            )  # fmt: skip
            notes += more
            if judge is None:
                continue
            if kind == "portrait":
                tracks.append(of_faces(pieces[kind], judge))
            elif kind == "voice":
                tracks.append(of_voices(pieces[kind], judge))
            else:
                tracks.append(of_music(pieces[kind][0], judge))
            report(Done("read", READ * scene.seconds / 6))
        found = told([track for track in tracks if track], scene.emotion, scene.seconds)
        means = {one[0].reader: mean_of(one) for one in read if one}
        return found, means, tuple(notes)


# What is shown and heard -------------------------------------------------------------------------


def shown(job: Job, made: Mapping[tuple[str, Place], tuple[Part, Take]]) -> list[Shown]:
    """The shots on the film's time line, in frames."""
    scene = job.scene
    found = []
    for index, shot in enumerate(scene.shots):
        start, end = shot.span
        first, last = round(start * scene.fps), round(end * scene.fps)
        over = round(shot.transition_seconds * scene.fps) if shot.transition != "cut" else 0
        take = made.get(("picture", shot.place))
        path = take[1].path if take is not None else shot.file
        if path is None:
            msg = f"film: nothing is there to be shown in {shot.place}"
            raise RuntimeError(msg)
        material = Material(
            path=path,
            still=_still_of(shot, path),
            tempo=tempo_of(job, shot, beyond(scene, index)),
            begin=shot.begin,
            seed=part_seed(job.request.seed, shot.place, "camera"),
            # A portrait keeps the shape of the photo that was brought: cropped, it loses its chin.
            fills=shot.kind == "prompt",
        )
        found.append(Shown(material, first, last - first, shot.transition, over))
    return found


def _stood_in(job: Job, made: Mapping[tuple[str, Place], tuple[Part, Take]]) -> str:
    """A line on the stills that stand in for moving pictures; "" where there are none."""
    names = [
        part.name
        for part, take in made.values()
        if part.role == "picture" and take.request.modality == "image"
        and not next(one for one in job.scene.shots if one.place == part.place).still
    ]  # fmt: skip
    if not names:
        return ""
    model = pipelines.DEFAULTS["video"]
    return f"the weights of {model} are not here: a camera moves over {', '.join(names)}"


def tempo_of(job: Job, shot: Shot, more: float) -> np.ndarray:
    """Arousal that was asked for, at every frame of a shot and of what goes on under the next."""
    count = max(1, round(((shot.seconds or 0.0) + more) * job.scene.fps) + 1)
    felt = piece(job.scene, shot, more)
    times = np.arange(count) / job.scene.fps
    arousal = felt.sample(times) @ VAD[:, 1] + felt.residuals(times)[:, 1]
    return np.clip(arousal.astype(np.float64), -1, 1)


def mixed(
    job: Job,
    made: Mapping[tuple[str, Place], tuple[Part, Take]],
    look: Callable[[], None] = lambda: None,
) -> Mix | None:
    """The sound of the film; None where nothing is heard. look: is called after every sound."""
    from pipelines.media_sound import load_sound, resample
    from pipelines.media_video import decode_track

    scene = job.scene
    sounds: list[Placed] = []
    for speech in scene.speeches():
        part, take = made["voice", speech.place]
        waveform = load_sound(take.path, RATE).waveform
        sounds.append(Placed(waveform, part.start, speech.volume, speech=True))
        look()
    for shot in scene.shots:
        if shot.kind == "video" and shot.sound is not None and shot.file is not None:
            seconds = shot.seconds or 0.0
            track = decode_track(shot.file, start=shot.begin, seconds=seconds)
            if track is not None and track.waveform.shape[1]:
                own = resample(track.waveform, track.sample_rate, RATE)
                sounds.append(Placed(own[:, : round(seconds * RATE)], shot.span[0], shot.sound))
            look()
    music = None
    if scene.music is not None:
        take = made["music", ("music",)][1]
        beside = next(path for path in take.companions if path.suffix == ".wav")
        music = load_sound(beside, RATE).waveform
    if music is None and not sounds:
        return None
    told_ = scene.music
    return mix(
        scene.seconds,
        sounds,
        music,
        volume=told_.volume if told_ is not None else 0.0,
        duck=told_.duck if told_ is not None else 0.0,
        fade_out=scene.fade_out,
    )


def _still_of(shot: Shot, path: Path) -> str:
    """How a picture moves; "" for what moves by itself."""
    if path.suffix.lower() == ".mp4" or shot.kind == "video":
        return ""
    return shot.still or "auto"


def _words(title: Any, fps: int) -> Words:
    first, count = round(title.at * fps), round(title.seconds * fps)
    return Words(title.text, first, count, title.where, title.size)


def _small(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    return image


def _ext(part: Part) -> dict[str, str]:
    """The format of a part's file."""
    return {"ext": {"image": "png", "music": "mid"}.get(part.request.modality, "auto")}


def _work_of(part: Part) -> float:
    kind = part.request.modality
    return ONCE[kind] + WORK[kind] * part.seconds


def _work(job: Job) -> float:
    """Seconds that a film takes on one core, about."""
    return sum(map(_work_of, parts_of(job))) + (CUT + READ) * job.scene.seconds
