"""What the mark in the pixels survives, costs, and is mistaken for.

    python tests/bench/bench_watermark.py FOLDER [--most 50] [--unmarked]

FOLDER holds pictures, at any depth. Each is marked, damaged as sharing does, and looked at again;
--unmarked only looks for the mark in all of them, where none is.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from pipelines.watermark import SURE, embed, strength


def damages(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    width, height = image.size

    def scaled(share: float) -> Image.Image:
        size = (max(1, round(width * share)), max(1, round(height * share)))
        return image.resize(size, Image.Resampling.LANCZOS)

    def jpeg(one: Image.Image, quality: int) -> Image.Image:
        file = io.BytesIO()
        one.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    yield "as it is", image
    yield "JPEG 75", jpeg(image, 75)
    yield "JPEG 50", jpeg(image, 50)
    yield "x .5", scaled(0.5)
    yield "x .75", scaled(0.75)
    yield "x 2", scaled(2)
    yield "x .5 and JPEG 75", jpeg(scaled(0.5), 75)
    yield "a fifth brighter", image.point(lambda value: min(255, int(value * 1.2)))
    inner = (0.02 * width, 0.02 * height, 0.98 * width, 0.98 * height)
    yield "2 % of each border cut off", image.crop(tuple(map(int, inner)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=50)
    parser.add_argument("--unmarked", action="store_true")
    given = parser.parse_args()
    paths = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    if given.unmarked:
        found = np.array([strength(Image.open(path)) for path in paths])
        print(f"{len(found)} without a mark: mean {found.mean():+.3f}, sd {found.std():.3f}, "
              f"largest {found.max():.2f}; taken for marked {(found >= SURE).sum()}")  # fmt: skip
        return
    paths = random.Random(1).sample(paths, min(given.most, len(paths)))  # noqa: S311 - a draw
    seen: dict[str, list[float]] = {}
    decibels, seconds = [], []
    for path in paths:
        image = Image.open(path).convert("RGB")
        begun = time.monotonic()
        marked = embed(image)
        seconds.append(time.monotonic() - begun)
        gap = np.asarray(image, float) - np.asarray(marked, float)
        decibels.append(10 * np.log10(255**2 / np.square(gap).mean()))
        for name, damaged in damages(marked):
            seen.setdefault(name, []).append(strength(damaged))
    print(f"{len(paths)} pictures, PSNR median {np.median(decibels):.1f} dB, least "
          f"{min(decibels):.1f}; {np.median(seconds):.3f} s each")  # fmt: skip
    for name, values in seen.items():
        kept = sum(value >= SURE for value in values)
        print(f"{name:28} found {kept} of {len(values)}, least {min(values):.1f}, "
              f"median {np.median(values):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
