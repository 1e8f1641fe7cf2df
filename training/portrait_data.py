"""Pairs of speech and faces for portrait-tiny, composed on the fly.

    data/facegood/*.npz + *.flac    speech with hand-cleaned mouth curves (FACEGOOD, MIT; Mandarin)
    data/a2f_audio/*.flac           emotional speech without curves (NVIDIA samples, Apache-2.0)

No open recording shows speech, a whole face and emotion under a usable licence. So the mouth comes
from FACEGOOD, and around it a face is composed: the muscles of a random track of emotions with the
onset and offset of expressions, people's variants, unevenness and wavering; brows and head that
accent what is stressed; a head that is held and drifts. The second folder teaches how accents of
other voices sound; its mouths are unknown. Recordings are heard at several speeds (pace and pitch),
and what is heard is bent further (microphone, vocal tract, noise).

It deliberately does not know the loss (training/portrait.py) or blinks, which no model makes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters import facs
from adapters.emotion import CORE, project
from adapters.face_life import eased, wander
from adapters.face_motion import ARKIT, CHANNELS, MOUTH
from adapters.files import replacing
from adapters.voice_analysis import RATE, at_rate
from pipelines.media_sound import load_sound
from pipelines.portrait_model import COLUMNS, STYLE, TOLD, emotion_rows
from pipelines.portrait_motion import intended
from pipelines.portrait_sound import BANDS, FPS, PARTS, SILENT, Hearing, hear, silence

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

HELD_CLIPS = ("1114_2_05", "1114_3_16")
"""In no weight and in no choice: one of separate sentences, one of running speech."""
CHOSEN_SHARE = 0.1
"""The end of every other clip, which decides which weights are kept."""
SPEEDS = (1.0, 0.86, 0.93, 1.08, 1.17)
FRAMES = 96
IDLE, VOICES = 0.12, 0.12  # shares of rows in silence, and of the folder without curves
HIDE = (0.1, 0.12, 0.3)  # sound, emotion, style
HIDE_NAMES = 0.15  # of emotions, so that valence, arousal and dominance act alone
HEAD_SWAY = (2.4, 1.5, 1.3)  # degrees, standard deviation of yaw, pitch and roll while speaking
NOD, RAISE = 2.2, 0.24  # degrees and brow on a full accent

_BROWS_UP = [ARKIT.index(name) for name in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight")]
_BROWS_DOWN = [ARKIT.index(name) for name in ("browDownLeft", "browDownRight")]
_SMILES = [ARKIT.index(name) for name in ("mouthSmileLeft", "mouthSmileRight")]
_LEFT = [
    k for k, name in enumerate(ARKIT) if name.endswith("Left") and f"{name[:-4]}Right" in ARKIT
]
_RIGHT = [ARKIT.index(f"{ARKIT[k][:-4]}Right") for k in _LEFT]
_FUNNEL, _PUCKER = ARKIT.index("mouthFunnel"), ARKIT.index("mouthPucker")


class PortraitDataError(ValueError):
    """No recordings where they were looked for; one line that says what is expected."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording at one speed, T frames. mouth: (T, 52) or None where it was not recorded."""

    name: str
    speed: float
    heard: Hearing
    mouth: Singles | None

    def __len__(self) -> int:
        return len(self.heard)

    def part(self, first: int, last: int) -> Clip:
        """The frames first .. last - 1."""
        some = slice(first, last)
        heard = Hearing(
            self.heard.features[some],
            self.heard.speaking[some],
            self.heard.accent[some],
            self.heard.dips[(self.heard.dips >= first / FPS) & (self.heard.dips < last / FPS)]
            - first / FPS,
        )
        return Clip(self.name, self.speed, heard, None if self.mouth is None else self.mouth[some])


def prepared(work: Path, data: Path | None = None) -> list[Clip]:
    """All clips at all speeds, from the cache in `work` or made from the folder `data`.

    Raises:
        PortraitDataError: neither holds any.
    """
    cache = work / "clips.npz"
    if cache.is_file():
        return _read(cache)
    clips = []
    for sound in sorted((data or Path()).glob("*/*.flac")):
        wave = load_sound(sound, RATE).waveform.mean(axis=0)
        curves = sound.with_suffix(".npz")
        for speed in SPEEDS:
            faster = at_rate(wave, round(RATE * speed))
            mouth = _mouth(curves, speed) if curves.is_file() else None
            heard = hear(faster, RATE, None if mouth is None else len(mouth))
            clips.append(Clip(sound.stem, speed, heard, mouth))
    if not clips:
        msg = f"portrait data: {data} holds no */*.flac; give --data the folder with facegood/"
        raise PortraitDataError(msg)
    _write(cache, clips)
    return clips


def _mouth(path: Path, speed: float) -> Singles:
    with np.load(path, allow_pickle=False) as file:
        rows = np.asarray(file["arkit"], dtype=np.float64)
        names = [str(name) for name in file["arkit_names"]]
        fps = float(file["fps"])
    if names != list(ARKIT):
        rows = rows[:, [names.index(name) for name in ARKIT]]
    rows = rounded(rows)
    at = np.arange(int(len(rows) / fps / speed * FPS)) / FPS * speed * fps
    known = np.arange(len(rows))
    return np.stack([np.interp(at, known, column) for column in rows.T], 1).astype(np.float32)


def rounded(rows: Floats) -> Floats:
    """(T, 52) with the rounding of the lips divided alike in all clips.

    Who animated FACEGOOD drew the same sounds with the funnel in some clips and with the pucker in
    others (pucker is the larger one in 0 to 80 % of the rounded frames of a clip), which no sound
    tells. Their sum stays; the narrower the jaw, the more of it is pucker, as in "u" against "o".
    """
    out = rows.copy()
    both = np.minimum(rows[:, _FUNNEL] + rows[:, _PUCKER], 1.0)
    share = 0.7 - 0.5 * np.clip(rows[:, ARKIT.index("jawOpen")] / 0.3, 0.0, 1.0)
    out[:, _PUCKER], out[:, _FUNNEL] = share * both, (1.0 - share) * both
    return out


def _write(path: Path, clips: Sequence[Clip]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {}
    for k, clip in enumerate(clips):
        arrays[f"{k}.features"] = clip.heard.features
        for name in ("speaking", "accent", "dips"):
            arrays[f"{k}.{name}"] = getattr(clip.heard, name)
        if clip.mouth is not None:
            arrays[f"{k}.mouth"] = clip.mouth.astype(np.float16)
    names = json.dumps([[clip.name, clip.speed] for clip in clips])
    arrays["names"] = np.frombuffer(names.encode(), dtype=np.uint8)
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> list[Clip]:
    with np.load(path, allow_pickle=False) as file:
        names = json.loads(bytes(file["names"]).decode())
        return [
            Clip(
                name,
                speed,
                Hearing(*(file[f"{k}.{x}"] for x in ("features", "speaking", "accent", "dips"))),
                file[f"{k}.mouth"].astype(np.float32) if f"{k}.mouth" in file else None,
            )
            for k, (name, speed) in enumerate(names)
        ]


def split(clips: Sequence[Clip]) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Clips to train on, to choose weights by, and held out; the last two at speed 1 only."""
    train, choose, held = [], [], []
    for clip in clips:
        if clip.name in HELD_CLIPS:
            if clip.speed == 1.0:
                held.append(clip)
        elif clip.mouth is None:
            train.append(clip)
        else:
            last = round(len(clip) * (1 - CHOSEN_SHARE))
            train.append(clip.part(0, last))
            if clip.speed == 1.0:
                choose.append(clip.part(last, len(clip)))
    return train, choose, held


# Composition -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """T frames as the model learns them.

    features: (T, 133). plan, rest, known: (T, 55); rest is what differs from the plan, known 0
    where nothing was recorded. emotion: (T, 16). style: (4,). told: (3,). track: (T, 12).
    """

    features: Singles
    plan: Singles
    rest: Singles
    known: Singles
    emotion: Singles
    style: Singles
    told: Singles
    track: Singles


def random_track(frames: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(T, 12) intensities and (T, 3) residuals: at rest, one emotion, a change, a blend."""
    track, rest = np.zeros((frames, len(CORE))), np.zeros((frames, 3))
    kind = rng.choice(4, p=(0.2, 0.35, 0.3, 0.15))
    if kind == 1:
        track[:] = _one(rng)
    elif kind == 2:
        for first in sorted([0, *rng.integers(0, frames, rng.integers(1, 3)).tolist()]):
            track[first:] = _one(rng) if rng.random() < 0.75 else 0.0
    elif kind == 3:
        share = rng.uniform(0.2, 0.8)
        track[:] = share * _one(rng) + (1 - share) * _one(rng)
    if rng.random() < 0.15:
        rest[:] = rng.normal(0.0, 0.3, 3)
    onset, offset = rng.uniform(0.08, 0.3), rng.uniform(0.25, 0.8)
    return project(eased(track, FPS, onset, offset), 1.0), rest


def _one(rng: np.random.Generator) -> Floats:
    out = np.zeros(len(CORE))
    out[rng.integers(len(CORE))] = rng.uniform(0.1, 1.0)
    return out


def compose(clip: Clip, rng: np.random.Generator, *, bend: bool = True) -> Row:
    """A face around the mouth of a clip, T frames, everything else drawn from `rng`."""
    frames = len(clip)
    heard, mouth = clip.heard, clip.mouth
    track, residuals = random_track(frames, rng)
    style = np.clip(rng.normal(0.0, 0.6, len(STYLE)), -1.0, 1.0)
    plan = intended(facs.muscles(track, residuals), track, heard.speaking)
    face, pose = _person(track, residuals, heard, style, rng)
    said = np.zeros((frames, CHANNELS)) if mouth is None else mouth.astype(np.float64)
    # Words with strong emotion are said wider or smaller, within what a mouth can do.
    wide = facs.articulation(track) * (1.0 + 0.3 * style[0])
    said = np.where(said < 0.9, np.minimum(said * wide[:, None], 0.95), said)
    # A rounded mouth cannot smile.
    face[:, _SMILES] *= np.clip(1 - 0.7 * said[:, [_FUNNEL]] - 0.7 * said[:, [_PUCKER]], 0, 1)
    target = np.concatenate([np.clip(face + said, 0.0, 1.0), pose], axis=1)
    known = np.ones((frames, COLUMNS), dtype=np.float32)
    if mouth is None:
        known[:, list(MOUTH)] = 0.0
    emotion = emotion_rows(track, residuals)
    if rng.random() < HIDE_NAMES:
        emotion[:, : len(CORE)] = 0.0
    told = (rng.random(len(TOLD)) >= HIDE).astype(np.float32)
    return Row(
        features=bent(heard.features, rng) if bend else heard.features,
        plan=plan.astype(np.float32),
        rest=(target - plan).astype(np.float32),
        known=known,
        emotion=emotion,
        style=style.astype(np.float32),
        told=told if bend else np.ones(len(TOLD), np.float32),
        track=track.astype(np.float32),
    )


def _person(
    track: Floats, residuals: Floats, heard: Hearing, style: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """What somebody's face (T, 52) and head (T, 3) do with the emotion and the accents."""
    frames = len(track)
    live = facs.liveliness(track)
    extra = sum(
        (
            track[:, [k]] * facs.variation(name, rng)
            for k, name in enumerate(CORE)
            if track[:, k].any()
        ),
        np.zeros((frames, len(facs.units()))),
    )
    strength = np.exp(rng.normal(0.0, 0.18, len(facs.units())))
    waver = 1.0 + 0.12 * _wander(frames, rng, 0.2)[:, None] + 0.25 * (heard.accent * live)[:, None]
    contracted = np.clip((facs.muscles(track, residuals) + extra) * strength * waver, 0.0, 1.0)
    face, pose = facs.expression(contracted)
    face = facs.spoken(face, heard.speaking)
    lean = 0.12 * (1.0 - 0.8 * style[3]) * rng.normal(0.0, 1.0, len(_LEFT))
    face[:, _LEFT] *= np.clip(1.0 + lean, 0.3, 1.7)
    face[:, _RIGHT] *= np.clip(1.0 - lean, 0.3, 1.7)
    # Not every accent is shown, and not by the same part of the face.
    shown = heard.accent * np.clip(0.6 + 0.7 * _wander(frames, rng, 0.3), 0.0, 1.5) * live
    frown = contracted[:, facs.units().index("4")]
    frown = frown / (frown + contracted[:, facs.units().index("1")] + 0.25)
    brows = RAISE * (1.0 + 0.8 * style[2]) * shown
    face[:, _BROWS_UP] += np.array([1.0, 0.7, 0.7]) * (brows * (1 - frown))[:, None]
    face[:, _BROWS_DOWN] += (brows * frown)[:, None]
    amount = live * (1.0 + 0.7 * style[1]) * (0.35 + 0.65 * heard.speaking)
    sway = np.stack([s * _wander(frames, rng, 0.1) for s in HEAD_SWAY], axis=1)
    nods = heard.accent * np.clip(0.6 + 0.7 * _wander(frames, rng, 0.3), 0.0, 1.5)
    pose = pose + facs.posture(track) * rng.uniform(0.6, 1.4) + amount[:, None] * sway
    pose[:, 1] -= NOD * amount * nods
    return np.clip(face, 0.0, 1.0), pose


def _wander(frames: int, rng: np.random.Generator, slowest: float) -> Floats:
    return wander(frames, FPS, rng, slowest)


def bent(features: Singles, rng: np.random.Generator) -> Singles:
    """Another microphone, vocal tract, distance and room: (T, 133) -> (T, 133)."""
    bands = features[:, : PARTS * BANDS].reshape(-1, BANDS).astype(np.float64)
    silent = bands <= SILENT + 1e-6
    place = np.clip(np.arange(BANDS) * rng.uniform(0.88, 1.13) + rng.normal(0, 0.4), 0, BANDS - 1)
    low = np.floor(place).astype(np.intp)
    share = place - low
    bands = (1 - share) * bands[:, low] + share * bands[:, np.minimum(low + 1, BANDS - 1)]
    curve = np.interp(np.arange(BANDS), np.linspace(0, BANDS - 1, 5), rng.normal(0.0, 0.3, 5))
    bands = bands + curve + rng.normal(0.0, 0.12)
    if rng.random() < 0.4:  # noise below the voice
        bands = np.logaddexp(2.76 * bands, 2.76 * rng.uniform(-2.4, -1.2)) / 2.76  # ln(10) * 12/10
    bands = np.where(silent, SILENT, np.clip(bands, SILENT, -SILENT))
    rest = features[:, PARTS * BANDS :].astype(np.float64)
    rest[:, 0] *= rng.uniform(0.6, 1.4)
    out = np.concatenate([bands.reshape(len(features), -1), rest], axis=1)
    return (out + rng.normal(0.0, 0.04, out.shape)).astype(np.float32)


# Batches -----------------------------------------------------------------------------------------


class Feed:
    """Endless batches; each is drawn from (seed, step), so that a run resumes exactly."""

    def __init__(
        self, clips: Sequence[Clip], batch: int, frames: int = FRAMES, seed: int = 0
    ) -> None:
        self.batch, self.frames, self.seed = batch, frames, seed
        self.faces = [clip for clip in clips if clip.mouth is not None and len(clip) >= frames]
        self.voices = [clip for clip in clips if clip.mouth is None and len(clip) >= frames]
        if not self.faces:
            msg = f"portrait data: no clip with curves has {frames} frames; give longer ones"
            raise PortraitDataError(msg)

    def draw(self, step: int) -> dict[str, Tensor]:
        """The batch of optimiser step `step`; names and shapes of Row with a batch in front."""
        rng = np.random.default_rng([self.seed, step])
        return collated([compose(self._crop(rng), rng) for _ in range(self.batch)])

    def _crop(self, rng: np.random.Generator) -> Clip:
        draw = rng.random()
        if draw < IDLE:
            rest = np.zeros((self.frames, CHANNELS), dtype=np.float32)
            return Clip("", 1.0, silence(self.frames), rest)
        among = self.voices if draw < IDLE + VOICES and self.voices else self.faces
        lengths = np.array([len(clip) for clip in among], dtype=np.float64)
        clip = among[int(rng.choice(len(among), p=lengths / lengths.sum()))]
        first = int(rng.integers(0, len(clip) - self.frames + 1))
        # Half of separate sentences is silence: what is mostly silent is drawn once more.
        if clip.heard.speaking[first : first + self.frames].mean() < 0.35:
            first = int(rng.integers(0, len(clip) - self.frames + 1))
        return clip.part(first, first + self.frames)


def collated(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows of one length as a batch."""
    names = ("features", "plan", "rest", "known", "emotion", "style", "told", "track")
    return {
        name: torch.from_numpy(np.stack([getattr(row, name) for row in rows])) for name in names
    }


def scale_of(clips: Sequence[Clip], rows: int = 300, seed: int = 1) -> Singles:
    """(55,) units of y: near the standard deviation, wider where a channel moves seldom."""
    feed = Feed(clips, 1, seed=seed)
    found = [feed.draw(step) for step in range(rows)]
    rest = torch.cat([row["rest"][0] for row in found]).numpy()
    known = torch.cat([row["known"][0] for row in found]).numpy() > 0
    out = np.zeros(COLUMNS)
    for k in range(COLUMNS):
        values = rest[known[:, k], k].astype(np.float64)
        out[k] = max(values.std(), np.quantile(np.abs(values), 0.998) / 5.0)
    floor = np.where(np.arange(COLUMNS) < CHANNELS, 0.02, 0.5)
    return np.maximum(out, floor).astype(np.float32)
