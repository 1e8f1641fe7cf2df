"""Pictures as the beginning of a film: stills that move, dissolve, and ends that meet.

A brought photo or a few keyframes become a moving guide, which video-to-video then repaints. It
knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.camera import move

Frames = NDArray[np.uint8]


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture at `size` (width, height), RGB: cut where its shape differs."""
    width, height = size
    scale = max(width / picture.width, height / picture.height)
    wide, tall = (
        max(width, round(picture.width * scale)),
        max(height, round(picture.height * scale)),
    )
    large = picture.convert("RGB").resize((wide, tall), Image.Resampling.LANCZOS)
    left, top = (wide - width) // 2, (tall - height) // 2
    return large.crop((left, top, left + width, top + height))


def moved(
    stills: Sequence[Image.Image],
    tempo: NDArray[np.float64],
    seed: int,
    *,
    kind: str,
    size: tuple[int, int],
    fps: float,
    loop: bool = False,
) -> torch.Tensor:
    """Stills that move and dissolve one into the next: (T, 3, H, W) float32 in 0..1.

    stills: at even moments of the film, the first at its beginning and the last at its end (of a
    loop the first again). tempo: (T,) arousal -1..1. kind: of motion, of `camera.KINDS`; all move
    alike, as seen by one camera.
    """
    count = len(tempo)
    ways = [
        torch.stack(
            list(
                move(
                    _tensor(fitted(still, size)),
                    count / fps,
                    fps,
                    kind=kind,
                    tempo=tempo,
                    generator=torch.Generator().manual_seed(seed),
                    loop=loop,
                )
            )
        )
        for still in stills
    ]
    if len(ways) == 1:
        return ways[0]
    if loop:
        ways.append(ways[0])
    place = np.arange(count) / (count if loop else max(1, count - 1)) * (len(ways) - 1)
    frames = []
    for index, at in enumerate(place):
        first = min(math.floor(at), len(ways) - 2)
        share = at - first
        share = share * share * (3 - 2 * share)
        frames.append((1 - share) * ways[first][index] + share * ways[first + 1][index])
    return torch.stack(frames)


def closed(frames: Frames, length: int) -> Frames:
    """A film of `length` frames whose end runs into its beginning: what is over dissolves there."""
    more = len(frames) - length
    if more <= 0:
        return frames
    out = frames[:length].copy()
    share = (np.arange(more) + 0.5) / more
    share = (share * share * (3 - 2 * share))[:, None, None, None]
    head, tail = frames[:more].astype(np.float64), frames[length:].astype(np.float64)
    out[:more] = np.round(share * head + (1 - share) * tail).astype(np.uint8)
    return out


def _tensor(picture: Image.Image) -> torch.Tensor:
    pixels = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
