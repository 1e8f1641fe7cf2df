"""The sample faces of portraits, painted by this program: nobody's likeness, so nobody's consent.

    python -m training.draw_faces --out assets/samples/faces

Eight faces that differ in what renderers stumble over: closed mouth, toothy smile, beard, glasses,
dark skin, old skin, a flat cartoon and a child's drawing. Soft shapes on a canvas of twice the
size: a lit ellipsoid for the head, hair and brows as single strokes. Same seed, same picture.
Knows nothing about finding or moving faces.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from adapters.files import replacing

SIDE = 640  # px of the finished picture
OVER = 2  # canvas pixels per picture pixel
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Look:
    """What one painted face looks like; colours 0..1, lengths in pixels of the picture."""

    skin: Colour = (0.86, 0.66, 0.54)
    hair: Colour = (0.27, 0.17, 0.10)
    iris: Colour = (0.33, 0.42, 0.36)
    lips: Colour = (0.70, 0.36, 0.34)
    cloth: Colour = (0.24, 0.33, 0.42)
    wall: Colour = (0.72, 0.75, 0.76)
    width: float = 116.0  # half width of the head
    long_hair: bool = True
    smile: float = 0.0
    teeth: bool = False
    beard: bool = False
    glasses: bool = False
    age: float = 0.0
    seed: int = 1


LOOKS = {
    "closed": Look(),
    "smile": Look(
        skin=(0.91, 0.74, 0.64), hair=(0.55, 0.33, 0.14), iris=(0.30, 0.42, 0.55), smile=1.0,
        teeth=True, cloth=(0.52, 0.22, 0.25), wall=(0.80, 0.77, 0.71), seed=2, width=114,
    ),
    "beard": Look(
        skin=(0.83, 0.62, 0.49), hair=(0.19, 0.13, 0.09), iris=(0.36, 0.24, 0.14), long_hair=False,
        beard=True, cloth=(0.30, 0.32, 0.26), wall=(0.62, 0.66, 0.68), seed=3, width=122,
    ),
    "glasses": Look(
        skin=(0.88, 0.70, 0.56), hair=(0.10, 0.09, 0.09), iris=(0.25, 0.16, 0.10), glasses=True,
        long_hair=False, cloth=(0.20, 0.22, 0.30), wall=(0.76, 0.73, 0.68), seed=4, width=117,
    ),
    "dark": Look(
        skin=(0.40, 0.25, 0.17), hair=(0.06, 0.05, 0.05), iris=(0.17, 0.10, 0.06),
        lips=(0.42, 0.20, 0.18), cloth=(0.78, 0.58, 0.24), wall=(0.55, 0.60, 0.60), seed=5,
        long_hair=False, width=117,
    ),
    "old": Look(
        skin=(0.84, 0.68, 0.59), hair=(0.80, 0.79, 0.77), iris=(0.42, 0.50, 0.55),
        lips=(0.66, 0.42, 0.39), cloth=(0.36, 0.30, 0.36), wall=(0.66, 0.64, 0.60), age=1.0,
        seed=6, long_hair=False, width=115,
    ),
}  # fmt: skip


class Canvas:
    """A float picture (H, W, 3) 0..1 at twice the size, painted on with soft masks."""

    def __init__(self, colour: Colour) -> None:
        size = SIDE * OVER
        self.pixels = np.empty((size, size, 3), np.float32)
        self.pixels[:] = colour
        self.y, self.x = np.mgrid[0:size, 0:size].astype(np.float32) / OVER

    def mask(self, points: Points, soft: float = 0.0, *, smooth: bool = True) -> np.ndarray:
        """Inside of a closed outline, 0..1, blurred by `soft` pixels."""
        image = Image.new("L", (SIDE * OVER, SIDE * OVER))
        outline = curve(points, closed=True) if smooth else points
        ImageDraw.Draw(image).polygon([(x * OVER, y * OVER) for x, y in outline], fill=255)
        return blurred(image, soft)

    def line(self, points: Points, width: float, soft: float = 0.0) -> np.ndarray:
        """A line through `points`, 0..1."""
        image = Image.new("L", (SIDE * OVER, SIDE * OVER))
        path = [(x * OVER, y * OVER) for x, y in curve(points)]
        ImageDraw.Draw(image).line(path, fill=255, width=max(1, round(width * OVER)), joint="curve")
        return blurred(image, soft)

    def blob(self, x: float, y: float, wide: float, high: float) -> np.ndarray:
        """A Gaussian spot, 1 in its middle."""
        return np.exp(-(((self.x - x) / wide) ** 2 + ((self.y - y) / high) ** 2) / 2)

    def paint(self, mask: np.ndarray, colour: Sequence[float] | np.ndarray, by: float = 1) -> None:
        """Lay a colour (or a picture) over what is there."""
        share = (mask * by)[..., None]
        self.pixels += share * (np.asarray(colour, np.float32) - self.pixels)

    def shade(self, mask: np.ndarray, factor: Sequence[float] | float) -> None:
        """Multiply: a shadow (below 1) or a light (above 1)."""
        self.pixels *= 1 + mask[..., None] * (np.asarray(factor, np.float32) - 1)

    def strokes(
        self, starts: np.ndarray, ends: np.ndarray, colour: Colour, width: float,
        rng: np.random.Generator, spread: float = 0.25,
    ) -> None:  # fmt: skip
        """Hairs: one line each, (N, 2) to (N, 2), of slightly different lightness."""
        tone = rng.uniform(1 - spread, 1 + spread, len(starts))
        for level in np.array_split(np.argsort(tone), 6):
            image = Image.new("L", (SIDE * OVER, SIDE * OVER))
            draw = ImageDraw.Draw(image)
            for i in level:
                path = [*(starts[i] * OVER), *(ends[i] * OVER)]
                draw.line(path, fill=200, width=max(1, round(width * OVER)))
            factor = float(tone[level].mean())
            self.paint(blurred(image, 0.4), np.clip(np.array(colour) * factor, 0, 1))

    def image(self) -> Image.Image:
        """The finished picture."""
        whole = Image.fromarray((self.pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        return whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def blurred(image: Image.Image, soft: float) -> np.ndarray:
    """A mask picture as float 0..1 after a Gaussian of `soft` pixels."""
    if soft:
        image = image.filter(ImageFilter.GaussianBlur(soft * OVER))
    return np.asarray(image, np.float32) / 255


def curve(points: Points, *, closed: bool = False, each: int = 12) -> list[tuple[float, float]]:
    """Catmull-Rom spline through the points."""
    p = np.asarray(points, float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, each, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        parts.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                   + (3 * b - a - 3 * c + d) * t**3)
        )  # fmt: skip
    if not closed:
        parts.append(p[-1:])
    return [(float(x), float(y)) for x, y in np.vstack(parts)]


def grain(shape: tuple[int, int], soft: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit spread."""
    noise = np.clip(128 + 60 * rng.standard_normal(shape), 0, 255).astype(np.uint8)
    out = blurred(Image.fromarray(noise), soft)
    return (out - out.mean()) / out.std()


def paint(look: Look) -> Image.Image:
    """One painted face, 640 x 640, upright, frontal, eyes 112 px apart."""
    rng = np.random.default_rng(look.seed)
    c = Canvas(look.wall)
    c.shade(c.blob(320, 250, 300, 300), 1.12)
    w, top, chin = look.width, 142.0, 462.0
    head = head_outline(w, top, chin)
    if look.long_hair:
        back = [(320, 88), (200, 130), (168, 250), (162, 380), (176, 505), (250, 520), (390, 520),
                (464, 505), (478, 380), (472, 250), (440, 130)]  # fmt: skip
        hair_mass(c, back, look, rng, 700)
    bust(c, look)
    for side in (-1, 1):
        ear = [(320 + side * (w - 6), 285), (320 + side * (w + 17), 278),
               (320 + side * (w + 15), 330), (320 + side * (w - 2), 352)]  # fmt: skip
        c.paint(c.mask(ear, 1), np.array(look.skin) * 0.86)
        c.shade(c.blob(320 + side * (w + 6), 312, 6, 18), (0.8, 0.72, 0.7))
    skin(c, head, look, rng)
    features(c, look, rng)
    if look.age:
        wrinkles(c, look.age)
    if look.beard:
        beard(c, look, rng)
    front_hair(c, look, rng)
    if look.glasses:
        spectacles(c)
    c.pixels += 0.006 * rng.standard_normal(c.pixels.shape).astype(np.float32)
    return c.image()


def head_outline(w: float, top: float, chin: float) -> list[tuple[float, float]]:
    """Outline of the head, clockwise from the crown."""
    half = [(0, top), (0.55 * w, top + 16), (0.9 * w, top + 62), (w, top + 125), (0.99 * w, 330),
            (0.88 * w, 385), (0.66 * w, 428), (0.36 * w, 455), (0.13 * w, chin + 3),
            (0, chin + 4)]  # fmt: skip
    right = [(320 + x, y) for x, y in half]
    return right + [(320 - x, y) for x, y in half[-2:0:-1]]


def bust(c: Canvas, look: Look) -> None:
    """Neck with the shadow of the chin, and shoulders."""
    skin_tone = np.array(look.skin)
    neck = [(256, 380), (258, 470), (236, 530), (320, 600), (404, 530), (382, 470), (384, 380)]
    c.paint(c.mask(neck, 1.5), skin_tone * 0.9)
    c.shade(c.mask(neck, 1.5) * c.blob(320, 452, 90, 34), (0.66, 0.6, 0.58))
    cloth = [(60, 700), (92, 585), (190, 540), (248, 520), (285, 568), (320, 582), (355, 568),
             (392, 520), (450, 540), (548, 585), (580, 700)]  # fmt: skip
    c.paint(c.mask(cloth, 1), look.cloth)
    c.shade(c.mask(cloth, 1) * c.blob(470, 640, 120, 90), 0.75)
    c.shade(c.line([(248, 522), (285, 570), (320, 584), (355, 570), (392, 522)], 5, 2), 0.72)


def skin(c: Canvas, head: Points, look: Look, rng: np.random.Generator) -> None:
    """The head as a lit ellipsoid with the soft forms of brow, cheek, nose and chin."""
    mask = c.mask(head, 1.2)
    u, v = (c.x - 320) / (look.width * 1.12), (c.y - 305) / 190
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0.02, 1))
    light = 0.70 + 0.40 * np.clip(-0.34 * u - 0.36 * v + 0.87 * depth, 0, 1)
    tone = np.array(look.skin, np.float32)
    face = light[..., None] * tone
    # skin is redder where it turns from the light
    face *= 1 + (1 - light)[..., None] * np.array([0.16, -0.06, -0.1], np.float32)
    rough = 0.010 + 0.012 * look.age
    face *= 1 + rough * (grain(mask.shape, 1.2, rng) + grain(mask.shape, 6, rng))[..., None]
    c.paint(mask, face)
    c.shade(mask * c.blob(320, 205, 70, 34), 1.07)
    for side in (-1, 1):
        c.shade(mask * c.blob(320 + side * 58, 284, 34, 20), (0.86, 0.80, 0.79))  # sockets
        c.shade(mask * c.blob(320 + side * 66, 350, 34, 24), (1.05, 0.95, 0.93))  # cheeks
        c.shade(mask * c.blob(320 + side * 62, 334, 22, 13), 1.06)
        c.shade(mask * c.blob(320 + side * 92, 396, 22, 44), 0.90)
        c.shade(mask * c.blob(320 + side * 23, 318, 8, 34), (0.93, 0.88, 0.87))  # sides of nose
        c.shade(mask * c.blob(320 + side * 24, 361, 8, 9), (0.90, 0.83, 0.81))  # wings
        c.shade(
            c.line([(320 + side * 17, 371), (320 + side * 27, 366), (320 + side * 31, 354)], 3, 2),
            (0.74, 0.62, 0.6),
        )
        nostril = [(320 + side * 6, 374), (320 + side * 17, 371), (320 + side * 18, 376)]
        c.shade(c.mask(nostril, 1.5),
                (0.42, 0.30, 0.28))  # fmt: skip
    c.shade(mask * c.blob(320, 318, 7, 44), 1.09)
    c.shade(mask * c.blob(316, 354, 9, 8), 1.13)
    c.shade(mask * c.blob(320, 378, 22, 5), (0.80, 0.72, 0.7))
    c.shade(mask * c.blob(320, 389, 4, 8), 0.94)
    c.shade(mask * c.blob(320, 432, 24, 7), (0.88, 0.82, 0.8))
    c.shade(mask * c.blob(318, 448, 20, 11), 1.06)


def features(c: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Eyes, brows and mouth."""
    for side in (-1, 1):
        eye(c, 320 + side * 56, 288, side, look, rng)
        t = np.sort(rng.uniform(0, 1, 260))
        x = 320 + side * (24 + 66 * t)
        arch = 256 - 13 * np.sin(np.pi * (0.15 + 0.72 * t)) + 3 * t
        start = np.stack([x, arch + rng.normal(0, 3.4 - 2.0 * t)], 1)
        reach = np.stack([side * (2.5 + 7 * t), -6 + 8 * t], 1)
        colour = tuple(np.array(look.hair) * 0.85 + 0.1 * np.array(look.skin))
        c.strokes(start, start + reach, colour, 0.9, rng)
    mouth(c, look)


def eye(c: Canvas, x: float, y: float, side: int, look: Look, rng: np.random.Generator) -> None:
    """One eye, 50 px wide; `side` 1 is the image's right."""
    sag = 3.0 * look.age
    upper = [(-26, 4), (-16, -7), (0, -11.5 + sag), (14, -8.5 + sag), (26, 1)]
    lower = [(26, 1), (15, 8), (0, 10.5), (-14, 9), (-26, 4)]
    if side < 0:
        upper, lower = [(-a, b) for a, b in upper], [(-a, b) for a, b in lower]
    lid = [(x + a, y + b) for a, b in upper]
    low = [(x + a, y + b) for a, b in lower]
    hole = c.mask(curve(lid)[:-1] + curve(low)[:-1], 0.4, smooth=False)
    white = 0.90 - 0.05 * look.age
    c.paint(hole, (white, white * 0.97, white * 0.95))
    c.shade(hole * c.blob(x, y - 13, 40, 7), 0.62)
    c.shade(hole * (c.blob(x - 27, y, 8, 14) + c.blob(x + 27, y, 8, 14)).clip(0, 1),
            (0.82, 0.7, 0.68))  # fmt: skip
    dx, dy = c.x - x, c.y - (y - 1)
    radius = np.hypot(dx, dy)
    disc = np.clip((12.4 - radius) / 1.2, 0, 1) * hole
    rays = 1 + 0.16 * np.sin(17 * np.arctan2(dy, dx) + 2 * rng.uniform(0, 6)) * (radius > 5)
    tint = np.array(look.iris, np.float32) * (1.25 - 0.05 * radius)[..., None] * rays[..., None]
    c.paint(disc, tint.clip(0.02, 1))
    c.paint(disc * np.clip((radius - 9.6) / 2.4, 0, 1), np.array(look.iris) * 0.35, 0.8)
    c.paint(np.clip((5.2 - radius) / 1.0, 0, 1) * hole, (0.03, 0.025, 0.025))
    c.shade(disc * c.blob(x, y - 12, 30, 5), 0.55)
    c.paint(c.blob(x - 4, y - 5, 1.7, 1.7).clip(0, 1) * hole, (1, 1, 1), 0.95)
    dark = np.array(look.skin) * 0.25
    c.paint(c.line(lid, 2.6, 0.6), dark, 0.95)
    c.paint(c.line(low, 1.1, 0.7), np.array(look.skin) * 0.5, 0.55)
    crease = [(x + (a - x) * 1.06, b - 7.5 + abs(a - x) * 0.10) for a, b in lid]
    c.shade(c.line(crease, 2.0, 1.2), (0.66, 0.56, 0.54))
    bag = [(x - 22, y + 17), (x, y + 22), (x + 20, y + 17)]
    c.shade(c.line(bag, 3, 2.5), 1 - 0.09 - 0.2 * look.age)
    t = rng.uniform(0.12, 0.98, 34)
    along = np.array(curve(lid))
    roots = along[(t * (len(along) - 1)).astype(int)]
    lean = (roots[:, 0] - x) / 26
    tips = roots + np.stack([lean * 4.5, -4.5 - 1.5 * np.abs(lean)], 1)
    c.strokes(roots, tips, tuple(dark * 0.6), 0.7, rng, 0.1)


def mouth(c: Canvas, look: Look) -> None:
    """Lips; with `teeth` parted over the upper row."""
    s, gap = look.smile, 13.0 if look.teeth else 0.0
    half = 43 + 9 * s
    corner = 407 - 6 * s
    middle = 408 + 1.5 * s
    top = [(-half, corner), (-half * 0.5, 401 - 1 * s), (-9, 397.5), (0, 400), (9, 397.5),
           (half * 0.5, 401 - 1 * s), (half, corner)]  # fmt: skip
    seam_up = [(half, corner), (half * 0.5, middle - 0.5), (12, middle), (0, middle + 1.8),
               (-12, middle), (-half * 0.5, middle - 0.5), (-half, corner)]  # fmt: skip
    seam_low = [(half, corner), (half * 0.55, middle + gap * 0.8), (0, middle + gap + 1),
                (-half * 0.55, middle + gap * 0.8), (-half, corner)]  # fmt: skip
    bottom = [(-half, corner), (-half * 0.55, 417 + gap * 0.8), (0, 424 + gap * 0.95),
              (half * 0.55, 417 + gap * 0.8), (half, corner)]  # fmt: skip

    def at(points: Points) -> list[tuple[float, float]]:
        return [(320 + a, b) for a, b in points]

    lips = np.array(look.lips)
    upper = c.mask(curve(at(top)) + curve(at(seam_up)), 1.0, smooth=False)
    low_edge = at(seam_low)[::-1]
    lower = c.mask(curve(low_edge) + curve(at(bottom))[::-1], 1.0, smooth=False)
    rough = 1 + 0.03 * np.sin(c.x * 1.9)[..., None]
    c.paint(upper, lips * 0.82 * rough, 0.9)
    c.paint(lower, lips * rough, 0.9)
    c.shade(lower * c.blob(318, 415 + gap, 22, 3.5), 1.22)
    if look.teeth:
        inside = c.mask(curve(at(seam_up)) + curve(low_edge), 0.7, smooth=False)
        c.paint(inside, (0.22, 0.07, 0.07))
        teeth = inside * np.clip((middle + gap * 0.86 - 0.003 * (c.x - 320) ** 2 - c.y) / 1.2, 0, 1)
        arch = 0.93 - 0.00017 * (c.x - 320) ** 2
        c.paint(teeth, arch[..., None] * np.array([1.0, 0.97, 0.92], np.float32))
        for edge in (0, 11, 20.5, 29.5, 37, 43):
            for sign in (-1, 1):
                c.shade(teeth * c.blob(320 + sign * edge, middle + 5, 0.7, 9), 0.72)
        c.shade(inside * c.blob(320, middle - 1, 60, 3), 0.7)
    else:
        c.paint(c.line(at(seam_up), 2.0, 0.7), lips * 0.32, 0.85)
    for side in (-1, 1):
        c.shade(c.blob(320 + side * (half + 2), corner, 5, 5), (0.72, 0.63, 0.62))
        if s:
            fold = [(320 + side * 34, 358), (320 + side * 55, 380), (320 + side * 66, 408)]
            c.shade(c.line(fold, 3.0, 2.4), (0.74, 0.66, 0.65))


def wrinkles(c: Canvas, age: float) -> None:
    """Forehead lines, crow's feet, folds and bags, each with a light ridge below its dark."""
    lines: list[list[tuple[float, float]]] = [
        [(262, 196 + 17 * i), (320, 190 + 17 * i), (378, 197 + 17 * i)] for i in range(3)
    ]
    for side in (-1, 1):
        lines += [
            [(320 + side * 33, 362), (320 + side * 52, 385), (320 + side * 57, 418)],
            [(320 + side * 52, 420), (320 + side * 58, 436), (320 + side * 55, 448)],
            [(320 + side * 8, 240), (320 + side * 9, 252), (320 + side * 7, 262)],
            [(320 + side * 34, 306), (320 + side * 56, 314), (320 + side * 80, 306)],
        ]
        for i in (-1, 0, 1):
            lines.append([(320 + side * 86, 290 + 5 * i), (320 + side * 102, 288 + 11 * i)])
    for path in lines:
        c.shade(c.line(path, 1.8, 0.9), 1 - 0.30 * age)
        c.shade(c.line([(x, y + 3) for x, y in path], 2.0, 1.3), 1 + 0.07 * age)


def beard(c: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Full beard and moustache, stroke by stroke, leaving the lips free."""
    count = 5200
    x = rng.uniform(-118, 118, count)
    y = rng.uniform(330, 476, count)
    jaw = 320 + 142 * np.sqrt(np.clip(1 - (x / 127) ** 2, 0, 1))
    cheek = 408 - 0.0052 * x**2 - 28 * (np.abs(x) > 78) * (np.abs(x) - 78) / 40
    lips = (np.abs(x) / 52) ** 2 + ((y - 410) / 20) ** 2 < 1
    moustache = (np.abs(x) < 60) & (y > 383 + 0.0022 * x**2) & (y < 402 + 0.006 * x**2)
    keep = (((y > cheek) & (y < jaw + 10)) | moustache) & ~(lips & ~moustache)
    keep &= ~((np.abs(x) < 38) & (y > 397 + 0.0035 * x**2) & (y < 427 - 0.006 * x**2))
    start = np.stack([320 + x, y], 1)[keep]
    length = rng.uniform(6, 12, keep.sum())
    lean = x[keep] / 130 + rng.normal(0, 0.22, keep.sum())
    on_lip = moustache[keep]
    lean = np.where(on_lip, np.sign(x[keep]) * 0.9, lean)
    length = np.where(on_lip, length * 0.75, length)
    end = start + np.stack([np.sin(lean), np.cos(lean)], 1) * length[:, None]
    c.strokes(start, end, look.hair, 0.9, rng, 0.45)


def hair_mass(c: Canvas, outline: Points, look: Look, rng: np.random.Generator, count: int) -> None:
    """A dark shape with lighter strokes that follow it downwards."""
    mask = c.mask(outline, 2.0)
    c.paint(mask, np.array(look.hair) * 0.75)
    x, y = rng.uniform(160, 480, count * 3), rng.uniform(90, 500, count * 3)
    inside = mask[(y * OVER).astype(int), (x * OVER).astype(int)] > 0.9
    start = np.stack([x, y], 1)[inside]
    out = (start[:, 0] - 320) / 320
    end = start + np.stack([out * 14, np.full(len(start), 30.0)], 1)
    c.strokes(start, end, look.hair, 0.9, rng, 0.35)


def front_hair(c: Canvas, look: Look, rng: np.random.Generator) -> None:
    """The hair over the forehead: parted when long, a short cap otherwise."""
    w = look.width
    if look.long_hair:
        for side in (-1, 1):
            lock = [(320 - side * 26, 128), (320 - side * 14, 152), (320 + side * 56, 176),
                    (320 + side * (w - 14), 232), (320 + side * (w - 2), 330),
                    (320 + side * (w + 6), 420), (320 + side * (w + 36), 420),
                    (320 + side * (w + 34), 240), (320 + side * 90, 118),
                    (320 + side * 20, 92)]  # fmt: skip
            hair_mass(c, lock, look, rng, 500)
        return
    high = 150 if look.age else 172  # the hairline goes back with age
    cap = [(320 - w - 3, 272), (320 - w - 6, 200), (320 - 80, 122), (320, 104), (400, 122),
           (320 + w + 6, 200), (320 + w + 3, 272), (320 + w - 9, 236), (320 + w - 22, high + 28),
           (320 + 42, high), (320 - 30, high + 3), (320 - w + 22, high + 28),
           (320 - w + 9, 236)]  # fmt: skip
    mask = c.mask(cap, 2.5)
    c.paint(mask, np.array(look.hair) * 0.8)
    count = 2600
    angle = rng.uniform(-1.35, 1.35, count)
    along = rng.uniform(0, 1, count)
    start = np.stack(
        [320 + (w + 2) * np.sin(angle) * (0.75 + 0.27 * along),
         305 - (195 * (0.76 + 0.25 * along)) * np.cos(angle)], 1)  # fmt: skip
    inside = mask[(start[:, 1] * OVER).astype(int), (start[:, 0] * OVER).astype(int)] > 0.6
    start = start[inside]
    comb = np.stack([9 + 6 * rng.standard_normal(len(start)), rng.uniform(2, 14, len(start))], 1)
    c.strokes(start, start + comb, look.hair, 0.9, rng, 0.4)


def spectacles(c: Canvas) -> None:
    """Dark round-square frames with a faint glare."""
    dark = (0.10, 0.09, 0.10)
    for side in (-1, 1):
        x = 320 + side * 56
        rim = [(x - 42, 268), (x, 262), (x + 42, 268), (x + 43, 300), (x + 26, 322), (x - 26, 322),
               (x - 43, 300), (x - 42, 268), (x, 262)]  # fmt: skip
        glass = c.mask(rim[:-2], 1)
        c.paint(glass, (0.92, 0.96, 1.0), 0.05)
        c.shade(c.line([(a, b + 4) for a, b in rim], 4, 2), 0.86)
        c.paint(c.line(rim, 4.6, 0.5), dark)
        c.paint(c.line([(x + side * 43, 276), (320 + side * 122, 282)], 4, 0.5), dark)
        glare = [(x - 30, 300), (x - 14, 270), (x - 6, 269), (x - 24, 305)]
        c.paint(c.mask(glare, 1.5, smooth=False), (1, 1, 1), 0.10)
    c.paint(c.line([(306, 279), (320, 273), (334, 279)], 5, 0.5), dark)


def cartoon() -> Image.Image:
    """Flat colours, clean outlines, large eyes."""
    c = Canvas((0.55, 0.78, 0.86))
    ink, skin_tone, hair = (0.13, 0.09, 0.11), (0.98, 0.80, 0.66), (0.86, 0.36, 0.20)
    back = [(320, 88), (190, 130), (160, 260), (176, 420), (250, 470), (390, 470), (464, 420),
            (480, 260), (450, 130)]  # fmt: skip
    outlined(c, back, hair, ink)
    outlined(
        c, [(278, 420), (276, 500), (320, 560), (364, 500), (362, 420)], (0.92, 0.70, 0.56), ink
    )
    outlined(c, [(80, 720), (120, 570), (262, 505), (320, 556), (378, 505), (520, 570), (560, 720)],
             (0.30, 0.35, 0.68), ink)  # fmt: skip
    outlined(c, head_outline(122, 140, 468), skin_tone, ink)
    for side in (-1, 1):
        x = 320 + side * 56
        c.paint(c.blob(x + side * 14, 372, 17, 10).clip(0, 1), (0.97, 0.52, 0.45), 0.55)
        white = [
            (x - 27, 294),
            (x - 14, 270),
            (x + 12, 268),
            (x + 27, 290),
            (x + 14, 312),
            (x - 13, 313),
        ]
        outlined(c, white, (1, 1, 1), ink, 2.5)
        hole = c.mask(white)
        c.paint(c.mask(circle(x, 292, 15.5)) * hole, (0.22, 0.48, 0.42))
        c.paint(c.mask(circle(x, 292, 8.5)) * hole, (0.05, 0.05, 0.07))
        c.paint(c.mask(circle(x - 6, 285, 4.2)), (1, 1, 1))
        c.paint(c.line([(x - 29, 293), (x - 14, 269), (x + 12, 267), (x + 29, 289)], 5.5), ink)
        c.paint(c.line([(320 + side * 30, 246), (x + side * 4, 234), (320 + side * 90, 246)], 7.5),
                (0.52, 0.19, 0.11))  # fmt: skip
    c.paint(c.line([(324, 318), (331, 352), (316, 360)], 3.5), (0.72, 0.44, 0.36))
    lips = [(278, 412), (302, 404), (320, 407), (338, 404), (362, 412), (338, 425), (302, 425)]
    c.paint(c.mask(lips), (0.87, 0.42, 0.42))
    c.paint(c.line([(276, 411), (302, 413), (320, 415), (338, 413), (364, 411)], 3.5), ink)
    fringe = [(198, 262), (212, 168), (300, 104), (400, 118), (444, 190), (446, 262), (424, 208),
              (392, 180), (330, 206), (262, 188), (222, 214)]  # fmt: skip
    outlined(c, fringe, hair, ink)
    return c.image()


def child() -> Image.Image:
    """Wax crayon on paper: a wobbly round head, dots for pupils, one line for the mouth."""
    rng = np.random.default_rng(9)
    c = Canvas((0.97, 0.96, 0.92))
    tooth = np.clip(0.62 + 0.38 * grain(c.x.shape, 0.5, rng), 0.12, 1)  # paper shows through wax

    def wax(points: Points, colour: Colour, width: float = 5.5, *, closed: bool = False) -> None:
        for _ in range(2):
            shaken = [(x + rng.normal(0, 1.3), y + rng.normal(0, 1.3)) for x, y in points]
            path = [*shaken, shaken[0]] if closed else shaken
            c.paint(c.line(path, width, 0.5) * tooth, colour, 0.9)

    head = [(320 + 132 * np.sin(a), 302 - 158 * np.cos(a)) for a in np.linspace(0, 6.28, 15)[:-1]]
    fill = c.mask(head, 1)
    stripes = 0.55 + 0.45 * np.sin((c.x + 0.55 * c.y) * 0.75 + 1.5 * np.sin(c.y * 0.03))
    c.paint(fill * tooth * (0.55 + 0.45 * stripes), (0.98, 0.78, 0.62), 0.9)
    wax(
        [(60, 640), (120, 560), (270, 500), (370, 500), (520, 560), (580, 640)],
        (0.85, 0.2, 0.25),
        8,
    )
    body = c.mask([(70, 660), (125, 565), (270, 508), (370, 508), (515, 565), (570, 660)], 1)
    c.paint(body * tooth * stripes.clip(0.2, 1), (0.90, 0.30, 0.30), 0.85)
    wax([(288, 455), (286, 512)], (0.75, 0.45, 0.3))
    wax([(352, 455), (354, 512)], (0.75, 0.45, 0.3))
    for i in range(70):  # hair, one scribble after another
        a = -1.75 + 3.5 * i / 69
        x, y = 320 + 126 * np.sin(a), 296 - 152 * np.cos(a)
        out = 34 + rng.uniform(-10, 14)
        wax([(x - 14 * np.sin(a), y + 16 * np.cos(a)), (x + out * np.sin(a) + rng.normal(0, 6),
             y - out * np.cos(a))], (0.45, 0.26, 0.10), 5)  # fmt: skip
    wax(head, (0.70, 0.40, 0.26), closed=True)
    for side in (-1, 1):
        x = 320 + side * 54
        ring = [(x + 26 * np.cos(a), 284 + 17 * np.sin(a)) for a in np.linspace(0, 6.28, 10)[:-1]]
        c.paint(c.mask(ring, 0.5), (1, 1, 1), 0.9)
        wax(ring, (0.16, 0.16, 0.24), 4, closed=True)
        c.paint(c.mask(circle(x, 285, 11), 0.5) * tooth.clip(0.5, 1), (0.15, 0.32, 0.62))
        c.paint(c.mask(circle(x, 285, 5.5), 0.5), (0.07, 0.07, 0.1), 0.95)
        wax([(x - 28, 246), (x, 238), (x + 28, 246)], (0.42, 0.24, 0.10), 7)
        c.paint(c.blob(320 + side * 82, 358, 20, 16) * tooth, (0.96, 0.5, 0.5), 0.6)
    wax([(320, 300), (308, 352), (330, 358)], (0.72, 0.42, 0.28), 4.5)
    wax([(266, 402), (292, 413), (320, 417), (348, 413), (374, 402)], (0.80, 0.16, 0.18), 8)
    return c.image()


def outlined(c: Canvas, points: Points, fill: Colour, ink: Colour, width: float = 4.0) -> None:
    """A filled shape with an outline."""
    c.paint(c.mask(points), fill)
    ring = curve(points, closed=True)
    c.paint(c.line([*ring, ring[0]], width), ink)


def circle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """A round outline."""
    angles = np.linspace(0, 2 * np.pi, 13)[:-1]
    return [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]


def draw_all() -> dict[str, Image.Image]:
    """Every sample face by name, and `pair`, a group picture of two of them."""
    faces = {name: paint(look) for name, look in LOOKS.items()}
    faces["cartoon"] = cartoon()
    faces["child"] = child()
    return faces


def main(arguments: Sequence[str] | None = None) -> int:
    """Paint and write them as PNG."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    out = parser.parse_args(arguments).out
    for name, image in draw_all().items():
        # 256 colours would band the skin; a JPEG of quality 92 is a tenth of the PNG
        with replacing(out / f"{name}.jpg") as path:
            image.save(path, "JPEG", quality=92, subsampling=0, optimize=True)
        sys.stdout.write(f"{out / name}.jpg\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
