"""Values of a scene's tables, each checked where it stands, with the line of the file in errors.

It knows lines, types and ranges, and deliberately not what a scene consists of
(pipelines.film_scene). Standard library and the emotion only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.emotion import EmotionError, EmotionTimeline
from pipelines.film_lines import Path as Place
from pipelines.film_lines import dotted, line_of


class SceneError(ValueError):
    """A scene that cannot be made: one line with the line of its file."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where the scene stands, to say so in errors. name: of the file. lines: place -> line."""

    name: str
    lines: Mapping[Place, int] = field(default_factory=dict)

    def error(self, place: Place, text: str) -> SceneError:
        """An error about a place; `text` starts with what it is about."""
        line = line_of(self.lines, place)
        at = f"{self.name}:{line}" if line else self.name
        return SceneError(f"{at}: {text}")

    def about(self, place: Place, text: str) -> SceneError:
        """An error that names the place, then says `text`."""
        return self.error(place, f"{dotted(place)}: {text}")

    def wrapped(self, place: Place, error: Exception) -> SceneError:
        """Another part's one line, at a place; it starts with a name of its own."""
        inside = f"{dotted(place)}: " if len(place) > 1 else ""
        return self.error(place, inside + " ".join(str(error).split()))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a scene with its place: values by key, checked; errors are `SceneError`."""

    data: Mapping[str, Any]
    place: Place
    where: Where
    over: bool = False

    def at(self, key: str) -> Place:
        """The place of a key, for errors."""
        return (*self.place, key)

    def check(self, known: Sequence[str]) -> None:
        """Refuse keys that are not known, with the nearest that is."""
        for key in self.data:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise self.where.about(self.at(key), f"is not known here; {hint}")

    def text(self, key: str, usual: str) -> str:
        """A text of up to 2000 characters."""
        value = self.data.get(key, usual)
        if not isinstance(value, str) or len(value) > 2000:
            shown = f"received {type(value).__name__}" if not isinstance(value, str) else "shorten"
            raise self.where.about(self.at(key), f"a text of up to 2000 characters, {shown}")
        return value

    def number(self, key: str, usual: float | None, low: float, high: float) -> float | None:
        """A number from `low` to `high`; `usual` where the key is missing."""
        value = self.data.get(key, usual)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.where.about(self.at(key), f"a number, received {str(value)[:40]!r}")
        if not low <= value <= high:
            msg = f"allowed {low:g} to {high:g}, received {value:g}; choose one within"
            raise self.where.about(self.at(key), msg)
        return float(value)

    def whole(self, key: str, usual: int | None, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.number(key, usual, low, high)
        if value is None or not float(value).is_integer():
            raise self.where.about(self.at(key), f"a whole number, received {value!r}")
        return int(value)

    def choice(self, key: str, usual: str, known: Sequence[str]) -> str:
        """One of the `known` words."""
        value = self.text(key, usual)
        if value not in known:
            msg = f"allowed are {', '.join(known)}, received {value[:40]!r}; choose one"
            raise self.where.about(self.at(key), msg)
        return value

    def table(self, key: str) -> Table:
        """The table under a key, empty where there is none."""
        value = self.data.get(key, {})
        if not isinstance(value, Mapping):
            msg = f"a table ([{dotted(self.at(key))}]), received {str(value)[:40]!r}"
            raise self.where.about(self.at(key), msg)
        return Table(value, self.at(key), self.where, self.over)

    def tables(self, key: str, most: int) -> list[Table]:
        """The tables headed [[key]], at most `most`."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            raise self.where.about(self.at(key), f"tables, each headed [[{key}]]; write them so")
        if len(value) > most:
            msg = f"at most {most}, received {len(value)}; make several films"
            raise self.where.about(self.at(key), msg)
        return [Table(one, (key, i), self.where, self.over) for i, one in enumerate(value)]

    def emotion(self, key: str = "emotion") -> EmotionTimeline | None:
        """An emotion in words, over time or not; None where there is none."""
        if key not in self.data:
            return None
        try:
            return EmotionTimeline.parse(self.text(key, ""), over=self.over)
        except EmotionError as error:
            raise self.where.wrapped(self.at(key), error) from error
