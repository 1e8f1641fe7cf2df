"""Report: does what is made follow an emotion curve in time, as read by readers that made nothing?

    python -m training.video_evaluate --out FOLDER [--modalities video,portrait,voice,music]

The same curves are asked of films, portraits, voices and music through `pipelines.generate`, as
everybody asks, and each result is read over time by its independent reader; the critic, which may
choose among candidates, stands beside it. Every curve comes with its reverse, so that what a
modality does by itself in time (voices fall, films settle) adds nothing to a mean. Beside it:

* another curve than the one that was asked, neutral asked, and time shuffled in blocks;
* for films flicker, warping error and speed, beside the first frame repeated, the first frame
  moved by a camera, a cross-fade, and frames that have nothing to do with each other;
* one curve in all modalities: how far what is read in them lies apart (adapters.agreement);
* processor seconds a second of result.

Each take is made and read once and kept; a run that was stopped goes on, and a modality may be
added later. A row says what it was made with; one of another model or other params is refused, as
are rows from before that was written down. Figures: training.video_evaluate_report. It does not
know how anything is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adapters.agreement import read_track
from adapters.assets import ASSETS
from adapters.files import replacing
from adapters.reading import Reading
from adapters.video_metrics import measure
from pipelines import BACKBONES, DEFAULTS, Backbone, camera, generate, resolve
from pipelines.request import Request
from pipelines.take import Take
from training.video_evaluate_report import CURVES, NEUTRAL, markdown, summary, timeline

Floats = NDArray[np.float64]

SECONDS = {"video": 4.0, "portrait": 4.0, "voice": 0.0, "music": 36.0}
"""Lengths asked for; a voice is as long as its recording. Music needs windows of six seconds."""
SUBJECTS = {
    "video": ("waves against a cliff", "a mountain lake", "a forest", "a city street"),
    "portrait": ("closed.jpg", "beard.jpg"),
    "voice": ("speech.wav",),
    "music": ("",),
}
"""Prompts, sample faces, sample recordings; music has only its seed."""
SEEDS = {"video": 1, "portrait": 1, "voice": 1, "music": 2}
PARAMS: Mapping[str, Mapping[str, Any]] = {
    "video": {},
    "portrait": {"size": 288, "fps": 25},
    # As a film needs it; else the moments of the curve move with the words.
    "voice": {"keep_length": True},
    "music": {},
}
STEP = 0.25  # s between readings, as the takes themselves tell
FACE_RATE = 8.0  # frames of a portrait a second in which the mesh is measured
PORTRAITS, SPEECH = ASSETS / "samples" / "faces", ASSETS / "samples"


@dataclass(frozen=True, slots=True)
class Asked:
    """One take to make: curve is a name of CURVES or "neutral"."""

    modality: str
    subject: str
    curve: str
    seed: int

    @property
    def key(self) -> str:
        """A name for files."""
        told = hashlib.sha256(self.subject.encode()).hexdigest()[:6]
        return f"{self.modality}-{told}-{self.seed}-{self.curve.replace(' ', '_')}"


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a take: moments, readings of both, and figures of the medium.

    critic: readings of the critic at the same moments; None where it reads no moments.
    """

    times: Floats
    reader: Sequence[Reading]
    critic: Sequence[Reading] | None
    figures: Mapping[str, Any]


def asked(modalities: Sequence[str], speech: Sequence[Path] = ()) -> list[Asked]:
    """All takes of a run, one of each subject and seed first, so that a stopped run tells much."""
    found = []
    for modality in modalities:
        subjects = SUBJECTS[modality]
        if modality == "voice":
            subjects = (*subjects, *map(str, speech))
        for seed in range(SEEDS[modality]):
            for subject in subjects:
                found += [Asked(modality, subject, name, seed) for name in (*CURVES, NEUTRAL)]
    return found


def length_of(one: Asked) -> float:
    """Seconds that a take will have."""
    if one.modality != "voice":
        return SECONDS[one.modality]
    from pipelines.media_sound import load_sound

    return load_sound(_speech(one)).seconds


def _speech(one: Asked) -> Path:
    shipped = SPEECH / one.subject
    return shipped if shipped.is_file() else Path(one.subject)


def request_of(one: Asked, seconds: float, backbone: str | None = None) -> Request:
    """What is asked of `pipelines.generate`."""
    inputs: dict[str, Path] = {}
    params = dict(PARAMS[one.modality])
    if one.modality == "portrait":
        inputs["image"] = PORTRAITS / one.subject
    elif one.modality == "voice":
        inputs["audio"] = _speech(one)
    if one.modality != "voice":
        params["seconds"] = seconds
    return Request(
        one.modality,
        one.subject if one.modality == "video" else "",
        timeline(one.curve, seconds),
        one.seed,
        backbone or DEFAULTS[one.modality],
        params,
        inputs,
    )


# Reading -----------------------------------------------------------------------------------------


def read_film(take: Take, seconds: float) -> Read:
    """Frames by both image critics, a few a second; flicker and the rest of all frames."""
    from adapters.critic import load_critic
    from pipelines.media_video import decode_frames, probe_video

    pairs = list(decode_frames(take.path))
    frames = np.stack([pixels for _, pixels in pairs])
    every = np.array([moment for moment, _ in pairs])
    times = np.arange(0.0, seconds - 1e-6, STEP)
    shown = frames[np.abs(every[None] - times[:, None]).argmin(axis=1)]
    pictures = [Image.fromarray(pixels) for pixels in shown]
    return Read(
        times,
        load_critic("reader-image").read(pictures),
        load_critic("critic-image").read(pictures),
        {"film": film_figures(frames, probe_video(take.path).fps)},
    )


def film_figures(frames: NDArray[np.uint8], fps: float) -> dict[str, dict[str, float]]:
    """What is measured of a film's frames, and of the controls that are made of them."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    n = len(x)
    share = torch.linspace(0, 1, n)[:, None, None, None]
    generator = torch.Generator().manual_seed(0)
    moved = camera.move(
        x[0], n / fps, fps, kind="pan", tempo=np.zeros(n), generator=generator
    )  # fmt: skip
    clips = {
        "film": x,
        "still": x[:1].repeat(n, 1, 1, 1),
        "cross-fade": x[:1] * (1 - share) + x[-1:] * share,
        "moved still": torch.stack(list(moved)),
    }
    return {name: measure(clip, fps) for name, clip in clips.items()}


def read_portrait(take: Take, seconds: float) -> Read:
    """Meshes measured on the film's own frames, by the reader of faces."""
    from adapters.face_geometry import Landmarks
    from adapters.face_reader import FaceReader
    from adapters.motion_critic import load_portrait_critic
    from pipelines.face_mesh import detect
    from pipelines.face_mesh import measure as mesh_of
    from pipelines.media import load_image
    from pipelines.media_video import decode_frames

    reader = load_portrait_critic("reader-portrait")
    if not isinstance(reader, FaceReader):
        msg = "reader-portrait: is no FaceReader; restore assets/models"
        raise ValueError(msg)
    frames = [pixels for _, pixels in decode_frames(take.path, fps=FACE_RATE)]
    # The photo at the size of the film, so that rest and motion are measured alike.
    photo = load_image(take.request.inputs["image"])
    height, width = frames[0].shape[:2]
    face = detect(photo.resize((width, height), Image.Resampling.LANCZOS))[0]
    meshes = [mesh_of(pixels, face) for pixels in frames]
    seen = np.array([mesh is not None for mesh in meshes])
    last = np.maximum.accumulate(np.where(seen, np.arange(len(seen)), int(seen.argmax())))
    points = np.stack([getattr(meshes[i], "points", face.points) for i in last])
    times, readings = reader.read_over_time(
        Landmarks(points, face.points), len(frames) / seconds, step=STEP
    )
    inside = times < seconds
    kept = [reading for reading, here in zip(readings, inside, strict=True) if here]
    return Read(times[inside], kept, None, {"frames lost": float(1 - seen.mean())})


def read_voice(take: Take, seconds: float) -> Read:
    """The sound by both readers, beside the recording it was made of, which is neutral."""
    from adapters.voice_analysis import RATE, analyse
    from adapters.voice_critic import load_voice_critic
    from adapters.voice_features import hear
    from pipelines.media_sound import load_sound

    made, source = (
        load_sound(path, RATE).waveform.mean(axis=0)
        for path in (take.path, take.request.inputs["audio"])
    )
    found = []
    for name, prepare in (
        ("reader-voice", lambda sound: hear(sound, RATE)),
        ("critic-voice", lambda sound: analyse(sound, RATE)),
    ):
        model = load_voice_critic(name)
        base = model.reference([prepare(source)])
        times, readings = model.read_over_time(prepare(made), base, step=STEP)
        found.append(readings)
    return Read(np.asarray(times), found[0], found[1], {"seconds": len(made) / RATE})


def read_music(take: Take, seconds: float) -> Read:
    """The rendered sound by its reader, in windows of six seconds."""
    from adapters.audio_features import HEARD, functionals, hear
    from adapters.music_critic import FEWEST_ATTACKS, WINDOW, MusicReader, load_music_critic
    from pipelines.media_sound import load_sound

    reader = load_music_critic("reader-music")
    if not isinstance(reader, MusicReader):
        msg = "reader-music: is no MusicReader; restore assets/models"
        raise ValueError(msg)
    columns = [HEARD.index(name) for name in reader.names]
    sound = load_sound(take.path.with_suffix(".wav"), 44100)
    heard = hear(sound.waveform, 44100)
    times, rows = [], []
    for moment in np.arange(0.0, heard.seconds, 1.0).tolist():
        begin = float(np.clip(moment - WINDOW / 2, 0.0, max(0.0, heard.seconds - WINDOW)))
        struck = (heard.attacks >= begin) & (heard.attacks < begin + WINDOW)
        if struck.sum() >= FEWEST_ATTACKS:
            times.append(moment)
            rows.append(functionals(heard, begin, begin + WINDOW)[columns])
    readings = reader.model.readings(np.array(rows), reader.name)
    return Read(np.array(times), readings, None, {"seconds": heard.seconds})


READ: Mapping[str, Callable[[Take, float], Read]] = {
    "video": read_film,
    "portrait": read_portrait,
    "voice": read_voice,
    "music": read_music,
}


def row_of(one: Asked, seconds: float, read: Read, spent: Mapping[str, float]) -> dict[str, Any]:
    """Everything that the report needs of one take, as plain numbers."""
    row: dict[str, Any] = {
        "modality": one.modality,
        "subject": one.subject if one.modality != "voice" else Path(one.subject).stem,
        "curve": one.curve,
        "seed": one.seed,
        "seconds": seconds,
        "spent": dict(spent),
        "times": read.times.tolist(),
        "figures": dict(read.figures),
    }
    for name, readings in (("reader", read.reader), ("critic", read.critic)):
        if readings is not None:
            rows = {
                "probabilities": read_track(readings),
                "strengths": read_track(readings, strengths=True),
                "affect": np.array([reading.vad_mean[:2] for reading in readings]),
            }
            silent = np.isnan(rows["probabilities"][:, 0])
            rows["affect"][silent] = np.nan
            row[name] = {
                key: [None if np.isnan(v).any() else v.round(5).tolist() for v in value]
                for key, value in rows.items()
            }
    return row


# Running -----------------------------------------------------------------------------------------


class RowError(ValueError):
    """A row that is there was made with something else; one line that says what to do."""


def made_with(request: Request, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What decides a row, told before anything is made.

    request: digest of all that is asked, inputs' bytes with it. weights: of the backbone's files,
    or its id and revision. adapter: digest of a maker that is given in `options`, else None.
    """
    row = resolve(request.backbone, request.modality)
    maker = (options or {}).get("maker")
    found = {
        "request": request.key,
        "backbone": request.backbone,
        "params": dict(request.params),
        "adapter": None,
        "weights": _weights(row),
    }
    if maker is not None:
        from pipelines.video import job_of

        found["adapter"] = maker.weights(job_of(request, maker=maker).params)
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as a row that is read again
    return plain


@cache
def _digest(folder: Path) -> str:
    """Sixteen hex digits of all files of a folder, by their names and bytes."""
    h = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix not in (".md", ".jpg", ".png"):  # a card says nothing to a model
            h.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                h.update(hashlib.file_digest(file, "sha256").digest())
    return h.hexdigest()[:16]


def _weights(row: Backbone) -> str:
    own = f"{row.weights}@{row.revision}"
    if row.folder is not None and row.folder.is_dir():
        own = _digest(row.folder)
    return f"{own}+{_weights(BACKBONES[row.base])}" if row.base else own


def check_row(path: Path, row: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise one line when a row that is there was made with something else than is wanted."""
    had = row.get("made_with")
    if had == wanted:
        return
    if not isinstance(had, Mapping):
        why = "does not say what it was made with"
    else:
        names = [n for n in ("backbone", "params", "adapter", "weights") if had.get(n) != wanted[n]]
        shown = names or ["request"]
        why = f"was made with other {', '.join(shown)}"
    msg = f"--out: {path.name} {why}; give another folder, or delete its rows to make them again"
    raise RowError(msg)


def made(
    one: Asked, out: Path, backbone: str | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make a take and read it. options: more of the modality's `generate`."""
    seconds = length_of(one)
    request = request_of(one, seconds, backbone)
    begun, worked = time.monotonic(), time.process_time()
    take = None
    for event in generate([request], out_dir=out / "takes", offline=True, **(options or {})):
        if isinstance(event, Take):
            take = event
    spent = {"wall": time.monotonic() - begun, "processor": time.process_time() - worked}
    if take is None:
        msg = f"{one.key}: nothing was made; see {out / 'takes'}"
        raise RuntimeError(msg)
    read = READ[one.modality](take, seconds)
    return row_of(one, seconds, read, spent) | {
        "made_with": made_with(request, options),
        "file": str(take.path.relative_to(out)),
    }


def rows_of(
    wanted: Sequence[Asked],
    out: Path,
    backbones: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    tell: Callable[[str], None] = print,
    minutes: float = float("inf"),
) -> Iterator[dict[str, Any]]:
    """One row after the other, each made once; after so many minutes only what is there.

    Raises:
        RowError: one that is there was made with something else, before any is made.
    """
    end = time.monotonic() + 60 * minutes
    (out / "rows").mkdir(parents=True, exist_ok=True)
    paths = [out / "rows" / f"{one.key}.json" for one in wanted]
    for one, path in zip(wanted, paths, strict=True):
        if path.is_file():
            request = request_of(one, length_of(one), backbones.get(one.modality))
            check_row(
                path,
                json.loads(path.read_text(encoding="utf-8")),
                made_with(request, options.get(one.modality)),
            )
    for i, (one, path) in enumerate(zip(wanted, paths, strict=True)):
        if not path.is_file():
            if time.monotonic() > end:
                continue
            row = made(one, out, backbones.get(one.modality), options.get(one.modality))
            with replacing(path) as fresh:
                fresh.write_text(json.dumps(row) + "\n", encoding="utf-8")
            tell(f"{i + 1}/{len(wanted)} {one.key}: {row['spent']['wall']:.0f} s")
        yield json.loads(path.read_text(encoding="utf-8"))


def evaluate(
    out: Path,
    modalities: Sequence[str],
    *,
    backbones: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    speech: Sequence[Path] = (),
    tell: Callable[[str], None] = print,
    minutes: float = float("inf"),
) -> dict[str, Any]:
    """All stages; returns the figures and writes them and the report beside the rows.

    backbones, options: by modality; a backbone's name or folder, and more of its `generate`.
    """
    wanted = asked(modalities, speech)
    rows = list(rows_of(wanted, out, backbones or {}, options or {}, tell, minutes))
    found = summary(rows)
    if unrelated := _unrelated(rows, out):
        found["modalities"]["video"]["films"]["unrelated frames"] = unrelated
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with replacing(out / "figures.json") as fresh:
        fresh.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with replacing(out / "report.md") as fresh:
        fresh.write_text(markdown(found), encoding="utf-8")
    return found


def _unrelated(rows: Sequence[Mapping[str, Any]], out: Path) -> dict[str, list[float]]:
    """The figures of a clip of one frame of each film; nothing where there are too few."""
    from pipelines.media_video import preview

    films = [row for row in rows if row["modality"] == "video"]
    paths = {(row["subject"], row["seed"]): out / row["file"] for row in films}
    if len(paths) < 3 or not all(path.is_file() for path in paths.values()):
        return {}
    pictures = [np.asarray(preview(path, 1.0).convert("RGB")) for path in paths.values()]
    if len({picture.shape for picture in pictures}) > 1:
        return {}
    clip = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    found = measure(clip, 8.0)
    return {name: [value, value, value, 1] for name, value in found.items()}


def unshipped(folder: Path) -> Any:
    """A maker of films of video-tiny's painter and a motion adapter in another folder."""
    from pipelines.video_weights import load_maker

    return load_maker(replace(BACKBONES["video-tiny"], weights=str(folder)), offline=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; print the report and put it into cards where --card names some."""
    from training.portrait_critic import write_section

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--modalities", default="voice,music,portrait,video")
    parser.add_argument("--backbone", nargs="*", default=(), help="modality=name or folder")
    parser.add_argument("--adapter", type=Path, help="folder of a motion adapter, not yet shipped")
    parser.add_argument("--speech", type=Path, nargs="*", default=(), help="more neutral speech")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="make nothing after")
    parser.add_argument("--card", type=Path, nargs="*", default=(), help="README.md to write into")
    given = parser.parse_args(argv)
    modalities = given.modalities.split(",")
    if unknown := sorted(set(modalities) - set(READ)):
        parser.error(f"--modalities: allowed {', '.join(READ)}, received {', '.join(unknown)}")
    backbones = dict(pair.split("=", 1) for pair in given.backbone)
    torch.set_flush_denormal(True)
    options = {} if given.adapter is None else {"video": {"maker": unshipped(given.adapter)}}
    found = evaluate(
        given.out,
        modalities,
        backbones=backbones,
        options=options,
        speech=given.speech,
        minutes=given.minutes,
    )
    text = markdown(found)
    print(text)
    for card in given.card:
        write_section(card, "Following a curve in time", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
