"""Recipe of the critics of portraits: critic-portrait and reader-portrait.

    python -m training.portrait_critic --data ../shared/data/portrait --facts ../shared/facts \
        --out assets/models

critic-portrait learns from motion as portrait-tiny does: `training.portrait_data` composes faces by
this project's own table around the mouths of FACEGOOD (MIT), with blinks and glances. What it reads
of that table proves nothing about people; the held-out figures say how much of an expression words
and accents leave. reader-portrait learns from `training.portrait_faces`, which shares neither table
of contractions, nor basis, nor renderer. What both are worth on rendered frames is measured by
`training.portrait_evaluate`. One core, some minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from adapters import facs, metrics
from adapters.assets import ASSETS
from adapters.face_life import eased
from adapters.face_motion import ARKIT, CHANNELS, Motion
from adapters.face_reader import FaceReader
from adapters.face_reading import CLASSES, EXPRESSIONS
from adapters.files import replacing
from adapters.motion_critic import COLUMNS, DEGREES, KINDS, Member, MotionCritic, statistics
from pipelines.manifest import update
from pipelines.portrait_motion import with_eyes
from training.portrait_data import FPS, FRAMES, Clip, compose, prepared, split
from training.portrait_faces import Faces, Model, Prototypes, made

Floats = NDArray[np.float64]

ROWS, HELD_ROWS = 9000, 1200
SHORTEST = 24  # frames of a window, at most FRAMES
CONTEMPT_SHARE, IDLE_SHARE = 0.08, 0.25
STEPS, BATCH, RATE = 2500, 128, 2e-3
NOISE = 0.3  # deviations: recordings and edited curves are less tidy than what is composed
FACES, HELD_FACES = 9000, 3000

_PAIRS = [
    (k, ARKIT.index(f"{name[:-4]}Right"))
    for k, name in enumerate(ARKIT)
    if name.endswith("Left") and f"{name[:-4]}Right" in ARKIT
]
_PAIRS += [(ARKIT.index("jawLeft"), ARKIT.index("jawRight"))]
_PAIRS += [(ARKIT.index("mouthLeft"), ARKIT.index("mouthRight"))]


# Critic ------------------------------------------------------------------------------------------


def window(clips: Sequence[Clip], rng: np.random.Generator) -> tuple[Motion, Floats]:
    """A composed motion of .8 to 3.2 s and the mean (14,) of what it shows, neutral first."""
    long = [clip for clip in clips if clip.mouth is not None and len(clip) >= FRAMES]
    clip = long[int(rng.integers(len(long)))]
    first = int(rng.integers(0, len(clip) - FRAMES + 1))
    part = clip.part(first, first + FRAMES)
    if rng.random() < IDLE_SHARE:
        part = _silent(part)
    label = np.zeros((FRAMES, len(KINDS)))
    if rng.random() < CONTEMPT_SHARE:
        both, level = _contempt(part, rng)
        label[:, -1] = level
    else:
        row = compose(part, rng, bend=False)
        both = (row.plan + row.rest).astype(np.float64)
        label[:, 1:-1] = row.track
    label[:, 0] = 1.0 - label[:, 1:].sum(axis=1)
    pose = rng.uniform(0.3, 1.0) * both[:, CHANNELS:]
    motion = Motion(both[:, :CHANNELS].astype(np.float32), pose.astype(np.float32), FPS)
    motion = with_eyes(motion, rng, speaking=part.heard.speaking, gaze=rng.uniform(0.0, 1.5))
    size = int(rng.integers(SHORTEST, FRAMES + 1))
    begin = int(rng.integers(0, FRAMES - size + 1))
    curves, pose = motion.curves[begin : begin + size], motion.pose[begin : begin + size]
    if rng.random() < 0.5:
        curves, pose = mirrored(curves, pose)
    return Motion(curves, pose, FPS), label[begin : begin + size].mean(axis=0)


def mirrored(
    curves: NDArray[np.float32], pose: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Curves (T, 52) and pose (T, 3) with left and right exchanged."""
    out = curves.copy()
    for left, right in _PAIRS:
        out[:, left], out[:, right] = curves[:, right], curves[:, left]
    return out, pose * np.float32([-1, 1, -1])


def _silent(clip: Clip) -> Clip:
    """The same frames with nobody speaking."""
    heard = replace(
        clip.heard,
        speaking=np.zeros_like(clip.heard.speaking),
        accent=np.zeros_like(clip.heard.accent),
    )
    return Clip(clip.name, clip.speed, heard, np.zeros((len(clip), CHANNELS), np.float32))


def _contempt(clip: Clip, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(T, 55) of a contemptuous face around a mouth, and its level (T,)."""
    asked = np.zeros((len(clip), 1))
    asked[(int(rng.integers(0, 30)) if rng.random() < 0.4 else 0) :] = rng.uniform(0.1, 1.0)
    level = np.clip(eased(asked, FPS)[:, 0], 0.0, 1.0)
    strength = np.exp(rng.normal(0.0, 0.18, len(facs.units())))
    contracted = np.clip(level[:, None] * facs.named("contempt") * strength, 0.0, 1.0)
    curves, pose = facs.expression(contracted)
    said = np.zeros_like(curves) if clip.mouth is None else clip.mouth.astype(np.float64)
    head = np.asarray(facs.table()["named"]["contempt"]["head"], dtype=np.float64)
    pose = pose + level[:, None] * head * rng.uniform(0.0, 1.4) + rng.normal(0.0, 1.5, 3)
    face = np.clip(facs.spoken(curves, clip.heard.speaking) + said, 0.0, 1.0)
    return np.concatenate([face, pose], axis=1), level


def table_of(
    clips: Sequence[Clip], count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[Motion]]:
    """Statistics (count, STATISTICS), soft labels (count, 14) and the motions themselves."""
    rng = np.random.default_rng(seed)
    found, labels, motions = [], [], []
    for _ in range(count):
        motion, label = window(clips, rng)
        rows = torch.from_numpy(np.concatenate([motion.curves, motion.pose / DEGREES], axis=1))
        found.append(statistics(rows[None], torch.ones(1, len(rows)))[0])
        labels.append(torch.from_numpy(label).float())
        motions.append(motion)
    return torch.stack(found), torch.stack(labels), motions


def fit_critic(
    found: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int = STEPS,
    seed: int = 0,
    **config: int | float,
) -> MotionCritic:
    """Train all networks on statistics and soft labels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = MotionCritic(**config)
    critic.centre.copy_(found.mean(0))
    critic.spread.copy_(found.std(0) + 1e-3)
    z = (found - critic.centre) / critic.spread
    z = 4.0 * torch.tanh(z / 4.0)
    rows = z[:, :COLUMNS].double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T) + 0.05 * torch.eye(COLUMNS))
    whiten = vectors / values.sqrt()
    away = ((rows - mean) @ whiten).norm(dim=1)
    critic.domain_mean.copy_(mean)
    critic.domain_whiten.copy_(whiten)
    critic.domain_quantiles.copy_(torch.quantile(away, torch.linspace(0, 1, 101).double()))
    for k, net in enumerate(critic.nets):
        _train(net, z, labels, steps, 1000 * seed + k)
    return critic.eval()


def _train(net: Member, z: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the layers' dropout; the fork gives the state back
        optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        net.train()
        for _ in range(steps):
            at = torch.randint(0, len(z), (min(BATCH, len(z)),), generator=generator)
            noise = NOISE * torch.randn(len(at), z.shape[1], generator=generator)
            loss = F.cross_entropy(net(z[at] + noise), labels[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()


def critic_figures(
    critic: MotionCritic, motions: Sequence[Motion], labels: torch.Tensor
) -> dict[str, Any]:
    """On composed motion around mouths that were in no training row."""
    p, y = critic.kinds(motions), labels.double().numpy()
    one = y[:, 1:].max(axis=1)
    clear = (one > 0.35) & (one > 0.8 * y[:, 1:].sum(axis=1))
    said, asked = p[clear, 1:].argmax(axis=1), y[clear, 1:].argmax(axis=1)
    rest = y[:, 0] > 0.97
    named = p[clear].argmax(axis=1) == y[clear].argmax(axis=1)
    return {
        "windows": len(y),
        "clear": int(clear.sum()),
        "accuracy_13": _share(said == asked),
        "accuracy_14": _share(named),
        "recall": {
            name: [round(float(np.mean(said[asked == k] == k)), 3), int((asked == k).sum())]
            for k, name in enumerate(KINDS[1:])
            if (asked == k).any()
        },
        "rest_read_neutral": _share(p[rest].argmax(axis=1) == 0),
        "intensity_r": round(metrics.pearson(p[:, 1:].ravel(), y[:, 1:].ravel()), 3),
        "intensity_error": round(float(np.abs(p[:, 1:] - y[:, 1:]).sum(axis=1).mean()), 3),
    }


def _share(right: NDArray[np.bool_]) -> list[float]:
    """Share, its 95 % interval (Wilson) and the number."""
    low, high = metrics.wilson(int(right.sum()), len(right))
    return [round(float(right.mean()), 3), round(low, 3), round(high, 3), len(right)]


# Reader ------------------------------------------------------------------------------------------


def fit_reader(train: Faces, choose: Faces, **settings: Any) -> FaceReader:
    """Fit the machine; its temperature comes from other made-up faces."""
    reader = FaceReader.fit(train.x, train.wanted, **settings)
    scores = reader.scores(choose.x)[:, : len(CLASSES)]
    heat = 1 / metrics.fit_temperature(scores * 10.0, np.eye(len(CLASSES))[choose.kind])
    return replace(reader, heat=10.0 * heat)


def reader_figures(reader: FaceReader, faces: Faces) -> dict[str, Any]:
    """On made-up faces of other made-up people."""
    found = reader.scores(faces.x)
    said = found[:, : len(CLASSES)].argmax(axis=1)
    forced = found[:, 1 : len(CLASSES)].argmax(axis=1) + 1
    seen = faces.kind > 0
    p = metrics.softmax(found[:, : len(CLASSES)])
    own = found[np.arange(len(said)), len(CLASSES) + np.maximum(faces.kind, 1) - 1]
    bands = {"faint (.12 to .4)": (0.0, 0.4), "middle": (0.4, 0.7), "strong": (0.7, 2.0)}
    return {
        "faces": len(said),
        "accuracy_8": _share(said == faces.kind),
        "neutral": _share(said[~seen] == 0),
        "seven": {
            name: _share(forced[band] == faces.kind[band])
            for name, (low, high) in bands.items()
            for band in [seen & (faces.strength >= low) & (faces.strength < high)]
        },
        "recall": {name: _share(said[faces.kind == k] == k) for k, name in enumerate(CLASSES) if k},
        "confusion": [
            [int(((faces.kind == a) & (said == b)).sum()) for b in range(len(CLASSES))]
            for a in range(len(CLASSES))
        ],
        "ece": round(metrics.ece(p, faces.kind), 3),
        "strength_spearman": {
            name: round(
                metrics.spearman(own[faces.kind == k + 1], faces.strength[faces.kind == k + 1]), 3
            )
            for k, name in enumerate(EXPRESSIONS)
        },
    }


# Files -------------------------------------------------------------------------------------------


RECIPE = "python -m training.portrait_critic --data DATA --facts FACTS --out assets/models"
SOURCES = {
    "critic-portrait": "motion composed by assets/emotions/facs.json around mouths of FACEGOOD "
    "(FACEGOOD-Audio2Face, MIT)",
    "reader-portrait": "made-up faces: EMFACS and Du, Tao & Martinez 2014, moved by displacements "
    "measured on ICT-FaceKit (Li et al. 2020, MIT)",
}


def publish(
    model: MotionCritic | FaceReader, out: Path, found: Mapping[str, Any], text: str
) -> None:
    """Write weights, figures and the card's figures; the row too where `out` is the assets."""
    folder = out / model.name
    if isinstance(model, MotionCritic):
        model.save_pretrained(folder, safe_serialization=True)
    else:
        model.save(folder)
    with replacing(folder / "figures.json") as path:
        path.write_text(json.dumps({"digest": model.digest, **found}, indent=1) + "\n")
    write_section(folder / "README.md", "Held-out figures", text)
    if out.resolve() == (ASSETS / "models").resolve():
        source = SOURCES[model.name]
        update(
            model.name,
            path=f"models/{model.name}",
            licence="Apache-2.0",
            source=source,
            recipe=RECIPE,
            trained_on="cpu",
        )


def write_section(card: Path, title: str, text: str) -> None:
    """Replace a section of a card by its title, or put it before the last one ("Limits")."""
    old = card.read_text(encoding="utf-8") if card.is_file() else f"# {card.parent.name}\n"
    parts = old.split("\n## ")
    fresh = f"{title}\n\n{text.strip()}\n"
    titles = [part.split("\n", 1)[0] for part in parts]
    if title in titles:
        parts[titles.index(title)] = fresh
    else:
        parts.insert(len(parts) - (titles[-1] == "Limits"), fresh)
    with replacing(card) as path:
        path.write_text("\n## ".join(part.rstrip("\n") + "\n" for part in parts), encoding="utf-8")


def critic_text(found: Mapping[str, Any]) -> str:
    """The critic's figures as a part of its card."""
    a, b = found["accuracy_13"], found["rest_read_neutral"]
    recall = ", ".join(f"{name} {share:.2f}" for name, (share, _) in found["recall"].items())
    return (
        f"{found['windows']} windows of .8 to 3.2 s, composed around the two recordings that were "
        "in no training row (same table of muscles as in training: an upper bound).\n\n"
        f"* One clear emotion or contempt, read right among 13: {a[0]:.2f} ({a[1]:.2f}..{a[2]:.2f}"
        f"; n = {a[3]}; chance .08). {recall}.\n"
        f"* At rest (words alone) read as neutral: {b[0]:.2f} ({b[1]:.2f}..{b[2]:.2f}; n = {b[3]})."
        f"\n* Intensities asked and read: r {found['intensity_r']:.2f}, mean error "
        f"{found['intensity_error']:.2f} over all kinds together.\n"
    )


def reader_text(found: Mapping[str, Any]) -> str:
    """The reader's figures as a part of its card."""
    a, b = found["accuracy_8"], found["neutral"]
    rows = [
        f"{found['faces']} made-up faces of other made-up people (not faces of people):\n",
        f"* Right among eight with neutral: {a[0]:.2f} ({a[1]:.2f}..{a[2]:.2f}); neutral faces "
        f"{b[0]:.2f} ({b[1]:.2f}..{b[2]:.2f}). Calibration error {found['ece']:.2f}.",
        "* Right among the seven (chance .14): "
        + "; ".join(
            f"{name} {x[0]:.2f} ({x[1]:.2f}..{x[2]:.2f}, n = {x[3]})"
            for name, x in found["seven"].items()
        )
        + ".",
        "* Spearman of strength and what is read of it: "
        + ", ".join(f"{name} {x:.2f}" for name, x in found["strength_spearman"].items())
        + ".\n",
        "| made \\ read | " + " | ".join(CLASSES) + " |",
        "|" + " --- |" * (len(CLASSES) + 1),
    ]
    for name, row in zip(CLASSES, found["confusion"], strict=True):
        rows.append(f"| {name} | " + " | ".join(str(x) for x in row) + " |")
    return "\n".join(rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, measure and write both."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="recordings and the ICT basis")
    parser.add_argument("--facts", type=Path, required=True, help="folder of facs.json")
    parser.add_argument("--work", type=Path, default=Path(".work/portrait"))
    parser.add_argument("--out", type=Path, help="write the models here")
    given = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    head = Model.load(given.data / "ict_arkit_basis_mp478.npz")
    prototypes = Prototypes.load(given.facts / "facs.json", head)
    sets = [
        made(count, head, prototypes, np.random.default_rng(seed))
        for seed, count in enumerate((FACES, HELD_FACES, HELD_FACES))
    ]
    reader = fit_reader(sets[0], sets[1])
    of_reader = reader_figures(reader, sets[2])
    print(json.dumps(of_reader), flush=True)
    train, _, held = split(prepared(given.work, given.data))
    found, labels, _ = table_of(train, ROWS, 0)
    critic = fit_critic(found, labels)
    _, truth, motions = table_of(held, HELD_ROWS, 1)
    of_critic = critic_figures(critic, motions, truth)
    print(json.dumps(of_critic), flush=True)
    if given.out is not None:
        publish(critic, given.out, {"held_out": of_critic}, critic_text(of_critic))
        publish(reader, given.out, {"held_out": of_reader}, reader_text(of_reader))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
