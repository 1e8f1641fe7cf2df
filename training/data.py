"""Pictures on disk -> one memory-mapped array of small uint8 pictures.

Decoding 8,600 JPEGs every pass would cost more than training on them, so each picture is read once,
its shorter side resized, and all of them laid end to end in one flat file with an index beside it.
Random crops and flips are then slices. Knows nothing about captions, emotions or models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.media import load_image


@dataclass(frozen=True)
class PictureCache:
    """Memory-mapped pictures. `shapes`: int (n, 2) height, width; `offsets`: int (n,) bytes."""

    pixels: np.ndarray
    shapes: np.ndarray
    offsets: np.ndarray
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> np.ndarray:
        """Return picture `index` as uint8 (height, width, 3)."""
        height, width = self.shapes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def crops(
        self, indices: Sequence[int], size: int, generator: torch.Generator, *, flip: bool = True
    ) -> torch.Tensor:
        """Return random square crops as float32 (n, 3, size, size) in -1..1.

        A crop larger than the picture's shorter side is refused by the slice arithmetic, so
        `size` must not exceed the `short_side` the cache was built with.
        """
        draws = torch.rand(len(indices), 3, generator=generator).numpy()
        batch = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        for row, (index, draw) in enumerate(zip(indices, draws, strict=True)):
            picture = self.picture(index)
            top = int(draw[0] * (picture.shape[0] - size + 1))
            left = int(draw[1] * (picture.shape[1] - size + 1))
            crop = picture[top : top + size, left : left + size]
            batch[row] = crop[:, ::-1] if flip and draw[2] < 0.5 else crop
        return torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def open_cache(folder: Path, paths: Sequence[Path], short_side: int) -> PictureCache:
    """Build the cache in `folder` unless it already holds exactly these pictures, then map it.

    paths: pictures readable by `pipelines.media.load_image`. short_side: pixels, 32..512.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index_path, pixel_path = folder / "index.json", folder / "pixels.u8"
    names = [str(path) for path in paths]
    if index_path.exists():
        index = json.loads(index_path.read_text())
        if index["paths"] == names and index["short_side"] == short_side:
            return _map(pixel_path, index)
    shapes: list[tuple[int, int]] = []
    temporary = pixel_path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for path in paths:
            picture = load_image(path)
            scale = short_side / min(picture.size)
            size = [max(short_side, round(side * scale)) for side in picture.size]
            picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
            shapes.append((size[1], size[0]))
            file.write(np.asarray(picture, dtype=np.uint8).tobytes())
    temporary.replace(pixel_path)
    index = {"paths": names, "short_side": short_side, "shapes": shapes}
    index_path.write_text(json.dumps(index))
    return _map(pixel_path, index)


def _map(pixel_path: Path, index: dict) -> PictureCache:
    shapes = np.asarray(index["shapes"], dtype=np.int64).reshape(-1, 2)
    sizes = shapes.prod(axis=1) * 3
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
    pixels = np.memmap(pixel_path, dtype=np.uint8, mode="r")
    return PictureCache(pixels, shapes, offsets, tuple(index["paths"]))
