"""Values of a scene's tables, each checked where it stands, with the line of the file in errors.

It knows lines, types and ranges, and deliberately not what a scene consists of
(pipelines.film_scene). Standard library and the emotion only.
"""

from __future__ import annotations

import datetime
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.emotion import EmotionError, EmotionTimeline
from pipelines.film_lines import Path as Place
from pipelines.film_lines import deepest_line, dotted, line_of, line_of_error, lines_of, said_by

DEEPEST = 20  # tables and lists within each other; a scene needs four
LARGEST_WHOLE = 2**63  # what TOML promises to hold


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


def parsed(text: str, name: str) -> tuple[dict[str, Any], Where]:
    """The plain data of a TOML text, and where it stands. name: of its file, for errors.

    Raises:
        SceneError: no TOML, or nothing that a scene could say; see `check_plain`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = line_of_error(error, text)
        msg = f"{name}:{line}: no TOML: {said_by(error)}; texts stand in quotes"
        raise SceneError(msg) from error
    except RecursionError as error:
        msg = f"{name}:{deepest_line(text)}: tables and lists lie too deep within each other"
        raise SceneError(f"{msg}, at most {DEEPEST} are read; flatten them") from error
    except ValueError as error:  # Python reads no decimal number of more than 4300 digits
        lines = text.splitlines()
        line = max(range(len(lines)), key=lambda i: len(lines[i])) + 1
        msg = f"{name}:{line}: a number or date that cannot be read; write a shorter one"
        raise SceneError(msg) from error
    where = Where(name, lines_of(text))
    check_plain(data, (), where)
    return data, where


def check_plain(value: Any, place: Place, where: Where) -> None:
    """Refuse dates, numbers beyond 64 bits or not finite, and what lies too deep."""
    if len(place) > DEEPEST:
        msg = f"lies {len(place)} tables and lists deep, at most {DEEPEST} are read; flatten it"
        raise where.error(place, f"{dotted(place[:3])}: {msg}")
    if isinstance(value, Mapping):
        for key, one in value.items():
            check_plain(one, (*place, key), where)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            check_plain(one, (*place, i), where)
    elif isinstance(value, datetime.date | datetime.time):
        raise where.about(place, f"a date or time, {value}; a text stands in quotes")
    elif isinstance(value, int) and not -LARGEST_WHOLE <= value < LARGEST_WHOLE:
        msg = f"whole numbers of up to 64 bits are read, received {value.bit_length()}"
        raise where.about(place, f"{msg} bits; write a smaller one")
    elif isinstance(value, float) and not math.isfinite(value):
        raise where.about(place, f"a finite number, received {value}; write one")


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
