"""Recipe of the two image readers: critic A (convolutional) and reader B (handmade statistics).

    python -m training.critic --data ../shared/data/images --out assets/models

A and B learn from disjoint halves of the pictures (`training.labels`) and share no feature. Both
see soft labels, intensities and valence/arousal; A also predicts the caption's words, which teaches
a net without pretraining what it looks at and is thrown away afterwards. Ratings by people weigh
more than labels from themes. Colour augmentation is small: colour is part of what is read. Half of
the pictures are blurred, because what the critics will read is painted by a small model.

Losses: KL to the soft label; binary cross-entropy of intensities; Gaussian negative log-likelihood
plus 1 - CCC on valence and arousal (AffectNet practice, e.g. CAGE); cross-entropy of words. After
training, on pictures kept aside: temperature (Guo et al. 2017, soft targets), intensity scale,
variance scale, and the embedding's Gaussian for the in-domain score. Resumes where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from adapters.critic import ImageCritic, ImageReader
from adapters.features import SIDE, picture_features
from adapters.metrics import fit_temperature
from training.critic_report import publish
from training.data import PictureCache, open_cache
from training.labels import Row, load_rows
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint
from training.progress import counted

SHORT_SIDE = 112
"""Pixels of the cached pictures' shorter side."""
LEARN_SIDE = 64
"""Pixels of the crops learned from. A crop shows part of a picture, so reading a whole one a little
larger than this fits better (the train-test resolution gap, Touvron et al. 2019)."""
# Share of each set in what is drawn: paintings first, because paintings are what will be read; the
# few rated pictures are seen often.
DRAWN = {
    "oasis": 0.17,
    "bass": 0.06,
    "paintings": 0.60,
    "flowers": 0.10,
    "emoji": 0.04,
    "stickers": 0.03,
}
HUMAN, OTHER = 1.0, 0.25
"""Weight of a valence/arousal target that people rated, and of one that was derived."""
KEPT_ASIDE = 0.12
"""Share of each half that is used for calibration only."""


def kept_aside(row: Row) -> bool:
    """Whether a training picture is for calibration: fixed by a hash of its file name."""
    digest = hashlib.sha256(f"calibrate/{row.set}/{row.path.name}".encode()).digest()
    return digest[0] / 256 < KEPT_ASIDE


def vocabulary(rows: list[Row], least: int = 20) -> list[str]:
    """Words of the captions that occur in at least `least` rows, sorted."""
    counts = Counter(w for r in rows for w in set(re.findall(r"[a-z]{3,}", r.caption.lower())))
    return sorted(w for w, n in counts.items() if n >= least)


def targets(rows: list[Row], words: list[str]) -> dict[str, Tensor]:
    """Rows -> soft (n, 13), affect (n, 2), trust (n,), words (n, w), all float32."""
    bag = np.zeros((len(rows), len(words)), dtype=np.float32)
    place = {w: i for i, w in enumerate(words)}
    for i, r in enumerate(rows):
        for w in re.findall(r"[a-z]{3,}", r.caption.lower()):
            if w in place:
                bag[i, place[w]] = 1
    return {
        "soft": torch.tensor(np.stack([r.soft for r in rows]), dtype=torch.float32),
        "affect": torch.tensor([[r.valence, r.arousal] for r in rows]),
        "trust": torch.tensor([HUMAN if r.human else OTHER for r in rows]),
        "words": torch.from_numpy(bag),
    }


def sampling(rows: list[Row]) -> Tensor:
    """Draw weights (n,): `DRAWN` by set; inside a set, rare top emotions are drawn more often."""
    often = Counter((r.set, r.top) for r in rows)
    weight = torch.tensor([often[(r.set, r.top)] ** -0.4 for r in rows])
    for name, share in DRAWN.items():
        at = torch.tensor([r.set == name for r in rows])
        if at.any():
            weight[at] *= share / weight[at].sum()
    return weight


def losses(out: dict[str, Tensor], goal: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of the loss, each a scalar, already weighted against each other."""
    soft, trust = goal["soft"], goal["trust"]
    weight = 0.5 + trust
    entropy = (soft * soft.clamp_min(1e-6).log()).sum(1)
    kl = (entropy - (soft * out["logits"].log_softmax(1)).sum(1)) * weight
    strength = F.binary_cross_entropy_with_logits(out["strength"], soft[:, 1:], reduction="none")
    variance = out["affect_log_variance"].exp()
    miss = (goal["affect"] - out["affect"]) ** 2
    nll = 0.5 * (out["affect_log_variance"] + miss / variance).sum(1)
    parts = {
        "kl": kl.mean(),
        "strength": 0.5 * strength.sum(1).mean() / 4,
        "affect": 0.5 * (nll * trust).sum() / trust.sum(),
        "ccc": 0.5 * (1 - _ccc(out["affect"], goal["affect"], trust)).mean(),
    }
    if "words" in out:
        bce = F.binary_cross_entropy_with_logits(out["words"], goal["words"], reduction="none")
        parts["words"] = 0.04 * bce.sum(1).mean()
    return parts


def _ccc(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    w = (weight / weight.sum())[:, None]
    mx, my = (w * x).sum(0), (w * y).sum(0)
    cov = (w * (x - mx) * (y - my)).sum(0)
    low = (w * (x - mx) ** 2).sum(0) + (w * (y - my) ** 2).sum(0) + (mx - my) ** 2
    return 2 * cov / (low + 1e-4)


def crops(cache: PictureCache, indices: list[int], size: int, g: torch.Generator) -> Tensor:
    """Random square crops of .5 to 1 of the shorter side's square, flipped: (n, 3, size, size)."""
    draws = torch.rand(len(indices), 4, generator=g).tolist()
    out = torch.empty(len(indices), 3, size, size)
    for row, (index, draw) in enumerate(zip(indices, draws, strict=True)):
        picture = cache.picture(index)
        side = int(SHORT_SIDE * (0.5 + 0.5 * draw[0]) ** 0.5)
        top = int(draw[1] * (picture.shape[0] - side + 1))
        left = int(draw[2] * (picture.shape[1] - side + 1))
        crop = picture[top : top + side, left : left + side]
        crop = np.ascontiguousarray(crop[:, ::-1] if draw[3] < 0.5 else crop)
        x = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
        out[row] = F.interpolate(x, (size, size), mode="bilinear", antialias=True)[0]
    return out / 255


def disturb(x: Tensor, g: torch.Generator) -> Tensor:
    """Small changes of light and colour, blur of half the pictures, noise and a grey patch."""
    n, _, size, _ = x.shape
    u = torch.rand(n, 8, generator=g)
    x = x * (0.88 + 0.24 * u[:, 0, None, None, None])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.88 + 0.24 * u[:, 1, None, None, None])
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (0.85 + 0.3 * u[:, 2, None, None, None])
    soft = u[:, 3] < 0.5
    if soft.any():
        small = int(size * (0.3 + 0.5 * float(u[0, 4])))
        low = F.interpolate(x[soft], (small, small), mode="bilinear", antialias=True)
        x[soft] = F.interpolate(low, (size, size), mode="bilinear")
    noise = torch.randn(x.shape, generator=g)
    x = x + noise * (0.04 * (u[:, 5] - 0.5).clamp_min(0) * 2)[:, None, None, None]
    for i in torch.nonzero(u[:, 6] < 0.25)[:, 0].tolist():
        side = int(size * (0.15 + 0.2 * float(u[i, 7])))
        top, left = (torch.rand(2, generator=g) * (size - side)).long().tolist()
        x[i, :, top : top + side, left : left + side] = 0.5
    return x.clamp(0, 1)


def blend(
    x: Tensor, goal: dict[str, Tensor], g: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mixup (Zhang et al. 2018) with shares near 0 and 1; targets mix with the pictures."""
    share = 0.5 * torch.rand((), generator=g) ** 3
    turn = torch.randperm(len(x), generator=g)
    mixed = {key: value * (1 - share) + value[turn] * share for key, value in goal.items()}
    return x * (1 - share) + x[turn] * share, mixed


def train_critic(
    rows: list[Row],
    cache: PictureCache,
    where: list[int],
    work: Path,
    *,
    samples: int,
    batch: int = 64,
    seed: int = 0,
    warm: Path | None = None,
    aside: Callable[[Row], bool] = kept_aside,
    quiet: bool = False,
) -> ImageCritic:
    """Critic A on `rows`; `where` are their indices in the cache.

    warm: a safetensors file whose tensors are taken over where name and shape fit.
    aside: which rows are kept for calibration.
    """
    at = [i for i, r in enumerate(rows) if not aside(r)]
    learn = [rows[i] for i in at]
    words = vocabulary(learn)
    goal, weight = targets(learn, words), sampling(learn)
    torch.manual_seed(seed)  # initial weights and dropout
    model = ImageCritic(words=len(words)).to(memory_format=torch.channels_last)
    if warm is not None:
        old, own = load_file(warm), model.state_dict()
        own |= {k: v for k, v in old.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(own)
    average = Average(model, 0.998)
    decay = [p for p in model.parameters() if p.ndim > 1]
    flat = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}], lr=2e-3
    )
    g = torch.Generator().manual_seed(seed)
    steps = max(1, samples // batch)
    start = load_checkpoint(work / "A", {"model": model}, {"model": average}, optimizer, g)
    log = Log(work / "A.jsonl", batch, quiet=quiet)
    model.train()
    all_steps = range(start, steps)
    for step in counted(all_steps, "steps of a fit") if quiet else all_steps:
        drawn = torch.multinomial(weight, batch, replacement=True, generator=g)
        x = disturb(crops(cache, [where[at[i]] for i in drawn.tolist()], LEARN_SIDE, g), g)
        want = {key: value[drawn] for key, value in goal.items()}
        if step % 2:
            x, want = blend(x, want, g)
        e = model.embedding(x * 2 - 1)
        out = model.heads(model.drop(e))
        if model.word_head is not None:
            out["words"] = model.word_head(model.drop(e))
        parts = losses(out, want)
        loss = torch.stack(list(parts.values())).sum()
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, 2e-3, 100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        average.update(model, step)
        log.add(**{k: v.item() for k, v in parts.items()}, loss=loss.item())
        if (step + 1) % 100 == 0:
            log.report(step + 1)
        if (step + 1) % 400 == 0 or step + 1 == steps:
            save_checkpoint(
                work / "A", step + 1, {"model": model}, {"model": average}, optimizer, g
            )
    shipped = ImageCritic()
    shipped.load_state_dict(
        {k: v for k, v in average.state.items() if not k.startswith("word_head.")}
    )
    return shipped.eval()


def features(cache: PictureCache, indices: list[int], *, soft: bool = False) -> Tensor:
    """Statistics of cached pictures (n, COUNT); `soft` blurs them first, as a painter would."""
    out = []
    for first in range(0, len(indices), 32):
        batch = []
        for i in indices[first : first + 32]:
            x = torch.from_numpy(cache.picture(i).copy()).permute(2, 0, 1)[None].float() / 255
            if soft:
                small = F.interpolate(x, scale_factor=0.45, mode="bilinear", antialias=True)
                x = F.interpolate(small, x.shape[2:], mode="bilinear")
            batch.append(F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True))
        out.append(picture_features(torch.cat(batch)))
    return torch.cat(out)


def train_reader(
    rows: list[Row], cache: PictureCache, where: list[int], *, epochs: int = 40, seed: int = 0
) -> ImageReader:
    """Reader B on `rows`; `where` are their indices in the cache."""
    at = [i for i, r in enumerate(rows) if not kept_aside(r)]
    place = [where[i] for i in at]
    z = torch.cat([features(cache, place), features(cache, place, soft=True)])
    learn = [rows[i] for i in at] * 2
    goal, weight = targets(learn, []), sampling(learn)
    torch.manual_seed(seed)
    model = ImageReader()
    model.feature_mean.copy_(z.mean(0))
    model.feature_scale.copy_(z.std(0).clamp_min(1e-3))
    z = model.normal(z)
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.2)
    average, batch = Average(model, 0.995), 256
    steps = epochs * len(learn) // batch
    model.train()
    for step in range(steps):
        drawn = torch.multinomial(weight, batch, replacement=True, generator=g)
        want = {key: value[drawn] for key, value in goal.items()}
        x = z[drawn]
        if step % 2:
            x, want = blend(x, want, g)
        out = model.heads_of_features(x)
        loss = torch.stack(list(losses(out, want).values())).sum()
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, 1.5e-3, 50)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(model, step)
    model.load_state_dict(average.state)
    return model.eval()


@torch.no_grad()
def predict(
    model: ImageCritic | ImageReader, cache: PictureCache, indices: list[int]
) -> dict[str, Tensor]:
    """Heads of cached pictures, one at a time (their shapes differ), stacked."""
    out = []
    for i in indices:
        x = torch.from_numpy(cache.picture(i).copy()).permute(2, 0, 1)[None].float() / 255
        out.append(model.heads_of(x))
    return {key: torch.cat([o[key] for o in out]) for key in out[0]}


@torch.no_grad()
def calibrate(
    model: ImageCritic | ImageReader, rows: list[Row], cache: PictureCache, where: list[int]
) -> None:
    """Set temperature, intensity scale, variance scale and in-domain Gaussian, in place.

    Uses the pictures kept aside; the Gaussian's shape also needs training pictures (it has more
    directions than there are pictures kept aside), its quantiles do not use them.
    """
    aside = [i for i, r in enumerate(rows) if kept_aside(r)]
    others = [i for i, r in enumerate(rows) if not kept_aside(r)]
    others = others[:: max(1, len(others) // 1500)]
    soft = np.stack([rows[i].soft for i in aside])
    affect = torch.tensor([[rows[i].valence, rows[i].arousal] for i in aside])
    human = np.array([rows[i].human for i in aside])
    heads = predict(model, cache, [where[i] for i in aside])
    cloud = predict(model, cache, [where[i] for i in others])["embedding"]
    settle(model, heads, soft, affect, human)
    set_domain(model, cloud, heads["embedding"])


@torch.no_grad()
def settle(
    model: ImageCritic | ImageReader,
    heads: dict[str, Tensor],
    soft: np.ndarray,
    affect: Tensor,
    human: np.ndarray,
) -> None:
    """Set temperature and scales by the heads of pictures that no training has seen.

    soft: (n, 13). affect: (n, 2), of which `human` (n,) were rated; variances fit these.
    """
    model.temperature.fill_(fit_temperature(heads["logits"].double().numpy(), soft))
    strength = heads["strength"].numpy()
    top = soft[:, 1:].argmax(1)
    for k in range(12):
        without = strength[soft[:, 1 + k] < 0.05, k]
        strong = strength[(top == k) & (soft[:, 1 + k] > 0.2), k]
        if len(strong) < 5:  # too few to take a percentile of: the rarest emotions
            strong = np.sort(strength[:, k])[-5:]
        if not len(without):  # every picture shows some of it
            without = np.sort(strength[:, k])[:5]
        model.scale_low[k] = float(np.median(without))
        model.scale_high[k] = max(float(np.quantile(strong, 0.95)), float(np.median(without)) + 0.5)
    z2 = (affect - heads["affect"]) ** 2 / heads["affect_log_variance"].exp()
    scale = z2[torch.from_numpy(human)].mean(0).log()
    modules = model.heads if isinstance(model, ImageReader) else [model.heads]
    for h in modules:
        h.affect.bias[2:] += scale


@torch.no_grad()
def set_domain(model: ImageCritic | ImageReader, cloud: Tensor, seen: Tensor) -> None:
    """Set the in-domain Gaussian by embeddings (m, d), its quantiles by unseen ones (n, d)."""
    mean = cloud.mean(0)
    cov = torch.cov((cloud - mean).T)
    cov = 0.9 * cov + 0.1 * torch.diag(cov.diagonal().mean().expand(len(cov)))
    values, vectors = torch.linalg.eigh(cov)
    model.domain_mean.copy_(mean)
    model.domain_whiten.copy_(vectors * values.clamp_min(1e-6).rsqrt())
    away = ((seen - mean) @ model.domain_whiten).norm(dim=1)
    model.domain_quantiles.copy_(torch.quantile(away, torch.linspace(0, 1, 101)))


def main() -> None:
    """Train, calibrate, measure and write both readers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the picture sets")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the two models")
    parser.add_argument("--work", type=Path, default=Path(".work/critic"), help="resumable state")
    parser.add_argument("--samples", type=int, default=180_000, help="pictures critic A sees")
    parser.add_argument("--warm", type=Path, help="safetensors to start critic A from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = load_rows(args.data)
    cache = open_cache(args.work / "cache", [r.path for r in rows], SHORT_SIDE)
    halves = {}
    for half in ("train_A", "train_B"):
        at = [i for i, r in enumerate(rows) if r.split == half and r.licence_ok_to_ship]
        halves[half] = ([rows[i] for i in at], at)
    b_rows, b_at = halves["train_B"]
    reader = train_reader(b_rows, cache, b_at, seed=args.seed)
    calibrate(reader, b_rows, cache, b_at)
    a_rows, a_at = halves["train_A"]
    critic = train_critic(
        a_rows, cache, a_at, args.work, samples=args.samples, seed=args.seed, warm=args.warm
    )
    calibrate(critic, a_rows, cache, a_at)
    test = [i for i, r in enumerate(rows) if r.split == "test"]
    publish(
        critic, reader, args.out,
        rows=[rows[i] for i in test],
        a=predict(critic, cache, test), b=predict(reader, cache, test),
        train={"A": a_rows, "B": b_rows}, samples=args.samples, seed=args.seed,
        note=f", started from {args.warm.name}" if args.warm else "",
    )  # fmt: skip


if __name__ == "__main__":
    main()
