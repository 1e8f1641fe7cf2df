"""Faces at the size of a stamp, for contact sheets: one face, what was asked and what was read.

A portrait that moves is shown where its expression is strongest and no word or blink is in the way.
It deliberately knows neither requests nor files, nor how stamps are laid out (studio.sheet).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from adapters.face_motion import ARKIT, MOUTH, Motion
from pipelines.drawing import INK, SCALE, reading_bars, scaled

BUSY = 1.5
"""How much a blink or a glance counts against a frame, in fully contracted channels."""
SPOKEN = 0.35
"""How much the mouth counts where brows, lids and cheeks count 1: words move it as well."""

_EYES = [
    k for k, name in enumerate(ARKIT) if name.startswith(("eyeBlink", "eyeLook"))
]  # neither is an expression
_WEIGHT = np.array(
    [0.0 if k in _EYES else SPOKEN if k in MOUTH else 1.0 for k in range(len(ARKIT))]
)


def strongest(motion: Motion) -> int:
    """The frame that shows best what a face expresses; the middle one of a face at rest."""
    felt = motion.curves @ _WEIGHT
    busy = np.maximum(motion.channel("eyeBlinkLeft"), motion.channel("eyeBlinkRight"))
    frames = len(motion)
    late = np.abs(np.arange(frames) - (frames - 1) / 2) / frames
    return int(np.argmax(felt - BUSY * busy - 1e-3 * late))


def stamp(
    face: Image.Image,
    *,
    asked: float | None = None,
    read: Sequence[float] = (),
    colour: str = INK,
    size: tuple[int, int] = (224, 240),
) -> Image.Image:
    """A face with a bar for each reader at its foot and a tick at what was asked.

    face: any size, cut to the shape that is left. asked: intensity 0..1, None for no tick. read:
    one intensity 0..1 a reader, none for no bars. size: of the stamp, pixels.
    """
    width, height = size
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), "#ffffff")
    pen = ImageDraw.Draw(sheet)
    foot = round(reading_bars(pen, size, asked=asked, read=read, colour=colour))
    room = (width * SCALE, (height - foot) * SCALE)
    sheet.paste(ImageOps.fit(face.convert("RGB"), room, Image.Resampling.LANCZOS), (0, 0))
    pen.rectangle(scaled((0, 0, width - 0.5, height - 0.5)), outline="#d8d5cc", width=SCALE)
    return sheet.reduce(SCALE)
