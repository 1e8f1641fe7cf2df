"""What the painter is told a picture shows: style, scene, colour, light and feeling, in few words.

A picture's stored caption ("a romantic painting of a stormy sea with waves and a ship, dark, muted
grey tones") is taken apart, each part is dropped now and then, the scene is sometimes said in other
words (so that "a harbour" works though every source caption says "boats on the water"), and a
feeling is added with the probability and the degree of the picture's soft label. Dropping parts is
what lets a person ask for any subset: a subject alone, a subject and a feeling, or all of it.

Knows no pixels and no model. The words used here are all the words the painter knows; they are
written beside its weights so that a prompt outside them can be answered honestly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from adapters.emotion import CORE

# One adjective per core emotion, in the order of CORE.
FEELINGS = (
    "happy", "exciting", "amusing", "peaceful", "loving", "sublime",
    "surprising", "angry", "disgusting", "fearful", "sad", "boring",
)  # fmt: skip
DEGREES = ("slightly ", "", "very ")

# Other ways to say the scenes of the source captions; the first is the source's own.
SCENES: dict[str, tuple[str, ...]] = {
    "a forest path with bare trees": ("a bare forest", "bare trees by a path", "a winter forest"),
    "a forest with trees": ("a forest", "woods", "trees in a forest"),
    "dark green trees": ("dark trees", "a dark forest", "dark woods"),
    "a pond with water lilies": ("water lilies", "a pond", "a pond with flowers"),
    "a sunny garden with trees": ("a sunny garden", "a garden", "a park in the sun"),
    "colourful flowers and autumn trees": ("autumn trees", "a colourful garden", "autumn leaves"),
    "a dark empty interior with doors and stairs": (
        "an empty room", "a dark room", "a dark hall", "an empty house", "stairs in a dark house",
    ),
    "people in a dark interior": ("people in a dark room", "a dark room with people"),
    "a countryside with trees and houses": ("a countryside", "houses and trees", "a farm"),
    "a meadow with trees": ("a meadow", "trees in a meadow", "a field with trees"),
    "a pale misty park": ("a misty park", "a pale park in the mist", "a park in the fog"),
    "a quiet plain under a wide sky": ("a quiet plain", "a plain", "a wide plain"),
    "a reddish evening landscape": ("a red evening", "a red landscape", "an evening landscape"),
    "a wide landscape under a cloudy sky": (
        "a wide landscape", "a landscape under clouds", "a cloudy landscape",
    ),
    "a wide open sky over a plain": ("a wide sky", "an open sky", "the sky over a plain"),
    "an autumn or winter field": ("an autumn field", "a winter field", "a field in winter"),
    "fields and cypress trees with vivid brush strokes": (
        "fields and cypress trees", "cypress trees", "vivid fields",
    ),
    "green fields": ("fields", "a green field", "grass"),
    "hills in vivid colours": ("hills", "vivid hills", "hills in many colours"),
    "trees at sunset": ("a sunset", "trees in the evening", "a sunset behind trees", "dusk"),
    "trees by a lake": ("a lake", "a lake with trees", "a mountain lake", "the shore of a lake"),
    "a dark scene with arches and warm light": ("dark arches", "arches in warm light", "ruins"),
    "a dark stormy landscape": (
        "a stormy landscape", "a storm", "a dark storm", "a night landscape",
    ),
    "a dreamlike hazy scene": ("a dream", "a hazy dream", "a hazy scene"),
    "a misty pale landscape": ("a misty landscape", "mist", "fog", "a landscape in the fog"),
    "a mountain range": ("mountains", "a range of mountains", "a mountain"),
    "a mountain valley with a river": (
        "a mountain river", "a valley", "a river in a valley", "a river", "a mountain lake",
    ),
    "mountains in vivid light": ("vivid mountains", "mountains", "mountains in the light"),
    "snowy mountains": ("mountains with snow", "a snowy mountain", "snow", "mountains"),
    "a bare coastal landscape": ("a bare coast", "a coast", "a beach"),
    "a rocky coast and sea cliffs": ("a rocky coast", "sea cliffs", "cliffs by the sea", "a cliff"),
    "a stormy sea with waves and a ship": (
        "a stormy sea", "a ship in a storm", "waves and a ship", "waves against a cliff",
    ),
    "boats on the water": ("boats", "a boat", "a harbour", "boats in a harbour"),
    "sea waves under clouds": ("waves", "the sea", "sea waves", "the ocean"),
    "ships on a calm sea": ("a calm sea", "ships", "a ship", "a ship on the sea"),
    "a still life with fruit and crockery": ("a still life", "fruit", "fruit on a table"),
    "a still life with fruit and flowers": ("fruit and flowers", "a still life with flowers"),
    "a vase of flowers": ("flowers in a vase", "flowers", "a bouquet of flowers"),
    "a busy city street": ("a city street", "a street", "a busy street", "a city"),
    "a city square with a canal and palaces": ("a canal", "palaces by a canal", "a city square"),
    "a village with houses": ("a village", "houses", "a village street", "a house"),
    "buildings in a town": ("buildings", "a town", "a town street", "a building", "a church"),
    "daisies": ("a daisy", "flowers", "white flowers"),
    "dandelions": ("a dandelion", "flowers", "yellow flowers"),
    "roses": ("a rose", "flowers", "a bunch of roses"),
    "sunflowers": ("a sunflower", "flowers", "large yellow flowers"),
    "tulips": ("a tulip", "flowers", "a field of tulips"),
}  # fmt: skip

_PREFIX = re.compile(r"^(an? (?:[\w-]+ )*?(?:painting|photo|scene)) of (?:a scene, )?")


def parts(caption: str) -> tuple[str, str, list[str]]:
    """Split a stored caption into medium ("a baroque painting"), scene and colour phrases."""
    found = _PREFIX.match(caption)
    medium = found.group(1) if found else ""
    rest = caption[found.end() :] if found else caption
    scene, *colours = [part.strip() for part in rest.split(",")]
    return medium, scene, [colour for colour in colours if colour]


def feeling_grades(soft: np.ndarray) -> np.ndarray:
    """Grade every label among its own emotion's: soft (n, 13) -> int (n, 12), 0 slight .. 2 very.

    Degrees are relative because the labels' scale differs from emotion to emotion (there is no
    picture of full anger among landscapes): the strongest third of those that have any is "very".
    """
    grades = np.zeros((len(soft), len(CORE)), dtype=np.int64)
    for column in range(len(CORE)):
        values = soft[:, column + 1]
        having = values > 0.08
        if having.sum() >= 3:
            low, high = np.quantile(values[having], [1 / 3, 2 / 3])
            grades[:, column] = (values > low).astype(int) + (values > high)
    return grades


def tell(caption: str, soft: np.ndarray, grades: np.ndarray, generator: torch.Generator) -> str:
    """Return one random telling of a picture; soft (13,), grades (12,) of that picture."""
    draws = torch.rand(8, generator=generator).tolist()
    if draws[0] < 0.1:
        return ""  # the unconditional branch of classifier-free guidance
    medium, scene, colours = parts(caption)
    others = SCENES.get(scene, ())
    if others and draws[1] < 0.6:
        scene = others[int(draws[2] * len(others))]
    text = f"{medium} of {scene}" if medium and draws[3] < 0.5 else scene
    told = [text]
    if draws[4] < 0.5:
        told += colours
    elif draws[4] < 0.65 and colours:
        told.append(colours[int(draws[5] * len(colours))])
    if draws[6] < 0.65:
        feeling = _draw(soft[1:], draws[7])
        if feeling is not None:
            told.append(DEGREES[grades[feeling]] + FEELINGS[feeling])
    return ", ".join(told)


def _draw(weights: np.ndarray, draw: float) -> int | None:
    """Draw an emotion in proportion to its soft label; none when the picture is nearly neutral."""
    weights = np.where(weights > 0.08, weights, 0.0)
    if weights.sum() < 0.15:
        return None
    return int(np.searchsorted(np.cumsum(weights) / weights.sum(), draw))


def words(captions: Sequence[str]) -> list[str]:
    """List every word the painter can be told, sorted: source words, other tellings, feelings."""
    said = [*captions, *FEELINGS, *DEGREES, *(way for ways in SCENES.values() for way in ways)]
    return sorted({word for text in said for word in re.findall(r"[a-z0-9-]+", text.lower())})
