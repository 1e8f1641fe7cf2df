"""Report: do portraits by portrait-tiny show what was asked, read from pixels by a stranger?

    python -m training.portrait_evaluate --out .work/portrait/evaluation \
        [--model assets/models/portrait-tiny] [--speech clip.flac] [--card CARD]

Seven expressions x five intensities x seeds are drawn once as motion (the motion knows no face),
rendered on every sample face and on scikit-image's astronaut, and measured again by the mesh on the
RENDERED frames:

* reader-portrait reads the points; critic-portrait reads the curves beside it, never alone;
* in silence and, with --speech, while somebody talks; and the muscles of the table at their apex
  without any model, which is the most that this renderer and mesh can show;
* controls: intensity 0, every other expression than the one asked for, and words alone;
* whether intensity is seen to rise (Spearman); whether the skull stays the same (drift, beside what
  people differ by); whether anything outside the face's box, or at rest, changes at all.

Frames are few (--frames of each motion, after the onset) and small (--size). Each stage is kept in
the folder and not made again. Figures of lips: training.portrait_report.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adapters import facs
from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.face_geometry import Landmarks, drift
from adapters.face_motion import Motion
from adapters.face_reader import FaceReader
from adapters.face_reading import EXPRESSIONS
from adapters.files import replacing
from adapters.motion_critic import MotionCritic, load_portrait_critic
from pipelines.face_mesh import Face, detect, measure
from pipelines.media import load_image
from pipelines.media_sound import load_sound
from pipelines.portrait_model import PortraitPipeline
from pipelines.portrait_motion import plan
from pipelines.portrait_rig import Rig
from pipelines.portrait_session import weights_of
from training.portrait_critic import write_section
from training.portrait_evaluate_report import markdown, summary

Floats = NDArray[np.float64]

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
SECONDS, AFTER = 3.0, 1.0  # of a motion, and where the onset is over
WAYS = ("silence", "speech", "table")


@dataclass(frozen=True)
class Asked:
    """One motion: which expression ("neutral" for intensity 0), how strong, and how it is made."""

    way: str
    expression: str
    level: float
    seed: int

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.way}-{self.expression}-{self.level:g}-{self.seed}"


def asked(seeds: int, speech: bool) -> list[Asked]:
    """All motions of a run."""
    found = []
    for way in WAYS if speech else ("silence", "table"):
        for seed in range(1 if way == "table" else seeds):
            if way != "table":
                found.append(Asked(way, "neutral", 0.0, seed))
            for name in EXPRESSIONS:
                found += [Asked(way, name, level, seed) for level in LEVELS]
    return found


def drawn(one: Asked, pipe: PortraitPipeline, sound: NDArray[np.float32] | None) -> Motion:
    """The motion of one row; the table's is a single frame at its apex."""
    contempt = one.expression == "contempt"
    muscles = one.level * facs.named(one.expression) if one.level else None
    if one.way == "table":
        curves, pose = facs.expression(np.zeros(len(facs.units())) if muscles is None else muscles)
        return Motion(curves.astype(np.float32), pose.astype(np.float32))
    track = np.zeros(len(CORE))
    if one.level and not contempt:
        track[CORE.index(one.expression)] = one.level
    return plan(
        sound if one.way == "speech" else None,
        track,
        seconds=SECONDS,
        model=pipe,
        generator=torch.Generator().manual_seed(one.seed),
        muscles=muscles if contempt else None,
    )


def shown(motion: Motion, frames: int) -> Motion:
    """The frames that are rendered: evenly spread over what follows the onset."""
    if len(motion) == 1:
        return motion
    # Half a step in, and uneven against the second, so that no rhythm of blinks is met.
    step = (motion.seconds - AFTER) / frames
    return motion.at(AFTER + step * (0.5 + np.arange(frames)), max(1.0, 1 / step))


# Rendering ---------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, Image.Image]]:
    """The drawn faces of the project, and the real one of scikit-image."""
    for path in sorted((ASSETS / "samples" / "faces").glob("*.jpg")):
        yield path.stem, load_image(path)
    try:
        from skimage.data import astronaut
    except ImportError:
        return
    yield "astronaut", Image.fromarray(astronaut())


def measured(
    image: Image.Image, motions: Mapping[str, Motion], size: int, frames: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Points (T, 478, 2) of rendered frames by name, "rest" too, and what of the photo changed.

    Frames in which no face is found again are left out and counted.
    """
    face = detect(image)[0]
    rig = Rig(image, face, size=size)
    photo = np.asarray(image)
    found = {"rest": _again(photo, face)}
    left, top, right, bottom = rig.box
    outside = np.ones(photo.shape[:2], dtype=bool)
    outside[top:bottom, left:right] = False
    worst, lost, count = 0, 0, 0
    begin = time.process_time()  # other work may share the machine
    for name, motion in motions.items():
        rows = []
        for frame in rig.frames(shown(motion, frames)):
            count += 1
            again = measure(frame, face)
            if again is None:
                lost += 1
            else:
                rows.append(again.points)
            if outside.any():
                away = np.abs(frame[outside].astype(np.int16) - photo[outside])
                worst = max(worst, int(away.max()))
        if rows:
            found[name] = np.stack(rows).astype(np.float32)
    seconds = time.process_time() - begin
    still = rig.frame(np.zeros(52)).astype(np.int16)
    about = {
        "outside": float(worst),
        "at_rest": float(np.abs(still - photo).max()),
        "lost": float(lost),
        "frames": float(count),
        "seconds_a_frame": seconds / max(count, 1),
    }
    return found, about


def _again(photo: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
    """The rest as the mesh finds it in the way that frames are measured."""
    found = measure(photo, face)
    return np.asarray(face.points if found is None else found.points, dtype=np.float32)


# Reading -----------------------------------------------------------------------------------------


def rows_of(
    faces: Mapping[str, Mapping[str, Any]], wanted: Sequence[Asked], reader: FaceReader
) -> list[dict[str, Any]]:
    """What the reader makes of every motion on every face, as plain numbers."""
    out = []
    for name, points in faces.items():
        for one in wanted:
            if one.key not in points:
                continue
            item = Landmarks(points[one.key], points["rest"])
            reading = reader.read([item])[0]
            out.append(
                {
                    "face": name,
                    "way": one.way,
                    "asked": one.expression,
                    "level": one.level,
                    "seed": one.seed,
                    "classes": reader.classes([item])[0].tolist(),
                    "strengths": reader.strengths([item])[0].tolist(),
                    "in_domain": reading.in_domain,
                    "valence": reading.vad_mean[0],
                    "arousal": reading.vad_mean[1],
                    "drift": float(drift(item).mean()),
                }
            )
    return out


def heard_of(
    motions: Mapping[str, Motion], wanted: Sequence[Asked], critic: MotionCritic
) -> list[dict[str, Any]]:
    """What the critic makes of the motions, where a model made them."""
    out = []
    for one in wanted:
        if one.way != "table":
            motion = motions[one.key]
            part = slice(round(AFTER * motion.fps), None)
            late = Motion(motion.curves[part], motion.pose[part], motion.fps)
            out.append(
                {
                    "way": one.way,
                    "asked": one.expression,
                    "level": one.level,
                    "seed": one.seed,
                    "kinds": critic.kinds([late])[0].tolist(),
                }
            )
    return out


def between(faces: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Drifts of each face at rest against each other one."""
    return [
        float(drift(Landmarks(a["rest"], b["rest"]))[0])
        for one, a in faces.items()
        for other, b in faces.items()
        if one != other
    ]


# Running -----------------------------------------------------------------------------------------


def _npz(path: Path, make: Any) -> dict[str, NDArray[Any]]:
    """Arrays by name that are made once."""
    if not path.is_file():
        found = make()
        with replacing(path) as fresh, fresh.open("wb") as file:
            np.savez(file, **found)
    with np.load(path, allow_pickle=False) as kept:
        return {key: kept[key] for key in kept.files}


def evaluate(
    model: Path,
    out: Path,
    *,
    speech: Path | None = None,
    seeds: int = 2,
    frames: int = 6,
    size: int = 256,
    critics: Path | None = None,
) -> dict[str, Any]:
    """All stages; returns the figures and writes them beside the rows.

    critics: folder of critic-portrait and reader-portrait; None: the shipped ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    pair = [
        load_portrait_critic(name if critics is None else critics / name)
        for name in ("critic-portrait", "reader-portrait")
    ]
    critic, reader = pair
    if not (isinstance(critic, MotionCritic) and isinstance(reader, FaceReader)):
        msg = "critics: need critic-portrait and reader-portrait; restore assets/models"
        raise ValueError(msg)
    wanted = asked(seeds, speech is not None)
    motions, weights = _motions(model, wanted, speech, out)
    faces: dict[str, dict[str, Any]] = {}
    about: dict[str, dict[str, float]] = {}
    for name, image in sources():
        kept = _npz(
            out / f"points-{name}.npz",
            lambda image=image, name=name: _stored(*measured(image, motions, size, frames), name),
        )
        about[name] = json.loads(bytes(kept.pop("about")).decode())
        faces[name] = kept
    rows = rows_of(faces, wanted, reader)
    heard = heard_of(motions, wanted, critic)
    found = summary(rows, heard, about, between(faces))
    found["run"] = {
        "seeds": seeds,
        "frames": frames,
        "size": size,
        "weights": weights,
        "reader": reader.digest,
    }
    for name, value in (("rows", rows), ("heard", heard), ("figures", found)):
        with replacing(out / f"{name}.json") as fresh:
            fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    with replacing(out / "report.md") as fresh:
        fresh.write_text(markdown(found), encoding="utf-8")
    return found


def _stored(
    points: Mapping[str, NDArray[Any]], about: Mapping[str, float], name: str
) -> dict[str, NDArray[Any]]:
    print(
        f"{name}: {about['frames']:.0f} frames, {about['seconds_a_frame']:.3f} s each", flush=True
    )
    return {**points, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}


def _motions(
    model: Path, wanted: Sequence[Asked], speech: Path | None, out: Path
) -> tuple[dict[str, Motion], str]:
    """Motions by name, and 16 hex digits of the weights that drew them."""
    pipe = PortraitPipeline.load(model)
    weights = weights_of(pipe, "")

    def make() -> dict[str, NDArray[Any]]:
        sound = None
        if speech is not None:
            sound = load_sound(speech, 16000).waveform.mean(axis=0)[: round(16000 * SECONDS)]
        found = {"weights": np.frombuffer(weights.encode(), dtype=np.uint8)}
        for one in wanted:
            motion = drawn(one, pipe, sound)
            found[one.key] = np.concatenate([motion.curves, motion.pose], axis=1)
        return found

    kept = _npz(out / "motions.npz", make)
    missing = [one.key for one in wanted if one.key not in kept]
    if missing or bytes(kept["weights"]).decode() != weights:
        what = f"no {missing[0]}" if missing else "other weights"
        msg = f"out: {out} holds another run ({what}); give an empty folder"
        raise ValueError(msg)
    motions = {one.key: Motion(kept[one.key][:, :52], kept[one.key][:, 52:]) for one in wanted}
    return motions, weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages; print the report and put it into a card where --card names one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "models" / "portrait-tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speech", type=Path, help="a recording to say, 3 s of it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=6, help="rendered of each motion")
    parser.add_argument("--size", type=int, default=256, help="pixels of the face")
    parser.add_argument("--critics", type=Path, help="folder of both critics; else the shipped")
    parser.add_argument("--card", type=Path, nargs="*", default=(), help="README.md to write into")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = evaluate(
        given.model,
        given.out,
        speech=given.speech,
        seeds=given.seeds,
        frames=given.frames,
        size=given.size,
        critics=given.critics,
    )
    text = markdown(found)
    print(text)
    for card in given.card:
        write_section(card, "On rendered faces", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
