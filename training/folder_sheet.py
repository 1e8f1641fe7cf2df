"""A contact sheet of samples: what they show, what is felt, how they are captioned.

A picture is shown as itself, a sound as its wave, music as its notes, a face as its curves over
time. Files are decoded again by `pipelines/media*.py`. Knows no model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from adapters.emotion import CORE
from adapters.face_motion import read_csv
from pipelines.drawing import COLOURS, INK, LINE, PAPER, SCALE, SOFT, fitted, scaled, write
from pipelines.media import load_image
from pipelines.media_midi import load_midi
from pipelines.media_sound import load_sound

if TYPE_CHECKING:
    from training.buckets import Fit
    from training.folder import Sample

CELL, FOOT, GAP = 168, 72, 12  # px of a picture, of the words under it, between them
MOST_ACROSS = 6


def sheet(
    samples: Sequence[Sample], modality: str, fits: Sequence[Fit] | None = None
) -> Image.Image:
    """Draw samples side by side, at most six across.

    fits: of pictures, one a sample: what a model is shown of each, instead of all of it.
    """
    across = max(1, min(MOST_ACROSS, len(samples)))
    down = max(1, ceil(len(samples) / across))
    size = (across * (CELL + GAP) + GAP, down * (CELL + FOOT + GAP) + GAP)
    paper = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    draw = ImageDraw.Draw(paper)
    for k, sample in enumerate(samples):
        left = GAP + k % across * (CELL + GAP)
        top = GAP + k // across * (CELL + FOOT + GAP)
        shown = _shown(sample, modality, fits[k] if fits else None)
        scale = CELL * SCALE / max(shown.size)
        wide, tall = (max(1, round(side * scale)) for side in shown.size)
        shown = shown.resize((wide, tall), Image.Resampling.LANCZOS)
        place = (
            left * SCALE + (CELL * SCALE - shown.width) // 2,
            top * SCALE + (CELL * SCALE - shown.height) // 2,
        )
        draw.rectangle(scaled((left, top, left + CELL, top + CELL)), fill="#ffffff", outline=LINE)
        paper.paste(shown, place)
        y = top + CELL + 12
        colour = COLOURS.get(sample.emotion, SOFT)
        write(draw, (left, y), fitted(_felt(sample), 13, CELL), 13, colour)
        tone = INK if sample.caption else SOFT
        for line in _two_lines(_plain(sample.caption) or "no caption"):
            y += 15
            write(draw, (left, y), line, 11, tone)
        about = _plain(sample.name) if sample.split == "train" else f"held out: {sample.name}"
        if fits:
            about = f"{fits[k].bucket[0]} x {fits[k].bucket[1]}  {about}"
        write(draw, (left, top + CELL + 58), fitted(_plain(about), 10, CELL), 10, SOFT)
    return paper.reduce(SCALE)


def _two_lines(text: str) -> list[str]:
    """Words over two lines at most, the second cut with an ellipsis."""
    first, words = "", text.split()
    while words and fitted(f"{first} {words[0]}", 11, CELL) == f"{first} {words[0]}".strip():
        first = f"{first} {words.pop(0)}".strip()
    if not first:
        return [fitted(text, 11, CELL)]
    return [first, fitted(" ".join(words), 11, CELL)] if words else [first]


def _plain(text: str) -> str:
    """Text in the letters that Pillow's own font has: accents and other scripts are left out."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _felt(sample: Sample) -> str:
    """The two strongest emotions with their intensities."""
    if not sample.labelled:
        return "no label"
    order = np.argsort(-sample.state, kind="stable")[:2]
    parts = [f"{CORE[k]} {sample.state[k]:.2g}" for k in order if sample.state[k] > 0]
    return " + ".join(parts) or "neutral"


def _shown(sample: Sample, modality: str, how: Fit | None) -> Image.Image:
    side = CELL * SCALE
    if modality == "image":
        image = load_image(sample.path)
        if how is None:
            return image
        return image.resize(how.scaled, Image.Resampling.LANCZOS).crop(how.box)
    paper = Image.new("RGB", (side, side), "#ffffff")
    draw = ImageDraw.Draw(paper)
    if modality == "voice":
        wave = load_sound(sample.path).waveform.mean(axis=0)
        parts = np.array_split(wave, side)
        top = max(float(np.abs(wave).max()), 1e-6)
        for x, part in enumerate(parts):
            if len(part):
                low, high = (float(f(part)) / top * 0.45 * side for f in (np.min, np.max))
                draw.line([x, side / 2 - high, x, side / 2 - low], fill=INK)
    elif modality == "music":
        piece = load_midi(sample.path)
        end = float((piece.onset + piece.duration).max())
        low, high = int(piece.pitch.min()) - 2, int(piece.pitch.max()) + 3
        tall = side / (high - low)
        for on, long, pitch in zip(piece.onset, piece.duration, piece.pitch, strict=True):
            x, y = on / end * side, (high - int(pitch) - 1) * tall
            draw.rectangle([x, y, max(x + 1, (on + long) / end * side - 1), y + tall], fill=INK)
    else:
        curves = read_csv(sample.path).curves
        shades = 255 - (curves.T * 255).astype(np.uint8)
        shown = Image.fromarray(shades).resize((side, side), Image.Resampling.BOX)
        paper.paste(shown.convert("RGB"))
    return paper
