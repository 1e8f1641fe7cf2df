"""Pictures of any shape in batches of one size: aspect buckets of constant area.

Every bucket has at most resolution x resolution pixels, in whole steps of what the model can take
(the autoencoder's scale, times two where latents are packed), so that a batch costs the same
whatever its shape (NovelAI 2022; kohya's sd-scripts). A picture goes to the bucket whose shape is
nearest in log aspect ratio, is scaled so that it covers it, and what hangs over is cut off evenly:
nothing is stretched. Pictures smaller than their bucket are enlarged, and told.

Knows no pixels, no model; deterministic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from training.folder_labels import DataError

MOST_ASPECT = 2.0
"""Of the widest and tallest bucket; panoramas are cut."""

Size = tuple[int, int]
"""Width, height in pixels."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How one picture becomes its bucket: scale to `scaled`, cut out `box`.

    bucket, scaled: (width, height). box: (left, top, right, bottom) within `scaled`. cut: share of
    the picture that is lost, 0..1. enlarged: factor, 1 where it is not.
    """

    bucket: Size
    scaled: Size
    box: tuple[int, int, int, int]
    cut: float
    enlarged: float


def bucket_sizes(resolution: int, step: int, most_aspect: float = MOST_ASPECT) -> list[Size]:
    """All (width, height) in whole steps with at most resolution^2 pixels, the square first.

    resolution: side of the square bucket, a multiple of `step`.

    Raises:
        DataError: a resolution that is no multiple of the step, or an aspect under 1.
    """
    if step < 1 or resolution < step or resolution % step:
        near = max(step, round(resolution / step) * step) if step > 0 else resolution
        msg = f"resolution: multiples of {step} fit this model, received {resolution}; give {near}"
        raise DataError(msg)
    if not most_aspect >= 1:
        msg = f"most_aspect: allowed 1 or more, received {most_aspect:g}"
        raise DataError(msg)
    area = resolution * resolution
    sizes: set[Size] = {(resolution, resolution)}
    for width in range(step, int(resolution * math.sqrt(most_aspect)) + step, step):
        height = area // width // step * step
        if height >= step and max(width, height) / min(width, height) <= most_aspect:
            sizes.update({(width, height), (height, width)})
    # Two buckets of one height differ only in how much they cut: the wider one is kept.
    best: dict[tuple[bool, int], Size] = {}
    for width, height in sorted(sizes):
        best[width >= height, min(width, height)] = (
            max(best.get((width >= height, min(width, height)), (0, 0)), (width, height),
                key=lambda s: s[0] * s[1])
        )  # fmt: skip
    best[True, resolution] = (resolution, resolution)
    rest = sorted(set(best.values()) - {(resolution, resolution)}, key=lambda s: s[0] / s[1])
    return [(resolution, resolution), *rest]


def fit(width: int, height: int, sizes: Sequence[Size]) -> Fit:
    """The bucket of a picture of width x height pixels, and how it is made to fit."""
    aspect = math.log(width / height)
    bucket = min(sizes, key=lambda s: (abs(math.log(s[0] / s[1]) - aspect), -s[0] * s[1]))
    scale = max(bucket[0] / width, bucket[1] / height)
    scaled = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    left, top = (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2
    box = (left, top, left + bucket[0], top + bucket[1])
    cut = 1 - bucket[0] * bucket[1] / (scaled[0] * scaled[1])
    return Fit(bucket, scaled, box, cut, max(1.0, scale))


def describe(fits: Sequence[Fit], batch: int) -> list[str]:
    """Lines for people: pictures and batches a bucket, what is cut, what is enlarged."""
    counts = Counter(f.bucket for f in fits)
    lines = []
    for (width, height), n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        cut = [f.cut for f in fits if f.bucket == (width, height)]
        lines.append(
            f"{width} x {height}: {n} pictures, {-(-n // batch)} batches, "
            f"{sum(cut) / n:.0%} cut on average, {max(cut):.0%} at most"
        )
    grown = [f.enlarged for f in fits if f.enlarged > 1.001]
    if grown:
        lines.append(f"{len(grown)} pictures are enlarged, up to {max(grown):.1f} times")
    return lines
