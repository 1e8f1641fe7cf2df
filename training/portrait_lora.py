"""LoRA of portrait-tiny for one person's face: some minutes of Live Link Face recordings in.

    FOLDER/NAME.csv   FOLDER/NAME_anger.csv   ...   with NAME.wav beside it where there was speech

    affect train lora --modality portrait --data FOLDER --out styles/me

A recording's name may end in an emotion, or any labelling of `training.folder` says it. How strong
it is, where nobody rated it, is read from how far the face goes towards that emotion's muscles.
Low-rank matrices on attention and feed-forward layers are trained (Hu et al. 2021), the model is
not touched. Blinks and eyes are left alone, the place of the camera is taken out. The end of every
recording is held out, or what the set declares; its first half decides when the face is known: what
is written are the matrices that explain it best, so a folder that teaches nothing yields an adapter
that changes nothing. Its second half, which decided nothing, says in the card how much was learned.
An ordinary diffusers adapter is written, which `PortraitPipeline.wearing` puts on.

It deliberately does not know how an adapter is chosen by a person.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters import facs
from adapters.emotion import CORE
from adapters.face_life import eased
from adapters.face_motion import ARKIT, read_csv
from adapters.files import replacing
from adapters.voice_analysis import RATE
from pipelines.media_records import MediaError
from pipelines.media_sound import load_sound
from pipelines.portrait_model import (
    ADAPTER,
    COLUMNS,
    STYLE,
    PortraitDenoiser,
    PortraitPipeline,
    emotion_rows,
)
from pipelines.portrait_motion import intended
from pipelines.portrait_sound import FPS, hear, silence
from training.folder import Sample
from training.folder_style import StyleError, read_style, write_adapter
from training.intervals import over_groups
from training.portrait import Settings, fit_model
from training.portrait_data import Row, bent, collated

Floats = NDArray[np.float64]

SOUNDS = (".wav", ".flac", ".mp3")
LAYERS = ["to_q", "to_k", "to_v", "to_out", "up", "down"]
HELD_SHARE = 0.2
LEAST_SECONDS = 20.0
CARD = "adapter.json"

_EYES = [k for k, name in enumerate(ARKIT) if name.startswith(("eyeBlink", "eyeLook"))]


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """rank of the matrices (alpha is equal to it); the rest as `training.portrait.Settings`.

    layout: of the folder, one of `training.folder.LAYOUTS` or auto.
    """

    rank: int = 8
    steps: int = 400
    minutes: float = 10.0
    rate: float = 1e-3
    check: int = 50
    batch: int = 8
    frames: int = 96
    layout: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("rank", "steps", "check", "batch", "frames"):
            if getattr(self, name) < 1:
                msg = f"{name}: allowed 1 or more, received {getattr(self, name)}"
                raise StyleError(msg)
        if not (self.minutes > 0 and self.rate > 0):
            msg = f"minutes, rate: allowed above 0, received {self.minutes:g}, {self.rate:g}"
            raise StyleError(msg)


@dataclass(frozen=True, slots=True)
class Recording:
    """A row, and whether the set declares that it is held out."""

    row: Row
    held: bool


def read_folder(
    folder: Path | str, layout: str = "auto", tell: Callable[[str], None] = print
) -> list[Recording]:
    """One row a recording, at 30 frames a second; what cannot be used is told and left out.

    Raises:
        StyleError: no folder, no recordings, too many, or under 20 seconds of them.
    """
    found = []
    for sample in read_style(folder, "portrait", layout, tell=tell):
        try:
            found.append(Recording(make_row(sample.path, sample), sample.split == "held"))
        except MediaError as error:  # of the sound beside it
            tell(f"left out: {sample.name}: {error}")
    seconds = sum(len(one.row.rest) for one in found) / FPS
    if seconds < LEAST_SECONDS:
        msg = (
            f"data: {folder} holds {len(found)} CSV with {seconds:.0f} s of curves; record "
            f"{LEAST_SECONDS:.0f} s or more with Live Link Face"
        )
        raise StyleError(msg)
    return found


def make_row(path: Path, said: Sample | None = None) -> Row:
    """A recording as the model learns it. said: what its labels are; None: nothing is felt."""
    motion = read_csv(path).resampled(float(FPS))
    curves = motion.curves.astype(np.float64)
    pose = motion.pose.astype(np.float64)
    pose = pose - np.median(pose, axis=0)
    frames = len(motion)
    sounds = [path.with_suffix(end) for end in SOUNDS if path.with_suffix(end).is_file()]
    heard = silence(frames)
    if sounds:
        heard = hear(load_sound(sounds[0], RATE).waveform, frames=frames)
    track = np.zeros((frames, len(CORE)))
    if said is not None and said.graded:
        track[:] = said.state
    elif said is not None and said.emotion in CORE:
        face = facs.expression(facs.named(said.emotion)[None])[0][0]
        strength = np.clip(curves @ face / (face @ face), 0.0, 1.0)
        track[:, CORE.index(said.emotion)] = eased(strength[:, None], FPS, 0.5, 0.5)[:, 0]
    plan = intended(facs.muscles(track), track, heard.speaking)
    known = np.ones((frames, COLUMNS), dtype=np.float32)
    known[:, _EYES] = 0.0
    return Row(
        features=heard.features,
        plan=plan.astype(np.float32),
        rest=(np.concatenate([curves, pose], axis=1) - plan).astype(np.float32),
        known=known,
        emotion=emotion_rows(track),
        style=np.zeros(len(STYLE), np.float32),
        told=np.array([float(bool(sounds)), 1.0, 1.0], np.float32),
        track=track.astype(np.float32),
    )


def cut(row: Row, first: int, last: int) -> Row:
    """The frames first .. last - 1."""
    some = slice(first, last)
    parts = {name: getattr(row, name)[some] for name in ("features", "plan", "rest", "known")}
    return Row(
        **parts, emotion=row.emotion[some], style=row.style, told=row.told, track=row.track[some]
    )


def split(found: Sequence[Recording]) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows to train on, to decide on and to report on: recordings' ends, or those declared held."""
    declared = any(one.held for one in found) and not all(one.held for one in found)
    train: list[Row] = []
    decide: list[Row] = []
    unseen: list[Row] = []
    for row, held in ((one.row, one.held) for one in found):
        frames = len(row.rest)
        end = (0 if held else frames) if declared else round(frames * (1 - HELD_SHARE))
        half = (end + frames) // 2
        train += [cut(row, 0, end)] if end else []
        decide += [cut(row, end, half)] if half > end else []
        unseen += [cut(row, half, frames)] if frames > half else []
    return train, decide, unseen


class Crops:
    """Endless batches of crops of recordings, drawn from (seed, step)."""

    def __init__(self, rows: Sequence[Row], batch: int, frames: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.frames = min(frames, *(len(row.rest) for row in rows), frames)
        self.rows = rows

    def draw(self, step: int) -> dict[str, Tensor]:
        """The batch of a step; sound is bent, and sound and emotion are sometimes hidden."""
        rng = np.random.default_rng([self.seed, step])
        lengths = np.array([len(row.rest) for row in self.rows], dtype=np.float64)
        chosen = []
        for k in rng.choice(len(self.rows), self.batch, p=lengths / lengths.sum()):
            first = int(rng.integers(0, len(self.rows[k].rest) - self.frames + 1))
            row = cut(self.rows[k], first, first + self.frames)
            told = row.told * (rng.random(3) >= (0.1, 0.1, 0.3))
            chosen.append(
                Row(
                    features=bent(row.features, rng),
                    plan=row.plan,
                    rest=row.rest,
                    known=row.known,
                    emotion=row.emotion,
                    style=row.style,
                    told=told.astype(np.float32),
                    track=row.track,
                )
            )
        return collated(chosen)


def rest_left(model: PortraitDenoiser, rows: Sequence[Row]) -> tuple[float, float]:
    """(share of the squares beyond the plan that E[y] leaves, correlation of both)."""
    true, guess = zip(*_guessed(model, rows), strict=True)
    one, two = np.concatenate(true), np.concatenate(guess)
    left = float(((one - two) ** 2).sum() / max(float((one**2).sum()), 1e-9))
    return left, float(np.corrcoef(one, two)[0, 1]) if two.std() > 1e-9 else 0.0


def seconds_left(model: PortraitDenoiser, rows: Sequence[Row]) -> tuple[Floats, list[int]]:
    """(N, 2) of each second of the rows: squares that E[y] leaves, squares in all; whose it is."""
    whole = int(FPS)
    parts = [
        (cut(row, first, first + whole), k)
        for k, row in enumerate(rows)
        for first in range(0, len(row.rest) - whole + 1, whole)
    ] or [(row, k) for k, row in enumerate(rows)]
    guessed = _guessed(model, [row for row, _ in parts])
    sums = np.array([[((a - b) ** 2).sum(), (a**2).sum()] for a, b in guessed])
    return sums, [k for _, k in parts]


def gain_of(before: Floats, after: Floats, recordings: Sequence[int]) -> tuple[float, float]:
    """95 % interval of what less is left, over recordings: seconds of one are alike."""
    _, low, high = over_groups(lambda a, b: _share(a) - _share(b), recordings, before, after)
    return low, high


@torch.no_grad()
def _guessed(model: PortraitDenoiser, rows: Sequence[Row]) -> list[tuple[Floats, Floats]]:
    """What moves beyond the plan in each row, and what the model expects of it; known ones only."""
    model.eval()
    found = []
    for row in rows:
        batch = collated([row])
        zero = torch.zeros_like(batch["rest"])
        plan = batch["plan"] / model.scale
        v = model(
            zero,
            torch.full((1,), 999),
            batch["features"],
            plan,
            batch["emotion"],
            batch["style"],
            batch["told"],
        )
        keep = batch["known"][0].numpy() > 0
        unit = model.scale.numpy()
        true = (batch["rest"][0].numpy() / unit)[keep].astype(np.float64)
        found.append((true, -v[0].float().numpy()[keep].astype(np.float64)))
    return found


def train_lora(
    folder: Path | str,
    *,
    backbone: Path | str,
    out: Path | str,
    settings: LoraSettings | None = None,
    resume: bool = False,
    base: str = "",
    tell: Callable[[str], None] = print,
) -> dict[str, object]:
    """Learn a face from the recordings of a folder, write the adapter to `out`; returns figures.

    A run that was stopped leaves its checkpoint in `out`.

    Args:
        folder: recordings, named as above.
        backbone: folder of the portrait model; it is read only.
        out: folder for the adapter and adapter.json.
        settings: how long and how strongly; None: the defaults.
        resume: go on with a run that was stopped, where there is one.
        base: name of the model in the card; empty: that of its folder.
        tell: takes lines for people.

    Raises:
        StyleError: unusable recordings or settings, or a finished or stopped run in the way.
    """
    from peft import LoraConfig

    settings, out = settings or LoraSettings(), Path(out)
    if (out / CARD).exists():
        msg = f"out: {out} holds a finished adapter; name another folder"
        raise StyleError(msg)
    if (out / "checkpoint").exists() and not resume:
        msg = f"out: {out} holds a run that was stopped; pass --resume latest, or another --out"
        raise StyleError(msg)
    found = read_folder(folder, settings.layout, tell)
    train, decide, unseen = split(found)
    pipe = PortraitPipeline.load(backbone)
    plain = rest_left(pipe.denoiser, decide)[0]
    before, recordings = seconds_left(pipe.denoiser, unseen)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(settings.seed)
        config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=LAYERS)
        pipe.denoiser.add_adapter(config)
    seconds = sum(len(row.rest) for row in train) / FPS
    tell(f"{len(found)} recordings, {seconds:.0f} s to learn from")
    least = fit_model(
        pipe,
        Crops(train, settings.batch, settings.frames, settings.seed),
        lambda found: rest_left(found, decide),
        out,
        Settings(
            minutes=settings.minutes,
            steps=settings.steps,
            rate=settings.rate,
            check=settings.check,
            decay=0.0,
            seed=settings.seed,
            discriminate=0.0,
        ),
    )
    if least >= plain:
        _forget(pipe.denoiser)
    after, _ = seconds_left(pipe.denoiser, unseen)
    low, high = gain_of(before, after, recordings)
    figures: dict[str, object] = {
        "backbone": Path(base or backbone).name,
        "recordings": len(found),
        "seconds": round(sum(len(one.row.rest) for one in found) / FPS, 1),
        "left_before": round(_share(before), 4),
        "left_after": round(_share(after), 4),
        "gain_interval": [round(low, 4), round(high, 4)],
        "seconds_unseen": len(after),
        "kept": least < plain,
    }
    write_adapter(pipe.denoiser, out / ADAPTER)
    with replacing(out / CARD) as fresh:
        fresh.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return figures


def _share(sums: Floats) -> float:
    """Squares that are left over squares in all, of rows of both."""
    return float(sums[:, 0].sum() / max(float(sums[:, 1].sum()), 1e-9))


@torch.no_grad()
def _forget(model: torch.nn.Module) -> None:
    """An adapter that changes nothing."""
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.zero_()
