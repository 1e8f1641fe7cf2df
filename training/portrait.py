"""Train portrait-tiny: what a speaking, feeling face does beyond the plan of its muscles.

    python -m training.portrait --data FOLDER_WITH_FACEGOOD --minutes 120 --bf16

Rows are composed on the fly (training/portrait_data.py): recorded mouths inside faces drawn from
FACS. The loss is that of v-prediction, weighted towards the channels that speech moves, with the
speed of the predicted clean motion beside it. A small classifier learns to read the track of
emotions from clean motion, half of the time without its plan, and in the last third of training it
also has to find it in what the denoiser predicts (the emotion discrimination loss of DICE-Talk).
Sound, emotion and style are each hidden from a share of rows (Ho & Salimans 2022). The weights kept
are those that explain most of the mouth in the last tenth of each training clip; the two clips that
were held out decide nothing.

It deliberately does not know how motion is sampled (pipelines/portrait_model.py) or drawn.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.emotion import CORE
from adapters.face_motion import ARKIT, CHANNELS, MOUTH
from pipelines.portrait_model import (
    COLUMNS,
    PortraitDenoiser,
    PortraitPipeline,
    make_scheduler,
)
from training.loop import Average, Log, clip_gradients, cosine, load_checkpoint, save_checkpoint
from training.portrait_data import Clip, Feed, prepared, scale_of, split

BATCH = 24
EMA = 0.999
SPEED_WEIGHT = 1.0
DISCRIMINATE = 0.02
"""Weight of the discrimination loss once it is on; larger ones make caricatures."""
FROM = 2 / 3
"""Share of training after which the denoiser hears of the classifier."""
CLEAR = 600  # steps below this one show enough of the clean motion to read it

_WEIGHTS: Mapping[str, float] = {
    "jawOpen": 3.0, "mouthFunnel": 2.0, "mouthPucker": 2.0, "mouthLowerDownLeft": 1.5,
    "mouthLowerDownRight": 1.5, "mouthUpperUpLeft": 1.5, "mouthUpperUpRight": 1.5,
    "mouthRollLower": 1.5, "mouthRollUpper": 1.5, "mouthPressLeft": 1.5, "mouthPressRight": 1.5,
}  # fmt: skip


def column_weights(scale: NDArray[np.float32]) -> Tensor:
    """(55,) weight of each column in the loss; channels that nothing moves hardly count."""
    names = [*ARKIT, "yaw", "pitch", "roll"]
    out = torch.tensor([_WEIGHTS.get(name, 1.0) for name in names])
    return torch.where(torch.from_numpy(scale) > 0.02 + 1e-6, out, torch.tensor(0.05))


class EmotionReader(nn.Module):
    """Reads the track back from motion: (B, T, 55) in scales -> (B, T, 13) logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(COLUMNS, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, padding=8, dilation=4),
            nn.GELU(),
            nn.Conv1d(width, len(CORE) + 1, 1),
        )

    def forward(self, motion: Tensor) -> Tensor:
        """(B, T, 55) -> (B, T, 13) logits of neutral and the twelve."""
        return self.layers(motion.transpose(1, 2)).transpose(1, 2)


def reading_loss(reader: nn.Module, motion: Tensor, track: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy to the soft label (neutral, intensities) of every frame. weight: (B,)."""
    label = torch.cat([1 - track.sum(-1, keepdim=True).clamp(max=1.0), track], dim=-1)
    loss = -(label * reader(motion).float().log_softmax(-1)).sum(-1).mean(-1)
    return (loss * weight).sum() / weight.sum().clamp_min(1.0)


@dataclass(frozen=True)
class Losses:
    """diffusion, speed and discrimination train the denoiser, reading the classifier."""

    diffusion: Tensor
    speed: Tensor
    discrimination: Tensor
    reading: Tensor


def losses_of(
    model: PortraitDenoiser,
    reader: nn.Module,
    batch: Mapping[str, Tensor],
    alphas: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> Losses:
    """All losses of a batch. alphas: (1000,) cumulative products; weights: (55,)."""
    scale = model.scale
    y, plan = batch["rest"] / scale, batch["plan"] / scale
    noise = torch.randn(y.shape, generator=generator)
    times = torch.randint(0, len(alphas), (len(y),), generator=generator)
    signal = alphas[times].sqrt()[:, None, None]
    sigma = (1 - alphas[times]).sqrt()[:, None, None]
    noisy = signal * y + sigma * noise
    given = (batch["features"], plan, batch["emotion"], batch["style"], batch["told"])
    v = model(noisy, times, *given).float()
    known = batch["known"] * weights
    diffusion = ((v - (signal * noise - sigma * y)) ** 2 * known).sum() / known.sum()
    clean = signal * noisy - sigma * v
    faster = (clean - y).diff(dim=1) ** 2 * signal**2
    pairs = known[:, 1:]
    speed = (faster * pairs).sum() / pairs.sum()
    # Reading without the plan is reading what the denoiser itself adds.
    shown = (torch.rand((len(y), 1, 1), generator=generator) < 0.5).float() * plan
    everywhere = torch.ones(len(y))
    reading = reading_loss(reader, y + shown, batch["track"], everywhere)
    frozen = copy.deepcopy(reader).requires_grad_(False)
    clear = ((times < CLEAR) & (batch["told"][:, 1] > 0)).float()
    bounded = clean.clamp(-6, 6) + shown
    discrimination = reading_loss(frozen, bounded, batch["track"], clear)
    return Losses(diffusion, speed, discrimination, reading)


# Looking at what was chosen to choose by ---------------------------------------------------------


@torch.no_grad()
def mouth_left(model: PortraitDenoiser, clips: Sequence[Clip]) -> tuple[float, float]:
    """(share of the squares of the mouth left unexplained, correlation of jawOpen), no emotion.

    Of E[y], which is -v at the terminal step, where no signal is left.
    """
    model.eval()
    speaking = list(MOUTH)
    left = whole = 0.0
    jaws: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for clip in clips:
        count = len(clip)
        rows = {
            "features": torch.from_numpy(clip.heard.features)[None],
            "plan": torch.zeros(1, count, COLUMNS),
            "emotion": torch.zeros(1, count, 16),
        }
        rows["emotion"][..., -1] = 1.0
        v = model(
            torch.zeros(1, count, COLUMNS),
            torch.full((1,), 999),
            rows["features"],
            rows["plan"],
            rows["emotion"],
            torch.zeros(1, 4),
            torch.ones(1, 3),
        )[0]
        found = (-v.float() * model.scale).numpy()
        mouth = clip.mouth if clip.mouth is not None else np.zeros((count, CHANNELS), np.float32)
        truth = mouth[:, speaking]
        left += float(((truth - found[:, speaking]) ** 2).sum())
        whole += float(((truth - truth.mean(0)) ** 2).sum())
        jaws.append((truth[:, speaking.index(17)], found[:, 17]))
    true, guess = (np.concatenate(part) for part in zip(*jaws, strict=True))
    return left / max(whole, 1e-9), float(np.corrcoef(true, guess)[0, 1])


# Recipe ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """minutes or steps in all, whichever ends first; rate: peak; check: steps between looks."""

    minutes: float = 120.0
    steps: int = 40_000
    rate: float = 8e-4
    check: int = 250
    decay: float = 0.05
    seed: int = 0
    bf16: bool = False
    discriminate: float = DISCRIMINATE


def make_pipeline(scale: NDArray[np.float32], width: int = 160, depth: int = 6) -> PortraitPipeline:
    """A new model with random weights."""
    denoiser = PortraitDenoiser(
        width=width,
        depth=depth,
        heads=max(1, width // 32),
        scale=tuple(round(float(x), 5) for x in scale),
    )
    return PortraitPipeline(denoiser, make_scheduler())


class Batches(Protocol):
    """Endless batches of `batch` rows, drawn from the step alone."""

    batch: int

    def draw(self, step: int) -> dict[str, Tensor]:
        """The batch of a step."""


def fit_model(
    pipe: PortraitPipeline,
    feed: Batches,
    look: Callable[[PortraitDenoiser], tuple[float, float]],
    run: Path,
    settings: Settings,
    on_better: Callable[[], None] = lambda: None,
) -> float:
    """Train, resuming what `run` holds, and leave the best averaged weights in `pipe`.

    look: gives the share that is left unexplained, which decides, and a correlation, which is
    logged. Returns the least share.
    """
    model = pipe.denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        reader = EmotionReader()
    best = copy.deepcopy(model)
    average = Average(model, EMA)
    optimizers = {
        name: torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=settings.rate,
            betas=(0.9, 0.99),
            weight_decay=settings.decay,
        )
        for name, module in (("denoiser", model), ("reader", reader))
    }
    generator = torch.Generator().manual_seed(settings.seed)
    folder = run / "checkpoint"
    modules: dict[str, nn.Module] = {"denoiser": model, "reader": reader, "best": best}
    step = load_checkpoint(folder, modules, {"denoiser": average}, optimizers, generator)
    least, seconds = 9.0, 0.0
    if step:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        least, seconds = meta["least"], meta["seconds"]
    alphas = pipe.scheduler.alphas_cumprod.clone()
    weights = column_weights(model.scale.numpy())
    log = Log(run / "log.jsonl", feed.batch, total=settings.steps)
    log.step = step
    log.rewind(step)
    began = time.monotonic() - seconds

    def progress() -> float:  # of steps or of time, whichever is farther; the rate follows it
        elapsed = (time.monotonic() - began) / max(60 * settings.minutes, 1e-9)
        return min(1.0, max(step / settings.steps, elapsed))

    while progress() < 1:
        batch = feed.draw(step)
        model.train()
        rate = cosine(round(1000 * progress()), 1000, settings.rate, 20)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        # Dropout draws from the global generator: seeded by the step, a run resumes exactly.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed * 1_000_003 + step)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                found = losses_of(model, reader, batch, alphas, weights, generator)
        share = max(0.0, (progress() - FROM) / (1 - FROM))
        total = found.diffusion + SPEED_WEIGHT * found.speed + found.reading
        (total + settings.discriminate * min(1.0, 4 * share) * found.discrimination).backward()
        for name, module in (("denoiser", model), ("reader", reader)):
            clip_gradients(module.parameters(), step)
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
        average.update(model, step)
        log.add(
            diffusion=found.diffusion.detach(),
            speed=found.speed.detach(),
            reading=found.reading.detach(),
            discrimination=found.discrimination.detach(),
        )
        step += 1
        if step % settings.check and progress() < 1:
            continue
        left, jaw = _averaged(model, average, look)
        log.add(left=left, jaw=jaw)
        spent = time.monotonic() - began
        log.report(step, spent * (1 / progress() - 1))
        better = left < least
        if better:
            least = left
            best.load_state_dict(average.state)
        meta = {"least": least, "seconds": time.monotonic() - began}
        averages = {"denoiser": average}
        save_checkpoint(folder, step, modules, averages, optimizers, generator, meta)
        if better:
            pipe.register_modules(denoiser=best)
            try:
                on_better()
            finally:
                pipe.register_modules(denoiser=model)
    model.load_state_dict(best.state_dict())
    model.eval()
    return least


def _averaged(
    model: PortraitDenoiser,
    average: Average,
    look: Callable[[PortraitDenoiser], tuple[float, float]],
) -> tuple[float, float]:
    own = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    found = look(model)
    model.load_state_dict(own)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes, resuming what --run holds, and write the best averaged model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with facegood/ and a2f_audio/")
    parser.add_argument("--work", type=Path, default=Path(".work/portrait"), help="cache of clips")
    parser.add_argument("--run", type=Path, default=Path(".work/portrait/run"))
    parser.add_argument("--out", type=Path, help="folder for the model, when given")
    parser.add_argument("--minutes", type=float, default=120.0, help="of training in all")
    parser.add_argument("--steps", type=int, default=40_000, help="or so many steps in all")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--check", type=int, default=250, help="steps between looks at held out")
    parser.add_argument("--bf16", action="store_true", help="half the time where avx512_bf16 is")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    train, choose, held = split(prepared(given.work, given.data))
    print(
        f"{len(train)} clips, {sum(map(len, train)) / 1800:.1f} minutes at all speeds; "
        f"{sum(map(len, choose)) / 30:.0f} s to choose by, {len(held)} clips held out",
        flush=True,
    )
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
        torch.manual_seed(given.seed)
        pipe = make_pipeline(scale_of(train), given.width, given.depth)
    given.run.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        given.minutes, given.steps, given.rate, given.check, seed=given.seed, bf16=given.bf16
    )
    feed = Feed(train, given.batch, seed=given.seed)
    fit_model(
        pipe,
        feed,
        lambda model: mouth_left(model, choose),
        given.run,
        settings,
        lambda: export(pipe, given.out),
    )
    left, jaw = mouth_left(pipe.denoiser, held)
    print(json.dumps({"held_out": {"left": round(left, 4), "jaw": round(jaw, 4)}}), flush=True)
    export(pipe, given.out)
    return 0


def export(pipe: PortraitPipeline, folder: Path | None) -> None:
    """Write the model's folder, when one is wanted."""
    if folder is not None:
        pipe.save(folder)


if __name__ == "__main__":
    raise SystemExit(main())
