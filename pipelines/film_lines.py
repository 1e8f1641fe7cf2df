"""Where in a TOML file a value stands: tomllib gives values without their lines, people need them.

`lines_of` walks over the text once and notes the line of every header and key; inside inline tables
and arrays the line of the key they belong to stands for them. It checks nothing: tomllib has read
the text before, or says itself where it cannot (`line_of_error`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""A place in the data: ("shots", 1, "seconds")."""

_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$")
_NAME = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_\-]+)"""
_KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_\-]+)""")
_AT = re.compile(r"\(at line (\d+), column \d+\)")


def lines_of(text: str) -> dict[Path, int]:
    """Place -> line, from 1; tables of an array are numbered from 0."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if header := _HEADER.match(line):
            table = _placed(_parts(header[2]), counts, array=header[1] == "[[")
            found.setdefault(table, at + 1)
            at += 1
        elif key := _KEY.match(line):
            parts = _parts(key[1])
            for depth in range(1, len(parts) + 1):
                found.setdefault((*table, *parts[:depth]), at + 1)
            at = _after(lines, at, key.end())
        else:
            at += 1
    return found


def line_of(found: Mapping[Path, int], place: Path) -> int | None:
    """The line of a place, or of the nearest thing around it that has one."""
    for depth in range(len(place), 0, -1):
        if place[:depth] in found:
            return found[place[:depth]]
    return None


def line_of_error(error: Exception, text: str) -> int:
    """The line that tomllib complains of; the last one where the text just ends."""
    told = _AT.search(str(error))
    return int(told[1]) if told else max(1, len(text.splitlines()))


def deepest_line(text: str) -> int:
    """The line where most brackets are open, about: those in texts count too."""
    depth, most, found = 0, 0, 1
    for i, line in enumerate(text.splitlines()):
        for letter in line:
            depth = max(0, depth + (letter in "[{") - (letter in "]}"))
            if depth > most:
                most, found = depth, i + 1
    return found


def said_by(error: Exception) -> str:
    """What tomllib complains of, without the place."""
    plain = re.sub(r"\s*\(at (line \d+, column \d+|end of document)\)", "", str(error))
    return plain[:1].lower() + plain[1:]


def dotted(place: Path) -> str:
    """A place for people: shots[2].seconds, the first of an array being 1."""
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _parts(text: str) -> Path:
    return tuple(next(part for part in found if part) for found in _PART.findall(text))


def _placed(parts: Path, counts: dict[Path, int], *, array: bool) -> Path:
    """The place of a header, with the number of the last table of every array on the way."""
    place: Path = ()
    for depth, part in enumerate(parts):
        place = (*place, part)
        if array and depth == len(parts) - 1:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


def _after(lines: list[str], at: int, column: int) -> int:
    """The line behind a value that begins here: strings and arrays may have many."""
    depth, end = 0, ""
    while at < len(lines):
        line, i = lines[at], column
        while i < len(line):
            if end:
                if len(end) == 1 and end == '"' and line[i] == "\\":
                    i += 1
                elif line.startswith(end, i):
                    i += len(end) - 1
                    end = ""
            elif line[i] == "#":
                break
            elif line[i] in "\"'":
                end = line[i] * 3 if line.startswith(line[i] * 3, i) else line[i]
                i += len(end) - 1
            elif line[i] in "[{":
                depth += 1
            elif line[i] in "]}":
                depth -= 1
            i += 1
        if len(end) == 1:
            end = ""  # no string of one quote goes beyond its line
        at, column = at + 1, 0
        if depth <= 0 and not end:
            break
    return at
