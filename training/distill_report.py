"""What distillation did to unseen prompts: emotion by two readers, content, diversity, one sheet.

Figures are those of pictures painted with and without an adapter at the same prompts and seeds;
intervals are bootstrapped over prompts. The guiding critic chose what was learned and reports
nothing: its figure stands beside the reader's for the gap between them alone. Nothing embedded here
can name what a picture shows, so content is what it is called below: whether a picture's layout of
light still lies nearest to the plain picture of its own prompt and seed, among those of all unseen
prompts at that seed. Knows no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adapters.emotion import CORE, VAD
from adapters.reading import Reading
from pipelines.drawing import INK, PAPER, SCALE, SOFT, fitted, write
from training.intervals import over_groups

Floats = NDArray[np.float64]
_SIDE = 32  # px of the thumbnails that are compared: layout, no texture
_CELL, _LEFT, _TOP, _GAP = 112, 150, 40, 6


@dataclass(frozen=True, slots=True)
class Judged:
    """Pictures of one stage, one a prompt and seed, and how both readers read them."""

    prompts: list[str]
    seeds: list[int]
    pictures: list[Image.Image]
    critic: list[Reading]
    reader: list[Reading]


def judged(seen: Mapping[str, Judged], emotion: str, critic: str, reader: str) -> dict[str, Any]:
    """Figures of every stage; the first one is the plain model, with which others are paired."""
    first = next(iter(seen.values()))
    prompts = first.prompts
    out: dict[str, Any] = {
        "emotion": emotion, "critic": critic, "reader": reader, "pictures": len(prompts),
        "prompts": len(set(prompts)), "seeds": len(set(first.seeds)), "chance": 1 / len(CORE),
        "content_chance": 1 / len(set(prompts)), "stages": {},
    }  # fmt: skip
    column = CORE.index(emotion)
    plain_looks = np.stack([layout(p) for p in first.pictures])
    for name, stage in seen.items():
        row: dict[str, Any] = {}
        for who in ("critic", "reader"):
            now, before = _told(getattr(stage, who)), _told(getattr(first, who))
            rise = now[:, 1 + column] - before[:, 1 + column]
            top = (now[:, 1:].argmax(axis=1) == column).astype(float)
            row[who] = {
                "mean": float(now[:, 1 + column].mean()),
                "rise": over_groups(np.mean, prompts, rise),
                "strongest": over_groups(np.mean, prompts, top),
            }
        towards = VAD[column, :2] / np.linalg.norm(VAD[column, :2])
        moved = _affect(stage.reader) - _affect(first.reader)
        row["reader"]["towards"] = over_groups(np.mean, prompts, moved @ towards)
        row["gap"] = row["critic"]["rise"][0] - row["reader"]["rise"][0]
        looks = np.stack([layout(p) for p in stage.pictures])
        row["content"] = over_groups(
            np.mean, prompts, nearest(looks, plain_looks, prompts, first.seeds)
        )
        row["diversity"] = diversity(stage.pictures, prompts) / max(
            diversity(first.pictures, prompts), 1e-9
        )
        out["stages"][name] = row
    return out


def _told(readings: Sequence[Reading]) -> Floats:
    return np.array([reading.probabilities for reading in readings])


def _affect(readings: Sequence[Reading]) -> Floats:
    return np.array([reading.vad_mean[:2] for reading in readings])


def layout(picture: Image.Image) -> Floats:
    """(1024,) grey levels of a thumbnail, mean 0 and length 1: where light and dark lie."""
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    x = np.asarray(small, dtype=np.float64).ravel()
    x -= x.mean()
    return x / max(float(np.linalg.norm(x)), 1e-9)


def nearest(looks: Floats, plain: Floats, prompts: Sequence[str], seeds: Sequence[int]) -> Floats:
    """(n,) 1 where a layout is most like the plain one of its own prompt, among its seed's."""
    out = np.zeros(len(looks))
    for i, look in enumerate(looks):
        rivals = [j for j in range(len(plain)) if seeds[j] == seeds[i]]
        best = max(rivals, key=lambda j: float(plain[j] @ look))
        out[i] = prompts[best] == prompts[i]
    return out


def diversity(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> float:
    """Mean distance (RMS of 0..1 colours of thumbnails) between seeds of the same prompt."""
    small = [
        np.asarray(p.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), float) / 255
        for p in pictures
    ]
    apart = [
        float(np.sqrt(((small[a] - small[b]) ** 2).mean()))
        for a, b in combinations(range(len(small)), 2)
        if prompts[a] == prompts[b]
    ]
    return float(np.mean(apart)) if apart else 0.0


def lines(figures: Mapping[str, Any], emotion: str) -> list[str]:
    """The figures for people."""

    def shown(x: Sequence[float]) -> str:
        return f"{x[0]:+.3f} (95 % {x[1]:+.3f} to {x[2]:+.3f})"

    told = [
        f"{emotion}: {figures['prompts']} unseen prompts x {figures['seeds']} unseen seeds; "
        f"{figures['reader']} chose nothing and reports, {figures['critic']} chose"
    ]
    for name, row in list(figures["stages"].items())[1:]:
        reader, critic = row["reader"], row["critic"]
        told.append(
            f"{name}: {emotion} as read rises by {shown(reader['rise'])}, the critic's by "
            f"{critic['rise'][0]:+.3f}; strongest of twelve {reader['strongest'][0]:.2f} "
            f"(chance {figures['chance']:.2f}); own layout nearest {row['content'][0]:.2f} (chance "
            f"{figures['content_chance']:.2f}); diversity {row['diversity']:.2f} of the plain one"
        )
    last = list(figures["stages"].values())[-1]
    if last["reader"]["rise"][1] <= 0:
        told.append(
            f"the reader is not shown to see more {emotion}: what was learned may please the "
            "critic alone; more prompts, rounds or another critic may help"
        )
    elif last["gap"] > 2 * abs(last["reader"]["rise"][0]):
        told.append("the critic rises more than twice as much as the reader: look at the pictures")
    return told


def sheet(seen: Mapping[str, Judged], emotion: str, most: int = 10) -> Image.Image:
    """Up to `most` prompts, two seeds each, every stage beside the plain picture."""
    first = next(iter(seen.values()))
    names = list(dict.fromkeys(first.prompts))[:most]
    seeds = list(dict.fromkeys(first.seeds))[:2]
    stages = list(seen)
    across = len(stages) * len(seeds)
    wide = _LEFT + across * (_CELL + _GAP) + len(seeds) * 2 * _GAP
    paper = Image.new(
        "RGB", (wide * SCALE, (_TOP + len(names) * (_CELL + _GAP) + _GAP) * SCALE), PAPER
    )
    draw = ImageDraw.Draw(paper)
    at = {(p, s): i for i, (p, s) in enumerate(zip(first.prompts, first.seeds, strict=True))}
    column = 1 + CORE.index(emotion)
    for block, seed in enumerate(seeds):
        for k, stage in enumerate(stages):
            x = _LEFT + (block * len(stages) + k) * (_CELL + _GAP) + block * 2 * _GAP
            write(draw, (x, 22), fitted(stage, 12, _CELL), 12, INK)
            for row, name in enumerate(names):
                y = _TOP + row * (_CELL + _GAP)
                i = at[name, seed]
                small = (
                    seen[stage].pictures[i].resize((_CELL * SCALE,) * 2, Image.Resampling.BICUBIC)
                )
                paper.paste(small, (x * SCALE, y * SCALE))
                read = seen[stage].reader[i].probabilities[column]
                draw.rectangle(
                    [x * SCALE, (y + _CELL - 16) * SCALE, (x + 34) * SCALE, (y + _CELL) * SCALE],
                    fill=PAPER,
                )
                write(draw, (x + 4, y + _CELL - 8), f"{read:.2f}", 11, INK)
    for row, name in enumerate(names):
        y = _TOP + row * (_CELL + _GAP) + 8
        for line in _wrapped(name):
            write(draw, (6, y), fitted(line, 12, _LEFT - 12), 12, INK)
            y += 16
    write(draw, (6, 22), fitted(f"{emotion} as read", 11, _LEFT - 10), 11, SOFT)
    return paper.reduce(SCALE)


def _wrapped(text: str, width: int = 20) -> list[str]:
    lines_: list[str] = [""]
    for word in text.split():
        if lines_[-1] and len(lines_[-1]) + len(word) >= width:
            lines_.append("")
        lines_[-1] = f"{lines_[-1]} {word}".strip()
    return lines_[:5]
