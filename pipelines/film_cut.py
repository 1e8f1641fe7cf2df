"""The pictures of a film: shots one after the other, brought to one size and rate, with titles.

A shot is a still that a camera moves over or a clip that was made or brought. `frames` yields the
whole film picture by picture and never holds more than two of them: a shot that dissolves into the
next goes on under it. What is smaller is enlarged by Lanczos, what has another shape is cropped;
what people brought is framed in black where cropping would lose a third, what a model made for the
film fills it. A clip at fewer pictures a second is blended.

It deliberately does not know where the shots come from nor what they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

MOST_CROPPED = 0.34  # share of a picture that is cut off for the film's shape before it is framed
BLENDED = 0.75  # of the film's rate: clips under it are blended, others shown frame by frame
TITLE_FADE = 0.35  # s
TITLE_WIDTH = 0.84  # share of the film's width that a line of a title fills at most
TITLE_EDGE = 0.09  # share of the height between a title at the top or bottom and the edge
_AUTO = (
    (0.25, "push"),
    (-0.25, "sway"),
    (-1.0, "pull"),
)  # by arousal: how a still moves unless told


@dataclass(frozen=True, slots=True)
class Material:
    """What a shot shows. path: a picture or a film. still: kinds of pipelines.camera, "" for films.

    tempo: (frames,) arousal of a still, more than the shot has where it dissolves. begin: s into a
    film. seed: of the camera. fills: it was made for this film, so it is cropped and never framed.
    """

    path: Path
    still: str
    tempo: Floats
    begin: float
    seed: int
    fills: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """A shot on the time line, in frames. transition: as in the scene; over: frames it takes."""

    material: Material
    first: int
    count: int
    transition: str
    over: int


@dataclass(frozen=True, slots=True)
class Words:
    """A title: first frame, frames, place ("top", "centre", "bottom"), share of the height."""

    text: str
    first: int
    count: int
    place: str
    size: float


def frames(
    shots: Sequence[Shown],
    titles: Sequence[Words],
    *,
    size: tuple[int, int],
    fps: int,
    fade_out: int = 0,
    seen: Callable[[int, Frames], None] | None = None,
    look: Callable[[], None] | None = None,
) -> Iterator[Frames]:
    """Yield the film, (H, W, 3) uint8 a frame.

    size: width, height. fade_out: frames in which it ends in black. seen: is shown every frame
    before titles are written over it. look: is called for every frame of a clip that is read, so
    that who stops need not wait until a long one was skipped.
    """
    total = sum(shot.count for shot in shots)
    layers: dict[int, NDArray[np.float32]] = {}  # of the titles that are seen just now
    leaving: Iterator[Frames] | None = None
    for index, shot in enumerate(shots):
        follow = shots[index + 1] if index + 1 < len(shots) else None
        beyond = follow.over if follow is not None and follow.transition == "dissolve" else 0
        pictures = material_frames(shot.material, shot.count + beyond, size, fps, look)
        for i in range(shot.count):
            pixels = next(pictures)
            share = _come(i, shot.over) if shot.transition != "cut" else 1.0
            if share < 1 and shot.transition == "dissolve" and leaving is not None:
                pixels = _blend(next(leaving), pixels, share)
            elif share < 1:
                pixels = _dimmed(pixels, share)
            if follow is not None and follow.transition == "black":
                pixels = _dimmed(pixels, _come(shot.count - 1 - i, follow.over))
            at = shot.first + i
            if fade_out:
                pixels = _dimmed(pixels, _come(total - 1 - at, fade_out))
            if seen is not None:
                seen(at, pixels)
            for number, title in enumerate(titles):
                if not title.first <= at < title.first + title.count:
                    layers.pop(number, None)
                    continue
                if number not in layers:
                    layers[number] = drawn(title.text, size, title.place, title.size)
                pixels = _with_title(pixels, layers[number], at - title.first, title.count, fps)
            yield pixels
        leaving = pictures if beyond else None


def material_frames(
    material: Material,
    count: int,
    size: tuple[int, int],
    fps: int,
    look: Callable[[], None] | None = None,
) -> Iterator[Frames]:
    """Yield `count` frames of a picture or film at the film's size and rate."""
    if material.still:
        yield from _still(material, count, size, fps)
        return
    from pipelines.media_video import decode_frames, probe_video

    rate = probe_video(material.path).fps
    clip = _watched(decode_frames(material.path, begin=material.begin), look)
    yield from (
        fitted(pixels, size, fills=material.fills)
        for pixels in _timed(clip, count, material.begin, fps, rate)
    )


def _watched(
    clip: Iterator[tuple[float, Frames]], look: Callable[[], None] | None
) -> Iterator[tuple[float, Frames]]:
    for one in clip:
        if look is not None:
            look()
        yield one


def _timed(
    clip: Iterator[tuple[float, Frames]], count: int, begin: float, fps: int, rate: float
) -> Iterator[Frames]:
    """Pictures of a clip at the times of the film; the last one is held where it ends before."""
    before = after = next(clip)
    blended = rate < BLENDED * fps
    for i in range(count):
        at = begin + i / fps
        # Half a frame of the film: a clip of the same rate must not be shown one frame late.
        while after[0] <= at + (0.0 if blended else 0.5 / fps):
            before, found = after, next(clip, None)
            if found is None:
                after = (math.inf, after[1])
                break
            after = found
        if not blended or not math.isfinite(after[0]) or after[0] <= before[0]:
            yield before[1]
            continue
        share = min(max((at - before[0]) / (after[0] - before[0]), 0.0), 1.0)
        yield _blend(before[1], after[1], share)


def _still(material: Material, count: int, size: tuple[int, int], fps: int) -> Iterator[Frames]:
    """A picture that a camera moves over."""
    import torch

    from pipelines.camera import move
    from pipelines.media import load_image

    pixels = fitted(np.asarray(load_image(material.path)), size, fills=material.fills)
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    tempo = np.clip(np.resize(material.tempo, count), -1, 1)
    tempo[len(material.tempo) :] = tempo[min(len(material.tempo), count) - 1]
    kind = material.still
    if kind == "auto":
        kind = next(name for least, name in _AUTO if float(tempo.mean()) >= least)
    generator = torch.Generator().manual_seed(material.seed)
    moving = move(picture, count / fps, fps, kind=kind, tempo=tempo, generator=generator)
    for frame in moving:
        yield (frame.permute(1, 2, 0) * 255).round().byte().numpy()


# Size and shape ----------------------------------------------------------------------------------


def fitted(pixels: Frames, size: tuple[int, int], *, fills: bool = False) -> Frames:
    """A picture (H, W, 3) at the film's size: cropped, or framed where that would lose too much.

    fills: cropped whatever is lost.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    image = Image.fromarray(pixels)
    shares = size[0] / width, size[1] / height
    lost = 1 - min(shares) / max(shares)
    scale = max(shares) if fills or lost <= MOST_CROPPED else min(shares)
    near = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    if scale < max(shares):
        near = min(size[0], round(width * scale)), min(size[1], round(height * scale))
    image = image.resize(near, Image.Resampling.LANCZOS)
    left, top = (size[0] - near[0]) // 2, (size[1] - near[1]) // 2
    if scale == max(shares):
        return np.asarray(image.crop((-left, -top, size[0] - left, size[1] - top)))
    framed = Image.new("RGB", size)
    framed.paste(image, (left, top))
    return np.asarray(framed)


# Transitions -------------------------------------------------------------------------------------


def _come(i: int, over: int) -> float:
    """How far something has come in at its frame i of `over`: from just above 0 to 1, softly."""
    if i >= over:
        return 1.0
    share = (i + 1) / (over + 1)
    return share * share * (3 - 2 * share)


def _blend(one: Frames, other: Frames, share: float) -> Frames:
    """`share` of the second picture in the first."""
    weight = round(256 * share)
    mixed = one.astype(np.uint16) * (256 - weight) + other.astype(np.uint16) * weight
    return ((mixed + 128) >> 8).astype(np.uint8)


def _dimmed(pixels: Frames, share: float) -> Frames:
    """A picture with `share` of its light."""
    if share >= 1:
        return pixels
    return ((pixels.astype(np.uint16) * round(256 * share) + 128) >> 8).astype(np.uint8)


# Titles ------------------------------------------------------------------------------------------


def drawn(text: str, size: tuple[int, int], place: str, share: float) -> NDArray[np.float32]:
    """A title as (H, W, 2): white, and how much of the picture it covers, 0..1.

    Lines are broken at words; where a word alone is too wide, the letters become smaller.
    """
    width, height = size
    letters = max(8.0, share * height)
    room = TITLE_WIDTH * width
    longest = max(text.split(), key=len, default="")
    while letters > 8 and ImageFont.load_default(letters).getlength(longest) > room:
        letters *= 0.9
    font = ImageFont.load_default(letters)
    lines = [line for part in text.split("\n") for line in _broken(part, font, room)]
    ink = Image.new("L", size)
    draw = ImageDraw.Draw(ink)
    step = 1.25 * letters
    block = step * (len(lines) - 1)
    tops = {
        "top": TITLE_EDGE * height + letters / 2,
        "centre": (height - block) / 2,
        "bottom": height * (1 - TITLE_EDGE) - block - letters / 2,
    }
    for i, line in enumerate(lines):
        draw.text((width / 2, tops[place] + i * step), line, fill=255, font=font, anchor="mm")
    # A soft shadow, so that white words stand on a bright sky as well.
    shadow = ink.filter(ImageFilter.GaussianBlur(letters / 6))
    white = np.asarray(ink, dtype=np.float32) / 255
    dark = np.clip(np.asarray(shadow, dtype=np.float32) / 255 * 1.5, 0, 0.65)
    cover = 1 - (1 - white) * (1 - dark)
    return np.stack([white / np.maximum(cover, 1e-6), cover], axis=-1)


def _broken(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> list[str]:
    """A text in lines of at most `room` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _with_title(pixels: Frames, layer: NDArray[np.float32], i: int, count: int, fps: int) -> Frames:
    """A picture with a title over it, at the title's frame i of `count`."""
    over = min(round(TITLE_FADE * fps), count // 3)
    share = min(_come(i, over), _come(count - 1 - i, over))
    cover = layer[..., 1:] * share
    done = pixels.astype(np.float32) * (1 - cover) + 255 * layer[..., :1] * cover
    return np.asarray(np.rint(done), dtype=np.uint8)
