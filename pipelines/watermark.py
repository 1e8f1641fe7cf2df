"""A mark in the pixels that says "made by a model, with this program", where records were stripped.

Sites and chats throw a file's records away; this survives that, JPEG and another size, because it
lies in the shape of the whole picture: in the cosine transform of its 64 x 64 brightness some 2,900
coefficients lean a little to the side that a fixed key says. Reading adds up how far they lean, in
units of what chance does, so no original is needed.

It is one bit, not proof. The key is public, so anybody may look for the mark, wash it out or put it
into any picture; cutting, turning or mirroring the picture loses it. It deliberately knows no
request and no codec. No package does this here: invisible-watermark brings a second OpenCV, refuses
pictures under 256 pixels and loses its bits at half the size (0 of 50); TrustMark fetches pickled
weights.

Source: Cox et al., "Secure spread spectrum watermarking for multimedia", IEEE Trans. Image Proc. 6
(1997); the strength is set by looking at the result, after Malvar and Florencio, "Improved spread
spectrum", IEEE Trans. Signal Proc. 51 (2003). The damage tried is that of ITU-T T.81, Annex K.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.float64]
log = logging.getLogger("affect")

SURE = 6.0
"""Strength from which a mark is told. A picture without one has N(0, 1): of 10,378 paintings and
photographs the largest was 3.5; Hoeffding's bound for a key drawn by chance is 2e-8."""
WANTED = 8.0  # strength after the damage below; real codecs took up to 1.5 more
SIDE = 64  # of the grid; a picture of 128 pixels still has it at half its size
_RINGS = range(4, 61)  # frequencies: below is the composition, above what scaling takes first
_FLOOR = 4.0  # grey levels x SIDE / 16, about what JPEG adds to a coefficient
_CLIP = 2.5  # standard deviations: one strong edge must not outvote the rest
_GAINS = np.geomspace(0.5, 5.0, 20)  # grey levels, root mean square; 5 is a PSNR of 34 dB
_LOOK = 1024  # pixels of the longer side at which a gain is tried; what holds there holds larger
_KEY = b"affect-studio watermark 1"

# Table K.1, luminance, at quality 75: (2 - 75 / 50) times as coarse, rounded.
_TABLE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_STEPS = np.floor(_TABLE * 0.5 + 0.5)


def embed(image: Image) -> Image:
    """The picture with the mark, as weakly as it still holds: at half the size and JPEG 75.

    image: RGB, any size; below 64 pixels a side too little of the mark is left to be found.
    Returns a new RGB picture, at least 34 dB (PSNR) from the given one, commonly 37 to 41.
    """
    from PIL.Image import fromarray

    clean = image.convert("RGB")
    luma = _luma(clean)
    coefficients = _transformed(_grid(luma))
    # Along 1 / spread is the shortest way to a given strength.
    lean = _BASIS.T @ (_SIGNS / _spread(coefficients)) @ _BASIS
    lean /= np.sqrt(np.square(lean).mean())
    gain = _weakest(luma, lean)
    mark = gain * _resized(lean, clean.size)
    marked = np.array(clean)
    for channel in range(3):  # one at a time: a picture may have 16 megapixels
        marked[..., channel] = np.clip(np.round(marked[..., channel] + mark), 0, 255)
    result = fromarray(marked)
    if strength(result) < SURE:
        log.warning("watermark: this picture cannot carry it: too much is pure black or white")
    return result


def strength(image: Image) -> float:
    """How strongly the mark is in a picture: 0 ± 1 without one, `SURE` and above with one."""
    return _strength(_luma(image))


def _weakest(luma: Floats, lean: Floats) -> float:
    """The smallest gain with which the mark holds; strength rises with it."""
    height, width = luma.shape
    scale = min(1.0, _LOOK / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    seen = luma if scale == 1 else _resized(luma, size)
    mark = _resized(lean, size)
    low, high = 0, len(_GAINS) - 1
    while low < high:
        middle = (low + high) // 2
        if _held(np.clip(np.round(seen + _GAINS[middle] * mark), 0, 255)) >= WANTED:
            high = middle
        else:
            low = middle + 1
    return float(_GAINS[high])


def _strength(luma: Floats) -> float:
    coefficients = _transformed(_grid(luma))
    seen = np.clip(coefficients / _spread(coefficients), -_CLIP, _CLIP) * _BAND
    size = float(np.sqrt(np.square(seen).sum()))
    return float((seen * _SIGNS).sum()) / size if size > 1e-6 else 0.0  # of one colour


def _held(luma: Floats) -> float:
    """Strength of what is left as it is and after scaling to half and JPEG, whichever is less."""
    height, width = luma.shape
    small = _resized(luma, (max(1, width // 2), max(1, height // 2)))
    return min(_strength(luma), _strength(_as_jpeg(small)))


def _as_jpeg(luma: Floats) -> Floats:
    """What JPEG at quality 75 leaves of brightness; an incomplete last block is left as it is."""
    height, width = (side // 8 * 8 for side in luma.shape)
    blocks = luma[:height, :width].reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2) - 128
    coarse = np.round(_BLOCK @ blocks @ _BLOCK.T / _STEPS) * _STEPS
    left = luma.copy()
    back = (_BLOCK.T @ coarse @ _BLOCK).swapaxes(1, 2).reshape(height, width)
    left[:height, :width] = np.clip(np.round(back + 128), 0, 255)
    return left


def _luma(image: Image) -> Floats:
    """(height, width) brightness after ITU-R BT.601, as JPEG has it."""
    return np.asarray(image.convert("RGB").convert("L"), np.float64)


def _grid(luma: Floats) -> Floats:
    return _resized(luma, (SIDE, SIDE))


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    """Scaled to (width, height) with what would fold over filtered away."""
    from PIL.Image import Resampling, fromarray

    picture = fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Resampling.BICUBIC), np.float64)


def _transformed(grid: Floats) -> Floats:
    return _BASIS @ grid @ _BASIS.T


def _spread(coefficients: Floats) -> Floats:
    """Ordinary size of the coefficients of each frequency: 1.48 times the median, and the floor."""
    found = np.ones_like(coefficients)
    for ring in _INDICES:
        ordinary = 1.4826 * float(np.median(np.abs(coefficients[ring])))
        found[ring] = np.hypot(ordinary, _FLOOR)
    return found


def _cosines(size: int) -> Floats:
    """(size, size) orthonormal DCT-II, a row a frequency."""
    k, x = np.arange(size)[:, None], np.arange(size)[None]
    rows = np.sqrt(2 / size) * np.cos(np.pi * (2 * x + 1) * k / (2 * size))
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


_BASIS, _BLOCK = _cosines(SIDE), _cosines(8)
_FREQUENCY = np.round(np.hypot(*np.meshgrid(np.arange(SIDE), np.arange(SIDE)))).astype(int)
_INDICES = [np.nonzero(np.equal(_FREQUENCY, ring)) for ring in _RINGS]
_BAND = np.isin(_FREQUENCY, _RINGS).astype(np.float64)
# A hash, not a generator: the key must be the same under every version of numpy.
_BITS = np.unpackbits(np.frombuffer(hashlib.shake_256(_KEY).digest(SIDE * SIDE // 8), np.uint8))
_SIGNS = (2.0 * _BITS.reshape(SIDE, SIDE) - 1.0) * _BAND
