"""What an emotion asks of music: a point in the space of the sixteen attributes.

    target = centre + scale * strength * (a D + r W)

D (12, 16) holds one direction for each core emotion and W (3, 16) those of valence, arousal and
dominance, in the same DirectionBank that moves the prompts of images. The centre is ordinary
unlabelled music, so intensity 0 is exactly that; intensity 1 is a clearly recognised piece, about
twice as far out as the middle of its quadrant in labelled music; in between every attribute moves
in proportion. Listeners' ratings are linear in the cues and the cues add up without interactions
(Eerola, Friberg & Bresin 2013), which is what allows mixtures and curves over time.

It deliberately does not know how the directions were found (training/music_directions.py) nor how
notes are made of the targets. torch is loaded with the directions, not with this file.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD
from adapters.files import replacing
from adapters.music_attributes import ATTRIBUTES, TABLE

if TYPE_CHECKING:
    from adapters.directions import DirectionBank

Floats = NDArray[np.float64]

DIRECTIONS = ASSETS / "models" / "music-tiny" / "directions.safetensors"
"""The shipped directions."""
FAMILY = "music-attributes"
TOKENS = "tokens"
MAJOR, MINOR = 0.2, -0.2
"""What "major" and "minor" mean as a mode score: medians over POP909's eight-bar stretches in a
major and a minor key, .20 and -.10, the minor one as far out as the major."""
METERS = (3, 4)
"""Beats in a bar that can be asked for."""
_FRAME = ("centre", "scale", "low", "high")
_TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class MusicEmotionError(ValueError):
    """Attributes or directions that cannot be used; one line that says what would do."""


def quadrant(valence: float, arousal: float) -> str:
    """Quadrant of the plane of valence and arousal: "Q1" (high, high) to "Q4" (high, low).

    Q2 is low valence and high arousal, Q3 low and low, as in EMOPIA; 0 counts as high.
    """
    if arousal >= 0:
        return "Q1" if valence >= 0 else "Q2"
    return "Q3" if valence < 0 else "Q4"


QUADRANT: Mapping[str, str] = {
    name: quadrant(float(v), float(a)) for name, (v, a, _) in zip(CORE, VAD, strict=True)
}
"""Quadrant of each core emotion."""


class Pins(NamedTuple):
    """What a person fixed: attribute -> value, key as (tonic 0..11, minor), beats in a bar."""

    attributes: dict[str, float]
    key: tuple[int, bool] | None
    meter: int | None


def parse_attributes(text: str) -> Pins:
    """Read ``tempo=72,mode=major,velocity=90,key=F#m,meter=3``.

    Names are those of ATTRIBUTES, values in their units. mode is major, minor or a number. key is a
    note letter with # or b and m for minor; it also fixes the mode, unless mode is given as well.
    meter is 3 or 4. Empty text fixes nothing. A value inside its range may still be more than the
    composer can play: `MusicDirections.targets` then takes the nearest it can.

    Raises:
        MusicEmotionError: not name=value, an unknown name or one given twice, a value that is no
            number or out of range, a key and a mode that contradict each other.
    """
    found: dict[str, float] = {}
    key: tuple[int, bool] | None = None
    meter: int | None = None
    seen: set[str] = set()
    for part in filter(None, (piece.strip() for piece in re.split(r"[,;]", text))):
        name, equals, value = (side.strip() for side in part.partition("="))
        name = name.lower().replace("-", "_").replace(" ", "_")
        if not equals or not value:
            msg = f'attributes: "{_short(part)}" is not name=value; write e.g. tempo=72,mode=major'
            raise MusicEmotionError(msg)
        if name in seen:
            msg = f"attributes: {name} is given twice; keep one"
            raise MusicEmotionError(msg)
        seen.add(name)
        if name == "key":
            key = _key(value)
        elif name == "meter":
            meter = _meter(value)
        elif name in TABLE:
            found[name] = _value(name, value)
        else:
            raise MusicEmotionError(_unknown(name))
    if key is not None:
        minor = key[1]
        if "mode" in found and found["mode"] * (-1 if minor else 1) < 0:
            msg = (
                f"attributes: key is {'minor' if minor else 'major'} but mode is "
                f"{found['mode']:g}; leave one of them out"
            )
            raise MusicEmotionError(msg)
        found.setdefault("mode", MINOR if minor else MAJOR)
    return Pins(found, key, meter)


def _value(name: str, text: str) -> float:
    row = TABLE[name]
    words = {"major": MAJOR, "minor": MINOR} if name == "mode" else {}
    try:
        value = words[text.lower()] if text.lower() in words else float(text)
    except ValueError:
        value = math.nan
    if not row.low <= value <= row.high:
        allowed = f"{row.low:g} to {row.high:g}" + (f" {row.unit}" if row.unit else "")
        either = "major, minor or " if words else ""
        msg = (
            f'attributes: {name} allowed {either}{allowed}, received "{_short(text)}"; '
            f"it is {row.text}"
        )
        raise MusicEmotionError(msg)
    return value


def _key(text: str) -> tuple[int, bool]:
    match = re.fullmatch(r"([A-Ga-g])([#b♯♭]?)\s*(m|minor|min|major|maj)?", text)
    if match is None:
        msg = (
            f'attributes: key allowed a letter A to G, # or b, m for minor, received "'
            f'{_short(text)}"; write e.g. key=C, key=F#m'
        )
        raise MusicEmotionError(msg)
    letter, accidental, mode = match.groups()
    step = {"#": 1, "♯": 1, "b": -1, "♭": -1}.get(accidental, 0)
    return (_TONICS[letter.upper()] + step) % 12, mode in ("m", "min", "minor")


def _meter(text: str) -> int:
    beats = text.removesuffix("/4")
    if beats not in {str(meter) for meter in METERS}:
        msg = f'attributes: meter allowed 3 or 4 beats, received "{_short(text)}"; write meter=3'
        raise MusicEmotionError(msg)
    return int(beats)


def _unknown(name: str) -> str:
    names = [*ATTRIBUTES, "key", "meter"]
    near = difflib.get_close_matches(name, names, 1, 0.4)
    hint = f"nearest is {near[0]}" if near else f"known: {', '.join(names)}"
    return f'attributes: "{_short(name)}" is not known; {hint}'


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


@dataclass(frozen=True, slots=True)
class MusicDirections:
    """The directions of the emotions and the frame they are drawn in.

    bank: vectors["tokens"] (12, 16) in units of `scale`, W["tokens"] (3, 16).
    centre, scale, low, high: float64 (16,) in the order of ATTRIBUTES and in their units: ordinary
        music, its spread, and the least and the most that can be played.
    sources: what the figures were measured on, for cards and reports.
    """

    bank: DirectionBank
    centre: Floats
    scale: Floats
    low: Floats
    high: Floats
    sources: str = ""

    @classmethod
    def load(cls, path: Path | str = DIRECTIONS) -> MusicDirections:
        """Read what `save` wrote: a file, or a model folder that holds directions.safetensors.

        Raises:
            MusicEmotionError: no such file, or one of another kind.
        """
        from safetensors import SafetensorError, safe_open

        from adapters.directions import DirectionBank, DirectionError

        file = Path(path)
        file = file / DIRECTIONS.name if file.is_dir() else file
        if not file.is_file():
            msg = f"directions: {file} does not exist; run python -m training.music_directions"
            raise MusicEmotionError(msg)
        try:
            bank = DirectionBank.load(file)
            with safe_open(str(file), framework="numpy") as opened:
                frame = {name: opened.get_tensor(name).astype(np.float64) for name in _FRAME}
                facts = json.loads((opened.metadata() or {})["affect"])["music"]
            right = tuple(facts["attributes"]) == ATTRIBUTES and bank.family == FAMILY
        except (DirectionError, SafetensorError, KeyError, json.JSONDecodeError):
            right = False
        if not right:
            msg = (
                f"directions: {file} does not hold directions of the {len(ATTRIBUTES)} music "
                "attributes; run python -m training.music_directions"
            )
            raise MusicEmotionError(msg)
        return cls(bank, **frame, sources=facts["sources"])

    def save(self, path: Path | str) -> Path:
        """Write one safetensors file that `load` and `DirectionBank.load` both read."""
        from safetensors.numpy import save_file

        from adapters.directions import FORMAT

        tensors = {f"D.{name}": np.ascontiguousarray(D) for name, D in self.bank.vectors.items()}
        tensors |= {f"W.{name}": np.ascontiguousarray(W) for name, W in self.bank.W.items()}
        # safetensors writes memory as it lies, so a view must be laid out first.
        tensors |= {name: np.ascontiguousarray(getattr(self, name)) for name in _FRAME}
        music = {"attributes": list(ATTRIBUTES), "sources": self.sources}
        facts = {"format": FORMAT, "names": list(self.bank.names), **self.bank.report()}
        # One entry of metadata: safetensors writes several in an order of chance.
        text = json.dumps(facts | {"music": music}, sort_keys=True)
        with replacing(path) as fresh:
            save_file(tensors, fresh, metadata={"affect": text})
        return Path(path)

    def targets(
        self,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        strength: float = 1.0,
        pins: Mapping[str, float] | None = None,
    ) -> Floats:
        """What the music should measure at each moment: float64 (T, 16) in natural units.

        Args:
            track: (T, 12) or (12,) intensities in the order of CORE, such as
                `EmotionTimeline.sample` at the bar lines. 0 gives exactly the centre.
            residuals: (T, 3) valence, arousal and dominance left over (`timeline.residuals`).
            strength: factor on the way from the centre.
            pins: attribute -> value for all moments, whatever the emotion (`parse_attributes`).

        Everything, pins included, is kept between `low` and `high`.

        Raises:
            MusicEmotionError: a pin of an unknown name.
            DirectionError: wrong shapes, or numbers that are not finite.
        """
        offsets = self.bank.offsets(track, strength, residuals)[TOKENS].double().numpy()
        wanted: Floats = self.centre + self.scale * offsets
        for name, value in (pins or {}).items():
            if name not in ATTRIBUTES:
                raise MusicEmotionError(_unknown(name))
            wanted[:, ATTRIBUTES.index(name)] = value
        return np.clip(wanted, self.low, self.high)

    def standardised(self, values: ArrayLike) -> Floats:
        """Natural units (..., 16) as standard deviations from the centre."""
        return np.asarray((np.asarray(values, dtype=np.float64) - self.centre) / self.scale)
