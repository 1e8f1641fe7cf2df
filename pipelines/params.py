"""Public knobs of a modality: one frozen dataclass, from which everything else is generated.

A subclass of `Params` declares its fields with `knob(default, help, min=, max=, step=)`; the
command line's options, a page's controls, the check of a manifest and the README's table come from
that. It deliberately does not know any modality. Only standard library: `--help` reads it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

MAX_TEXT = 2000  # characters; every text encoder we know cuts long before


class ParamError(ValueError):
    """A knob that is unknown, of the wrong kind or out of range; one line that says what is not."""


def knob(default: Any, text: str, **more: Any) -> Any:
    """Declare a field: its help and, for numbers, `min`, `max`, `step`; `advanced` hides it."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, slots=True)
class Params:
    """Base of every modality's params: checked when built, immutable, plain data both ways."""

    def __post_init__(self) -> None:
        """Check kinds and ranges; raises ParamError."""
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, checked(one, getattr(self, one.name)))

    @classmethod
    def parse(cls, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Self:
        """Build from plain data (a manifest, a file's metadata), over a backbone's `defaults`.

        Raises:
            ParamError: an unknown name (with the nearest known one), a wrong kind, out of range.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(names)}"
                msg = f"params: {str(name)[:40]!r} is not known; {hint}"
                raise ParamError(msg)
        return cls(**{**(defaults or {}), **values})

    def to_json(self) -> dict[str, Any]:
        """Every knob as plain data, so that a request does not depend on later defaults."""
        return dataclasses.asdict(self)


def checked(one: dataclasses.Field[Any], value: Any) -> Any:
    """Return one value in its field's kind and range, or raise a one-line ParamError."""
    kind, low, high = str(one.type), one.metadata.get("min"), one.metadata.get("max")
    if value is None and "None" in kind:
        return None
    kind = kind.split(" ")[0]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "int": number and math.isfinite(value) and float(value).is_integer(),
        "float": number and math.isfinite(value),
    }[kind]
    if not fits:
        words = {"bool": "true or false", "str": "text", "int": "a whole number"}
        wanted = words.get(kind, "a number")
        msg = f"{one.name}: expected {wanted}, received {str(value)[:40]!r}; correct it"
        raise ParamError(msg)
    if kind == "bool":
        return value
    if kind == "str":
        return checked_text(one.name, value)
    if (low is not None and value < low) or (high is not None and value > high):
        msg = f"{one.name}: allowed {low:g} to {high:g}, received {value:g}; choose one within"
        raise ParamError(msg)
    return int(value) if kind == "int" else float(value)


def check_intensities(intensity: float, *, over: bool) -> None:
    """Refuse an emotion whose intensities sum to more than 1, unless that is allowed (over)."""
    if intensity > 1 + 1e-6 and not over:
        msg = (
            f"emotion: intensities may sum to 1, received {intensity:g}; "
            "lower them or pass over (--over)"
        )
        raise ParamError(msg)


def checked_text(name: str, value: str) -> str:
    """Return text for a model, or raise a ParamError when it is too long or not plain."""
    if len(value) > MAX_TEXT:
        msg = f"{name}: allowed {MAX_TEXT} characters, received {len(value)}; shorten it"
        raise ParamError(msg)
    if any(ord(character) < 32 and character not in "\n\t" for character in value):
        msg = f"{name}: has control characters; give plain text"
        raise ParamError(msg)
    return value
