"""Train voice-tiny: two denoisers of what one take does differently from another.

    python -m training.voice --data FOLDER_WITH_EMODB --minutes 60

Rows are pairs of takes (training/voice_data.py) as y, the difference left over by the mean change
of the emotion, per unit of intensity and in units of its spread; the loss is that of v-prediction
where the pair tells anything. Half of a batch goes from neutral to an emotion, the rest back, from
one emotion to another, or between takes of one emotion, where nothing should change. The emotion is
hidden from a share of rows, which teaches the unconditional branch of classifier-free guidance (Ho
& Salimans 2022); from others only its name, so that unseen emotions act through their valence,
arousal and dominance. Augmented by time scale, pitch range and crops. The weights kept are those
with the least loss on sentences that were held out; people who were held out decide nothing.

It deliberately does not know how changes are sampled (pipelines/voice_model.py) or rendered.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.emotion import CORE
from adapters.voice_edit import TARGETS
from adapters.voice_emotion import (
    BAND,
    ENERGY,
    PARTS,
    SILENT,
    STRETCH,
    VoiceDirections,
    cue_table,
)
from pipelines.voice_frames import voice_of
from pipelines.voice_model import (
    CONDITION,
    HEADS,
    VoiceDenoiser,
    VoicePipeline,
    condition_of,
    make_scheduler,
)
from training.loop import Average, Log, clip_gradients, cosine, load_checkpoint, save_checkpoint
from training.voice_data import (
    HELD_SPEAKERS,
    Pair,
    clarity,
    fit_directions,
    loudness,
    prepared,
)

Singles = NDArray[np.float32]

BATCH = 16
CROP = 128  # frames: 2 s
KINDS: Mapping[str, float] = {"to": 0.5, "back": 0.2, "between": 0.2, "same": 0.1}
"""Share of a batch by what a pair goes between."""
HIDE, HIDE_NAME = 0.12, 0.3
TIME_SCALE = (0.85, 1.2)
PITCH_SCALE = (0.8, 1.25)
KEPT_OFFSET = 0.3
"""Share of what a whole take does more or less of than the mean change. Most of it is how strongly
the take was acted, which is what intensity is for: left in, seeds would differ by 2.5 semitones."""
MOST = 4.0  # spreads; what lies farther is an error of alignment or of pitch
EMA = 0.998
DROPOUT: Mapping[str, float] = {"prosody": 0.25, "timbre": 0.1}
"""Three columns of an hour of acting are sooner known by heart than twenty-five."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair made ready, T frames.

    features: (T, 34). prior: (T, 28) mean change per unit of intensity, in the units of TARGETS.
    rest: (T, 28) what the pair does beyond it, the same. known: (T, 28) weight 0..1, 0 where the
    pair tells nothing. track: (12,) signed intensities, zeros for takes of the same emotion. kind:
    of KINDS. cell: speaker and sentence.
    """

    features: Singles
    prior: Singles
    rest: Singles
    known: Singles
    track: Singles
    kind: str
    emotion: str
    cell: tuple[str, str]

    def __len__(self) -> int:
        return len(self.features)


def make_row(pair: Pair, directions: VoiceDirections, strength: Mapping[str, float]) -> Row:
    """A pair as the model learns it. strength: clip name -> intensity (`clarity`)."""
    anchor = float(cue_table()["scale"]["emodb_intensity"])
    names = (pair.source.emotion, pair.target.emotion)
    track = np.zeros(len(CORE))
    if names[0] != names[1]:
        for clip, sign in ((pair.source, -1.0), (pair.target, 1.0)):
            if clip.emotion != "neutral":
                track[CORE.index(clip.emotion)] += sign * strength.get(clip.name, anchor)
    voice = voice_of(pair.source)
    length = float(np.linalg.norm(track)) or 1.0
    mean = directions.edit(voice.parts, voice.contour, track)
    values = pair.values.astype(np.float64)
    said = 1.0 - voice.parts[:, PARTS.index(SILENT)]
    # Acted pitch goes higher than intensity 1 may; acted levels were lost with the recording's.
    values -= said[:, None] * (track @ directions.excess)
    level = np.array([cue_table()["emotions"][name]["level"] for name in CORE])
    values[:, ENERGY] += said * (track @ level)
    # The mean level of a take is the recorder's: only its shape is learned.
    values[:, ENERGY] += said * _mean_of(mean[:, ENERGY] - values[:, ENERGY], said > 0)
    # Loud frames are heard, and weak ones are where pitch and alignment are least sure.
    weight = np.repeat(np.sqrt(loudness(pair.source))[:, None], len(TARGETS), axis=1)
    weight[:, STRETCH] = 1.0
    known = (pair.known * weight).astype(np.float32)
    rest = (values - mean) / length
    offset = (rest * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1e-6)
    rest -= (1.0 - KEPT_OFFSET) * offset
    # An alignment that is never exact flattens what it is read along: a model that learns this
    # would undo the accents that the mean change makes.
    for columns, shape in ((slice(0, 1), 0), (slice(1, 2), 1), (BAND, 1)):
        rest[:, columns] -= _following(rest[:, columns], voice.contour[:, shape], known[:, columns])
    kind = "same" if names[0] == names[1] else "between"
    kind = "to" if names[0] == "neutral" != names[1] else kind
    kind = "back" if names[1] == "neutral" != names[0] else kind
    return Row(
        features=voice.features,
        prior=(mean / length).astype(np.float32),
        rest=rest.astype(np.float32),
        known=known,
        track=track.astype(np.float32),
        kind=kind,
        emotion=names[1],
        cell=(pair.source.speaker, pair.source.sentence),
    )


def _following(
    rest: NDArray[np.float64], contour: NDArray[np.float64], weight: Singles
) -> NDArray[np.float64]:
    """(T, k) the part of each column that is in proportion to the source's own contour (T,)."""
    total = np.maximum(weight.sum(axis=0), 1e-6)
    off = contour[:, None] - (weight * contour[:, None]).sum(axis=0) / total
    slope = (weight * off * rest).sum(axis=0) / np.maximum((weight * off**2).sum(axis=0), 1e-6)
    return np.asarray(slope * off)


def _mean_of(values: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else 0.0


def make_rows(
    pairs: Sequence[Pair], directions: VoiceDirections
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows for training, of held-out sentences of the same people, and of held-out people."""
    strength = clarity(pairs, directions)
    train, sentences, people = [], [], []
    for pair in pairs:
        row = make_row(pair, directions, strength)
        if pair.source.speaker in HELD_SPEAKERS:
            people.append(row)
        elif pair.source.held_out:
            sentences.append(row)
        else:
            train.append(row)
    return train, sentences, people


def spread_of(rows: Sequence[Row]) -> Singles:
    """(28,) standard deviation of what real takes do beyond the mean change, per unit."""
    chosen = [row for row in rows if row.kind == "to"] or list(rows)
    rest = np.concatenate([row.rest for row in chosen])
    known = np.concatenate([row.known for row in chosen])
    squares = (known * rest.astype(np.float64) ** 2).sum(axis=0)
    return np.sqrt(squares / np.maximum(known.sum(axis=0), 1e-9)).clip(1e-3).astype(np.float32)


# Batches -----------------------------------------------------------------------------------------


class Batch(dict[str, Tensor]):
    """features (B, T, 34), prior and rest (B, T, 28), known (B, T, 28) 0 or 1, condition."""


class Feed:
    """Endless batches; each is drawn from (seed, step), so that a run resumes exactly."""

    def __init__(self, rows: Sequence[Row], batch: int, crop: int, seed: int) -> None:
        self.rows, self.batch, self.crop, self.seed = rows, batch, crop, seed
        groups: dict[str, dict[str, list[Row]]] = {}
        for row in rows:
            groups.setdefault(row.kind, {}).setdefault(row.emotion, []).append(row)
        self.groups = {kind: list(found.values()) for kind, found in groups.items()}
        weights = np.array([KINDS[kind] for kind in self.groups])
        self.weights = weights / weights.sum()

    def draw(self, step: int) -> Batch:
        """The batch of optimiser step `step`: kinds by their share, emotions alike."""
        rng = np.random.default_rng([self.seed, step])
        kinds = list(self.groups)
        chosen = []
        for kind in rng.choice(len(kinds), self.batch, p=self.weights):
            by_emotion = self.groups[kinds[kind]]
            own = by_emotion[rng.integers(len(by_emotion))]
            chosen.append(augmented(own[rng.integers(len(own))], self.crop, rng))
        return collated(chosen)


def augmented(row: Row, crop: int, rng: np.random.Generator) -> dict[str, Singles]:
    """A crop of the row at another pace and pitch range, its emotion sometimes hidden."""
    scale = rng.uniform(*TIME_SCALE)
    length = max(8, round(len(row) * scale))
    at = np.linspace(0, len(row) - 1, length)
    first = int(rng.integers(0, max(1, length - crop + 1)))
    at = at[first : first + crop]
    features = _read(row.features, at).copy()
    features[:, [0, 8]] *= rng.uniform(*PITCH_SCALE)
    features[:, 8:10] /= scale
    features += rng.normal(0.0, 0.05, features.shape).astype(np.float32)
    condition = condition_of(
        np.repeat(row.track[None].astype(np.float64), len(at), axis=0), np.zeros((len(at), 3))
    )
    prior = _read(row.prior, at)
    draw = rng.random()
    if draw < HIDE:
        condition, prior = np.zeros_like(condition), np.zeros_like(prior)
    elif draw < HIDE + HIDE_NAME:
        condition[:, : len(CORE)] = 0.0
    known = row.known[np.rint(at).astype(np.intp)]
    rows = {"features": features, "prior": prior, "rest": _read(row.rest, at), "known": known}
    rows["condition"] = condition
    short = crop - len(at)
    return {name: np.pad(values, ((0, short), (0, 0))) for name, values in rows.items()}


def whole(row: Row) -> dict[str, Singles]:
    """The row as it is, nothing hidden."""
    track = np.repeat(row.track[None].astype(np.float64), len(row), axis=0)
    return {
        "features": row.features,
        "prior": row.prior,
        "rest": row.rest,
        "known": row.known,
        "condition": condition_of(track, np.zeros((len(row), 3))),
    }


def collated(rows: Sequence[dict[str, Singles]]) -> Batch:
    """Rows of the same length as one batch; longer ones decide the length."""
    longest = max(len(row["features"]) for row in rows)
    out = Batch()
    for name in rows[0]:
        padded = [np.pad(row[name], ((0, longest - len(row[name])), (0, 0))) for row in rows]
        out[name] = torch.from_numpy(np.stack(padded).astype(np.float32))
    return out


def _read(rows: Singles, at: NDArray[np.float64]) -> Singles:
    low = np.floor(at).astype(np.intp)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (at - low)[:, None].astype(np.float32)
    return (1 - share) * rows[low] + share * rows[high]


# Model -------------------------------------------------------------------------------------------


def make_pipeline(
    directions: VoiceDirections, spread: Singles, width: int = 128, depth: int = 8
) -> VoicePipeline:
    """A new model with random weights."""
    heads = {
        name: VoiceDenoiser(
            channels=columns.stop - columns.start,
            width=width,
            depth=depth,
            condition=CONDITION,
            dropout=DROPOUT[name],
            spread=tuple(float(x) for x in spread[columns]),
        )
        for name, columns in HEADS.items()
    }
    pipe = VoicePipeline(heads["prosody"], heads["timbre"], make_scheduler())
    pipe.directions = directions
    return pipe


def loss_of(
    model: VoiceDenoiser,
    columns: slice,
    batch: Mapping[str, Tensor],
    alphas: Tensor,
    generator: torch.Generator,
    times: Tensor | None = None,
) -> Tensor:
    """Mean squared error of v over what is known. alphas: (1000,) cumulative products."""
    y = (batch["rest"][..., columns] / model.spread).clamp(-MOST, MOST)
    noise = torch.randn(y.shape, generator=generator)
    if times is None:
        times = torch.randint(0, len(alphas), (len(y),), generator=generator)
    signal = alphas[times].sqrt()[:, None, None]
    sigma = (1 - alphas[times]).sqrt()[:, None, None]
    given = (
        signal * y + sigma * noise,
        times,
        batch["features"],
        batch["prior"][..., columns] / model.spread,
        batch["condition"],
    )
    v = model(*(rows.to(model.device) for rows in given)).cpu()
    known = batch["known"][..., columns]
    error = (v.float() - (signal * noise - sigma * y)) ** 2
    return (error * known).sum() / known.sum().clamp_min(1.0)


@torch.no_grad()
def expected(model: VoiceDenoiser, columns: slice, batch: Mapping[str, Tensor]) -> Tensor:
    """E[y] (B, T, channels) in spreads: at the terminal step, where no signal is left, v is -y."""
    zero = torch.zeros_like(batch["rest"][..., columns])
    v = model(
        zero,
        torch.full((len(zero),), 999),
        batch["features"],
        batch["prior"][..., columns] / model.spread,
        batch["condition"],
    )
    return -v.float()


def remaining(model: VoiceDenoiser, columns: slice, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(rows, channels, 2) sums of squares in spreads: beyond E[y], and beyond the mean change."""
    found = []
    for row in rows:
        batch = collated([whole(row)])
        y = (batch["rest"][..., columns] / model.spread).clamp(-MOST, MOST)
        known = batch["known"][..., columns]
        off = ((y - expected(model, columns, batch)) ** 2 * known).sum(dim=(0, 1))
        found.append(torch.stack([off, (y**2 * known).sum(dim=(0, 1))], dim=-1))
    return torch.stack(found).double().numpy()


def share_left(sums: NDArray[np.float64]) -> float:
    """Squares beyond E[y] over squares beyond the mean change, every row the same: 1 is no gain."""
    return float((sums[..., 0].sum(1) / np.maximum(sums[..., 1].sum(1), 1e-9)).mean())


# Recipe ------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes, resuming what --run holds, and write the best averaged model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv and emodb/")
    parser.add_argument("--work", type=Path, default=Path(".work/voice"), help="cache of pairs")
    parser.add_argument("--run", type=Path, default=Path(".work/voice/run"))
    parser.add_argument("--out", type=Path, help="folder for the model, when given")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training in all")
    parser.add_argument("--steps", type=int, default=4000, help="or so many steps in all")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--crop", type=int, default=CROP)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--check", type=int, default=150, help="steps between looks at held out")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="half the time where avx512_bf16 is",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    _, pairs = prepared(given.work, given.data)
    directions = fit_directions(pairs)
    train, sentences, people = make_rows(pairs, directions)
    print(
        f"{len(train)} rows, held out {len(sentences)} by sentence and {len(people)} by person",
        flush=True,
    )
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
        torch.manual_seed(given.seed)
        pipe = make_pipeline(directions, spread_of(train), given.width, given.depth)
    given.run.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        given.minutes, given.steps, given.rate, given.check, seed=given.seed, bf16=given.bf16
    )
    feed = Feed(train, given.batch, given.crop, given.seed)
    fit_model(pipe, feed, sentences, given.run, settings, lambda: export(pipe, given.out))
    report = {name: round(share_left(_sums(pipe, name, people)), 4) for name in HEADS}
    print(json.dumps({"left_of_squares_on_held_out_people": report}), flush=True)
    export(pipe, given.out)
    return 0


def export(pipe: VoicePipeline, folder: Path | None) -> None:
    """Write the model's folder, when one is wanted."""
    if folder is not None:
        pipe.save(folder)


@dataclass(frozen=True, slots=True)
class Settings:
    """minutes or steps in all, whichever ends first; rate: peak; check: steps between looks."""

    minutes: float = 60.0
    steps: int = 4000
    rate: float = 1e-3
    check: int = 150
    decay: float = 0.05
    seed: int = 0
    bf16: bool = False


def _sums(pipe: VoicePipeline, name: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    model = getattr(pipe, name)
    model.eval()
    return remaining(model, HEADS[name], [row for row in rows if row.kind == "to"])


def fit_model(
    pipe: VoicePipeline,
    feed: Feed,
    held: Sequence[Row],
    run: Path,
    settings: Settings,
    on_better: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train both heads, each on its own, and leave the best averaged weights of each in `pipe`.

    Returns name -> least share of squares left on `held` (see `share_left`).
    """
    heads = {name: getattr(pipe, name) for name in HEADS}
    best = {f"best_{name}": copy.deepcopy(model) for name, model in heads.items()}
    averages = {name: Average(model, EMA) for name, model in heads.items()}
    optimizers = {
        name: torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=settings.rate,
            betas=(0.9, 0.99),
            weight_decay=settings.decay,
        )
        for name, model in heads.items()
    }
    generator = torch.Generator().manual_seed(settings.seed)
    folder = run / "checkpoint"
    modules: dict[str, nn.Module] = {**heads, **best}
    step = load_checkpoint(folder, modules, averages, optimizers, generator)
    least, seconds = dict.fromkeys(HEADS, 1.0), 0.0
    if step:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        least, seconds = meta["least"], meta["seconds"]
    alphas = pipe.scheduler.alphas_cumprod.clone()
    log = Log(run / "log.jsonl", feed.batch, total=settings.steps)
    log.step = step
    log.rewind(step)
    began = time.monotonic() - seconds

    def progress() -> float:  # of steps or of time, whichever is farther; the rate follows it
        elapsed = (time.monotonic() - began) / max(60 * settings.minutes, 1e-9)
        return min(1.0, max(step / settings.steps, elapsed))

    while progress() < 1:
        batch = feed.draw(step)
        for name, model in heads.items():
            model.train()
            for group in optimizers[name].param_groups:
                group["lr"] = cosine(round(1000 * progress()), 1000, settings.rate, 20)
            # Dropout draws from the global generator: seeded by the step, a run resumes exactly.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed * 1_000_003 + step)
                with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                    loss = loss_of(model, HEADS[name], batch, alphas, generator)
                loss.backward()
            clip_gradients(model.parameters(), step)
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            averages[name].update(model, step)
            log.add(**{name: loss.detach()})
        step += 1
        if step % settings.check and progress() < 1:
            continue
        better = False
        for name in HEADS:
            left = _averaged(pipe, name, averages[name], held)
            log.add(**{f"{name}_left": left})
            if left < least[name]:
                least[name], better = left, True
                best[f"best_{name}"].load_state_dict(averages[name].state)
        spent = time.monotonic() - began
        log.report(step, spent * (1 / progress() - 1))
        meta = {"least": least, "seconds": time.monotonic() - began}
        save_checkpoint(folder, step, modules, averages, optimizers, generator, meta)
        if better:
            _with_best(pipe, heads, best, on_better)
    for name, model in heads.items():
        model.load_state_dict(best[f"best_{name}"].state_dict())
        model.eval()
    return least


def _averaged(pipe: VoicePipeline, name: str, average: Average, rows: Sequence[Row]) -> float:
    model = getattr(pipe, name)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    left = share_left(_sums(pipe, name, rows))
    model.load_state_dict(own)
    return left


def _with_best(
    pipe: VoicePipeline,
    heads: Mapping[str, nn.Module],
    best: Mapping[str, nn.Module],
    act: Callable[[], None],
) -> None:
    """Do something while the pipeline holds the best weights."""
    pipe.register_modules(**{name: best[f"best_{name}"] for name in heads})
    try:
        act()
    finally:
        pipe.register_modules(**heads)


if __name__ == "__main__":
    raise SystemExit(main())
