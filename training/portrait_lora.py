"""LoRA of portrait-tiny for one person's face: some minutes of Live Link Face recordings in.

    FOLDER/NAME.csv   FOLDER/NAME_anger.csv   ...   with NAME.wav beside it where there was speech

    python -m training.portrait_lora FOLDER --model assets/models/portrait-tiny --out styles/me

A recording's name may end in a core emotion; how strong it is, is read from how far the face goes
towards that emotion's muscles. Low-rank matrices on attention and feed-forward layers are trained
(Hu et al. 2021), the model is not touched. Blinks and eyes are left alone, the place of the camera
is taken out. The end of every recording is held out and decides: what is written are the matrices
that explain it best, so a folder that teaches nothing yields an adapter that changes nothing. An
ordinary diffusers adapter is written, which `PortraitPipeline.wearing` puts on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters import facs
from adapters.emotion import CORE
from adapters.face_life import eased
from adapters.face_motion import ARKIT, read_csv
from adapters.files import replacing
from adapters.voice_analysis import RATE
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
from training.portrait import Settings, fit_model
from training.portrait_data import Row, bent, collated

SOUNDS = (".wav", ".flac", ".mp3")
LAYERS = ["to_q", "to_k", "to_v", "to_out", "up", "down"]
HELD_SHARE = 0.2
LEAST_SECONDS = 20.0
CARD = "adapter.json"

_EYES = [k for k, name in enumerate(ARKIT) if name.startswith(("eyeBlink", "eyeLook"))]


class StyleError(ValueError):
    """Recordings or settings no style can be learned from; one line that says what to change."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """rank of the matrices (alpha is equal to it); the rest as `training.portrait.Settings`."""

    rank: int = 8
    steps: int = 400
    minutes: float = 10.0
    rate: float = 1e-3
    check: int = 50
    batch: int = 8
    frames: int = 96
    seed: int = 0


def read_folder(folder: Path | str) -> list[Row]:
    """One row a recording, at 30 frames a second.

    Raises:
        StyleError: no folder, no recordings, or under 20 seconds of them.
        MotionError: a CSV that holds no curves.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    rows = [make_row(path) for path in paths]
    seconds = sum(len(row.rest) for row in rows) / FPS
    if seconds < LEAST_SECONDS:
        msg = (
            f"data: {folder} holds {len(rows)} CSV with {seconds:.0f} s of curves; record "
            f"{LEAST_SECONDS:.0f} s or more with Live Link Face"
        )
        raise StyleError(msg)
    return rows


def make_row(path: Path) -> Row:
    """A recording as the model learns it."""
    motion = read_csv(path).resampled(float(FPS))
    curves = motion.curves.astype(np.float64)
    pose = motion.pose.astype(np.float64)
    pose = pose - np.median(pose, axis=0)
    frames = len(motion)
    sounds = [path.with_suffix(end) for end in SOUNDS if path.with_suffix(end).is_file()]
    heard = silence(frames)
    if sounds:
        heard = hear(load_sound(sounds[0], RATE).waveform, frames=frames)
    label = path.stem.rpartition("_")[2].lower()
    track = np.zeros((frames, len(CORE)))
    if label in CORE:
        face = facs.expression(facs.named(label)[None])[0][0]
        strength = np.clip(curves @ face / (face @ face), 0.0, 1.0)
        track[:, CORE.index(label)] = eased(strength[:, None], FPS, 0.5, 0.5)[:, 0]
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


@torch.no_grad()
def rest_left(model: PortraitDenoiser, rows: Sequence[Row]) -> tuple[float, float]:
    """(share of the squares beyond the plan that E[y] leaves, correlation of both)."""
    model.eval()
    true, guess = [], []
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
        true.append((batch["rest"][0].numpy() / unit)[keep])
        guess.append(-v[0].float().numpy()[keep])
    one, two = np.concatenate(true).astype(np.float64), np.concatenate(guess).astype(np.float64)
    left = float(((one - two) ** 2).sum() / max(float((one**2).sum()), 1e-9))
    return left, float(np.corrcoef(one, two)[0, 1]) if two.std() > 1e-9 else 0.0


def train_lora(
    folder: Path | str,
    *,
    model: Path | str,
    out: Path | str,
    settings: LoraSettings | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, object]:
    """Learn a face from the recordings of a folder, write the adapter to `out`; returns figures.

    A run that was stopped goes on where it was: its checkpoint lies in `out`.

    Raises:
        StyleError: unusable recordings, or a finished adapter in the way.
    """
    from peft import LoraConfig

    settings, out = settings or LoraSettings(), Path(out)
    if (out / CARD).exists():
        msg = f"out: {out} holds a finished adapter; name another folder"
        raise StyleError(msg)
    rows = read_folder(folder)
    ends = [round(len(row.rest) * (1 - HELD_SHARE)) for row in rows]
    train = [cut(row, 0, end) for row, end in zip(rows, ends, strict=True)]
    held = [cut(row, end, len(row.rest)) for row, end in zip(rows, ends, strict=True)]
    pipe = PortraitPipeline.load(model)
    before = rest_left(pipe.denoiser, held)[0]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(settings.seed)
        config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=LAYERS)
        pipe.denoiser.add_adapter(config)
    tell(f"{len(rows)} recordings, {sum(ends) / FPS:.0f} s to learn from; {before:.3f} left before")
    after = fit_model(
        pipe,
        Crops(train, settings.batch, settings.frames, settings.seed),
        lambda found: rest_left(found, held),
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
    figures: dict[str, object] = {
        "model": Path(model).name,
        "recordings": len(rows),
        "seconds": round(sum(len(row.rest) for row in rows) / FPS, 1),
        "left_before": round(before, 4),
        "left": round(after, 4),
        "kept": after < before,
    }
    if after >= before:
        _forget(pipe.denoiser)
    pipe.denoiser.save_lora_adapter(str(out), weight_name=ADAPTER, safe_serialization=True)
    with replacing(out / CARD) as fresh:
        fresh.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


@torch.no_grad()
def _forget(model: torch.nn.Module) -> None:
    """An adapter that changes nothing."""
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.zero_()


def main(argv: Sequence[str] | None = None) -> int:
    """Learn one person's face from Live Link Face recordings."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=Path("assets/models/portrait-tiny"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rank", type=int, default=8)
    given = parser.parse_args(argv)
    settings = LoraSettings(rank=given.rank, steps=given.steps)
    print(json.dumps(train_lora(given.folder, model=given.model, out=given.out, settings=settings)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
