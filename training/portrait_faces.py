"""Made-up faces for the independent reader: published prototypes on another head than ours.

    facts/facs.json                          prototypes of EMFACS, variants and shares of Du et al.
    data/ict_arkit_basis_mp478.npz           displacements measured on ICT-FaceKit (MIT)

Nothing here is what this project draws with: not its table of contractions, not its basis of the
mesh, not its renderer. A face is a made-up person (proportions bent at random), the units of one
prototype with uneven strengths, sides and gains, what else a face does meanwhile (other units,
words, blinks, gaze), a turn of the head and a mesh that trembles. Textbook and shares are the
common ground that remains: who draws by the textbook is read by the textbook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.face_geometry import features
from adapters.face_reading import CLASSES, EXPRESSIONS

Floats = NDArray[np.float64]

DU = {
    "anger": "angry", "disgust": "disgusted", "fear": "fearful", "happiness": "happy",
    "sadness": "sad", "surprise": "surprised",
}  # fmt: skip
STRAY = ("1", "2", "4", "5", "6", "7", "10", "12", "14", "15", "17", "20", "23", "24", "25", "26")
"""Units that come up without meaning anything, each in one face of twenty-five."""
WORDS = (
    "jawOpen", "mouthFunnel", "mouthPucker", "mouthLowerDown_L+R", "mouthUpperUp_L+R",
    "mouthStretch_L+R", "mouthPress_L+R", "mouthRollLower", "mouthShrugUpper",
)  # fmt: skip
STANCE = (8.0, 5.0, 5.0)  # degrees yaw, pitch, roll at rest, standard deviation
TURN = (4.0, 3.5, 3.0)  # and from there in the frame
TREMBLE = 0.007  # eye distances, standard deviation of a point found twice
MOUTH_KEPT = 0.65  # of units of the mouth while words are spoken

GAIN = ((0.5, 0.4, 0.1, 0.6), (1.8, 1.4, 1.1, 1.4))
"""Lowest and highest answer of a mesh to brows, eyes, nose and mouth: people differ, and a mesh of
few points at the nose hardly sees it wrinkle (design)."""

_BROWS, _EYES, _NOSE, _MOUTH = range(4)
_REGION = {"brow": _BROWS, "eye": _EYES, "cheek": _EYES, "nose": _NOSE}


class FacesError(ValueError):
    """Tables that are missing; one line that says what is expected."""


@dataclass(frozen=True)
class Model:
    """A head: neutral (478, 3) and displacements (57, 478, 3) of named shapes, eye distances."""

    names: tuple[str, ...]
    neutral: Floats
    basis: Floats

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read the measured basis.

        Raises:
            FacesError: it is not there.
        """
        if not path.is_file():
            msg = f"faces: {path} is missing; give the folder with ict_arkit_basis_mp478.npz"
            raise FacesError(msg)
        with np.load(path, allow_pickle=False) as file:
            names = tuple(str(name) for name in file["names"])
            return cls(names, file["neutral"].astype(np.float64), file["basis"].astype(np.float64))

    def shape(self, name: str, side: str) -> Floats:
        """(57,) 1 where a channel of ARKit without its side acts; side "L", "R" or both, ""."""
        wanted = [f"{name}_{s}" for s in side or "LR"] + ([name] if name in self.names else [])
        found = np.array([float(own in wanted) for own in self.names])
        if not found.any():
            msg = f"faces: the head has no shape {name}; use the measured basis"
            raise FacesError(msg)
        return found


@dataclass(frozen=True)
class Prototypes:
    """Which units people use for each expression, and which shapes a unit moves.

    textbook: expression -> lists of units. people: expression -> (units of most, units by share).
    shapes: unit -> (57,) weights of both sides.
    """

    textbook: Mapping[str, Sequence[Sequence[str]]]
    people: Mapping[str, tuple[Sequence[str], Mapping[str, float]]]
    shapes: Mapping[str, Floats]

    @classmethod
    def load(cls, path: Path, model: Model) -> Prototypes:
        """Read facts/facs.json.

        Raises:
            FacesError: it is not there.
        """
        if not path.is_file():
            msg = f"faces: {path} is missing; give the folder of facts with facs.json"
            raise FacesError(msg)
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        textbook = {
            name: [
                [str(unit) for unit in units] for units in (entry["prototype"], *entry["variants"])
            ]
            for name, entry in facts["basic_emotions"].items()
            if name in EXPRESSIONS
        }
        people = {}
        for name, key in DU.items():
            entry = facts["compound_emotions_du2014"][key]
            shares = {unit: share / 100 for unit, share in entry["variants_percent"].items()}
            people[name] = ([str(unit) for unit in entry["prototypical"]], shares)
        shapes = {}
        for unit, channels in facts["au_to_arkit"]["map"].items():
            total = np.zeros(len(model.names))
            for channel, value in channels.items():
                side = "L" if channel.endswith("Left") else "R" if channel.endswith("Right") else ""
                plain = channel.removesuffix("Left").removesuffix("Right")
                if plain not in {"jaw", "mouth"} and _moves(model, plain):
                    total += value * model.shape(plain, side)
            shapes[str(unit)] = total
        return cls(textbook, people, shapes)

    def units(self, name: str, rng: np.random.Generator) -> list[str]:
        """Units of one face: half by the textbook, half as Du's people did."""
        if name not in self.people or rng.random() < 0.5:
            sets = self.textbook[name]
            return list(sets[int(rng.integers(len(sets)))])
        most, shares = self.people[name]
        return [*most, *(unit for unit, share in shares.items() if rng.random() < share)]


def _moves(model: Model, plain: str) -> bool:
    return any(own.split("_")[0] == plain for own in model.names)


@dataclass(frozen=True)
class Faces:
    """m made-up faces. x: (m, features). kind: (m,) places in CLASSES. strength: (m,) 0..1.2."""

    x: Floats
    kind: NDArray[np.intp]
    strength: Floats

    @property
    def wanted(self) -> Floats:
        """(m, 15): 1 for the class and 0 for others, then the strength of each expression."""
        out = np.zeros((len(self.kind), len(CLASSES) + len(EXPRESSIONS)))
        rows = np.arange(len(self.kind))
        out[rows, self.kind] = 1.0
        seen = self.kind > 0
        out[rows[seen], len(CLASSES) + self.kind[seen] - 1] = self.strength[seen]
        return out


def weights_of(
    kind: int, strength: float, prototypes: Prototypes, rng: np.random.Generator
) -> Floats:
    """(57,) shapes of one expression; kind: its place in CLASSES, 0 neutral."""
    out = np.zeros_like(next(iter(prototypes.shapes.values())))
    if kind:
        left = rng.random() < 0.5
        for unit in prototypes.units(CLASSES[kind], rng):
            one_sided = unit.startswith(("L", "R"))
            shape = prototypes.shapes[unit.lstrip("LR")]
            if one_sided:  # which side is the person's habit
                shape = _sided(shape, left)
            out += strength * rng.uniform(0.5, 1.0) * np.exp(rng.normal(0, 0.2)) * shape
    for unit in STRAY:
        if rng.random() < 0.04:
            out += rng.uniform(0.0, 0.3) * prototypes.shapes[unit]
    return out


def _sided(shape: Floats, left: bool) -> Floats:
    """One side of a unit's shapes (57,): pairs lie next to each other, left first."""
    out = shape.copy()
    out[np.flatnonzero(shape)[(1 if left else 0) :: 2]] = 0.0
    return out


def made(count: int, model: Model, prototypes: Prototypes, rng: np.random.Generator) -> Faces:
    """Make faces; all classes alike often, neutral twice."""
    shapes = len(model.names)
    kind = rng.choice(len(CLASSES), count, p=np.r_[2.0, np.ones(7)] / 9)
    strength = np.where(kind > 0, rng.uniform(0.12, 1.15, count), 0.0)
    now, rest = np.zeros((count, shapes)), np.zeros((count, shapes))
    region = np.array([_region(name) for name in model.names])
    words = [_named(model, name) for name in WORDS]
    lids = _named(model, "eyeBlink_L+R")
    looks = [_named(model, f"eyeLook{way}_L+R") for way in ("Down", "Up")]
    smile = prototypes.shapes["12"] + 0.3 * prototypes.shapes["6"]
    for i in range(count):
        row = weights_of(int(kind[i]), strength[i], prototypes, rng)
        if rng.random() < 0.35:  # words
            row = np.where(region == _MOUTH, MOUTH_KEPT * row, row)
            for k in rng.choice(len(words), 2, replace=False):
                row = row + rng.uniform(0.0, 0.45) * words[k]
        row = row + lids * rng.choice([0.0, rng.uniform(0.0, 0.5)], p=(0.85, 0.15))
        row = row + looks[int(rng.integers(2))] * rng.uniform(0.0, 0.3)
        if rng.random() < 0.3:  # a source that smiles; words and other faces take the smile back
            rest[i] = rng.uniform(0.2, 1.0) * smile
            rest[i] += rng.choice([0.0, rng.uniform(0.2, 1.0)]) * prototypes.shapes["25"]
            if kind[i] == 0:
                row = row + rng.uniform(0.8, 1.0) * rest[i]
                kind[i], strength[i] = CLASSES.index("happiness"), float(rest[i] @ smile)
                strength[i] /= float(smile @ smile)
            elif CLASSES[kind[i]] != "happiness":
                row = row + rng.uniform(0.0, 0.35) * rest[i]
            else:
                row = np.maximum(row, rng.uniform(0.4, 1.0) * rest[i])
        gain = rng.uniform(*GAIN)[region] * np.exp(rng.normal(0.0, 0.2, shapes))
        gain *= 1.0 + 0.15 * rng.normal(size=shapes)  # sides are uneven
        now[i] = np.clip(row, 0.0, 1.3) * gain
    return Faces(_measured(model, now, rest, rng), kind, np.minimum(strength, 1.2))


def _measured(model: Model, now: Floats, rest: Floats, rng: np.random.Generator) -> Floats:
    out = []
    for first in range(0, len(now), 250):
        part = slice(first, first + 250)
        head = people(model.neutral, len(now[part]), rng)
        basis = model.basis
        moved = head + np.tensordot(now[part], basis, axes=(1, 0))
        still = head + np.tensordot(rest[part], basis, axes=(1, 0))
        stance = rng.normal(0.0, STANCE, (len(head), 3))
        turn = stance + rng.normal(0.0, TURN, (len(head), 3))
        out.append(features(seen(moved, turn, rng), seen(still, stance, rng)))
    return np.concatenate(out)


def people(neutral: Floats, count: int, rng: np.random.Generator) -> Floats:
    """(count, 478, 3) made-up people: the head bent by smooth fields and by proportions.

    Sizes of proportions are deviations among adults in eye distances, rounded up (design).
    """
    p = np.repeat(neutral[None], count, axis=0)
    x, y = p[..., 0], p[..., 1]

    def near(cx: float, cy: float, wide: float, high: float) -> Floats:
        return np.asarray(np.exp(-(((np.abs(x) - cx) / wide) ** 2) - ((y - cy) / high) ** 2))

    def draw(size: float) -> Floats:
        return np.asarray(rng.normal(0.0, size, (count, 1)))

    mouth = near(0.0, -0.98, 0.75, 0.3)
    corner = near(0.4, -1.05, 0.2, 0.2)
    brow = near(0.45, 0.4, 0.6, 0.22)
    inner = near(0.2, 0.38, 0.2, 0.2)
    lid = near(0.5, 0.06, 0.3, 0.1) - near(0.5, -0.08, 0.3, 0.1)
    low = 1 / (1 + np.exp((y + 0.6) / 0.1))
    moved = p.copy()
    moved[..., 0] += mouth * x * draw(0.12) + low * x * draw(0.05)
    moved[..., 0] += np.sign(x) * inner * draw(0.02)
    moved[..., 1] += brow * draw(0.06) + inner * draw(0.03) + corner * draw(0.03)
    moved[..., 1] += lid * draw(0.025) + mouth * (y + 0.98) * draw(0.2) + low * draw(0.08)
    frequencies = rng.normal(0.0, 1.6, (count, 6, 2))
    phase = rng.uniform(0, 2 * np.pi, (count, 6, 1))
    waves = np.sin(np.einsum("cfk,cpk->cfp", frequencies, p[..., :2]) + phase)
    moved[..., :2] += np.einsum("cfk,cfp->cpk", rng.normal(0.0, 0.012, (count, 6, 2)), waves)
    return moved


def seen(heads: Floats, degrees: Floats, rng: np.random.Generator) -> Floats:
    """(m, 478, 3) -> (m, 478, 2) pixels of turned heads, as a mesh that trembles finds them."""
    turn = np.radians(degrees)
    (sy, sp, sr), (cy, cp, cr) = np.sin(turn).T, np.cos(turn).T
    zero, one = np.zeros(len(heads)), np.ones(len(heads))

    def rows(*cells: Floats) -> Floats:
        return np.stack(cells, axis=-1).reshape(-1, 3, 3)

    yaw = rows(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    pitch = rows(one, zero, zero, zero, cp, -sp, zero, sp, cp)
    roll = rows(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    turned = heads @ np.swapaxes(roll @ pitch @ yaw, 1, 2)
    near = 1.0 + turned[..., 2:] / rng.uniform(8.0, 20.0, (len(heads), 1, 1))
    flat = turned[..., :2] * near
    flat = flat + rng.normal(0.0, TREMBLE, flat.shape)
    return np.asarray(100.0 * flat * (1.0, -1.0))


def _region(name: str) -> int:
    return next((place for key, place in _REGION.items() if name.startswith(key)), _MOUTH)


def _named(model: Model, name: str) -> Floats:
    plain, _, sides = name.partition("_")
    return model.shape(plain, "" if sides in {"", "L+R"} else sides)
