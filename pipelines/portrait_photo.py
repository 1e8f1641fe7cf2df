"""The photo of a portrait: which of its faces moves, and how large a film of it is.

A still keeps every pixel of the photo. A film has even sides and need not hold twenty megapixels of
wall: larger photos are scaled so that the face is rendered at its full size where that is possible.
It deliberately knows neither motion nor requests. Importing it loads no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.face_mesh import Face, FaceError, choose, detect, from_five
from pipelines.media import load_image

FILM_SIDE, MOST_SIDE = 1280, 1920
"""Longer side of a film: the first where the face is large enough in it, up to the second else."""
LEAST_SIDE = 16  # px that the codec takes
_CROP = 2.35  # side of what is rendered over the longer side of the face; of portrait_field.CROP


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo whose face is known.

    width, height: of the whole photo. face: in its pixels. faces: how many were found.
    """

    path: Path
    width: int
    height: int
    face: Face
    faces: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the whole photo."""
        return self.width, self.height

    def film_size(self, size: int) -> tuple[int, int]:
        """Even width and height of its film; `size`: most pixels a side the face is rendered at."""
        longest = max(self.size)
        left, top, right, bottom = self.face.box
        rendered = _CROP * max(right - left, bottom - top)
        side = max(FILM_SIDE, min(MOST_SIDE, longest * size / rendered))
        scale = min(1.0, side / longest)
        if scale == 1:
            return self.width - self.width % 2, self.height - self.height % 2
        wide, high = (max(LEAST_SIDE, 2 * round(length * scale / 2)) for length in self.size)
        return wide, high

    def opened(self, size: tuple[int, int] | None = None) -> tuple[Image.Image, Face]:
        """The picture, RGB, and its face; scaled to `size`, or one row or column less."""
        image = load_image(self.path)
        if size is None or size == image.size:
            return image, self.face
        if all(0 <= a - b <= 1 for a, b in zip(image.size, size, strict=True)):
            return image.crop((0, 0, *size)), self.face
        return image.resize(size, Image.Resampling.LANCZOS), scaled_face(
            self.face, size[0] / image.width, size[1] / image.height
        )


def read_photo(path: Path, index: int = 0, points: str = "") -> Photo:
    """Find the face of an untrusted picture.

    Args:
        path: PNG, JPEG or WEBP; of an animation the first frame.
        index: which of several faces, the largest first.
        points: five places "x,y x,y ..." instead of looking for a face: pupils (left and right in
            the picture), nose tip, mouth corners.

    Raises:
        MediaError, FaceError, ImportError: one line each, with what to try.
    """
    image = load_image(path)
    if points.strip():
        return Photo(path, *image.size, from_five(image, places(points)))
    try:
        found = detect(image)
    except FaceError as error:
        text = str(error).replace("by hand (eyes", "with --points (eyes")
        raise FaceError(text) from error
    return Photo(path, *image.size, choose(found, index), len(found))


def places(text: str) -> list[tuple[float, float]]:
    """Five pixels of "x,y x,y x,y x,y x,y"; semicolons may stand for the blanks.

    Raises:
        FaceError: something else.
    """
    try:
        found = [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in text.replace(";", " ").split())
        ]
    except ValueError:
        found = []
    if len(found) != 5 or not np.isfinite(found).all():
        msg = (
            "points: five pairs are needed, received "
            f'{text[:40]!r}; write e.g. "210,240 300,240 255,300 220,350 290,350" '
            "(left pupil, right pupil, nose tip, mouth corners as seen in the picture)"
        )
        raise FaceError(msg)
    return found


def scaled_face(face: Face, across: float, down: float) -> Face:
    """A face in the pixels of a picture that was resized by these factors."""
    left, top, right, bottom = face.box
    return dataclasses.replace(
        face,
        points=(face.points * (across, down)).astype(np.float32),
        depth=(face.depth * (across + down) / 2).astype(np.float32),
        box=(left * across, top * down, right * across, bottom * down),
    )
